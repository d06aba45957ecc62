"""Names of tasks and suites, and what is there of their data."""
import dataclasses
import pathlib
from collections.abc import Sequence

from easylm_imitation.evaluate.tasks.benchmarks import benchmarks
from easylm_imitation.evaluate.tasks.files import from_file
from easylm_imitation.evaluate.tasks.published import Ask, Benchmark, data_file
from easylm_imitation.evaluate.tasks.task import Task, refuse_repeated
from easylm_imitation.schema import UserError, nearest

_PUBLISHED = "@published"


@dataclasses.dataclass(frozen=True)
class SuiteNames:
    """What a suite measures: tasks, and sets of prompts to be answered (see prompt_sets.py)."""
    what: str
    tasks: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Suite:
    """A suite on the data that are there. `missing`: task -> why it is not run, with the cure."""
    name: str
    tasks: list[Task]
    prompts: tuple[str, ...]
    missing: dict[str, str]


SUITES: dict[str, SuiteNames] = {
    "paper": SuiteNames("The False Promise of Imitating Proprietary LLMs (arXiv 2305.15717)", (
        "mmlu", "nq_open", "nq_open_0shot", "humaneval", "realtoxicityprompts")),
    "tulu": SuiteNames("How Far Can Camels Go? (arXiv 2306.04751)", (
        "mmlu", "mmlu_0shot", "gsm8k", "gsm8k_cot", "bbh", "bbh_cot", "tydiqa", "tydiqa_closed", "codex_eval_pass1",
        "codex_eval_pass10", "truthfulqa_mc1", "truthfulqa_mc2", "toxigen"), ("alpaca_eval",)),
    "orca": SuiteNames("Orca (arXiv 2306.02707)", ("bbh_0shot", "agieval")),
    "koala": SuiteNames("Koala's test set: prompts to answer", prompts=("koala",)),
    "vicuna": SuiteNames("Vicuna's 80 questions: prompts to answer", prompts=("vicuna",)),
    "self-instruct": SuiteNames("Self-Instruct's 252 user-oriented tasks: prompts to answer",
                                prompts=("self-instruct",)),
}


def _descriptions() -> dict[str, str]:
    made = {}
    for name, benchmark in benchmarks().items():
        made[name] = f"{benchmark.what}, every part that is there" if benchmark.parts.keys() != {""} else benchmark.what
        made |= {f"{name}_{part}": f"{benchmark.what}: {part.replace('_', ' ')}" for part in benchmark.parts if part}
    return made


TASKS: dict[str, str] = _descriptions()
"""Bundled task -> what it is."""


def find_tasks(names: Sequence[str], task_data: str | None = None) -> list[Task]:
    """The tasks of `names` (bundled names, NAME@published, or paths of .yaml files), in order, data loaded.

    `task_data` is the folder of the bundled tasks' published files. Raises UserError for an unknown name (with the
    nearest), data that are missing or broken (with the cure), or a task file that cannot be run here.
    """
    found = [task for name in names for task in _find(name.strip(), task_data)]
    refuse_repeated(found)
    return found


def find_suite(name: str, task_data: str | None) -> Suite:
    """A suite on the data under `task_data`; a task whose data are absent is named in `missing` and left out.

    Raises UserError for an unknown suite, for data that are broken, and when nothing at all can be done.
    """
    if name not in SUITES:
        raise UserError(f"--suite {name}: no such suite{nearest(name, SUITES)}; there are {', '.join(SUITES)}")
    if task_data is None:
        raise UserError(f"--suite {name} needs --task-data DIR, the folder of its published files")
    names, missing, there = SUITES[name], {}, []
    for task in names.tasks:
        gone = absent(task, task_data)
        if gone:
            missing[task] = gone
        else:
            there += find_tasks([task], task_data)
    if not there and not names.prompts:
        raise UserError(f"--suite {name}: none of its data are under {task_data}; " + "; ".join(missing.values()))
    return Suite(name, there, names.prompts, missing)


