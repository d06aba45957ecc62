"""Which tasks and suites there are, and their data: names and YAML files become configs of the harness with rows.

    find_tasks(["gsm8k_cot", "mmlu_anatomy", "mine.yaml"], "DATA") -> [Task, ...]
    find_suite("paper", "DATA") -> Suite(tasks, prompt sets, {task: what is missing})
"""
from easylm_imitation.evaluate.tasks.registry import SUITES, TASKS, Suite, find_suite, find_tasks, listed
from easylm_imitation.evaluate.tasks.task import Row, Task, protocol, refuse_repeated

__all__ = ["SUITES", "TASKS", "Row", "Suite", "Task", "find_suite", "find_tasks", "listed", "protocol",
           "refuse_repeated"]
