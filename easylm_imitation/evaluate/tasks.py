"""Which tasks there are, and their data: names and YAML files become configs of the harness with the rows beside them.

A task file is one of lm-evaluation-harness, with `dataset_path: json` and local `data_files` (relative ones stand
beside the file); the stock harness runs the same file. Two keys of its `metadata` are ours: `group` (the side of the
verdict that it speaks for, "substance" unless said) and `prompts` (the prompt forms that it makes sense in, all unless
said). The bundled tasks read published files under a folder: `<task-data>/mmlu/test/*_test.csv` and so on.
"""
import contextlib
import csv
import dataclasses
import functools
import gzip
import inspect
import io
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import yaml

from easylm_imitation import console
from easylm_imitation.data.sources import Drop, iter_records
from easylm_imitation.records import digest
from easylm_imitation.schema import UserError, nearest

FOLDER = pathlib.Path(__file__).parent / "task_files"
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """A task ready to run. `config` holds the harness's keys but the data set's; `splits` the rows of each split."""
    name: str
    config: dict[str, Any]
    splits: dict[str, list[Row]]
    complete: bool              # the whole published test split is there
    note: str = ""              # what is missing, and where it is to be had

    @property
    def rows(self) -> list[Row]:
        """The rows that are scored."""
        return self.splits[self.config["test_split"]]

    @property
    def shots(self) -> int:
        """Solved examples before each item."""
        return self.config.get("num_fewshot") or 0

    @functools.cached_property
    def has_ids(self) -> bool:
        """Whether each row has an `id` of its own; else rows go by their number."""
        return len({str(row["id"]) for row in self.rows if "id" in row}) == len(self.rows)

    @property
    def form(self) -> str:
        """"generation", or "choices" for a task of log-likelihoods."""
        return "generation" if self.config.get("output_type", "generate_until") == "generate_until" else "choices"

    @property
    def group(self) -> str:
        """The side of the verdict that the task speaks for."""
        return _metadata(self.config).get("group", "substance")

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt forms that the task makes sense in."""
        return tuple(_metadata(self.config).get("prompts", ("raw", "chat")))

    @property
    def metric(self) -> str:
        """The first metric of the task's list: the one that results carry."""
        return self.config["metric_list"][0]["metric"]


@functools.cache
def _subjects() -> dict[str, int]:
    """MMLU subject -> questions in its published test split."""
    return yaml.safe_load((FOLDER / "mmlu_subjects.yaml").read_text())


TASKS: dict[str, str] = {
    "mmlu": "every MMLU subject whose files are there, 5-shot",
    **{f"mmlu_{subject}": f"MMLU, {subject.replace('_', ' ')}, 5-shot" for subject in _subjects()},
    "nq_open": "Natural Questions, 3-shot, exact match", "nq_open_0shot": "Natural Questions, no shots, exact match",
}


def find_tasks(names: Sequence[str], task_data: str | None = None) -> list[Task]:
    """The tasks of `names` (bundled names or paths of .yaml files), in order, data loaded.

    `task_data` is the folder of the bundled tasks' published files. Raises UserError for an unknown name (with the
    nearest), data that are missing or broken (with the cure), or a task file that cannot be run here.
    """
    found = [task for name in names for task in _find(name.strip(), task_data)]
    refuse_repeated(found)
    return found


def refuse_repeated(tasks: Sequence[Task]) -> None:
    """UserError when a task comes twice: results would not tell the two apart."""
    names = [task.name for task in tasks]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise UserError(f"--tasks: '{repeated}' comes twice; name each task once")


def _find(name: str, task_data: str | None) -> list[Task]:
    if name.endswith((".yaml", ".yml")):
        return [_from_file(pathlib.Path(name))]
    if name not in TASKS:
        raise UserError(f"--tasks: unknown task '{name}'{nearest(name, TASKS)} (or the path of a .yaml file)")
    if task_data is None:
        raise UserError(f"task '{name}' needs --task-data DIR, the folder of its published files; {_cure(name)}")
    folder = pathlib.Path(task_data)
    if name == "mmlu":
        return _all_of_mmlu(folder)
    return [_mmlu(folder, name.removeprefix("mmlu_")) if name.startswith("mmlu_") else _nq(folder, name)]


