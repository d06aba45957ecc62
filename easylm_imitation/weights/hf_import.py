"""Hugging Face dirs (and Meta's LLaMA checkpoints) in: a config and a tree of parameters, without torch.

Names, shapes and dtypes are checked before any number is read. Then each parameter is made where it belongs, the
largest first and layer by layer: every device's part of a layer is read from the files by itself and written into its
place, so the host holds the parameters and one layer of one of them, and so do the devices.
"""
import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from easylm_imitation.files import digest, read_object
from easylm_imitation.models import Entry, ModelConfig, Params, config_mapping, create, family_of, hf_family
from easylm_imitation.records import Lineage, code_version
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import leaf_paths, map_paths
from easylm_imitation.weights.meta_checkpoint import is_meta, open_meta
from easylm_imitation.weights.stored import DTYPES
from easylm_imitation.weights.tensor_files import TensorFiles, open_tensors

_READ = ("F32", "F16", "BF16")      # dtypes of weights
_NO_PLACE = "no place in the model of config.json"
_SHOWN = 3                          # of several tensors at fault, as many are named


@dataclasses.dataclass(frozen=True)
class HFModel:
    """A checkpoint on disk whose tensors fit its config; no number of it is read yet."""
    config: ModelConfig
    files: TensorFiles
    names: Mapping[str, str]        # {expected tensor name: its name in the files}
    dropped: tuple[str, ...]        # tensors that hold no weights of their own: buffers, rotary tables, tied copies

    def read(self, dtype: jnp.dtype | None = jnp.float32, shardings: Params | None = None) -> Params:
        """The stacked parameters in `dtype` (None: as stored) and `shardings` (None: one device)."""
        entries = {entry.path: entry for entry in family_of(self.config).names(self.config).entries}
        target = dtype or jnp.dtype(stored_dtype(self.files))
        abstract = create(self.config).abstract()
        leaves = leaf_paths(abstract)
        on_one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        placed = leaf_paths(shardings) if shardings is not None else {}
        loaded = {}
        for path in sorted(leaves, key=lambda path: -leaves[path].size):
            load = _load_layers if entries[path].per_layer else _load
            loaded[path] = load(self, entries[path], leaves[path], placed.get(path, on_one), target)
        return map_paths(lambda path, leaf: loaded[path], abstract)


def open_hf(folder: str | os.PathLike) -> HFModel:
    """Config and tensors of a Hugging Face dir, or of Meta's checkpoint, checked against each other.

    Raises UserError for an unsupported or damaged dir: missing, extra and ill-shaped tensors are named.
    """
    if is_meta(folder):
        mapping, files = open_meta(folder)
        config = _config_from(mapping, pathlib.Path(folder))
    else:
        config, files = read_config(folder), open_tensors(folder)
    return HFModel(config, files, *matched(config, files))


def import_hf(folder: str | os.PathLike, dtype: jnp.dtype | None = jnp.float32,
              shardings: Params | None = None) -> tuple[ModelConfig, Params]:
    """(config, stacked params) of a Hugging Face dir: `open_hf` and `HFModel.read` in one. Raises UserError."""
    model = open_hf(folder)
    return model.config, model.read(dtype, shardings)


def read_config(folder: str | os.PathLike) -> ModelConfig:
    """The model config of a Hugging Face dir. Raises UserError for a missing or unsupported config.json."""
    path = pathlib.Path(folder) / "config.json"
    if not path.exists():
        raise UserError(f"{path}: no such file; a Hugging Face dir has config.json and model.safetensors")
    mapping = read_object(path)
    if not isinstance(mapping.get("model_type"), str):
        raise UserError(f"{path}: the key 'model_type' is missing; is this a Hugging Face model dir?")
    if mapping.get("quantization_config"):
        raise UserError(f"{path}: quantization_config asks for weights of few bits, which are not read; take the "
                        "checkpoint that was not quantised")
    return _config_from(mapping, pathlib.Path(folder))


def _config_from(mapping: Mapping[str, Any], folder: pathlib.Path) -> ModelConfig:
    try:
        return hf_family(mapping["model_type"]).config_from_hf(mapping)
    except (UserError, ValueError) as error:
        raise UserError(f"{folder}/{str(error).removeprefix(f'{folder}/')}") from error


