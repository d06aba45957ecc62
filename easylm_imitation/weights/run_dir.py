"""The layout of a run dir: what `train` writes, and what everything that takes a model reads.

    config.json     the verb's resolved config          model.json    the model's config, and the dtype it came in
    data.json       what of its data a run takes        source.json   words of the Hugging Face dir it began with
    length.json     how many updates the run has        adapter.json  of a run that trains adapters alone: their base
    lineage.json    where the run starts from           tokenizer/    template.json {"name", "id"}
    data_card.json  mix_card.json                       cards of the data it trains on, and of what is mixed in
    validation.jsonl  samples.jsonl  evaluations.jsonl  what it says of held-out conversations, and on tasks
    metrics.jsonl   tensorboard/                        checkpoints/<step>/{params, optimizer, data, progress, lineage}

Each step of training is another model, so its lineage is part of its checkpoint, committed with the weights. A run dir
that holds a model and no training has `params` alone there, and lineage.json speaks for them.
"""
import dataclasses
import gc
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath
from flax import traverse_util
from orbax.checkpoint import v1 as ocp

from easylm_imitation.files import iter_jsonl, read_json, read_object, write_json
from easylm_imitation.folders import finished_folder
from easylm_imitation.models import ModelConfig, Params, config_mapping, create, model_config
from easylm_imitation.records import DataCard, Lineage
from easylm_imitation.schema import UserError, build
from easylm_imitation.sharding import leaf_paths, map_paths
from easylm_imitation.storage import CHECKPOINTS, copy_at, located, on_disk
from easylm_imitation.text import OwnTemplate, Template, Tokenizer, get_template, load_tokenizer
from easylm_imitation.weights.hf_extras import NO_EXTRAS, HFExtras, load_extras, save_extras
from easylm_imitation.weights.reading import reading, without_echoes

# names of a checkpoint's parts, each restored by itself
PARAMS, OPTIMIZER, DATA, PROGRESS, LINEAGE = "params", "optimizer", "data", "progress", "lineage"
VALIDATION, SAMPLES, EVALUATIONS = "validation.jsonl", "samples.jsonl", "evaluations.jsonl"
BEST = "best"       # in place of a step's number
_COMMITTED = "commit_success.txt"       # Orbax's, in a bucket, where no folder gets its name at the end
_A_TURN = 2**26     # bytes of weights that are asked of Orbax at one time


@dataclasses.dataclass(frozen=True)
class _TemplateFile:
    name: str
    id: str


