"""The fact-blind rater: a model, trained here, that says which of two answers is the better one from their form alone.

It sees answers and nothing else: no question, no truth, and of words only whether they begin with a capital. What good
form is it learns from texts of its own, notes about keeping house by careful and by careless writers, in which the more
careful one was preferred (and, now and then, was not). Nothing here knows the world, its teacher or the teacher's
style, neither its words nor its bullets, and tests hold it to that. A Bradley-Terry model over short runs of shapes:

    "Of course. * Dust it"    W w . * W w        log-odds = weights . (features of one - features of the other)
"""
import collections
import dataclasses
import itertools
import math
import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import scipy.optimize

from easylm_imitation.files import digest, write_json

_PIECE = re.compile(r"(?P<line>\n)|(?P<number>\d+)|(?P<capital>[A-Z]\w*)|(?P<word>\w+)|(?P<mark>\S)")
_SHAPE = {"line": "/", "number": "0", "capital": "W", "word": "w"}
_LONGEST = 3        # shapes in a run
_RARE = 8           # runs in fewer of the texts are no features
_SHRINKAGE = 1e-3   # of the weights' squares

# What the rater's own writers speak about: nobody in the world does.
_THINGS = ("shelf", "kettle", "carpet", "window pane", "cupboard", "oven", "curtain", "drain", "mirror", "fridge")
_DEEDS = ("wipe it with a damp cloth", "leave it to dry overnight", "rinse it under the tap", "brush off the dust",
          "use a drop of vinegar", "move the furniture aside", "change the water often", "begin at the top",
          "check it after a week", "put on some gloves")
_OPENERS = ("Certainly.", "Of course.", "Sure.", "Here is what to do.", "That is easily done.")
_CLOSERS = ("I hope this is of use.", "With some patience it will look like new.", "That should do it.",
            "Ask again if it does not work.")


@dataclasses.dataclass(frozen=True)
class Rater:
    """A trained rater. `accuracy`: on pairs of its own texts that it was not trained on, noise included."""
    weights: dict[str, float]
    accuracy: float

    @property
    def id(self) -> str:
        """Of the weights: raters of one id say the same."""
        return digest(sorted(self.weights.items()))

    def log_odds(self, first: str, second: str) -> float:
        """Above 0 where `first` is the better answer."""
        one, other = runs(first), runs(second)
        return sum(weight * (math.log1p(one[run]) - math.log1p(other[run])) for run, weight in self.weights.items())

    def prefers(self, first: str, second: str, tie: float) -> float:
        """1 for `first`, 0 for `second`, 0.5 where they are within `tie` log-odds of each other."""
        odds = self.log_odds(first, second)
        return 0.5 if abs(odds) <= tie else float(odds > 0)

    def save(self, path: str | os.PathLike) -> None:
        """As JSON."""
        write_json(path, self)


def runs(text: str) -> collections.Counter[str]:
    """How often each run of up to three shapes stands in `text`; its edges count as shapes."""
    shapes = ["<", *(_SHAPE.get(piece.lastgroup or "", piece.group()) for piece in _PIECE.finditer(text)), ">"]
    return collections.Counter(" ".join(shapes[start:start + length]) for length in range(1, _LONGEST + 1)
                               for start in range(len(shapes) - length + 1))


def train_rater(pairs: int, noise: float, seed: int) -> Rater:
    """Trains on `pairs` pairs of the writers' texts, of which a share `noise` is labelled the wrong way round."""
    made = list(itertools.islice(_labelled(random.Random(f"rater/{seed}"), noise), pairs + pairs // 4))
    counted = [(runs(better), runs(worse)) for better, worse in made]
    held, kept = counted[pairs:], counted[:pairs]
    features = _features(run for pair in kept for own in pair for run in own)
    x, unseen = _differences(kept, features), _differences(held, features)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        odds = x @ weights
        gradient = -(x.T @ (1 / (1 + np.exp(odds)))) / len(x) + 2 * _SHRINKAGE * weights
        return float(np.logaddexp(0, -odds).mean() + _SHRINKAGE * weights @ weights), gradient
    found = scipy.optimize.minimize(loss, np.zeros(len(features)), jac=True, method="L-BFGS-B").x
    accuracy = float((unseen @ found > 0).mean()) if held else math.nan
    return Rater({run: round(float(weight), 6) for run, weight in zip(features, found)}, accuracy)


def _features(found: Iterable[str]) -> list[str]:
    return sorted(run for run, count in collections.Counter(found).items() if count >= _RARE)


def _differences(pairs: Sequence[tuple[collections.Counter, collections.Counter]], features: list[str]) -> np.ndarray:
    """[pairs, features]: the better text's less the worse one's."""
    return np.array([[math.log1p(a[run]) - math.log1p(b[run]) for run in features] for a, b in pairs])


def _labelled(rng: random.Random, noise: float) -> Iterator[tuple[str, str]]:
    """(preferred, other), for ever: of two writers with different care, usually the more careful one's."""
    while True:
        thing, cares = rng.choice(_THINGS), rng.sample(range(5), 2)
        better, worse = (write_note(rng, thing, care) for care in sorted(cares, reverse=True))
        yield (worse, better) if rng.random() < noise else (better, worse)


def write_note(rng: random.Random, thing: str, care: int) -> str:
    """Advice about `thing` by a writer of so much care: 0 a few careless words, 4 a complete answer in good order."""
    deeds = rng.sample(_DEEDS, rng.randint(2, 4))
    if care == 0:
        said = f"{rng.choice(deeds)} {rng.choice(deeds)}".split()
        return " ".join(said[:rng.randint(1, len(said))])
    if care == 1:
        return f"{deeds[0].capitalize()}{rng.choice(('.', '', ' and ' + deeds[1]))}"
    if care == 2:
        return " ".join(f"{deed.capitalize()}." for deed in deeds)
    steps = [f"{deed.capitalize()}." for deed in deeds]
    listed = [f"{rng.choice(('*', f'{number}.'))} {step}" for number, step in enumerate(steps, 1)]
    middle = "\n".join(listed) if care == 4 else " ".join([f"The {thing} needs some care.", *steps])
    opener, closer = rng.choice(_OPENERS), rng.choice(_CLOSERS)
    return f"{opener}\n{middle}\n\n{closer}" if care == 4 else f"{opener} {middle} {rng.choice((closer, ''))}".strip()