def identify_hf(model: HFModel) -> Lineage:
    """A lineage for weights that bring none: the id is their fingerprint, the name is the dir's, the base is itself."""
    identity, name = fingerprint(model.config, model.files), model.files.folder.absolute().name
    return Lineage(id=identity, name=name, base=identity, base_name=name, code=code_version())


def fingerprint(config: ModelConfig, files: TensorFiles) -> str:
    """16 hex digits over the config, every tensor's name, dtype and shape, and a few of its numbers."""
    tensors = [[name, files.dtypes[name], list(shape), files.sample(name).hex()]
               for name, shape in sorted(files.shapes.items())]
    return digest([config_mapping(config), tensors])


def stored_dtype(files: TensorFiles) -> str:
    """The dtype of all weights; float32 for a mixture, which holds every one of them exactly."""
    kinds = {kind for kind in files.dtypes.values() if kind in _READ}
    return DTYPES[kinds.pop()].name if len(kinds) == 1 else "float32"


def layer_name(entry: Entry, layer: int) -> str:
    """The tensor name of one layer's parameter."""
    return entry.name.format(layer=layer)


def _load(model: HFModel, entry: Entry, leaf: jax.ShapeDtypeStruct, where: Sharding, dtype: jnp.dtype) -> jax.Array:
    """A parameter that is one tensor."""
    as_file = _as_file(model, entry, entry.name, leaf.shape, where)
    return _turn(entry.form == "transposed", leaf.shape, dtype, where)(as_file)


def _load_layers(model: HFModel, entry: Entry, leaf: jax.ShapeDtypeStruct, where: Sharding,
                 dtype: jnp.dtype) -> jax.Array:
    """A parameter that is one tensor a layer, written layer by layer into memory that is taken once."""
    shape, here = leaf.shape[1:], _of_one_layer(where)
    turn, put = _turn(entry.form == "transposed", shape, None, here), _put(where)
    whole = jnp.zeros(leaf.shape, dtype, device=where)
    for layer in range(leaf.shape[0]):
        one = turn(_as_file(model, entry, layer_name(entry, layer), shape, here))
        whole = jax.block_until_ready(put(whole, one, layer))   # else the layers read ahead pile up
    return whole


def _as_file(model: HFModel, entry: Entry, name: str, shape: tuple[int, ...], where: Sharding) -> jax.Array:
    """One tensor as the file has it, each device's part read by itself; turned and cast later, on the device (numpy is
    far slower)."""
    return jax.make_array_from_callback(
        entry.file_shape(shape), _file_sharding(where, entry, len(shape)),
        lambda index: model.files.read(model.names[name], *index))


@functools.lru_cache
def _turn(transposed: bool, shape: tuple[int, ...], dtype: jnp.dtype | None,
          where: Sharding) -> Callable[[jax.Array], jax.Array]:
    """The program that makes a parameter of `shape` from the file's form; without a dtype it keeps the file's."""
    def turn(x: jax.Array) -> jax.Array:
        return (jnp.swapaxes(x, -1, -2) if transposed else x.reshape(shape)).astype(dtype or x.dtype)
    return jax.jit(turn, out_shardings=where)


