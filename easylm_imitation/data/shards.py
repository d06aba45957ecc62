"""Tokenized conversations on disk: a TFDS dataset in ArrayRecord, one conversation a record, order kept.

Written with TFDS's SequentialWriter, which streams and keeps the order by nature (a builder would shuffle or hold all
of it); read back by anybody's `tfds.builder_from_directory(folder).as_data_source("train")`. No TensorFlow is needed.
TFDS is imported where it is used: it takes a second, and workers of a build do not need it.

A record is a serialized tf.train.Example, here of three features (in the order of their names, as written here; TFDS
alone would let it differ from process to process, so it is not relied upon):

    Example    1: Features
    Features   1: entry, again and again           entry      1: the feature's name, 2: Feature
    Feature    1: bytes, 2: floats, 3: integers    each a message whose field 1 holds the values

so of every field the tag is one byte, the length a varint, and the integers are varints in one piece. TFDS takes more
time to read that than a training step has; here numpy reads the integers of many records at once.
"""
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

SPLIT = "train"
_NAME, _VERSION = "conversations", "1.0.0"
_FEATURES = ("id", "tokens", "loss_weights")
_WIDTHS = np.array([len(name) for name in _FEATURES])   # by which a record's features are told apart; rising


class Example(NamedTuple):
    """One record of the shards."""
    id: str
    tokens: np.ndarray          # int32 [T]
    loss_weights: np.ndarray    # float32 [T]


class ShardWriter:
    """Writes examples, in order, into `folder`; `close` writes the metadata that makes it a dataset."""

    def __init__(self, folder: str | os.PathLike, description: str, per_shard: int = 50_000):
        tfds = _tfds()
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        identity = tfds.core.dataset_info.DatasetIdentity(
            name=_NAME, version=tfds.core.Version(_VERSION), data_dir=str(folder), module_name=__name__)
        features = tfds.features.FeaturesDict({
            "id": tfds.features.Text(),
            "tokens": tfds.features.Tensor(shape=(None,), dtype=np.int32),
            "loss_weights": tfds.features.Tensor(shape=(None,), dtype=np.float32)})
        info = tfds.core.DatasetInfo(builder=identity, features=features, description=description,
                                     disable_shuffling=True)
        self._writer = tfds.core.SequentialWriter(info, max_examples_per_shard=per_shard, file_format="array_record")
        self._writer._serializer = _in_order(features)
        self._writer.initialize_splits([SPLIT])

    def write(self, examples: Sequence[Example]) -> None:
        """Appends examples. Many at once: the metadata is rewritten at each call."""
        self._writer.add_examples({SPLIT: [example._asdict() for example in examples]})

    def close(self) -> None:
        """Finishes the last shard."""
        self._writer.close_all()


class Columns(NamedTuple):
    """Several records, one behind the other."""
    ids: list[bytes]
    ends: np.ndarray            # int64 [records]: tokens up to the end of each
    tokens: np.ndarray          # int32 [tokens of all]
    loss_weights: np.ndarray    # float32 [tokens of all]


