"""Adapters in the files of PEFT: adapter_config.json and adapter_model.safetensors (or .bin), two matrices a kernel.

    base_model.model.<module>.lora_A.weight [R, in]     .lora_B.weight [out, R]     <module>: as Hugging Face names it
"""
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

from easylm_imitation.files import digest, read_json, read_object, write_json
from easylm_imitation.folders import finished_folder
from easylm_imitation.models import Adapters, Entry, LoraConfig, Model, Params, family_of
from easylm_imitation.models.lora import adaptable
from easylm_imitation.records import Lineage, code_version
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import leaf_paths
from easylm_imitation.weights.tensor_files import TensorFiles, open_file

CONFIG, WEIGHTS, TORCH, NOTE = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin",
                                "easylm_imitation.json")
_PREFIX = "base_model.model."
# Keys that change nothing of what the adapter computes, or nothing at the values given.
_FREE = ("auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "init_lora_weights",
         "layers_pattern", "lora_alpha", "lora_dropout", "megatron_core", "peft_type", "peft_version", "r", "revision",
         "target_modules", "target_parameters", "task_type", "use_rslora", "qalora_group_size", "runtime_config")


def is_peft(folder: str | os.PathLike) -> bool:
    """Whether a folder holds an adapter in PEFT's files."""
    return (pathlib.Path(folder) / CONFIG).is_file()


def peft_base(folder: str | os.PathLike) -> str:
    """What the adapter says of its base: a path or a name of the hub; "" when it says nothing."""
    return str(read_object(pathlib.Path(folder) / CONFIG).get("base_model_name_or_path") or "")


def peft_lineage(folder: str | os.PathLike, base: Lineage) -> Lineage:
    """As exported with the adapter, while the numbers are those; else one whose id is that of base and numbers. Raises
    UserError where an export of ours was trained beside other weights."""
    folder = pathlib.Path(folder)
    own = digest([base.id, read_object(folder / CONFIG).get("lora_alpha"), _identity(_open(folder))])
    if (folder / NOTE).is_file():
        known = read_object(folder / NOTE)
        check_beside(str(folder), str(known.get("base")), base)
        if known.get("fingerprint") == own:
            return read_json(Lineage, folder / "lineage.json")
    measured = (base.base, base.base_name) if base.teachers else (own, folder.absolute().name)
    return Lineage(id=own, name=folder.absolute().name, base=measured[0], base_name=measured[1], init=base.id,
                   teachers=base.teachers, template=base.template, tokenizer=base.tokenizer, code=code_version())


def check_beside(path: str, trained: str, base: Lineage) -> None:
    """Raises UserError for a base of other weights, by its lineage's id, than adapters were `trained` beside."""
    if trained != base.id:
        raise UserError(f"{path}: trained beside the weights {trained}, but the base named holds {base.id} "
                        f"({base.name}); name the base it was trained with, as in BASE+ADAPTER")


def read_peft(folder: str | os.PathLike, model: Model) -> tuple[Adapters, Params]:
    """The adapters of a PEFT dir, and their numbers in float32. Raises UserError for a kind of adapter that is not
    computed here, and for one that does not fit the model: a rank, a shape or a layer that is not as it should be."""
    folder = pathlib.Path(folder)
    config = _checked_config(folder)
    files, rank = _open(folder), config["r"]
    entries = _entries(model)
    found = {_plain_name(name): name for name in files.shapes}
    present = {path: entry for path, entry in entries.items()
               if any(_names(entry, layer)[0] in found for layer in range(model.config.layers))}
    if not present:
        raise UserError(f"{folder}: no tensor of it belongs to a kernel of this {model.config.family} "
                        f"('{next(iter(files.shapes), 'none')}', for one); it is an adapter to another model")
    leaves: dict[str, Any] = {}
    for path, entry in present.items():
        out = adaptable(model)[path].shape[2:]
        shapes = (rank, adaptable(model)[path].shape[1]), (math.prod(out), rank)
        pairs = [_pair(folder, files, found, _names(entry, layer), shapes) for layer in range(model.config.layers)]
        module = path.removesuffix("/kernel")
        leaves[f"{module}/a"] = jnp.stack([a.T for a, _ in pairs])
        leaves[f"{module}/b"] = jnp.stack([b.T.reshape(rank, *out) for _, b in pairs])
    used = {name for entry in present.values() for layer in range(model.config.layers) for name in _names(entry, layer)}
    others = [name for name in found if name not in used]
    if others:
        raise UserError(f"{folder}: the tensor '{others[0]}' has no place in this {model.config.family}; it is an "
                        "adapter to another model, or one that trains more than kernels of the layers")
    alpha = config["lora_alpha"] * (math.sqrt(rank) if config.get("use_rslora") else 1)
    lora = LoraConfig("|".join(re.escape(path) for path in present), rank, alpha, config.get("lora_dropout") or 0.0)
    return Adapters(model, lora), traverse_util.unflatten_dict(leaves, sep="/")


