"""Shards to batches, through Grain: shuffle, pack, batch, read ahead; its position is a small JSON value.

Packing never splits a conversation, and never joins two epochs. A row tells its conversations apart by `segment_ids` (0
is padding, then 1, 2, ...) and counts `positions` from 0 in each. A conversation's first token weighs nothing in the
loss (nothing before it predicts it), so no prediction crosses from one conversation into the next.

    conversations a, b, c of 3, 4 and 2 tokens, context 6    ->    row 0   tokens       a a a c c .
                                                                          segment_ids  1 1 1 2 2 0
                                                                          positions    0 1 2 0 1 0
                                                                  row 1   tokens       b b b b . .

Every process plans the same global rows and reads its own rows of each batch. So a batch does not depend on how many
processes there are, and a saved position holds for any number of them.
Grain (which imports jax) and TFDS are imported where they are used: workers of `build` import this package too.
"""
import dataclasses
import functools
import os
import pathlib
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from easylm_imitation import console
from easylm_imitation.data.build import read_card
from easylm_imitation.data.config import LoaderConfig, TooLong
from easylm_imitation.data.holdout import datasets_of, held_out_mask
from easylm_imitation.data.packing import Rows, best_fit, first_fit, one_a_row
from easylm_imitation.data.shards import Columns, Shards, open_shards
from easylm_imitation.data.teacher_cache import TeacherCache
from easylm_imitation.files import digest, file_sha256
from easylm_imitation.records import DataCard
from easylm_imitation.schema import UserError

Batch = dict[str, np.ndarray]

DTYPES = {"tokens": np.int32, "loss_weights": np.float32, "segment_ids": np.int32, "positions": np.int32}
_ENDLESS = 2**40    # batches
_CUT = ("truncate", "truncate-left")


@dataclasses.dataclass(frozen=True)
class DataUse:
    """What a run takes of a dataset in one pass, and what the context leaves out; RUN/data.json."""
    name: str
    card: str                       # hash of its data card
    conversations: int              # in the dataset
    tokens: int                     # in the dataset
    context: int
    too_long: TooLong
    long_conversations: int         # of more tokens than the context: dropped or truncated
    lost_tokens: int                # theirs, as far as no row holds them
    held_out: int = 0               # conversations that are validated on instead
    without_loss: int = 0           # of the long ones: left out, for what truncation keeps of them has no loss


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
        """Goes to a position: the next batch is the one that followed `get_state`. Raises UserError for what is none,
        and for one in another dataset, or under another config, seed or number of epochs."""
        demand_position(state)
        if state["fingerprint"] != self._fingerprint:
            raise UserError("the saved data position belongs to another dataset, loader config, seed or number of "
                            "epochs; continue with the saved run's, or start a new one")
        self.iterator.set_state(state["grain"])


def demand_position(state: Any) -> None:
    """Raises UserError for what no `get_state` gave."""
    if not isinstance(state, Mapping) or not {"fingerprint", "grain"} <= state.keys():
        raise UserError("this is no position of a loader; give back what `get_state` of one gave")


def open_loader(folder: str | os.PathLike, config: LoaderConfig, *, seed: int, epochs: int | None,
                rows: slice | None = None, held_out: str | None = None,
                teacher: TeacherCache | None = None) -> Loader:
    """Batches of the dataset in `folder`, for `epochs` passes over it (None: without end).

    `rows`: this process's part of the `config.batch` global rows (None: all). `held_out`: the conversations of this
    dataset that `config.holdout` keeps out of training, and not those to train on. `teacher`: its best tokens are part
    of the batches. The last batch of a finite run is filled up with empty rows (all segment ids 0). Raises UserError,
    before any work, for conversations longer than the context where `too_long` is "error", for a dataset that "drop"
    would leave empty, and for a `teacher` with "truncate-left", whose places are counted from the beginning.
    """
    import grain

    folder = pathlib.Path(folder)
    card = read_card(folder)
    _check_index(folder, card)
    if teacher is not None and config.too_long == "truncate-left":
        raise UserError("data.too_long truncate-left: a teacher's tokens are counted from the beginning; take "
                        "truncate, or drop")
    plan = _Plan(_taken(folder, card, config, held_out), config, seed)
    if held_out is None:
        _say_what_is_cut(folder, data_use(folder, config))
    batches = _Batches(open_shards(folder / "shards"), plan, config, epochs, rows or slice(None), teacher)
    # One thread reads ahead of the training step; more of them would only contend for the interpreter's lock.
    dataset = grain.MapDataset.source(batches).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4))
    return Loader(iter(dataset), digest([card.hash, config, seed, epochs]))


