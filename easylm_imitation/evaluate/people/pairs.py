"""What a study shows: pairs of answers of recorded files, and attention checks."""
import dataclasses
import os
import pathlib
from collections.abc import Sequence

from easylm_imitation import console
from easylm_imitation.evaluate.judge import Answered, Dialogue, read_dialogues
from easylm_imitation.evaluate.people.config import PeopleConfig
from easylm_imitation.files import digest, iter_jsonl
from easylm_imitation.schema import UserError, build, plain

CHECK = -1      # in place of a model


@dataclasses.dataclass(frozen=True)
class Turn:
    """A request and two answers. In a check `mine` is the better one by far."""
    question: str
    mine: str
    other: str


@dataclasses.dataclass(frozen=True)
class Pair:
    """One thing to rate: a prompt, answered by model number `model` and by the reference, turn by turn."""
    model: int
    prompt: str
    turns: tuple[Turn, ...]


@dataclasses.dataclass(frozen=True)
class Sets:
    """The answers that a study is about."""
    models: tuple[Answered, ...]
    reference: Answered
    pairs: tuple[Pair, ...]
    checks: tuple[Pair, ...]

    @property
    def prompts(self) -> int:
        """How many prompts all of them answered."""
        return len({pair.prompt for pair in self.pairs})

    def fingerprint(self, config: PeopleConfig) -> str:
        """Of all that must not change while a study runs."""
        return digest([config.question, config.asked, config.ratings, config.markdown, plain(self.pairs)], 32)


@dataclasses.dataclass(frozen=True)
class Check:
    """A line of a file of checks: a request with a good answer and one that nobody who reads both would prefer."""
    prompt: str
    good: str
    bad: str
    id: str = ""


def read_sets(models: Sequence[str], reference: str, config: PeopleConfig, *, checks: str | None = None,
              prompts_from: str | None = None) -> Sets:
    """The pairs of every model with the reference, of the prompts that all of them answered, and the checks of the
    file `checks` (None: our own). Raises UserError for files without a common prompt, and for a study that so few
    raters cannot complete."""
    read = tuple(read_dialogues(path, prompts_from) for path in models)
    other = read_dialogues(reference, prompts_from)
    ids = [i for i in other.dialogues if all(i in own.dialogues for own in read)]
    if not ids:
        raise UserError("--models and --reference share no prompt id; all must answer the same prompts file")
    left = max(len(own.dialogues) for own in (*read, other)) - len(ids)
    if left:
        console.say(f"{left} prompts are left out: not all of the files answer them")
    pairs = tuple(Pair(number, i, _turns(own.dialogues[i], other.dialogues[i]))
                  for number, own in enumerate(read) for i in ids)
    made = Sets(read, other, pairs, _checks(checks) if config.checks else ())
    _can_be_done(made, config)
    return made


def _turns(mine: Dialogue, other: Dialogue) -> tuple[Turn, ...]:
    return tuple(Turn(*map(_tidy, turn)) for turn in zip(mine.questions, mine.answers, other.answers))


def _tidy(text: str) -> str:
    """Without what would tell models apart and shows nowhere else: space around the text, kinds of line ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _checks(path: str | os.PathLike | None) -> tuple[Pair, ...]:
    path = path or pathlib.Path(__file__).with_name("checks.jsonl")
    rows = [build(Check, row, f"{path}:{number}") for number, row in iter_jsonl(path)]
    if not rows:
        raise UserError(f"--checks {path}: no checks in it")
    return tuple(Pair(CHECK, row.id or f"check {n}", (Turn(*map(_tidy, (row.prompt, row.good, row.bad))),))
                 for n, row in enumerate(rows))


def _can_be_done(sets: Sets, config: PeopleConfig) -> None:
    """UserError where not all pairs can get all their ratings."""
    people, models = config.raters + config.crowd, len(sets.models)
    needed = config.ratings * models
    if people < needed:
        raise UserError(f"raters {config.raters} and crowd {config.crowd}: nobody sees a prompt twice (the "
                        f"reference's answer would be known by then), so {config.ratings} ratings of {models} models' "
                        f"answers need {needed} people; set --config.raters={needed - config.crowd}, or fewer "
                        "--config.ratings")
    if config.items and people * config.items < len(sets.pairs) * config.ratings:
        raise UserError(f"{people} people who rate {config.items} pairs each make {people * config.items} ratings, and "
                        f"{len(sets.pairs)} pairs need {config.ratings} each; raise --config.items, raters or crowd")
    if config.checks > len(sets.checks):
        raise UserError(f"checks {config.checks}: the file has {len(sets.checks)}; nobody sees one twice")
