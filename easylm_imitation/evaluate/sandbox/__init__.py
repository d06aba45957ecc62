"""A sandbox for Python that a model wrote, and HumanEval's verdicts made in it.

    with Sandbox() as sandbox:
        sandbox.run(Program("print(1)")).ok
        check(sandbox, problem, completion).passed
"""
from easylm_imitation.evaluate.sandbox.humaneval import Verdict, check, check_all, read_problems
from easylm_imitation.evaluate.sandbox.pool import (
    Limits,
    Outcome,
    Program,
    Sandbox,
    SandboxFault,
    SandboxUnavailable,
    run_programs,
)

__all__ = ["Limits", "Outcome", "Program", "Sandbox", "SandboxFault", "SandboxUnavailable", "Verdict", "check",
           "check_all", "read_problems", "run_programs"]