def export_peft(path: str | os.PathLike, adapters: Adapters, numbers: Params, base_path: str, base: Lineage,
                lineage: Lineage) -> int:
    """Writes a PEFT dir, in float32; returns how many tensors it holds. All or nothing appears at `path`, which must be
    absent or empty (UserError)."""
    entries, leaves, tensors = _entries(adapters.model), leaf_paths(numbers), {}
    for target in adapters.targets():
        a, b = (np.asarray(leaves[f"{target.removesuffix('/kernel')}/{part}"], np.float32) for part in "ab")
        for layer in range(len(a)):
            names = _names(entries[target], layer)
            tensors[names[0]] = np.ascontiguousarray(a[layer].T)
            tensors[names[1]] = np.ascontiguousarray(b[layer].reshape(len(b[layer]), -1).T)
    modules = [re.sub(r".*\{layer\}\.", "", entries[target].name).removesuffix(".weight")
               for target in adapters.targets()]
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_path, "inference_mode": True,
        "r": adapters.config.rank, "lora_alpha": adapters.config.alpha, "lora_dropout": adapters.config.dropout,
        "target_modules": modules, "bias": "none", "modules_to_save": None,
        "fan_in_fan_out": entries[next(iter(adapters.targets()))].form != "transposed"}
    with finished_folder(path) as folder:
        safetensors.numpy.save_file(tensors, folder / WEIGHTS, {"format": "pt"})
        (folder / WEIGHTS).chmod(0o644)     # the library keeps what it writes to its owner
        write_json(folder / CONFIG, config)
        write_json(folder / "lineage.json", lineage)
        own = digest([base.id, adapters.config.alpha, _identity(_open(folder))])
        write_json(folder / NOTE, {"base": base.id, "fingerprint": own})
    return len(tensors)


def _checked_config(folder: pathlib.Path) -> Mapping[str, Any]:
    config, where = read_object(folder / CONFIG), folder / CONFIG
    if config.get("peft_type") != "LORA":
        raise UserError(f"{where}: peft_type is {config.get('peft_type')!r}; only LORA is read")
    if config.get("bias", "none") != "none":
        raise UserError(f"{where}: bias is {config['bias']!r}: it trained biases, too, which are not read")
    for key, value in config.items():
        if value and key not in _FREE and key != "bias":
            raise UserError(f"{where}: {key}={json.dumps(value)[:60]} is not computed here; merge the adapter "
                            "with PEFT (merge_and_unload), and convert what that saves")
    if type(config.get("r")) is not int or config["r"] < 1:
        raise UserError(f"{where}: r is {config.get('r')!r}; it must be a number of at least 1")
    alpha = config.get("lora_alpha")
    if type(alpha) not in (int, float) or not 0 < alpha < math.inf:
        raise UserError(f"{where}: lora_alpha is {alpha!r}; it must be a number above 0")
    dropout = config.get("lora_dropout") or 0.0
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise UserError(f"{where}: lora_dropout is {dropout!r}; it must be a number from 0 to below 1")
    return config


def _open(folder: pathlib.Path) -> TensorFiles:
    for name in (WEIGHTS, TORCH):
        if (folder / name).is_file():
            return TensorFiles(folder, open_file(folder / name))
    raise UserError(f"{folder}: neither {WEIGHTS} nor {TORCH} is there; the adapter has no weights")


def _identity(files: TensorFiles) -> list[Any]:
    return [[name, list(shape), files.sample(name).hex()] for name, shape in sorted(files.shapes.items())]


def _entries(model: Model) -> dict[str, Entry]:
    """{path of a kernel that can be adapted: what Hugging Face files call it}."""
    possible = adaptable(model)
    return {entry.path: entry for entry in family_of(model.config).names(model.config).entries
            if entry.path in possible}


def _names(entry: Entry, layer: int) -> tuple[str, str]:
    module = _PREFIX + entry.name.format(layer=layer).removesuffix(".weight")
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


def _plain_name(name: str) -> str:
    """Some files carry the adapter's own name, "default"."""
    return name.replace(".default.weight", ".weight")


def _pair(folder: pathlib.Path, files: TensorFiles, found: Mapping[str, str], names: tuple[str, str],
          shapes: tuple[tuple[int, int], tuple[int, int]]) -> list[np.ndarray]:
    """One kernel's two matrices, as the file has them."""
    pair = []
    for name, shape, ranked in zip(names, shapes, (0, 1), strict=True):
        if name not in found:
            raise UserError(f"{folder}: the tensor '{name}' is missing; adapters stand in all layers or none")
        there = files.shapes[found[name]]
        if len(there) == 2 and there[ranked] != shape[ranked] and there[1 - ranked] == shape[1 - ranked]:
            raise UserError(f"{folder}: '{name}' has rank {there[ranked]}, but {CONFIG} says r={shape[ranked]}; they "
                            "do not belong together")
        if there != shape:
            raise UserError(f"{folder}: '{name}' has shape {list(there)}, but this model makes it {list(shape)}; it is "
                            "an adapter to another model")
        pair.append(np.asarray(files.read(found[name]), np.float32))
        if not np.isfinite(pair[-1]).all():
            raise UserError(f"{folder}: '{name}' holds numbers that are not finite; its training went astray")
    return pair
