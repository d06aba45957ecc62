"""Hugging Face dirs out: what `transformers` and others load, with the lineage beside it.

    config.json  generation_config.json  model.safetensors (or several, and an index)  tokenizer  easylm_imitation.json
"""
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from easylm_imitation.models import Entry, ModelConfig, Params, family_of, stack
from easylm_imitation.records import Lineage, write_json
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import leaf_paths
from easylm_imitation.text import Template, Tokenizer, chat_jinja, stop_ids
from easylm_imitation.weights.files import finished_folder
from easylm_imitation.weights.hf_import import fingerprint, layer_name
from easylm_imitation.weights.tensor_files import INDEX, SINGLE, open_tensors

OURS = "easylm_imitation.json"
LARGEST_FILE = 5 * 10**9  # bytes, as the hub's tools cut


@dataclasses.dataclass(frozen=True)
class HFNote:
    """easylm_imitation.json: what a Hugging Face dir cannot say itself, of the weights of this fingerprint."""
    lineage: Lineage
    fingerprint: str
    template: str | None = None         # name
    template_id: str | None = None


def export_hf(path: str | os.PathLike, config: ModelConfig, params: Params, tokenizer: Tokenizer | None,
              template: Template | None, lineage: Lineage, dtype: str = "float32",
              largest_file: int = LARGEST_FILE) -> int:
    """Writes a Hugging Face dir with weights in `dtype`; returns how many tensors it holds.

    The exported chat template renders what the server builds from the same messages. All or nothing appears at `path`,
    which must be absent or empty (UserError).
    """
    with finished_folder(path) as folder:
        count = _write_weights(folder, config, stack(params), jnp.dtype(dtype), largest_file)
        write_json(folder / "config.json", {**family_of(config).config_to_hf(config), "torch_dtype": dtype,
                                            "use_cache": True, **_token_ids(tokenizer)})
        write_json(folder / "generation_config.json", _generation(tokenizer, template))
        if tokenizer is not None:
            tokenizer.save(folder, chat_jinja(template, tokenizer) if template is not None else None)
        identity = fingerprint(config, open_tensors(folder))
        write_json(folder / OURS, HFNote(lineage, identity, template and template.name, template and template.id))
    return count


def _tensors(config: ModelConfig, params: Params, dtype: jnp.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """(name, tensor as the file has it), one after the other; a stacked parameter is fetched once."""
    leaves = leaf_paths(params)
    for entry in family_of(config).names(config).entries:
        value = np.asarray(jax.device_get(leaves[entry.path]))
        if entry.per_layer:
            yield from ((layer_name(entry, i), _as_file(entry, layer, dtype)) for i, layer in enumerate(value))
        else:
            yield entry.name, _as_file(entry, value, dtype)


def _as_file(entry: Entry, value: np.ndarray, dtype: jnp.dtype) -> np.ndarray:
    if entry.form == "transposed":
        value = value.T
    elif entry.form == "merged":
        value = value.reshape(entry.file_shape(value.shape))
    return np.ascontiguousarray(value, dtype)


def _write_weights(folder: pathlib.Path, config: ModelConfig, params: Params, dtype: jnp.dtype, largest: int) -> int:
    """Writes one file, or numbered ones of at most `largest` bytes (a larger tensor stands alone) and their index."""
    groups: list[list[str]] = []
    pending: dict[str, np.ndarray] = {}
    total = 0

    def flush() -> None:
        groups.append(list(pending))
        safetensors.numpy.save_file(pending, folder / f"part-{len(groups)}", metadata={"format": "pt"})
        pending.clear()

    for name, tensor in _tensors(config, params, dtype):
        if pending and sum(t.nbytes for t in pending.values()) + tensor.nbytes > largest:
            flush()
        pending[name] = tensor
        total += tensor.nbytes
    flush()
    _name_parts(folder, groups, total)
    return sum(map(len, groups))


def _name_parts(folder: pathlib.Path, groups: list[list[str]], total: int) -> None:
    if len(groups) == 1:
        (folder / "part-1").rename(folder / SINGLE)
        return
    weight_map = {}
    for number, names in enumerate(groups, 1):
        final = f"model-{number:05}-of-{len(groups):05}.safetensors"
        (folder / f"part-{number}").rename(folder / final)
        weight_map.update(dict.fromkeys(names, final))
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _token_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
    if tokenizer is None:
        return {}
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}


def _generation(tokenizer: Tokenizer | None, template: Template | None) -> dict[str, Any]:
    """generation_config.json: every id that ends an assistant's turn stops generation."""
    ids = _token_ids(tokenizer)
    if tokenizer is not None and template is not None:
        ids["eos_token_id"] = list(stop_ids(template, tokenizer))
    return ids


def check_dtype(name: str) -> str:
    """`name` when it is a dtype to export in, or "same". Raises UserError."""
    if name not in ("float32", "bfloat16", "float16", "same"):
        raise UserError(f"--dtype {name}: choose float32, bfloat16, float16, or same")
    return name
