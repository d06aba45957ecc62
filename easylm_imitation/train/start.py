"""What a run is made of: all of it checked before its first file is written."""
import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from easylm_imitation.data import DataUse, batches_of_tokens, count_batches, data_use, read_card
from easylm_imitation.files import digest, write_json
from easylm_imitation.folders import finished_folder
from easylm_imitation.models import ModelConfig, config_mapping, difference, model_config
from easylm_imitation.records import DataCard, Lineage, code_version
from easylm_imitation.schema import UserError, plain
from easylm_imitation.sharding import BATCH, agree, code_digest
from easylm_imitation.storage import on_disk
from easylm_imitation.text import Template, Tokenizer, get_template, load_tokenizer
from easylm_imitation.train.checkpoint import Progress
from easylm_imitation.train.config import TrainConfig, free_keys
from easylm_imitation.train.mix import check_mix
from easylm_imitation.train.place import check_split
from easylm_imitation.train.same_run import check_same_run
from easylm_imitation.train.teacher import teacher_lineage
from easylm_imitation.weights import LoadedModel, RunDir, describe, write_adapter_note

_VOCABULARY_MULTIPLE = 8    # a vocabulary that the tokenizer decides is rounded up, so that `tensor` can split it


@dataclasses.dataclass(frozen=True)
class Start:
    """A run, known to be possible."""
    config: TrainConfig
    model: ModelConfig
    card: DataCard
    tokenizer: Tokenizer        # the data's, which is the model's
    template: Template
    lineage: Lineage            # of step 0
    total_steps: int
    epochs: int | None          # passes that the loader gives; None for a run of `steps` or `tokens`, without end
    use: DataUse                # what a pass takes of the data, and what the context cuts off
    mixed: DataCard | None      # of what is mixed into each batch


def prepare(config: TrainConfig, data: pathlib.Path, workdir: pathlib.Path, init: str | None, mesh: Mesh,
            teacher: str | os.PathLike | None = None, mix: str | os.PathLike | None = None) -> Start:
    """Reads and checks everything but weights. Writes nothing.

    Raises UserError for data without a card, a model that is missing or given twice, sizes that do not fit each other
    or the mesh, conversations longer than the context, and a workdir that holds something else.
    """
    card = read_card(data)
    tokenizer = load_tokenizer(data / "tokenizer")
    template = _template(card, data, tokenizer)
    origin, ancestry = describe(init) if init else (None, None)
    if config.lora and not init:
        raise UserError("config.lora trains adapters to a model that exists; name it with --init")
    model = _model(config, tokenizer, origin, init)
    _check_sizes(config, model, tokenizer, mesh)
    mixed = check_mix(config, mix, card, teacher)
    steps, passes = _length(config, data)
    lineage = lineage_of(config, model, card, ancestry, teacher_lineage(config, teacher, data), mixed)
    agree(_facts(config, lineage, data, mix))
    check_same_run(RunDir(workdir), config, model, lineage)
    return Start(config, model, card, tokenizer, template, lineage, steps, passes, data_use(data, config.data),
                 mixed)


def _facts(config: TrainConfig, lineage: Lineage, data: pathlib.Path, mix: str | os.PathLike | None) -> dict[str, str]:
    """What all processes of a run have to have alike, and by which name one that has not is told so."""
    leaves = {f"config.{key}": value for key, value in _leaves(plain(config))}
    shards = {f"{name} {file.name}": file.stat().st_size for name, folder in (("data", data), ("mixed data", mix))
              if folder for file in sorted(pathlib.Path(folder).rglob("*.array_record*"))}
    return {"code": code_digest(), "jax": jax.__version__, "devices": jax.local_device_count(), **leaves,
            "data": lineage.data_card, "mixed data": lineage.mixed, "initial weights": lineage.init,
            "teachers": lineage.teachers, **shards}


