"""Tokenized conversations on disk: a TFDS dataset in ArrayRecord, one conversation a record, order kept.

Written with TFDS's SequentialWriter, which streams and keeps the order by nature (a builder would shuffle or hold all
of it); read back by anybody's `tfds.builder_from_directory(folder).as_data_source("train")`. No TensorFlow is needed.
TFDS is imported where it is used: it takes a second, and workers of a build do not need it.
"""
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

SPLIT = "train"
_NAME, _VERSION = "conversations", "1.0.0"


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
        self._writer.initialize_splits([SPLIT])

    def write(self, examples: Sequence[Example]) -> None:
        """Appends examples. Many at once: the metadata is rewritten at each call."""
        self._writer.add_examples({SPLIT: [example._asdict() for example in examples]})

    def close(self) -> None:
        """Finishes the last shard."""
        self._writer.close_all()


def open_shards(folder: str | os.PathLike) -> Any:
    """Random access to the records of a folder that ShardWriter closed: `len(x)`, `x[i]`, `x.__getitems__([i, j])`.

    A record is a dict of "id" (bytes), "tokens" (int32 [T]) and "loss_weights" (float32 [T]).
    """
    return _tfds().builder_from_directory(str(folder)).as_data_source(SPLIT)


def _tfds() -> Any:
    import tensorflow_datasets
    return tensorflow_datasets
