"""Which conversations are held out of training (`data.holdout`): the loader leaves them out, validation takes them."""
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from easylm_imitation.data.build import read_card
from easylm_imitation.data.config import LoaderConfig
from easylm_imitation.data.shards import Example, open_shards
from easylm_imitation.files import digest
from easylm_imitation.schema import UserError


def held_out_datasets(folder: str | os.PathLike, config: LoaderConfig) -> list[str]:
    """Names of the datasets of `folder` of which `config.holdout` holds conversations out, in order."""
    if not config.holdout:
        return []
    folder = pathlib.Path(folder)
    names, number = datasets_of(folder)
    counts = np.bincount(number[held_out_mask(folder, config)], minlength=len(names))
    return [str(name) for name, count in zip(names, counts, strict=True) if count]


def held_out_examples(folder: str | os.PathLike, config: LoaderConfig, dataset: str) -> Iterator[Example]:
    """The held-out conversations of one dataset, whole, in the shards' order."""
    folder = pathlib.Path(folder)
    names, number = datasets_of(folder)
    shards = open_shards(folder / "shards")
    for member in np.flatnonzero(held_out_mask(folder, config) & (names[number] == dataset)).tolist():
        record = shards[member]
        yield Example(record["id"].decode("utf-8", "surrogatepass"), record["tokens"], record["loss_weights"])


def held_out_mask(folder: pathlib.Path, config: LoaderConfig) -> np.ndarray:
    """Which conversations are held out, bool [conversations]: of each dataset the same ones whatever the run's seed and
    the other datasets, at least one where it has two. What came of one record of a file (copies by a source's weight,
    pieces of a long dialogue, several answers) is held out together, or not."""
    names, number = datasets_of(folder)
    original = _originals(folder, len(number))
    out = np.zeros(len(number), bool)
    for dataset, name in enumerate(names):
        _, first = np.unique(original[number == dataset], return_index=True)
        members = original[number == dataset][np.sort(first)]       # in the shards' order
        count = min(max(1, round(config.holdout * len(members))), len(members) - 1)
        drawn = np.random.default_rng(int(digest(str(name)), 16)).permutation(members)[:count]
        out |= np.isin(original, drawn)
    return out


def _originals(folder: pathlib.Path, count: int) -> np.ndarray:
    """Of each conversation a number that those of one record share. Raises UserError where copies cannot be told."""
    with np.load(folder / "datasets.npz") as stored:
        if "record" in stored:
            places = np.stack([stored["file_of"].astype(np.int64), stored["record"]], axis=1)
            return np.unique(places, axis=0, return_inverse=True)[1].reshape(-1)
        if "original" in stored:        # older datasets
            return stored["original"]
    if any(source.copies for source in read_card(folder).sources):
        raise UserError(f"{folder}: does not say which conversations are copies of others (a source's weight), so "
                        "data.holdout could not keep them together; an older version built it: remove it and build it "
                        "again")
    return np.arange(count)


def datasets_of(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """(names [datasets], which of them each conversation belongs to [conversations]). Raises UserError."""
    if not (folder / "datasets.npz").is_file():
        raise UserError(f"{folder}: does not say which dataset each conversation is of, so data.holdout has nothing to "
                        "go by; an older version built it, build it again")
    with np.load(folder / "datasets.npz") as stored:
        return stored["names"], stored["number"]