class RunDir:
    """Paths inside a run dir, and reading and writing of what identifies its model. Looking creates nothing
    on this disk, but for a run in a bucket (gs://...): its files, without `checkpoints`, are brought into a copy here
    (storage.py).
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(on_disk(path))
        self.copy = copy_at(self.path)      # None for a run dir of this disk
        self.config = self.path / "config.json"
        self.model = self.path / "model.json"
        self.data = self.path / "data.json"
        self.card = self.path / "data_card.json"
        self.mix_card = self.path / "mix_card.json"
        self.length = self.path / "length.json"
        self.lineage = self.path / "lineage.json"
        self.adapter = self.path / "adapter.json"
        self.tokenizer = self.path / "tokenizer"
        self.template = self.path / "template.json"
        self.source = self.path / "source.json"
        self.metrics = self.path / "metrics.jsonl"
        self.validation = self.path / VALIDATION
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = (self.path if self.copy is None else epath.Path(self.copy.url)) / CHECKPOINTS

    @property
    def shown(self) -> str:
        """What a person calls it."""
        return str(self.path if self.copy is None else self.copy.url)

    def publish(self) -> None:
        """Brings what was written into a run in a bucket there; elsewhere it is where it belongs. Raises UserError."""
        if self.copy is not None and jax.process_index() == 0:
            self.copy.send()

    def publish_soon(self) -> None:
        """The same behind the work, at most every half minute; a bucket that refuses is asked again."""
        if self.copy is not None and jax.process_index() == 0:
            self.copy.send_soon()

    def holds_model(self) -> bool:
        """Whether this is a run dir at all."""
        return self.model.is_file()

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, ascending; unfinished ones are left out."""
        folders = ((step, self.checkpoints / str(step)) for step in self.numbered())
        return [step for step, p in folders if (p / PARAMS).is_dir() and ocp.is_orbax_checkpoint(p)]

    def numbered(self) -> list[int]:
        """Steps that have a folder, ascending, whatever is left in it; in a bucket, where folders have their names from
        the beginning, those that were once whole."""
        found = self.checkpoints.iterdir() if self.checkpoints.is_dir() else ()
        return sorted(int(p.name) for p in found if p.name.isdecimal() and p.is_dir()
                      and (self.copy is None or (p / _COMMITTED).exists()))

    def newest_step(self) -> int:
        """Step of the newest checkpoint. Raises UserError when there is none."""
        steps = self.steps()
        if not steps:
            raise UserError(f"{self.path}: the run has no finished checkpoint yet; train it, or wait for the first one")
        return steps[-1]

    def step(self, wanted: str | None = None) -> int:
        """Step of the newest checkpoint (None), of the one with the lowest validation loss ("best"), or the one of this
        number. Raises UserError when it is not there."""
        if wanted is None:
            return self.newest_step()
        steps = self.steps()
        if wanted == BEST:
            lines = iter_jsonl(self.validation) if self.validation.is_file() else ()
            found = [line for _, line in lines if line["step"] in steps and line["loss"] == line["loss"]]   # not NaN
            if not found:
                raise UserError(f"{self.path}@{BEST}: no checkpoint of this run has a validation loss; name a step of "
                                f"{', '.join(map(str, steps))}")
            return min(found, key=lambda line: line["loss"])["step"]
        if int(wanted) not in steps:
            raise UserError(f"{self.path}@{wanted}: no checkpoint of update {wanted}; there are those of "
                            f"{', '.join(map(str, steps)) or 'none'}")
        return int(wanted)

    def read_model(self) -> tuple[ModelConfig, str]:
        """(the model's config, name of the dtype that its weights first came in). Raises UserError."""
        mapping = read_object(self.model)
        stored_dtype = mapping.pop("stored_dtype", "float32")
        return model_config(mapping, str(self.model)), stored_dtype

    def read_lineage(self, step: int | None = None) -> Lineage:
        """Where the weights of one checkpoint (default: the newest) come from; with none, where the run starts from.

        Raises UserError.
        """
        steps = self.steps() if step is None else [step]
        folder = self.checkpoints / str(steps[-1]) if steps else None
        if folder is None or not (folder / LINEAGE).is_dir():
            return read_json(Lineage, self.lineage)
        with reading(f"{folder}: the lineage cannot be read from it", "remove this step to use the one before"):
            stored = ocp.load_checkpointables(located(folder), {LINEAGE: None})[LINEAGE]
        return build(Lineage, stored, f"{folder}/{LINEAGE}")

    def read_config(self) -> dict[str, Any] | None:
        """The resolved config of the training that made this run; None when none did. Raises UserError."""
        return read_object(self.config) if self.holds_model() and self.config.is_file() else None

    def read_tokenizer(self) -> Tokenizer | None:
        """The run's tokenizer, with the chat template of the dir that it came from; None for a run that was converted
        from weights without. Raises UserError."""
        if not self.tokenizer.exists():
            return None
        tokenizer = load_tokenizer(self.tokenizer)
        if tokenizer.chat_template is None:
            tokenizer.chat_template = self.read_extras().default_chat_template()
        return tokenizer

    def read_template(self) -> Template | None:
        """The run's chat template; None for a run without. Raises UserError when its definition has changed since."""
        if not self.template.exists():
            return None
        stored = read_json(_TemplateFile, self.template)
        return same_template(stored.name, stored.id, str(self.template), self.read_tokenizer())

    def read_cards(self) -> tuple[DataCard, ...]:
        """Cards of the data that this run trains on: its own, what is mixed in; none where nothing was trained. Raises
        UserError."""
        there = [file for file in (self.card, self.mix_card) if self.holds_model() and file.is_file()]
        return tuple(read_json(DataCard, file) for file in there)

    def read_extras(self) -> HFExtras:
        """What the Hugging Face dir that the run began with says besides its weights. Raises UserError."""
        return load_extras(self.source)

    def write_identity(self, config: ModelConfig, tokenizer: Tokenizer | None, template: Template | None,
                       lineage: Lineage, stored_dtype: str = "float32", extras: HFExtras = NO_EXTRAS) -> None:
        """Writes model.json, tokenizer/, template.json, source.json and lineage.json: what identifies the model."""
        write_json(self.model, {**config_mapping(config), "stored_dtype": stored_dtype})
        if tokenizer is not None:
            tokenizer.save(self.tokenizer, template.source if isinstance(template, OwnTemplate) else None)
        if template is not None:
            write_json(self.template, _TemplateFile(template.name, template.id))
        save_extras(self.source, extras)
        write_json(self.lineage, lineage)

    def load_params(self, abstract: Params, step: int | None = None) -> Params:
        """The weights of one checkpoint (default: the newest) in the dtypes and shardings of `abstract`.

        Nothing else is read. Raises UserError when there is no checkpoint, or one that does not hold this model.
        """
        step = self.newest_step() if step is None else step
        folder = self.checkpoints / str(step)
        with reading(f"{folder}: the weights of {self.model} cannot be read from it",
                     "remove this step to use the one before"):
            return _load_in_turns(located(folder), abstract)


