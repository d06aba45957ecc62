"""Hugging Face dirs in: config.json and safetensors become a config and a tree of parameters, without torch.

Names, shapes and dtypes are checked before any number is read. Then each parameter is made where it belongs: every
device's part is read from the files by itself, so the host never holds more than one part.
"""
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from easylm_imitation.models import Entry, ModelConfig, Params, config_mapping, create, family_of, hf_family
from easylm_imitation.records import Lineage, code_version, digest
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import leaf_paths, map_paths
from easylm_imitation.weights.safetensors_index import DTYPES, TensorFiles


def import_hf(folder: str | os.PathLike, dtype: jnp.dtype | None = jnp.float32,
              shardings: Params | None = None) -> tuple[ModelConfig, Params]:
    """(config, stacked params) of a Hugging Face dir, in `dtype` (None: as stored) and `shardings` (None: one device).

    Raises UserError for an unsupported or damaged dir: the first missing, extra or ill-shaped tensor is named.
    """
    config = read_config(folder)
    files = TensorFiles(folder)
    entries = {entry.path: entry for entry in family_of(config).names(config).entries}
    names = _match(config, files)
    target = dtype or jnp.dtype(stored_dtype(files))
    on_one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    placed = leaf_paths(shardings) if shardings is not None else {}

    def load(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return _load(files, entries[path], names, leaf, placed.get(path, on_one), target)
    return config, map_paths(load, create(config).abstract())


def read_config(folder: str | os.PathLike) -> ModelConfig:
    """The model config of a Hugging Face dir. Raises UserError for a missing or unsupported config.json."""
    path = pathlib.Path(folder) / "config.json"
    try:
        mapping = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a Hugging Face dir has config.json and model.safetensors") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error})") from None
    if not isinstance(mapping, dict) or not isinstance(mapping.get("model_type"), str):
        raise UserError(f"{path}: the key 'model_type' is missing; is this a Hugging Face model dir?")
    try:
        return hf_family(mapping["model_type"]).config_from_hf(mapping)
    except (UserError, ValueError) as error:
        raise UserError(f"{pathlib.Path(folder)}/{str(error).removeprefix(f'{folder}/')}") from error


def identify_hf(folder: str | os.PathLike) -> Lineage:
    """A lineage for weights that bring none: the id is their fingerprint, the name is the dir's, the base is itself."""
    folder = pathlib.Path(folder)
    identity = fingerprint(read_config(folder), TensorFiles(folder))
    name = folder.absolute().name
    return Lineage(id=identity, name=name, base=identity, base_name=name, code=code_version())


def fingerprint(config: ModelConfig, files: TensorFiles) -> str:
    """16 hex digits over the config, every tensor's name, dtype and shape, and a few of its numbers."""
    tensors = [[name, files.dtypes[name], list(shape), files.sample(name).hex()]
               for name, shape in sorted(files.shapes.items())]
    return digest([config_mapping(config), tensors])


def stored_dtype(files: TensorFiles) -> str:
    """The dtype of all tensors; float32 for a mixture, which holds every one of them exactly."""
    kinds = set(files.dtypes.values())
    return DTYPES[kinds.pop()] if len(kinds) == 1 else "float32"


def layer_name(entry: Entry, layer: int) -> str:
    """The tensor name of one layer's parameter."""
    return entry.name.format(layer=layer)


def _load(files: TensorFiles, entry: Entry, names: Mapping[str, str], leaf: jax.ShapeDtypeStruct, where: Sharding,
          dtype: jnp.dtype) -> jax.Array:
    """One parameter: read as the file has it, placed, then turned and cast on the device (numpy is far slower)."""
    lead = leaf.shape[:1] if entry.per_layer else ()
    shape = (*lead, *entry.file_shape(leaf.shape[len(lead):]))

    def read(index: tuple[slice, ...]) -> np.ndarray:
        if not lead:
            return files.read(names[entry.name], *index)
        layers = [names[layer_name(entry, i)] for i in range(*index[0].indices(*lead))]
        return _stacked(files, layers, index[1:])

    as_file = jax.make_array_from_callback(shape, _file_sharding(where, entry, len(leaf.shape)), read)
    return _turn(entry.form == "transposed", leaf.shape, dtype, where)(as_file)


def _stacked(files: TensorFiles, names: list[str], index: tuple[slice, ...]) -> np.ndarray:
    """The parts at `index` of several tensors as one array; filled in place, since np.stack would hold them twice."""
    first = files.read(names[0], *index)
    out = np.empty((len(names), *first.shape), first.dtype)
    out[0] = first
    for row, name in enumerate(names[1:], 1):
        out[row] = files.read(name, *index)
    return out


@functools.lru_cache
def _turn(transposed: bool, shape: tuple[int, ...], dtype: jnp.dtype,
          where: Sharding) -> Callable[[jax.Array], jax.Array]:
    """The program that makes a parameter of `shape` from the file's form."""
    def turn(x: jax.Array) -> jax.Array:
        return (jnp.swapaxes(x, -1, -2) if transposed else x.reshape(shape)).astype(dtype)
    return jax.jit(turn, out_shardings=where)


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


def _match(config: ModelConfig, files: TensorFiles) -> dict[str, str]:
    """{expected tensor name: its name in the files}, after checking that names, shapes and dtypes fit the config."""
    table = family_of(config).names(config)
    expected = _expected(config)
    found = {_full_name(name, table.prefix, expected): name for name in files.shapes}
    for name in expected:
        if name not in found:
            raise UserError(f"{files.folder}: the tensor '{name}' is missing; these are not config.json's weights")
    for name, in_file in found.items():
        if name not in expected:
            _check_extra(in_file, table.ignored, dict(table.copies), found, files)
        elif files.shapes[in_file] != expected[name]:
            raise UserError(f"{files.folder}: the tensor '{in_file}' has shape {list(files.shapes[in_file])}, "
                            f"but config.json makes it {list(expected[name])}")
        elif files.dtypes[in_file] not in DTYPES:
            raise UserError(f"{files.folder}: the tensor '{in_file}' is {files.dtypes[in_file]}; "
                            f"supported: {', '.join(DTYPES)}")
    return found


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


def _check_extra(name: str, ignored: tuple[str, ...], copies: Mapping[str, str], found: Mapping[str, str],
                 files: TensorFiles) -> None:
    """Lets pass what holds no weights, and copies that are equal to their original. Raises UserError for the rest."""
    if any(re.fullmatch(pattern, name) for pattern in ignored):
        return
    if name not in copies:
        raise UserError(f"{files.folder}: the tensor '{name}' has no place in the model of config.json; "
                        "using the weights without it would make another model")
    original = found[copies[name]]
    if not np.array_equal(files.read(name).view(np.uint8), files.read(original).view(np.uint8)):
        raise UserError(f"{files.folder}: config.json ties '{name}' to '{original}', but they differ; "
                        "set tie_word_embeddings to false in config.json")