def _leaves(mapping: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value)."""
    for key, value in mapping.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_origin(card: DataCard, loaded: LoadedModel) -> None:
    """Raises UserError when the data was not made with the tokenizer and template of the initial weights.

    A base model has no template yet, so one that names none takes any; a tokenizer it must have.
    """
    if loaded.tokenizer is None:
        raise UserError(f"--init {loaded.path}: brings no tokenizer, so nothing shows that the data '{card.name}' was "
                        "built with the model's own; put its tokenizer.json beside the weights")
    pairs = {"tokenizer": (loaded.tokenizer, card.tokenizer), "template": (loaded.template, card.template)}
    for what, (own, data) in pairs.items():
        if own is not None and own.id != data:
            raise UserError(f"the data '{card.name}' was built with the {what} {data}, but {loaded.path} has {own.id}; "
                            f"build the data again with the model's {what}")


def open_run(start: Start, workdir: pathlib.Path, loaded: LoadedModel | None) -> RunDir:
    """Makes the run dir, whole or not at all, or brings an existing one's config up to date. One process writes.

    `loaded`: the initial weights of a new run (None: fresh ones).
    """
    if jax.process_index() == 0:
        if RunDir(workdir).config.exists():
            write_json(RunDir(workdir).config, start.config)
            write_json(RunDir(workdir).data, start.use)
            write_json(RunDir(workdir).length, {"total_steps": start.total_steps})
        else:
            with finished_folder(workdir) as folder:
                run = RunDir(folder)
                origin = (loaded.stored_dtype, loaded.extras) if loaded else ()
                begins = loaded is None or loaded.tokenizer.begins      # a new model reads each document behind a BOS
                run.write_identity(start.model, start.tokenizer.beginning(begins), start.template, start.lineage,
                                   *origin)
                write_json(run.config, start.config)
                if start.config.lora and loaded:
                    write_adapter_note(run, start.config.lora, loaded)
                write_json(run.card, start.card)
                if start.mixed:
                    write_json(run.mix_card, start.mixed)
                write_json(run.data, start.use)
                write_json(run.length, {"total_steps": start.total_steps})
        RunDir(workdir).publish()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("easylm_imitation: run dir")
    return RunDir(workdir)


def lineage_at(start: Start, progress: Progress) -> Lineage:
    """Lineage of the weights as far as `progress`. Another step is another model, so the id changes."""
    first = start.lineage
    own = digest([first.id, progress.step])
    base = own if first.base == first.id else first.base
    return dataclasses.replace(first, id=own, base=base, step=progress.step, tokens=progress.tokens)


def workdir_of(path: str | os.PathLike) -> pathlib.Path:
    """The workdir on this disk; of one in a bucket, its copy. Raises UserError for a place that cannot be written."""
    return pathlib.Path(on_disk(path))


def _template(card: DataCard, data: pathlib.Path, tokenizer: Tokenizer) -> Template:
    template = get_template(card.template.partition("@")[0], tokenizer)
    if template.id != card.template:
        raise UserError(f"{data}: built with the template {card.template}, which is now {template.id}; build it again")
    return template


def _model(config: TrainConfig, tokenizer: Tokenizer, origin: ModelConfig | None, init: str | None) -> ModelConfig:
    """The model's sizes: those of the initial weights, or the config's with a vocabulary for the tokenizer."""
    if origin is None and not config.model:
        raise UserError("nothing says which model to train: give config.model (a preset or a family), or --init")
    if origin is None:
        room = -(-tokenizer.vocab_size // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE
        return model_config({"vocab_size": room, **config.model}, "config.model")
    if config.model:
        asked = model_config({"vocab_size": origin.vocab_size, **config.model}, "config.model")
        if asked != origin:
            raise UserError(f"config.model differs from the model of --init {init}: {difference(asked, origin)}; "
                            "leave config.model out when there are initial weights")
    return origin


def _length(config: TrainConfig, data: pathlib.Path) -> tuple[int, int | None]:
    """Updates of the run, known before the first, and passes over the data that the loader gives (None: no end)."""
    if config.steps is not None:
        count_batches(data, config.data_rows, seed=config.seed, epochs=1)    # checks the lengths
        return config.steps, None
    if config.tokens is not None:
        return batches_of_tokens(data, config.data_rows, seed=config.seed, tokens=config.tokens), None
    passes = math.ceil(config.epochs)
    batches = count_batches(data, config.data_rows, seed=config.seed, epochs=passes)
    return math.ceil(batches * config.epochs / passes), passes


def _check_sizes(config: TrainConfig, model: ModelConfig, tokenizer: Tokenizer, mesh: Mesh) -> None:
    model.check_context(config.data.context)
    if tokenizer.vocab_size > model.vocab_size:
        raise UserError(f"the data's tokenizer has {tokenizer.vocab_size} ids, the model a vocabulary of only "
                        f"{model.vocab_size}; leave vocab_size out of config.model, or build with another tokenizer")
    check_split("data.batch / accumulate", config.data.batch // config.accumulate, BATCH[0], mesh.shape)
    check_split("data.context", config.data.context, (BATCH[1],), mesh.shape)


def lineage_of(config: TrainConfig, model: ModelConfig, card: DataCard, ancestry: Lineage | None,
               teacher: Lineage | None = None, mixed: DataCard | None = None) -> Lineage:
    """Where the weights will come from. A model that no other model taught is a base of its own.

    `ancestry`, `teacher`: of the initial weights, and of the model that is distilled; `mixed`: what is mixed in.
    """
    fixed = {key: value for key, value in plain(config).items() if key not in free_keys(config)}
    init, init_name = (ancestry.id, ancestry.name) if ancestry else ("", "")
    own = digest([fixed, config_mapping(model), card.hash, init, *([teacher.id] if teacher else []),
                  *([mixed.hash] if mixed else [])])
    distilled = {teacher.label} if teacher else set()
    taught = (source.teachers for source in (card, mixed, ancestry) if source)
    teachers = tuple(sorted(distilled.union(*taught)))
    if not teachers:
        base, base_name = own, config.name
    elif ancestry is not None and ancestry.teachers:
        base, base_name = ancestry.base, ancestry.base_name
    else:
        base, base_name = init, init_name       # "" for fresh weights: nothing to measure imitation against
    return Lineage(
        id=own, name=config.name, base=base, base_name=base_name, init=init, teachers=teachers, data_card=card.hash,
        template=card.template, tokenizer=card.tokenizer, seed=config.seed, step=0, code=code_version(),
        mixed=mixed.hash if mixed else "")
