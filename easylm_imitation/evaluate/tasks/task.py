"""A task ready to run, and the hash of all that decides its scores."""
import dataclasses
import functools
import inspect
from collections.abc import Sequence
from typing import Any

from easylm_imitation.files import digest
from easylm_imitation.schema import UserError

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """A task ready to run. `config` holds the harness's keys but the data set's; `splits` the rows of each split."""
    name: str
    config: dict[str, Any]
    splits: dict[str, list[Row]]
    complete: bool              # the whole published test split is there
    note: str = ""              # what is missing, and where it is to be had
    whole: str = ""             # the task that this is a part of, in whose name results are given
    macro: bool = False         # parts count alike there, however many items they have

    @property
    def rows(self) -> list[Row]:
        """The rows that are scored."""
        return self.splits[self.config["test_split"]]

    @property
    def shots(self) -> int:
        """Solved examples before each item."""
        return self.metadata.get("shots", self.config.get("num_fewshot")) or 0

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
        return self.metadata.get("group", "substance")

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt forms that the task makes sense in."""
        return tuple(self.metadata.get("prompts", ("raw", "chat")))

    @property
    def metric(self) -> str:
        """The first metric of the task's list: the one that results carry."""
        return self.config["metric_list"][0]["metric"]

    @property
    def scorer(self) -> str:
        """What scores the texts once all are there ("code", "toxicity"; see after.py); "" for the task's own rule."""
        return self.metadata.get("scorer", "")

    @property
    def metadata(self) -> dict[str, Any]:
        """Keys of ours, which the harness passes over."""
        made = self.config.get("metadata")
        return made if isinstance(made, dict) else {}

    def asked(self, prompt: str) -> "Task":
        """The task as it is put in that form: keys under `metadata.chat` replace the file's own in chat."""
        over = self.metadata.get("chat", {}) if prompt == "chat" else {}
        return dataclasses.replace(self, config=self.config | over) if over else self


def refuse_repeated(tasks: Sequence[Task]) -> None:
    """UserError when a task comes twice: results would not tell the two apart."""
    names = [task.name for task in tasks]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise UserError(f"--tasks: '{repeated}' comes twice; name each task once")


def protocol(task: Task, prompt: str, rows: Sequence[Row], answer_tokens: int | None = None,
             cut_to: int | None = None) -> str:
    """Hash of all that decides a score but the model: the task's keys and code, the prompt form, rows, shots, how long
    a written answer may be, and the context that prompts were cut to (None where all of them fit)."""
    keys = _readable({k: v for k, v in task.config.items() if k != "metadata"})
    shown = task.splits.get(task.config.get("fewshot_split") or "", [])
    return digest([keys, prompt, task.metric, task.shots, list(rows), shown, answer_tokens, cut_to])


def _readable(value: Any) -> Any:
    """The value with the source of each function in its place, however deep (filters are lists of mappings)."""
    if isinstance(value, dict):
        return {key: _readable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_readable(inner) for inner in value]
    return inspect.getsource(value) if callable(value) else value
