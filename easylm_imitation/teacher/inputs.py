"""The files that recipes read: pairs of questions and answers, seed tasks, FLAN-style queries. JSONL or JSON, gzipped
or not; FLAN's chain-of-thought TSV too."""
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from easylm_imitation.data.sources import Drop, iter_records
from easylm_imitation.records import Message, Prompt, prompt_from
from easylm_imitation.schema import UserError, build


@dataclasses.dataclass(frozen=True)
class Pair:
    """A question and its short answer."""
    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class SeedTask:
    """A task that people wrote: an instruction with inputs and outputs; "" is an input of a task without one."""
    id: str
    instruction: str
    instances: tuple[tuple[str, str], ...]      # (input, output)
    is_classification: bool = False


def read_pairs(path: str | os.PathLike) -> list[Pair]:
    """Lines like {"question": "...", "answer": "..."}; of a list of answers (NQ-open's form) the first is taken."""
    return [_pair(fields, where) for where, fields in _records(path)]


def _pair(fields: dict[str, Any], where: str) -> Pair:
    answer = fields.get("answer")
    first = answer[0] if isinstance(answer, list) and answer else answer
    made = build(Pair, {k: v for k, v in fields.items() if k == "question"} | {"answer": first}, where)
    if not made.question.strip() or not made.answer.strip():
        raise UserError(f"{where}: an empty question or answer; leave the line out")
    return made


def read_seed_tasks(path: str | os.PathLike) -> list[SeedTask]:
    """Seed tasks in Self-Instruct's form: id, instruction, instances [{input, output}], is_classification."""
    tasks = [_seed_task(fields, where) for where, fields in _records(path)]
    if not tasks:
        raise UserError(f"{path}: no seed tasks in it")
    return tasks


def _seed_task(fields: dict[str, Any], where: str) -> SeedTask:
    try:
        instances = tuple((str(i.get("input", "")).strip(), str(i["output"]).strip()) for i in fields["instances"])
        task = SeedTask(str(fields.get("id", where)), str(fields["instruction"]).strip(), instances,
                        bool(fields.get("is_classification", False)))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{where}: not a seed task ({type(error).__name__}: {error}); it looks like {{"id": "s0", '
                        '"instruction": "...", "instances": [{"input": "", "output": "..."}]}') from None
    if not task.instruction or not task.instances:
        raise UserError(f"{where}: the seed task '{task.id}' has no instruction or no instance")
    return task


def read_queries(path: str | os.PathLike) -> list[Prompt]:
    """Queries for explanations: prompts, FLAN's {"inputs", "targets"}, or its TSV (question, answer, rationale).

    Records without an id are named by the file and their number; the known answer goes into `meta["target"]`. Raises
    UserError for an id that comes twice and for a file without queries.
    """
    queries: dict[str, Prompt] = {}
    for query in _tsv(path) if ".tsv" in pathlib.Path(path).suffixes else _queries(path):
        if query.id in queries:
            raise UserError(f"{path}: the id '{query.id}' comes twice; ids must differ")
        queries[query.id] = query
    if not queries:
        raise UserError(f"{path}: no queries in it")
    return list(queries.values())


def _queries(path: str | os.PathLike) -> Iterator[Prompt]:
    for number, (where, fields) in enumerate(_records(path)):
        if "inputs" in fields and "messages" not in fields:
            fields = {"prompt": fields["inputs"], "target": fields.get("targets", ""),
                      **{k: v for k, v in fields.items() if k not in ("inputs", "targets")}}
        yield prompt_from({"id": _name(path, number), **fields}, where)


def _tsv(path: str | os.PathLike) -> Iterator[Prompt]:
    for number, (where, fields) in enumerate(_records(path, ("question", "target", "rationale"), least=2)):
        if not fields["question"].strip():
            raise UserError(f"{where}: an empty question; expected question, answer and perhaps a rationale")
        yield Prompt(_name(path, number), (Message("user", fields.pop("question")),), meta=fields)


def _name(path: str | os.PathLike, number: int) -> str:
    return f"{pathlib.Path(path).name.partition('.')[0]}_{number}"


def _records(path: str | os.PathLike, columns: tuple[str, ...] = (), least: int = 0
             ) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record). `columns`: the cells of tab-separated lines, of which at least the first `least` are there."""
    for record in iter_records(pathlib.Path(path), "lines" if columns else ""):
        where = f"{path}:{record.line}"
        try:
            yield where, record.parse(columns[:max(least, record.raw.count(b"\t") + 1)] if columns else ())
        except Drop as drop:
            raise UserError(f"{where}: {drop}") from None
