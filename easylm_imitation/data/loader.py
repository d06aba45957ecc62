"""Shards to batches, through Grain: shuffle, repeat, pack, batch; its position is a small JSON value.

Packing is first-fit and never splits a conversation. Each row tells its conversations apart by `segment_ids` (0 is
padding, then 1, 2, ...) and counts `positions` from 0 in each. A conversation's first token weighs nothing in the loss
(nothing before it predicts it), so no prediction crosses from one conversation into the next.

    conversations of 3, 4 and 2 tokens, context 6    ->    row 0   tokens       a a a c c .
                                                                   segment_ids  1 1 1 2 2 0
                                                                   positions    0 1 2 0 1 0
                                                           row 1   tokens       b b b b . .

Every process packs the same global stream and takes its own rows of each batch. So a batch does not depend on how many
processes there are, and a saved position holds for any number of them; the price is that each process reads everything.
Grain (which imports jax) and TFDS are imported where they are used: workers of `build` import this package too.
"""
import os
import pathlib
from typing import Any

import numpy as np

from easylm_imitation.data.build import read_card
from easylm_imitation.data.config import LoaderConfig
from easylm_imitation.data.shards import open_shards
from easylm_imitation.records import DataCard, digest
from easylm_imitation.schema import UserError

Batch = dict[str, np.ndarray]


class Loader:
    """Iterates batches: dicts of `tokens` int32 [B, T], `loss_weights` float32 [B, T], `segment_ids` int32 [B, T] and
    `positions` int32 [B, T], where B counts this process's rows. `iterator` is the Grain DatasetIterator beneath.
    """

    def __init__(self, iterator: Any, fingerprint: str):
        self.iterator = iterator
        self._fingerprint = fingerprint

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        return next(self.iterator)

    def get_state(self) -> dict[str, Any]:
        """The position after the batches given so far; JSON-able."""
        return {"fingerprint": self._fingerprint, "grain": self.iterator.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position: the next batch is the one that followed `get_state`. Raises UserError for a position in
        another dataset, or under another config, seed or number of epochs."""
        if state["fingerprint"] != self._fingerprint:
            raise UserError("the saved data position belongs to another dataset, loader config, seed or number of epochs; "
                            "continue with the saved run's, or start a new one")
        self.iterator.set_state(state["grain"])


def open_loader(folder: str | os.PathLike, config: LoaderConfig, *, seed: int, epochs: int | None,
                rows: slice | None = None) -> Loader:
    """Batches of the dataset in `folder`, for `epochs` passes over it (None: without end).

    `rows`: this process's part of the `config.batch` global rows (None: all). The last batch of a finite run is filled
    up with empty rows (all segment ids 0). Raises UserError, before any work, for conversations longer than the context
    where `too_long` is "error", and for a dataset that "drop" would leave empty.
    """
    folder = pathlib.Path(folder)
    card = read_card(folder)
    rows = slice(0, config.batch) if rows is None else rows
    keep = _selected(folder, card, config)
    examples = _Examples(open_shards(folder / "shards"), keep, config.context)
    batches = _batched(examples, config, seed, epochs)
    own = batches.map(lambda batch: {key: value[rows] for key, value in batch.items()})
    return Loader(iter(own), digest([card.hash, config, seed, epochs]))


def count_batches(folder: str | os.PathLike, config: LoaderConfig, *, seed: int, epochs: int) -> int:
    """How many batches `open_loader` gives with the same arguments: packs the lengths alone, reading no shard."""
    folder = pathlib.Path(folder)
    keep = _selected(folder, read_card(folder), config)
    lengths = np.minimum(np.load(folder / "lengths.npy")[keep], config.context)
    return sum(1 for _ in _batched(_Lengths(lengths), config, seed, epochs))


def _selected(folder: pathlib.Path, card: DataCard, config: LoaderConfig) -> np.ndarray:
    """Indices of the records to load."""
    lengths = np.load(folder / "lengths.npy")
    if card.longest <= config.context or config.too_long == "truncate":
        return np.arange(len(lengths))
    if config.too_long == "error":
        longest = int(np.argmax(lengths))
        name = open_shards(folder / "shards")[longest]["id"].decode()
        more = int(np.count_nonzero(lengths > config.context)) - 1
        raise UserError(f"{folder}: conversation '{name}' has {lengths[longest]} tokens, the context {config.context} "
                        f"({more} more are too long); raise data.context, or set data.too_long to drop or truncate")
    keep = np.flatnonzero(lengths <= config.context)
    if not len(keep):
        raise UserError(f"{folder}: every conversation is longer than the context {config.context}; raise data.context")
    return keep


class _Examples:
    """Random access to the selected records, cut to the context; what Grain asks of a source."""

    def __init__(self, shards: Any, keep: np.ndarray, context: int):
        self._shards, self._keep, self._context = shards, keep, context

    def __len__(self) -> int:
        return len(self._keep)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        record = self._shards[int(self._keep[index])]
        return {key: record[key][:self._context] for key in ("tokens", "loss_weights")}


class _Lengths:
    """Stands in for `_Examples` where only the packing matters."""

    def __init__(self, lengths: np.ndarray):
        self._lengths = lengths

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        empty = np.zeros(self._lengths[index], np.int8)
        return {"tokens": empty, "loss_weights": empty}


def _batched(examples: _Examples | _Lengths, config: LoaderConfig, seed: int, epochs: int | None) -> Any:
    """The Grain dataset of global batches."""
    import grain

    dataset = grain.MapDataset.source(examples).seed(seed)
    if config.shuffle:
        dataset = dataset.shuffle()  # before repeat: so each epoch has an order of its own
    stream = dataset.repeat(epochs).to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=64))
    if config.packing == "none":
        stream = stream.map(lambda example: _alone(example, config.context))
    else:
        lengths = {"tokens": config.context, "loss_weights": config.context}
        stream = grain.experimental.FirstFitPackIterDataset(
            stream, length_struct=lengths, num_packing_bins=config.packing_bins, seed=seed, shuffle_bins=config.shuffle,
            meta_features=["loss_weights"]).map(_renamed)
    return stream.batch(config.batch, drop_remainder=False).map(lambda batch: _filled(batch, config.batch))


def _renamed(row: dict[str, np.ndarray]) -> Batch:
    return {"tokens": row["tokens"], "loss_weights": row["loss_weights"],
            "segment_ids": row["tokens_segment_ids"], "positions": row["tokens_positions"]}


def _alone(example: dict[str, np.ndarray], context: int) -> Batch:
    """One conversation as one row."""
    length = len(example["tokens"])
    whole = {**example, "segment_ids": np.ones(length, np.int32), "positions": np.arange(length, dtype=np.int32)}
    return {key: np.pad(value, (0, context - length)) for key, value in whole.items()}


def _filled(batch: Batch, rows: int) -> Batch:
    """With empty rows at its end, up to `rows`."""
    missing = rows - len(batch["tokens"])
    return {key: np.pad(value, ((0, missing), (0, 0))) if missing else value for key, value in batch.items()}
