"""What both runs of `reproduce` do in the same way (world/reproduce.py, world/findings.py), each on a folder WORK.

    WORK/reproduce.json    the config
    WORK/tokenizer         a byte-level BPE trained on the world's texts
    WORK/data/NAME         shards
    WORK/....jsonl         the served teacher's answers, each set with its ledger and card beside it
"""
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from easylm_imitation import console
from easylm_imitation.data import BuildConfig, SourceConfig, build_dataset
from easylm_imitation.files import read_json, write_json
from easylm_imitation.folders import finished_folder
from easylm_imitation.records import CollectionCard
from easylm_imitation.schema import Incomplete, UserError, build, plain
from easylm_imitation.teacher import CollectConfig, collect_answers
from easylm_imitation.teacher.runner import what_is_missing
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


def is_collected(out: pathlib.Path) -> bool:
    """Whether every prompt of this set was answered; an answer of no use, which the card counts, is one too."""
    card = out.with_name(f"{out.name}.card.json")
    if not (out.is_file() and card.is_file()):
        return False
    found = read_json(CollectionCard, card)
    return found.rows + sum(found.dropped.values()) >= found.wanted


def collect_all(url: str, sets: Iterable[tuple[CollectConfig, pathlib.Path, pathlib.Path]]) -> None:
    """Asks the teacher at `url` for sets of answers, (config, prompts file, conversations file), says what came.

    Raises Incomplete, after the last set, when prompts have no answer: by the ledger the same command asks for those.
    """
    missing = []
    for config, prompts, out in sets:
        made = collect_answers(config, url, prompts, out)
        dropped = ", ".join(f"{count} {why}" for why, count in made.dropped.items())
        console.say(f"{out.stem}: {made.kept} of {made.wanted} answers kept; dropped: {dropped or 'none'}")
        if not is_collected(out):
            missing.append(f"{out}: {what_is_missing(made)}")
    if missing:
        raise Incomplete(f"nothing is trained on a part of the answers. {'; '.join(missing)}", {"missing": missing})


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
