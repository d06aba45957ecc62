"""Task files and the rows that they name.

A task file is one of lm-evaluation-harness, with `dataset_path: json` and local `data_files` (relative ones stand
beside the file); the stock harness runs the same file. Keys of its `metadata` are ours: `group` (the side of the
verdict that it speaks for, "substance" unless said), `prompts` (the prompt forms that it makes sense in, all unless
said) and `chat` (keys that replace the file's own when it is put in chat).
"""
import contextlib
import csv
import gzip
import io
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from easylm_imitation.data.sources import Drop, iter_records
from easylm_imitation.evaluate.tasks.task import Row, Task
from easylm_imitation.schema import UserError, nearest

FOLDER = pathlib.Path(__file__).parents[1] / "task_files"


def read_yaml(path: pathlib.Path) -> dict[str, Any]:
    """A task file with its includes and functions, as the harness reads it."""
    from lm_eval.tasks import _yaml_loader
    return _yaml_loader.load_yaml(path)


def from_file(path: pathlib.Path) -> Task:
    """The task of a file of one's own, rows loaded. Raises UserError naming the file and what is wrong with it."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        config = read_yaml(path)
    except (yaml.YAMLError, ValueError, ImportError, AttributeError, OSError) as error:
        raise UserError(f"{path}: not a task file of the harness ({' '.join(str(error).split())})") from None
    for key in ("task", "test_split", "doc_to_text", "doc_to_target", "metric_list"):
        if not config.get(key):
            raise UserError(f"{path}: the key '{key}' is missing")
    _refuse_what_cannot_run(config, path)
    files = _data_files(config, path)
    splits = {split: [row for file in named for row in read_rows(file)] for split, named in files.items()}
    for split in {config["test_split"], config.get("fewshot_split")} - {None, *splits}:
        raise UserError(f"{path}: the split '{split}' has no file in data_files{nearest(split, splits)}")
    keys = {k: v for k, v in config.items() if not k.startswith("dataset_")}
    made = Task(config["task"], keys, splits, True)
    return Task(made.name, keys, splits, made.metadata.get("complete", True))


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


def read_rows(path: pathlib.Path) -> list[Row]:
    """All objects of a JSON or JSONL file, gzipped or not. UserError with file and line for what is none."""
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
def open_text(path: pathlib.Path) -> Iterator[io.TextIOBase]:
    """A text file, gzipped or not, with line ends kept for the CSV reader. UserError for one that cannot be read."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    except (UnicodeDecodeError, csv.Error, EOFError, OSError) as error:     # EOFError: a gzip stream that breaks off
        raise UserError(f"{path}: cannot be read as text ({error}); fetch the file anew") from None
