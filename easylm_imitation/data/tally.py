"""What a build counts on its way, and what it shows of the records that it left out."""
import collections
import dataclasses
import pathlib
from typing import Any

from easylm_imitation import console
from easylm_imitation.data.work import Outcome
from easylm_imitation.records import SourceCount

_SHOWN = 10     # dropped records named on screen


@dataclasses.dataclass
class Tally:
    """Counts of a build, filled in as outcomes pass."""
    sources: list[SourceCount] = dataclasses.field(default_factory=list)
    dropped: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    teachers: set[str] = dataclasses.field(default_factory=set)
    names: dict[tuple[str, str], tuple[pathlib.Path, int]] = dataclasses.field(default_factory=dict)
    """(dataset, id) -> file and line of the conversation."""
    loss_tokens: int = 0

    def unlike_others(self, file: pathlib.Path, outcome: Outcome) -> Outcome:
        """The outcome, or a dropped one when its dataset has a conversation of that id already: the first one stays."""
        if outcome.example is None:
            return outcome
        name = outcome.dataset, outcome.example.id
        if name in self.names:
            first, line = self.names[name]
            return Outcome(outcome.line, reason="duplicate id", detail=f"'{name[1]}' was there before, {first}:{line}")
        self.names[name] = file, outcome.line
        return outcome

    def drop(self, file: pathlib.Path, outcome: Outcome) -> None:
        """Notes a record that is left out; names the first few on screen."""
        self.dropped.append({"file": str(file), "line": outcome.line, "reason": outcome.reason,
                             "detail": outcome.detail})
        if len(self.dropped) <= _SHOWN:
            detail = f" ({outcome.detail})" if outcome.detail else ""
            console.say(f"{file}:{outcome.line}: dropped, {outcome.reason}{detail}")

    def reasons(self) -> dict[str, int]:
        """How many were left out, by reason."""
        return dict(sorted(collections.Counter(entry["reason"] for entry in self.dropped).items()))

    def show(self) -> None:
        """Says how many more were left out than were named."""
        if len(self.dropped) > _SHOWN:
            console.say(f"... {len(self.dropped) - _SHOWN} more dropped; dropped.jsonl of the dataset names all")