@functools.lru_cache
def _put(where: Sharding) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
    """The program that casts one layer and writes it into the stacked parameter, in place. Not one with `_turn`: a
    transpose by itself is five times as fast on a CPU."""
    def put(whole: jax.Array, one: jax.Array, layer: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(whole, one.astype(whole.dtype), layer, 0)
    return jax.jit(put, out_shardings=where, donate_argnums=0)


def _of_one_layer(where: Sharding) -> Sharding:
    """The sharding of a layer's parameter, given that of the stacked one."""
    return NamedSharding(where.mesh, PartitionSpec(*where.spec[1:])) if isinstance(where, NamedSharding) else where


def _file_sharding(where: Sharding, entry: Entry, rank: int) -> Sharding:
    """The sharding of a parameter, in the file's order of dims; a merged dim is read whole."""
    if not isinstance(where, NamedSharding):
        return where
    spec = [*where.spec, *[None] * (rank - len(where.spec))]
    if entry.form == "transposed":
        spec[-2:] = spec[:-3:-1]
    elif entry.form == "merged":
        spec[-2:] = [None]
    return NamedSharding(where.mesh, PartitionSpec(*spec))


def matched(config: ModelConfig, files: TensorFiles) -> tuple[dict[str, str], tuple[str, ...]]:
    """({expected tensor name: its name in the files}, names without weights), after checking that names, shapes and
    dtypes fit the config. Raises UserError."""
    table = family_of(config).names(config)
    expected = _expected(config)
    found: dict[str, str] = {}
    for name in files.shapes:
        other = found.setdefault(_full_name(name, table.prefix, expected), name)
        if other != name:
            raise UserError(f"{files.folder}: '{other}' and '{name}' are two spellings of one tensor; remove one")
    missing = [name for name in expected if name not in found]
    extra = {name: in_file for name, in_file in found.items() if name not in expected}
    bare = [in_file for in_file in extra.values() if any(re.fullmatch(pattern, in_file) for pattern in table.ignored)]
    copies = {in_file: found.get(dict(table.copies)[name]) for name, in_file in extra.items()
              if name in dict(table.copies)}
    _check_names(missing, [name for name in extra.values() if name not in bare and name not in copies], files)
    _check_copies(copies, files)
    names = {name: found[name] for name in expected}
    _check_shapes(names, expected, files)
    return names, (*files.dropped, *bare, *copies)


def _check_names(missing: Sequence[str], unknown: Sequence[str], files: TensorFiles) -> None:
    said = [_listed(missing, "is missing", "are missing")] if missing else []
    if unknown:
        said.append(_listed(unknown, f"has {_NO_PLACE}", f"have {_NO_PLACE}"))
    if said:
        raise UserError(f"{files.folder}: {', and '.join(said)}; these are not config.json's weights")


def _check_copies(copies: Mapping[str, str], files: TensorFiles) -> None:
    """Raises UserError unless each of these {tensor: the one it is tied to} is equal to its original."""
    for name, original in copies.items():
        if not files.equal(name, original):
            raise UserError(f"{files.folder}: config.json ties '{name}' to '{original}', but they differ; set "
                            "tie_word_embeddings to false in config.json")


def _check_shapes(names: Mapping[str, str], expected: Mapping[str, tuple[int, ...]], files: TensorFiles) -> None:
    wrong = [name for name in names if files.shapes[names[name]] != expected[name]]
    if wrong:
        in_file, others = names[wrong[0]], len(wrong) - 1
        raise UserError(f"{files.folder}: the tensor '{in_file}' has shape {list(files.shapes[in_file])}, "
                        f"but config.json makes it {list(expected[wrong[0]])}"
                        + (f"; {others} more do not fit either" if others else ""))
    for in_file in names.values():
        if files.dtypes[in_file] not in _READ:
            raise UserError(f"{files.folder}: the tensor '{in_file}' is {files.dtypes[in_file]}; "
                            f"supported: {', '.join(_READ)}")


def _listed(names: Sequence[str], one: str, several: str) -> str:
    """"the tensor 'a' is missing" or "5 tensors are missing: 'a', 'b', 'c', ...", with what to say of one, of several.
    """
    if len(names) == 1:
        return f"the tensor '{names[0]}' {one}"
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} tensors {several}: {shown}"


def _expected(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """{tensor name: shape in the file} of a whole model."""
    leaves = leaf_paths(create(config).abstract())
    expected: dict[str, tuple[int, ...]] = {}
    for entry in family_of(config).names(config).entries:
        shape = leaves[entry.path].shape
        if entry.per_layer:
            expected.update({layer_name(entry, i): entry.file_shape(shape[1:]) for i in range(shape[0])})
        else:
            expected[entry.name] = entry.file_shape(shape)
    return expected


def _full_name(name: str, prefix: str, expected: Mapping[str, Any]) -> str:
    """Files of the bare model lack the prefix of the one with a head (`h.0...` for `transformer.h.0...`)."""
    return prefix + name if name not in expected and prefix + name in expected else name

