"""HumanEval's verdicts on completions: does the program pass the problem's own tests?

As published (Chen et al. 2021), the program is prompt + completion and the verdict is whether `check(entry_point)` ends
without an exception. But there the tests run inside the program that they judge, which can make itself pass: leave with
status 0, patch what `assert` compares, return a thing that equals everything. Here the program and the tests are two
processes, each behind walls of its own; the tests call the program's function by value, and the verdict is how the
tests' process ended, which the program cannot touch.
"""
import dataclasses
import gzip
import json
import pathlib
from collections.abc import Mapping, Sequence

from easylm_imitation.evaluate.sandbox.pool import Limits, Outcome, Program, Sandbox, in_parallel
from easylm_imitation.schema import UserError

_FIELDS = ("task_id", "prompt", "entry_point", "test")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a completion passed; if not, why, in a line."""
    passed: bool
    reason: str = ""


def check(sandbox: Sandbox, problem: Mapping[str, str], completion: str, limits: Limits | None = None) -> Verdict:
    """The verdict on one completion of a HumanEval problem (`prompt`, `entry_point`, `test`). Raises SandboxFault."""
    entry = problem["entry_point"]
    program = Program(problem["prompt"] + completion, answers=entry)
    tests = Program(f"{problem['prompt']}\n{problem['test']}\n{entry} = _program\ncheck(_program)\n", asks="_program")
    asked, answered = sandbox.run_pair(tests, program, limits)
    return Verdict(asked.ok, "" if asked.ok else _reason(asked, answered))


def check_all(problems: Mapping[str, Mapping[str, str]], samples: Sequence[tuple[str, str]], *, unsafe: bool = False,
              workers: int | None = None, limits: Limits | None = None) -> list[Verdict]:
    """Verdicts on (task id, completion) samples, in order, `workers` at a time (default: one for each core).

    Raises UserError for a task that is not among `problems`, and SandboxUnavailable, both before anything runs.
    """
    for task, _ in samples:
        if task not in problems:
            raise UserError(f"a sample is for '{task}', which is none of the {len(problems)} problems; "
                            "take the problems file that the samples were made from")
    with Sandbox(unsafe=unsafe, limits=limits) as sandbox:
        return in_parallel(lambda sample: check(sandbox, problems[sample[0]], sample[1]), samples, workers)


def read_problems(path: str | pathlib.Path) -> dict[str, dict[str, str]]:
    """Problems by task id, from HumanEval.jsonl or HumanEval.jsonl.gz as published. Raises UserError."""
    path, problems = pathlib.Path(path), {}
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
            rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: not a readable file of problems ({error}); take HumanEval.jsonl.gz of "
                        "github.com/openai/human-eval") from None
    for number, row in enumerate(rows, 1):
        missing = [name for name in _FIELDS if not isinstance(row, dict) or not isinstance(row.get(name), str)]
        if missing:
            raise UserError(f"{path}: problem {number} lacks {', '.join(missing)}")
        problems[row["task_id"]] = row
    return problems


def _reason(tests: Outcome, program: Outcome) -> str:
    """Why a completion failed: the program's own end, when that came first."""
    if program.status != "ok" and program.detail != "ended from outside":
        return f"{program.status}: {program.detail}"
    return f"{tests.status}: {tests.detail}"