class Shards:
    """Random access to records: `len(x)`; `x[i]` is {"id": bytes, "tokens": int32 [T], "loss_weights": float32 [T]}."""

    def __init__(self, paths: Sequence[str], counts: Sequence[int]):
        """The files of a dataset, in order, and the number of records in each."""
        self._paths, self._ends = list(paths), np.cumsum(counts, dtype=np.int64)
        self._readers: list[Any] = [None] * len(self._paths)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        columns = self.columns(numbers)
        inner = columns.ends[:-1]
        parts = zip(columns.ids, np.split(columns.tokens, inner), np.split(columns.loss_weights, inner))
        return [{"id": name, "tokens": tokens, "loss_weights": weights} for name, tokens, weights in parts]

    def columns(self, numbers: Sequence[int]) -> Columns:
        """The records of these numbers, in this order; the fast way. Raises IndexError, and ValueError for what is no
        record of `ShardWriter`."""
        ids, tokens, weights = _values(self._records(np.asarray(numbers, np.int64)))
        ends = np.cumsum([len(floats) // 4 for floats in weights], dtype=np.int64)
        made = _varints(b"".join(tokens)).astype(np.int32), np.frombuffer(b"".join(weights), "<f4")
        if len(made[0]) != len(made[1]):
            raise ValueError(f"{len(made[0])} tokens with {len(made[1])} weights")
        return Columns(ids, ends, *made)

    def _records(self, numbers: np.ndarray) -> list[bytes]:
        if len(numbers) and not (0 <= numbers.min() and numbers.max() < len(self)):
            raise IndexError(f"records {numbers.min()} to {numbers.max()} of {len(self)}")
        records, files = [b""] * len(numbers), np.searchsorted(self._ends, numbers, side="right")
        for file in np.unique(files).tolist():
            asked = np.flatnonzero(files == file)
            first = self._ends[file - 1] if file else 0
            found = self._reader(file).read((numbers[asked] - first).tolist())
            for place, record in zip(asked.tolist(), found, strict=True):
                records[place] = record
        return records

    def _reader(self, file: int) -> Any:
        if self._readers[file] is None:     # two threads may both open it; either reader serves
            self._readers[file] = _array_record().ArrayRecordReader(
                self._paths[file], "readahead_buffer_size:0,max_parallelism:0")
        return self._readers[file]


def _in_order(features: Any) -> Any:
    """TFDS's serializer, with the fields of a record sorted by name: the same examples are the same bytes."""
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    class Sorted(ExampleSerializer):
        def serialize_example(self, example: dict[str, Any]) -> bytes:
            return self.get_tf_example(example).SerializeToString(deterministic=True)
    return Sorted(features.get_serialized_info())


def open_shards(folder: str | os.PathLike) -> Shards:
    """The records of a folder that ShardWriter closed."""
    split = _tfds().builder_from_directory(str(folder)).info.splits[SPLIT]
    return Shards([str(path) for path in split.filepaths], split.shard_lengths)


def _values(records: Sequence[bytes]) -> list[list[bytes]]:
    """Of serialized records the bytes that hold the values of each feature, by _FEATURES. All records are read side by
    side, a step of each at a time. Raises ValueError."""
    joined = b"".join(records)
    raw = np.frombuffer(joined + bytes(16), np.uint8)
    ends = np.cumsum([len(record) for record in records], dtype=np.int64)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64) if records else ends
    spans = np.full((len(_FEATURES), 2, len(records)), -1, np.int64)
    _, at = _lengths(raw, starts + 1)
    for _ in _FEATURES:
        size, key = _lengths(raw, np.minimum(at, ends) + 1)
        end, width = np.minimum(key + size, ends), raw[key + 1]     # a name has less than 128 bytes
        _, feature = _lengths(raw, np.minimum(key + 2 + width, ends) + 1)
        _, values = _lengths(raw, np.minimum(feature, ends) + 1)
        size, first = _lengths(raw, np.minimum(values, ends) + 1)
        first = np.where(values == end, end, first)                 # no values at all
        if not ((first + np.where(values == end, 0, size) == end) & np.isin(width, _WIDTHS)).all():
            raise ValueError("no record of `build`")
        spans[np.searchsorted(_WIDTHS, width), :, np.arange(len(records))] = np.stack([first, end], axis=1)
        at = end
    if (spans < 0).any() or not np.array_equal(at, ends):
        raise ValueError("no record of `build`")
    return [[joined[first:end] for first, end in zip(*span.tolist())] for span in spans]


def _lengths(raw: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the varints at the places `at` of `raw`, the places behind them), int64 [n] each."""
    values, going, shift = np.zeros(len(at), np.int64), np.ones(len(at), bool), 0
    while going.any() and shift < 63:
        part = raw[np.minimum(at, len(raw) - 1)].astype(np.int64)
        values += np.where(going, (part & 127) << shift, 0)
        at = at + going
        going = going & (part > 127)
        shift += 7
    return values, at


def _varints(raw: bytes) -> np.ndarray:
    """int64 [n]: the integers from 0 on that stand in `raw`, seven bits a byte, the lowest first."""
    parts = np.frombuffer(raw, np.uint8)
    ends = np.flatnonzero(parts < 128)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    values = (parts[starts] & 127).astype(np.int64)
    widths = ends - starts
    for place in range(1, int(widths.max(initial=0)) + 1):
        longer = np.flatnonzero(widths >= place)
        values[longer] |= (parts[starts[longer] + place] & 127).astype(np.int64) << 7 * place
    return values


def _tfds() -> Any:
    import tensorflow_datasets
    return tensorflow_datasets


def _array_record() -> Any:
    from array_record.python import array_record_module
    return array_record_module
