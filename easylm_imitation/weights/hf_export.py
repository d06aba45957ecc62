"""Hugging Face dirs out: what `transformers`, vLLM and others load, with the lineage beside it.

    config.json  generation_config.json  model.safetensors (or several, and an index)  tokenizer  README.md
    easylm_imitation.json

Tensors are turned, cast and written one at a time, so that an export needs the parameters and one tensor.
"""
import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from easylm_imitation.files import write_json, write_text
from easylm_imitation.folders import finished_folder
from easylm_imitation.models import ModelConfig, Params, difference, family_of, stack
from easylm_imitation.records import DataCard, Lineage
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import leaf_paths
from easylm_imitation.text import Template, Tokenizer, chat_jinja, stop_ids
from easylm_imitation.weights.hf_extras import GENERATION, NO_EXTRAS, HFExtras
from easylm_imitation.weights.hf_import import fingerprint, layer_name
from easylm_imitation.weights.model_card import model_card
from easylm_imitation.weights.safetensors_writer import write_safetensors
from easylm_imitation.weights.stored import DTYPES
from easylm_imitation.weights.tensor_files import open_tensors

OURS = "easylm_imitation.json"
LARGEST_FILE = 5 * 10**9  # bytes, as the hub's tools cut
_CODES = {kind.name: code for code, kind in DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class HFNote:
    """easylm_imitation.json: what a Hugging Face dir cannot say itself, of the weights of this fingerprint."""
    lineage: Lineage
    fingerprint: str
    template: str | None = None         # name
    template_id: str | None = None


@dataclasses.dataclass(frozen=True)
class _Out:
    """One tensor to write: `leaf` (or one `layer` of it) in the file's form."""
    name: str
    shape: tuple[int, ...]
    transposed: bool
    leaf: jax.Array
    layer: int | None


def export_hf(path: str | os.PathLike, config: ModelConfig, params: Params, tokenizer: Tokenizer | None,
              template: Template | None, lineage: Lineage, dtype: str = "float32", largest_file: int = LARGEST_FILE, *,
              lossy: Collection[str] = (), training: Mapping[str, Any] | None = None,
              trained_on: tuple[DataCard, ...] = (), extras: HFExtras = NO_EXTRAS) -> int:
    """Writes a Hugging Face dir with weights in `dtype`; returns how many tensors it holds.

    The exported chat template renders what the server builds from the same messages. `lossy` may hold "dtype": numbers
    may be rounded to it, which else raises UserError. `training`, `trained_on`: the run's resolved config and the cards
    of its data, for the model card. `extras`: what the dir that the weights came from says besides; said again, where
    `template` does not replace it. All or nothing appears at `path`, which must be absent or empty (UserError).
    """
    mapping = {**_config(config, dtype), **(extras.ids or _token_ids(tokenizer)), **extras.dropout}
    ours = chat_jinja(template, tokenizer) if tokenizer is not None and template is not None else None
    chat = ours or extras.chat_template
    with finished_folder(path) as folder:
        outs = list(_outs(config, stack(params)))
        tensors = (_tensor(out, dtype, "dtype" in lossy) for out in outs)
        write_safetensors(folder, [(out.name, out.shape, _CODES[dtype]) for out in outs], tensors, largest_file)
        write_json(folder / "config.json", mapping)
        write_json(folder / GENERATION, _generation(extras, tokenizer, template))
        if tokenizer is not None:
            tokenizer.save(folder, chat, extras.tokenizer)
        elif chat is not None:
            write_json(folder / "tokenizer_config.json", {"chat_template": chat})
        chats = None if tokenizer is None else chat is not None
        write_text(folder / "README.md", model_card(config, lineage, dtype, chats, training, trained_on))
        identity = fingerprint(config, open_tensors(folder))
        write_json(folder / OURS, HFNote(lineage, identity, template and template.name, template and template.id))
    return len(outs)


def _config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """config.json, in the keys of older and of current readers. Raises UserError when reading it would make another
    model."""
    family = family_of(config)
    mapping = {**family.config_to_hf(config), "torch_dtype": dtype, "dtype": dtype, "use_cache": True}
    if "rope_theta" in mapping:
        mapping["rope_parameters"] = {"rope_type": "default", **(mapping.get("rope_scaling") or {}),
                                      "rope_theta": mapping["rope_theta"]}
    back = family.config_from_hf(mapping)
    if back != config:
        raise UserError(f"config.json cannot say all of this model ({difference(config, back)} when read back), so "
                        "others would compute something else; keep it as a run dir")
    return mapping


def _outs(config: ModelConfig, params: Params) -> Iterator[_Out]:
    """What is written, in order."""
    leaves = leaf_paths(params)
    for entry in family_of(config).names(config).entries:
        leaf = jnp.asarray(leaves[entry.path])
        shape = entry.file_shape(leaf.shape[1:] if entry.per_layer else leaf.shape)
        for layer in range(leaf.shape[0]) if entry.per_layer else (None,):
            name = entry.name if layer is None else layer_name(entry, layer)
            yield _Out(name, shape, entry.form == "transposed", leaf, layer)


def _tensor(out: _Out, dtype: str, may_round: bool) -> np.ndarray:
    """A tensor as the file has it. Raises UserError where `dtype` would change a number, or make it infinite."""
    key = out.transposed, out.shape, out.layer is not None
    as_file = _turn(*key, dtype)(out.leaf, out.layer)
    if as_file.dtype != out.leaf.dtype:
        changed, infinite = map(bool, _changes(*key)(out.leaf, out.layer, as_file))
        if infinite:
            raise UserError(f"'{out.name}' has numbers that {dtype} has no room for: they would be infinite; export in "
                            "bfloat16 or float32")
        if changed and not may_round:
            raise UserError(f"{dtype} would change numbers of '{out.name}'; export in {out.leaf.dtype}, or say "
                            "--lossy dtype to round them")
    return np.asarray(jax.device_get(as_file))


@functools.lru_cache
def _turn(transposed: bool, shape: tuple[int, ...], layered: bool, dtype: str) -> Callable[..., jax.Array]:
    """The program (parameter, layer) -> tensor of the file; on the device, since numpy is far slower."""
    return jax.jit(lambda leaf, layer: _formed(leaf, layer, transposed, shape, layered).astype(dtype))


@functools.lru_cache
def _changes(transposed: bool, shape: tuple[int, ...], layered: bool) -> Callable[..., jax.Array]:
    """The program (parameter, layer, tensor) -> (whether any number differs, whether one became infinite). A program of
    its own: within one, the compiler may take a cast there and back for nothing. (A count would need an integer for
    each number, all at once.)"""
    def differ(leaf: jax.Array, layer: jax.Array | None, as_file: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, back = _formed(leaf, layer, transposed, shape, layered), as_file.astype(leaf.dtype)
        same = (value == back) | (jnp.isnan(value) & jnp.isnan(back))       # a NaN stays one, its payload may not
        return ~jnp.all(same), jnp.any(jnp.isinf(back) & ~jnp.isinf(value))
    return jax.jit(differ)


def _formed(leaf: jax.Array, layer: jax.Array | None, transposed: bool, shape: tuple[int, ...],
            layered: bool) -> jax.Array:
    value = jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False) if layered else leaf
    return jnp.swapaxes(value, -1, -2) if transposed else value.reshape(shape)


def _token_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
    if tokenizer is None:
        return {}
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}


def _generation(extras: HFExtras, tokenizer: Tokenizer | None, template: Template | None) -> dict[str, Any]:
    """generation_config.json: the source's own; under a template, every id that ends its answers stops generation."""
    said = extras.generation or extras.ids or _token_ids(tokenizer)
    if tokenizer is not None and template is not None:
        return {**said, "eos_token_id": list(stop_ids(template, tokenizer))}
    return said


def check_dtype(name: str) -> str:
    """`name` when it is a dtype to export in, or "same". Raises UserError."""
    if name not in ("float32", "bfloat16", "float16", "same"):
        raise UserError(f"--dtype {name}: choose float32, bfloat16, float16, or same")
    return name
