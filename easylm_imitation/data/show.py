"""Rows of a built dataset as a person reads them: which tokens are there, and which of them carry loss."""
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from easylm_imitation import console
from easylm_imitation.data.build import read_card
from easylm_imitation.data.shards import open_shards
from easylm_imitation.text import Tokenizer, load_tokenizer


class Stretch(NamedTuple):
    """Neighbouring tokens of a row that all carry loss, or all carry none."""
    text: str       # special tokens as they are spelled
    tokens: int
    learned: bool


def show_rows(folder: str | os.PathLike, count: int) -> None:
    """Prints `count` rows of a built dataset, from its first to its last at even distances, trained tokens coloured.

    A terminal without colours gets >>marks<< around them. Raises UserError for a folder that is no dataset.
    """
    folder = pathlib.Path(folder)
    read_card(folder)
    shards, tokenizer = open_shards(folder / "shards"), load_tokenizer(folder / "tokenizer")
    origins = _origins(folder)
    for place in chosen(len(shards), count):
        record = shards[place]
        row = list(stretches(tokenizer, record["tokens"], record["loss_weights"]))
        learned = sum(stretch.tokens for stretch in row if stretch.learned)
        name = record["id"].decode("utf-8", "replace")
        console.say(f"row {place}, {name}{origins(place)}: {len(record['tokens'])} tokens, {learned} with loss")
        console.marked((stretch.text, stretch.learned) for stretch in row)


def _origins(folder: pathlib.Path) -> Callable[[int], str]:
    """Of a row: the file and line that it is from, where the dataset says so."""
    with np.load(folder / "datasets.npz") as stored:
        arrays = {name: stored[name] for name in stored}
    if "record" not in arrays:
        return lambda place: ""
    return lambda place: f" of {arrays['files'][arrays['file_of'][place]]}:{arrays['line'][place]}"


def chosen(rows: int, count: int) -> list[int]:
    """`count` of `rows` places, evenly spread; all of them when there are no more."""
    count = min(rows, count)
    return [i * (rows - 1) // max(1, count - 1) for i in range(count)]


def stretches(tokenizer: Tokenizer, tokens: np.ndarray, weights: np.ndarray) -> Iterator[Stretch]:
    """The row, cut where loss begins and ends. `tokens` int32 [T], `weights` float32 [T]."""
    before: list[int] = []      # decoding a stretch after its beginning keeps the space that it may start with
    for learned, places in itertools.groupby(range(len(tokens)), lambda at: weights[at] > 0):
        ids = tokens[list(places)].tolist()
        text = tokenizer.decode(before + ids, skip_special=False)
        yield Stretch(text.removeprefix(tokenizer.decode(before, skip_special=False)), len(ids), bool(learned))
        before = ids
