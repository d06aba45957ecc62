"""What a model said, kept: a killed evaluation continues, and the same question to the same model is not asked twice.

One journal for each model, task and prompt form, under a name that hashes them; a line for each request, found by a
hash of its text and settings. Nothing depends on how many items were asked for: a sample of 10 is the beginning of 60.
"""
import collections
import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from easylm_imitation.files import digest
from easylm_imitation.journal import Journal


@dataclasses.dataclass(frozen=True)
class Said:
    """One answered request: a text, or a log-likelihood and whether the continuation was the likeliest."""
    request: str                    # hash of the request
    text: str | None = None
    likelihood: float | None = None
    greedy: bool = False

    @property
    def value(self) -> Any:
        """As the harness wants it."""
        return (self.likelihood, self.greedy) if self.text is None else self.text


class Kept:
    """Answers of one model to one task. The harness calls `add_partial` as each answer comes; a context manager.

    Equal requests (samples of one prompt) are told apart by their number.
    """

    def __init__(self, path: pathlib.Path | None):
        """`path`: the journal's file; None keeps nothing. Raises UserError when another process writes there."""
        self._journal = Journal(Said, path) if path else None
        self._said = {said.request: said for said in self._journal.entries} if self._journal else {}
        self.sample, self.found = 0, 0

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal:
            self._journal.close()

    def add_partial(self, kind: str, request: Sequence[Any], answer: Any) -> None:
        """Writes down one answer; the interface is that of the harness's cache hook."""
        key = _key(kind, request, self.sample)
        said = Said(key, answer) if isinstance(answer, str) else Said(key, None, float(answer[0]), bool(answer[1]))
        if self._journal and key not in self._said and (said.likelihood is None or math.isfinite(said.likelihood)):
            self._journal.append(said)
        self._said[key] = said

    def through(self, kind: str, requests: list[Any], ask: Any) -> list[Any]:
        """Answers to `requests` (of the harness), in order: those kept, and those of `ask(requests not kept)`."""
        count: collections.Counter[str] = collections.Counter()
        numbered = []
        for request in requests:
            key = _key(kind, request.args, 0)
            numbered.append((count[key], request))
            count[key] += 1
        made: dict[int, Any] = {}
        for self.sample in sorted({number for number, _ in numbered}):
            places = [i for i, (number, _) in enumerate(numbered) if number == self.sample]
            left = [i for i in places if _key(kind, requests[i].args, self.sample) not in self._said]
            self.found += len(places) - len(left)
            fresh = dict(zip(left, ask([requests[i] for i in left]))) if left else {}
            made |= {i: fresh[i] if i in fresh else self._said[_key(kind, requests[i].args, self.sample)].value
                     for i in places}
        return [made[i] for i in range(len(requests))]


def _key(kind: str, request: Sequence[Any], sample: int) -> str:
    context, rest = request
    text = context if isinstance(context, str) else getattr(context, "prompt", context)
    return digest([kind, text, rest, sample], 32)


def kept_path(folder: str | None, model: str, task: str, prompt: str, protocol: str) -> pathlib.Path | None:
    """The journal of a model (by id) and a task (by name and hash) in a folder."""
    if not folder:
        return None
    name = "".join(c if c.isalnum() or c in "._@-" else "_" for c in task)
    return pathlib.Path(folder) / model / f"{name}.{prompt}.{protocol}.jsonl"
