"""What both runs of `reproduce` do in the same way (world/reproduce.py, world/findings.py), each on a folder WORK.

    WORK/reproduce.json    the config
    WORK/tokenizer         a byte-level BPE trained on the world's texts
    WORK/data/NAME         shards
"""
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from easylm_imitation.data import BuildConfig, SourceConfig, build_dataset
from easylm_imitation.folders import finished_folder
from easylm_imitation.records import read_json, write_json
from easylm_imitation.schema import UserError, build, plain
from easylm_imitation.text import load_tokenizer, train_bpe
from easylm_imitation.train import TrainConfig, train

TEMPLATE = "plain"


def claim(work: pathlib.Path, config: Any, kind: type) -> None:
    """Writes `config`, a `kind`, into the folder, or checks that it is the one there. Raises UserError."""
    path = work / "reproduce.json"
    if path.is_file() and read_json(kind, path) != build(kind, plain(config), "config"):
        raise UserError(f"{work}: holds the work of another config (see reproduce.json); give another --workdir, or "
                        "delete this one")
    if not path.is_file() and work.is_dir() and any(work.iterdir()):
        raise UserError(f"{work}: is not empty and no work of `reproduce`; give another --workdir")
    write_json(path, config)


@contextmanager
def programs_kept(folder: str | os.PathLike) -> Iterator[None]:
    """Models of one shape share what is compiled for one of them, also in the process that continues."""
    options = {"jax_compilation_cache_dir": str(folder), "jax_persistent_cache_min_compile_time_secs": 0.2}
    before = {name: getattr(jax.config, name) for name in options}
    try:
        for name, value in options.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()     # jax opens its folder once
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def write_tokenizer(work: pathlib.Path, texts: Iterable[str], vocabulary: int) -> None:
    """Trains the tokenizer of all models on `texts`, unless it is there."""
    if not (work / "tokenizer").exists():
        with finished_folder(work / "tokenizer") as place:
            train_bpe(texts, vocabulary).save(place)


def build_and_train(work: pathlib.Path, run: str, sources: Sequence[SourceConfig], config: TrainConfig,
                    init: str | None = None) -> None:
    """Builds shards `data/NAME` of `sources` and trains the run dir `run` on them, NAME being the config's.

    The run starts from the run dir `init`; without one from nothing, with the config's model, whose vocabulary is the
    tokenizer's. Raises KeyboardInterrupt when the training was told to stop: it is saved, but not the model that the
    next stage needs.
    """
    data = work / "data" / config.name
    build_dataset(BuildConfig(name=config.name, sources=tuple(sources), root=str(work), template=TEMPLATE,
                              tokenizer=str(work / "tokenizer")), data)
    if init is None:
        vocab_size = load_tokenizer(work / "tokenizer").vocab_size
        config = dataclasses.replace(config, model={**config.model, "vocab_size": vocab_size})
    made = train(config, data_dir=str(data), workdir=str(work / run), init=str(work / init) if init else None)
    if made.interrupted:
        raise KeyboardInterrupt