def absent(name: str, task_data: str) -> str:
    """Why a bundled task, all parts considered, cannot be run on that folder, with the cure; "" when it can."""
    name = name.removesuffix(_PUBLISHED)
    benchmark = benchmarks()[name]
    if _there(benchmark, pathlib.Path(task_data)):
        return ""
    return f"no {benchmark.file.format(part='*')} under {task_data}; {benchmark.cure}"


def listed(task_data: str | None, suite: str = "") -> list[list[str]]:
    """Rows of a table: task, what it is, items there of items published, the state of its data, and the cure."""
    names = [n for n in benchmarks() if not suite or n in SUITES[suite].tasks]
    return [[name, benchmarks()[name].what, *_state(benchmarks()[name], task_data)] for name in names]


def _state(benchmark: Benchmark, task_data: str | None) -> list[str]:
    if task_data is None:
        return [f"? of {benchmark.items}", "?", "--task-data DIR says where they are"]
    folder = pathlib.Path(task_data)
    parts = _there(benchmark, folder)
    if not parts:
        return [f"0 of {benchmark.items}", "MISSING", benchmark.cure]
    name = next(n for n, b in benchmarks().items() if b is benchmark)
    try:
        loaded = [benchmark.load(Ask(folder, f"{name}_{part}" if part else name, part), benchmark) for part in parts]
    except UserError as error:
        return [f"? of {benchmark.items}", "BROKEN", str(error)]
    have = sum(len(task.rows) for task in loaded)
    whole = len(parts) == len(benchmark.parts) and all(task.complete for task in loaded)
    return [f"{have} of {benchmark.items}", *(("full", "") if whole else ("SAMPLE", benchmark.cure))]


def _find(name: str, task_data: str | None) -> list[Task]:
    if name.endswith((".yaml", ".yml")):
        return [from_file(pathlib.Path(name))]
    plain = name.removesuffix(_PUBLISHED)
    if plain not in TASKS:
        hint = nearest(plain, TASKS)
        hint = nearest(plain, benchmarks()) if hint.startswith("; known") else hint     # not all the parts
        raise UserError(f"unknown task '{name}'{hint} (or the path of a .yaml file)")
    family, part = _family(plain)
    benchmark = benchmarks()[family]
    if name != plain and not benchmark.published:
        raise UserError(f"task '{plain}' has no other published rule than its own; leave out {_PUBLISHED}")
    if task_data is None:
        raise UserError(f"task '{name}' needs --task-data DIR, the folder of its published files; {benchmark.cure}")
    folder, published = pathlib.Path(task_data), name != plain
    if part or "" in benchmark.parts:
        return [benchmark.load(Ask(folder, plain, part, published), benchmark)]
    return _all_parts(family, benchmark, folder, published)


def _family(name: str) -> tuple[str, str]:
    """The benchmark and the part of a bundled name."""
    if name in benchmarks():
        return name, ""
    return next((family, part) for family, benchmark in benchmarks().items() for part in benchmark.parts
                if part and name == f"{family}_{part}")


def _all_parts(name: str, benchmark: Benchmark, folder: pathlib.Path, published: bool) -> list[Task]:
    """Every part whose files are there, to be given as one result."""
    parts = _there(benchmark, folder)
    if not parts:
        raise UserError(f"task '{name}': no {benchmark.file.format(part='*')} under {folder}; {benchmark.cure}")
    note = "" if len(parts) == len(benchmark.parts) else (
        f"{len(parts)} of {len(benchmark.parts)} parts are there; {benchmark.cure}")
    made = [benchmark.load(Ask(folder, f"{name}_{part}", part, published), benchmark) for part in parts]
    whole = name + (_PUBLISHED if published else "")
    return [dataclasses.replace(task, whole=whole, macro=benchmark.macro, complete=task.complete and not note,
                                note=note or task.note) for task in made]


def _there(benchmark: Benchmark, folder: pathlib.Path) -> list[str]:
    """The parts whose file is there."""
    return [part for part in benchmark.parts if data_file(folder, benchmark, part)]