def planned_batches(folder: str | os.PathLike, config: LoaderConfig) -> "PlannedBatches":
    """Each conversation once, with the numbers of the conversations in each row."""
    folder = pathlib.Path(folder)
    plan = _Plan(_lengths(folder, read_card(folder), config), config, seed=0)
    return PlannedBatches(_Batches(open_shards(folder / "shards"), plan, config, 1, slice(None)))


def batch_kinds(teacher: TeacherCache | None = None) -> dict[str, tuple[tuple[int, ...], type]]:
    """{name: (dims behind [B, T], dtype)} of the arrays in a batch."""
    kinds = {name: ((), dtype) for name, dtype in DTYPES.items()}
    said = teacher.empty((0, 0)) if teacher else {}
    return kinds | {name: (array.shape[2:], array.dtype) for name, array in said.items()}


def count_batches(folder: str | os.PathLike, config: LoaderConfig, *, seed: int, epochs: int) -> int:
    """How many batches `open_loader` gives with the same arguments."""
    folder = pathlib.Path(folder)
    plan = _Plan(_taken(folder, read_card(folder), config), config, seed)
    return -(-plan.rows_before(epochs) // config.batch)


def batches_of_tokens(folder: str | os.PathLike, config: LoaderConfig, *, seed: int, tokens: int) -> int:
    """How many batches `open_loader` has to give, without end, until they hold `tokens` tokens that are no padding."""
    folder = pathlib.Path(folder)
    plan = _Plan(_taken(folder, read_card(folder), config), config, seed)
    return -(-plan.rows_of_tokens(tokens) // config.batch)


def data_use(folder: str | os.PathLike, config: LoaderConfig) -> DataUse:
    """What `open_loader` takes of the dataset in `folder` and what it leaves out. Raises UserError as it does."""
    folder = pathlib.Path(folder)
    card = read_card(folder)
    brought, lengths = _lengths(folder, card, config), np.load(folder / "lengths.npy")
    without_loss = int(np.count_nonzero(brought == 0)) if config.too_long in _CUT else 0
    return DataUse(card.name, card.hash, card.conversations, card.tokens, config.context, config.too_long,
                   int(np.count_nonzero(brought != lengths)), int((lengths - brought).sum(dtype=np.int64)),
                   int(held_out_mask(folder, config).sum()) if config.holdout else 0, without_loss)


def _say_what_is_cut(folder: pathlib.Path, use: DataUse) -> None:
    if use.long_conversations:
        done = {"drop": "left out", "truncate": "cut off there",
                "truncate-left": "cut off at their beginning"}[use.too_long]
        if use.without_loss:
            side = "behind" if use.too_long == "truncate-left" else "before"
            done += f", {use.without_loss} of them left out, as nothing to learn stands {side} the cut"
        console.say(f"{folder}: {use.long_conversations} of {use.conversations} conversations have more than "
                    f"{use.context} tokens and are {done} (data.too_long={use.too_long}): {use.lost_tokens:,} of "
                    f"{use.tokens:,} tokens are lost")


def _check_index(folder: pathlib.Path, card: DataCard) -> None:
    """Raises UserError when the files beside the shards are not those of the card; older cards know none."""
    for name, sha256 in card.index.items():
        if (folder / name).is_file() and file_sha256(folder / name) != sha256:
            raise UserError(f"{folder / name}: not the file that card.json tells of; copy the dataset anew, or build "
                            "it again")


def _lengths(folder: pathlib.Path, card: DataCard, config: LoaderConfig) -> np.ndarray:
    """Tokens that each conversation brings, [conversations]; 0 for those that are dropped."""
    lengths = np.load(folder / "lengths.npy")
    if card.longest <= config.context:
        return lengths
    long = lengths > config.context
    if config.too_long == "error":
        worst = int(np.argmax(lengths))
        name = open_shards(folder / "shards")[worst]["id"].decode()
        raise UserError(f"{folder}: conversation '{name}' has {lengths[worst]} tokens, the context {config.context} "
                        f"({np.count_nonzero(long)} of {len(lengths)} conversations are too long); raise data.context, "
                        "or set data.too_long to drop, truncate or truncate-left")
    brought = np.where(long, 0, lengths)
    if config.too_long in _CUT:
        brought[_with_loss(folder, card.hash, config.context, config.too_long == "truncate-left")] = config.context
    if not brought.any():
        less = " and has nothing to learn within it" if config.too_long in _CUT else ""
        raise UserError(f"{folder}: every conversation is longer than the context {config.context}{less}; raise "
                        "data.context")
    return brought


@functools.lru_cache(maxsize=8)
def _with_loss(folder: pathlib.Path, card: str, context: int, left: bool) -> np.ndarray:
    """Numbers of the conversations of more than `context` tokens that have a loss within the first, or with `left` the
    last, so many, of the dataset of this card's hash."""
    shards, long = open_shards(folder / "shards"), np.flatnonzero(np.load(folder / "lengths.npy") > context)
    # the first token is not predicted, whatever it weighs
    kept = [record["loss_weights"][1 - context if left else 1:][:context - 1].any()
            for some in np.array_split(long, -(-len(long) // 1000)) for record in shards.__getitems__(some)]
    return long[np.asarray(kept, bool)]


def _taken(folder: pathlib.Path, card: DataCard, config: LoaderConfig, held_out: str | None = None) -> np.ndarray:
    """Tokens that each conversation brings to training, or to the validation of one dataset; 0 for all others."""
    lengths = _lengths(folder, card, config)
    if not config.holdout:
        return lengths
    out = held_out_mask(folder, config)
    if held_out is None:
        return np.where(out, 0, lengths)
    names, number = datasets_of(folder)
    return np.where(out & (names[number] == held_out), lengths, 0)


class _Plan:
    """The rows of every epoch, in one sequence. Epochs are planned when first asked for; the last two are kept."""

    def __init__(self, lengths: np.ndarray, config: LoaderConfig, seed: int):
        self._lengths, self._config, self._seed = lengths, config, seed
        self._kept = np.flatnonzero(lengths)
        self._ends: list[int] = []              # rows up to the end of each epoch
        self._recent: dict[int, Rows] = {}
        self._lock = threading.Lock()           # the reading thread and the caller both ask

    def row(self, number: int) -> np.ndarray:
        """Indices of the conversations in row `number`, counted over all epochs."""
        with self._lock:
            while not self._ends or number >= self._ends[-1]:
                self._plan(len(self._ends))
            epoch = int(np.searchsorted(self._ends, number, side="right"))
            rows = self._recent.get(epoch) or self._plan(epoch)
            return rows[number - (self._ends[epoch - 1] if epoch else 0)]

    def rows_before(self, epoch: int) -> int:
        """Rows in all epochs before `epoch`."""
        with self._lock:
            while len(self._ends) < epoch:
                self._plan(len(self._ends))
            return self._ends[epoch - 1] if epoch else 0

    def rows_of_tokens(self, tokens: int) -> int:
        """The first rows that hold `tokens` tokens together."""
        epochs, rest = divmod(tokens, int(self._lengths.sum(dtype=np.int64)))
        first = self.rows_before(epochs)
        if not rest:
            return first
        self.rows_before(epochs + 1)
        with self._lock:
            rows = self._recent.get(epochs) or self._plan(epochs)
        held = np.cumsum(np.add.reduceat(self._lengths[rows.members], rows.starts[:-1]), dtype=np.int64)
        return first + int(np.searchsorted(held, rest)) + 1

    def _plan(self, epoch: int) -> Rows:
        order = self._kept
        if self._config.shuffle:
            order = np.random.default_rng([self._seed, epoch]).permutation(order)
        if self._config.packing == "none":
            rows = one_a_row(order)
        else:
            fit = best_fit if self._config.packing == "best_fit" else first_fit
            rows = fit(self._lengths, order, self._config.context, self._config.packing_bins)
        if epoch == len(self._ends):
            self._ends.append((self._ends[-1] if self._ends else 0) + len(rows))
        self._recent = {key: value for key, value in self._recent.items() if abs(key - epoch) == 1} | {epoch: rows}
        return rows


class _Batches:
    """Random access to batches, of this process's rows alone; what Grain asks of a source."""

    def __init__(self, shards: Shards, plan: _Plan, config: LoaderConfig, epochs: int | None, own: slice,
                 teacher: TeacherCache | None = None):
        self._shards, self._plan, self._config, self._teacher = shards, plan, config, teacher
        self._own = range(config.batch)[own]
        self._rows = None if epochs is None else plan.rows_before(epochs)

    def __len__(self) -> int:
        return _ENDLESS if self._rows is None else -(-self._rows // self._config.batch)

    def __getitem__(self, number: int) -> Batch:
        rows = self.members(number)
        records = self._shards.columns([member for row in rows for member in row])
        batch = _filled(records, [len(row) for row in rows], self._config.context,
                        self._config.too_long == "truncate-left")
        return batch | self._said(rows, batch["segment_ids"]) if self._teacher else batch

    def members(self, number: int) -> list[list[int]]:
        """Numbers of the conversations in each row of a batch."""
        return [self._members(number * self._config.batch + row) for row in self._own]

    def _said(self, rows: list[list[int]], segments: np.ndarray) -> Batch:
        """What the teacher said at each place of a batch."""
        arrays = self._teacher.empty(segments.shape)
        for i, row in enumerate(rows):
            for segment, conversation in enumerate(row, 1):
                places = np.flatnonzero(segments[i] == segment)
                for name, said in self._teacher.read(conversation, len(places)).items():
                    arrays[name][i, places] = said
        return arrays

    def _members(self, row: int) -> list[int]:
        """The conversations of a row; none beyond the last row."""
        return self._plan.row(row).tolist() if self._rows is None or row < self._rows else []


class PlannedBatches:
    """Batches by number: `batches[i]` is (numbers of the conversations in each row, batch)."""

    def __init__(self, batches: _Batches):
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> tuple[list[list[int]], Batch]:
        return self._batches.members(number), self._batches[number]


def _filled(records: Columns, counts: list[int], context: int, left: bool) -> Batch:
    """Rows of `context` tokens that hold `counts` conversations each, one behind the other, of `records`. Of what is
    longer than the context the beginning is taken, with `left` the end."""
    lengths = np.diff(records.ends, prepend=0)
    kept = np.minimum(lengths, context)
    row = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(kept) - kept                             # tokens of all conversations before
    first = np.searchsorted(row, row)                           # of its row
    start = before - before[first]                              # in its row
    segment = np.arange(1, len(row) + 1) - first
    position = np.arange(kept.sum()) - np.repeat(before, kept)
    source = np.repeat(records.ends - lengths + (lengths - kept if left else 0), kept) + position
    target = np.repeat(row * context + start, kept) + position
    batch = {name: np.zeros(len(counts) * context, dtype) for name, dtype in DTYPES.items()}
    batch["tokens"][target] = records.tokens[source]
    batch["loss_weights"][target] = records.loss_weights[source]
    batch["segment_ids"][target] = np.repeat(segment, kept)
    batch["positions"][target] = position
    if left:        # nothing before the cut predicts what begins a row now
        batch["loss_weights"][target[position == 0]] = 0
    return {name: array.reshape(len(counts), context) for name, array in batch.items()}