# ── published files ───────────────────────────────────────────────────────────────────────────────────────────────────


def _cure(name: str) -> str:
    if name.startswith("mmlu"):
        return ("it expects mmlu/dev/SUBJECT_dev.csv and mmlu/test/SUBJECT_test.csv in there, from the data archive of "
                "github.com/hendrycks/test")
    return ("it expects nq_open/NQ-open.dev.jsonl in there, from github.com/google-research-datasets/natural-questions "
            "(folder nq_open)")


def _locate(folder: pathlib.Path, path: str, name: str) -> pathlib.Path:
    """`folder/path`, plain or gzipped; the part before the first slash may be `folder` itself."""
    for candidate in (folder / path, folder / path.partition("/")[2]):
        for file in (candidate, candidate.with_name(candidate.name + ".gz")):
            if file.is_file():
                return file
    raise UserError(f"task '{name}': its data are missing, no {path} under {folder}; {_cure(name)}")


def _all_of_mmlu(folder: pathlib.Path) -> list[Task]:
    there = []
    for subject in _subjects():
        try:
            _locate(folder, f"mmlu/test/{subject}_test.csv", "mmlu")
        except UserError:
            continue
        there.append(_mmlu(folder, subject))
    if not there:
        raise UserError(f"task 'mmlu': no mmlu/test/*_test.csv under {folder}; {_cure('mmlu')}")
    if len(there) < len(_subjects()):
        console.say(f"mmlu: {len(there)} of {len(_subjects())} subjects are there; {_cure('mmlu')}")
    return there


def _mmlu(folder: pathlib.Path, subject: str) -> Task:
    name = f"mmlu_{subject}"
    splits = {s: _mmlu_rows(_locate(folder, f"mmlu/{s}/{subject}_{s}.csv", name), subject) for s in ("dev", "test")}
    have, published = len(splits["test"]), _subjects()[subject]
    note = "" if have == published else f"{have} of {published} questions; {_cure(name)}"
    return Task(name, _read_yaml(FOLDER / "mmlu.yaml") | {"task": name}, splits, not note, note)


def _mmlu_rows(path: pathlib.Path, subject: str) -> list[Row]:
    """Rows of a CSV with or without a header; the answer is a letter or 0 to 3. UserError with file and line."""
    made: list[Row] = []
    with _text(path) as file:
        reader = csv.reader(file)
        for cells in reader:
            if not cells or cells[0] == "question" and not made:
                continue
            answer = {**{c: i for i, c in enumerate("ABCD")}, **{str(i): i for i in range(4)}}.get(cells[-1].strip())
            if len(cells) != 6 or answer is None:
                raise UserError(f"{path}:{reader.line_num}: expected question, four choices and an answer (A-D or 0-3)")
            made.append({"id": str(len(made)), "subject": subject.replace("_", " "), "question": cells[0],
                         "choices": cells[1:5], "answer": answer})
    return made


def _nq(folder: pathlib.Path, name: str) -> Task:
    published = 3610
    config = _read_yaml(FOLDER / f"{name}.yaml")
    shown = {shot["question"] for shot in config["fewshot_config"]["samples"]}
    rows = [{"id": str(i)} | row for i, row in enumerate(_rows(_locate(folder, "nq_open/NQ-open.dev.jsonl", name)))]
    note = "" if len(rows) == published else f"{len(rows)} of {published} questions; {_cure(name)}"
    return Task(name, config, {"test": [r for r in rows if r["question"] not in shown]}, not note, note)


# ── task files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read_yaml(path: pathlib.Path) -> dict[str, Any]:
    """A task file with its includes and functions, as the harness reads it."""
    from lm_eval.tasks import _yaml_loader
    return _yaml_loader.load_yaml(path)


