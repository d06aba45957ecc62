"""Adapters on disk: those of a LoRA run, or PEFT's, and the model that they make with their base.

    RUN, trained with config.lora    adapter.json names the base; checkpoints hold the adapters alone
    PEFT dir                         adapter_config.json and adapter_model.safetensors
    BASE+ADAPTER                     either of them with a base named by hand, wherever a model is named
"""
import dataclasses
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp

from easylm_imitation.console import say_once
from easylm_imitation.files import read_json, write_json
from easylm_imitation.models import Adapted, Adapters, LoraConfig, ModelConfig, Params, create, difference
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError
from easylm_imitation.weights.peft import check_beside, is_peft, peft_base, peft_lineage, read_peft
from easylm_imitation.weights.run_dir import RunDir


@dataclasses.dataclass(frozen=True)
class AdapterNote:
    """adapter.json: what a run of adapters was trained beside."""
    base: str               # where it was
    base_id: str            # of its lineage
    lora: LoraConfig


@dataclasses.dataclass(frozen=True)
class AdapterFiles:
    """Adapters on disk that are not read yet, and where their base is."""
    path: str
    step: str | None        # of a run: as in RUN@step
    base: str
    note: AdapterNote | None    # None for PEFT's

    def config_of(self, base: ModelConfig) -> ModelConfig:
        """The config of base and adapters together. Raises UserError when they are not of one shape."""
        own = base if self.note is None else RunDir(self.path).read_model()[0]
        if own != base:
            raise UserError(f"{self.path}: adapters to another model than {self.base} ({difference(own, base)}); name "
                            "their own base, as in BASE+ADAPTER")
        return own

    def lineage(self, base: Lineage) -> Lineage:
        """Of base and adapters together. Raises UserError when the run was trained beside other weights."""
        if self.note is None:
            said = peft_base(self.path)
            if said and not _same_place(said, self.base):
                say_once(f"{self.path}: says that its base is '{said}'; it is added to {self.base}")
            return peft_lineage(self.path, base)
        check_beside(self.path, self.note.base_id, base)
        run = RunDir(self.path)
        return run.read_lineage(run.step(self.step))

    def read(self, config: ModelConfig) -> tuple[Adapters, Params]:
        """The adapters, and their numbers in float32. Raises UserError when they do not fit the model."""
        model = create(config)
        if self.note is None:
            return read_peft(self.path, model)
        adapters, run = Adapters(model, self.note.lora), RunDir(self.path)
        on_one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=on_one),
                                adapters.abstract())
        return adapters, run.load_params(abstract, run.step(self.step))


def _same_place(one: str, other: str) -> bool:
    """Whether two names, maybe with @step behind them, are one place here."""
    return os.path.realpath(one) == os.path.realpath(other)


def write_adapter_note(run: RunDir, lora: LoraConfig, loaded: Any) -> None:
    """Writes adapter.json of a run that trains beside `loaded`, a LoadedModel."""
    base, step = os.path.abspath(loaded.path), loaded.lineage.step
    if step is not None and step in RunDir(base).steps():
        base = f"{base}@{step}"
    write_json(run.adapter, AdapterNote(base, loaded.lineage.id, lora))


def find_adapter(path: str, step: str | None) -> AdapterFiles | None:
    """The adapters that `path` (without its @step) names; None when it names none. Raises UserError."""
    parts = path.split("+")
    pairs = [("+".join(parts[:i]), "+".join(parts[i:])) for i in range(len(parts) - 1, 0, -1)]     # a name may have one
    base, own = next(((base, own) for base, own in pairs if base and os.path.isdir(own)), ("", ""))
    if base and not os.path.exists(path):
        if not (RunDir(own).adapter.is_file() or is_peft(own)):
            raise UserError(f"{path}: {own} holds no adapters (adapter.json or adapter_config.json)")
        note = None if is_peft(own) else read_json(AdapterNote, RunDir(own).adapter)
        return AdapterFiles(own, step, base, note)
    run = RunDir(path)
    if run.holds_model() and run.adapter.is_file():
        note = read_json(AdapterNote, run.adapter)
        return AdapterFiles(path, step, _there(note.base, path), note)
    return AdapterFiles(path, None, _there(peft_base(path), path), None) if is_peft(path) else None


def _there(base: str, path: str) -> str:
    """Raises UserError when the base is not where the adapters say."""
    if not any(place and os.path.exists(place) for place in (base, base.rpartition("@")[0])):
        said = f"says that its base is '{base}', which is no folder here" if base else "does not say its base"
        raise UserError(f"{path}: {said}; name both, as in BASE+{path}")
    return base


def apply_adapters(params: Params, adapters: Adapters, numbers: Params) -> Params:
    """The model's parameters with the adapters added to their kernels, one by one; those kernels are given up."""
    def plain(leaf: Any) -> Any:
        return _merge(leaf) if isinstance(leaf, Adapted) else leaf
    return jax.tree.map(plain, adapters.attach(params, numbers), is_leaf=lambda leaf: isinstance(leaf, Adapted))


def _merge(leaf: Adapted) -> jax.Array:
    where = leaf.kernel.sharding
    if len(where.device_set) > 1:
        everywhere = jax.sharding.NamedSharding(where.mesh, jax.sharding.PartitionSpec())
        leaf = dataclasses.replace(leaf, a=jax.device_put(leaf.a, everywhere), b=jax.device_put(leaf.b, everywhere))
    return _program(where)(leaf)


@functools.lru_cache
def _program(where: jax.sharding.Sharding) -> Any:
    return jax.jit(lambda leaf: leaf.merged(), out_shardings=where)