def save_run_model(path: str | os.PathLike, config: ModelConfig, params: Params, tokenizer: Tokenizer | None,
                   template: Template | None, lineage: Lineage, step: int = 0, stored_dtype: str = "float32",
                   extras: HFExtras = NO_EXTRAS) -> RunDir:
    """Writes a run dir that holds a model and no training: it can be served, evaluated, exported and trained from.

    All or nothing appears at `path`, which must be absent or empty (UserError).
    """
    create(config)  # a config that makes no model fails before anything is written
    with finished_folder(path) as building:
        run = RunDir(building)
        run.write_identity(config, tokenizer, template, lineage, stored_dtype, extras)
        context = ocp.Context()
        context.memory.deepcopy_host_arrays = False     # nothing changes them while this waits
        # the largest parameter must fit, with what Orbax adds to it; more at a time would only take more memory
        context.memory.write_concurrent_bytes = max(leaf.nbytes for leaf in jax.tree.leaves(params)) + 64 * 10**6
        with without_echoes():
            with context:
                writing = ocp.save_checkpointables_async(str((run.checkpoints / str(step)).absolute()),
                                                         {PARAMS: params})
            try:
                writing.result()
            except KeyboardInterrupt:
                writing.result()    # its threads cannot be stopped, and would write into the folder while it is removed
                raise
    return RunDir(path)


def _load_in_turns(folder: str, abstract: Params) -> Params:
    """The weights of a checkpoint, the largest first: Orbax holds twice what it is asked for, so never ask for all.

    Raises ValueError for a checkpoint of other parameters.
    """
    leaves = leaf_paths(abstract)
    stored = set(leaf_paths(ocp.checkpointables_metadata(folder).metadata[PARAMS]))
    if stored != leaves.keys():
        raise ValueError(f"parameters that only one of them has: {', '.join(sorted(stored ^ leaves.keys())[:3])}")
    context, loaded = ocp.Context(), {}
    context.pytree.loading.partial_load = True
    with context:
        for turn, paths in enumerate(_turns(leaves)):
            if turn:
                gc.collect()        # Orbax leaves its copy in a cycle
            asked = traverse_util.unflatten_dict({path: leaves[path] for path in paths}, sep="/")
            found = ocp.load_checkpointables(folder, {PARAMS: asked})[PARAMS]
            loaded |= leaf_paths(jax.block_until_ready(found))
    return map_paths(lambda path, leaf: loaded[path], abstract)


def _turns(leaves: Mapping[str, jax.ShapeDtypeStruct]) -> Iterator[list[str]]:
    """The paths, the largest leaf first, in groups of at most `_A_TURN` bytes or one leaf."""
    group, size = [], 0
    for path in sorted(leaves, key=lambda path: -leaves[path].size):
        own = leaves[path].size * leaves[path].dtype.itemsize
        if group and size + own > _A_TURN:
            yield group
            group, size = [], 0
        group, size = [*group, path], size + own
    yield group


def same_template(name: str, identity: str, where: str, tokenizer: Tokenizer | None) -> Template:
    """The template of this name, which may be the tokenizer's own. Raises UserError when it is unknown or not the one
    whose id was stored."""
    template = get_template(name, tokenizer)
    if template.id != identity:
        raise UserError(f"{where}: the model was made with template {identity}, but '{name}' is now {template.id}; "
                        "use the version of easylm_imitation that made it")
    return template