def _from_file(path: pathlib.Path) -> Task:
    if not path.is_file():
        raise UserError(f"--tasks {path}: no such file")
    try:
        config = _read_yaml(path)
    except (yaml.YAMLError, ValueError, ImportError, AttributeError, OSError) as error:
        raise UserError(f"--tasks {path}: not a task file of the harness ({' '.join(str(error).split())})") from None
    for key in ("task", "test_split", "doc_to_text", "doc_to_target", "metric_list"):
        if not config.get(key):
            raise UserError(f"{path}: the key '{key}' is missing")
    _refuse_what_cannot_run(config, path)
    files = _data_files(config, path)
    splits = {split: [row for file in named for row in _rows(file)] for split, named in files.items()}
    for split in {config["test_split"], config.get("fewshot_split")} - {None, *splits}:
        raise UserError(f"{path}: the split '{split}' has no file in data_files{nearest(split, splits)}")
    keys = {k: v for k, v in config.items() if not k.startswith("dataset_")}
    return Task(config["task"], keys, splits, _metadata(config).get("complete", True))


def _refuse_what_cannot_run(config: dict[str, Any], path: pathlib.Path) -> None:
    if config.get("dataset_path") != "json":
        raise UserError(f"{path}: dataset_path is {config.get('dataset_path')!r}; only local files run here: 'json' "
                        "with dataset_kwargs.data_files")
    if config.get("output_type", "generate_until") not in ("generate_until", "multiple_choice", "loglikelihood"):
        raise UserError(f"{path}: output_type {config['output_type']!r} has no score for each item; use "
                        "generate_until, multiple_choice or loglikelihood")
    first = config["metric_list"][0]
    if first.get("higher_is_better") is False or not isinstance(first.get("metric"), str):
        raise UserError(f"{path}: the first metric must be a name for which higher is better; it is what results carry")


def _data_files(config: dict[str, Any], path: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Split -> files, relative ones beside the task file."""
    given = (config.get("dataset_kwargs") or {}).get("data_files")
    given = given if isinstance(given, dict) else {"train": given}
    named = {split: [value] if isinstance(value, str) else value for split, value in given.items()}
    if not all(isinstance(v, list) and all(isinstance(f, str) for f in v) for v in named.values()):
        raise UserError(f"{path}: dataset_kwargs.data_files must map each split to a path or a list of paths")
    return {split: [path.parent / file for file in files] for split, files in named.items()}


def _rows(path: pathlib.Path) -> list[Row]:
    if not path.is_file():
        raise UserError(f"{path}: the data of a task are missing; data_files names this file")
    made: list[Row] = []
    for record in iter_records(path):
        try:
            made.append(record.parse())
        except Drop as drop:
            raise UserError(f"{path}:{record.line}: {drop}") from None
    if not made:
        raise UserError(f"{path}: no rows in it")
    return made


@contextlib.contextmanager
def _text(path: pathlib.Path) -> Iterator[io.TextIOBase]:
    """A text file, gzipped or not, with line ends kept for the CSV reader. UserError for one that cannot be read."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            yield file
    except (UnicodeDecodeError, csv.Error, EOFError, OSError) as error:     # EOFError: a gzip stream that breaks off
        raise UserError(f"{path}: cannot be read as text ({error}); fetch the file anew") from None


def _metadata(config: dict[str, Any]) -> dict[str, Any]:
    made = config.get("metadata")
    return made if isinstance(made, dict) else {}


def protocol(task: Task, prompt: str, rows: Sequence[Row], answer_tokens: int | None = None,
             cut_to: int | None = None) -> str:
    """Hash of all that decides a score but the model: the task's keys and code, the prompt form, rows, shots, how long
    a written answer may be, and the context that prompts were cut to (None where all of them fit)."""
    keys = {k: inspect.getsource(v) if callable(v) else v for k, v in task.config.items() if k != "metadata"}
    shown = task.splits.get(task.config.get("fewshot_split") or "", [])
    return digest([keys, prompt, task.metric, task.shots, list(rows), shown, answer_tokens, cut_to])
