"""GGUF files out: one file with weights, tokenizer and chat template, for llama.cpp and what is built on it.

Kernels and tables are of the type asked for, norms and biases float32. As llama.cpp does, a q4_0 file keeps the head
(which may be the embedding) in q8_0. Tensors are turned, packed and written one at a time.
"""
import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from easylm_imitation.files import digest
from easylm_imitation.folders import finished_file
from easylm_imitation.models import LlamaConfig, ModelConfig, Params, family_of, stack
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError, plain
from easylm_imitation.sharding import leaf_paths
from easylm_imitation.text import Template, Tokenizer, chat_jinja, vocabulary_of
from easylm_imitation.weights.gguf_file import GGUFFile, gguf_package
from easylm_imitation.weights.gguf_names import (
    FREQUENCIES,
    architecture,
    frequency_factors,
    metadata_of,
    pairs_turned,
    tensor_name,
)
from easylm_imitation.weights.hf_extras import NO_EXTRAS, HFExtras

TYPES = ("f16", "q8_0", "q4_0")
NOTE = "easylm_imitation.note"
_FILE_TYPES = {"f16": 1, "q8_0": 7, "q4_0": 2}      # general.file_type
_LARGEST_F16 = 65504.0
_SAMPLED = 8    # rows of a tensor by which its numbers are known again
_BLOCK = 32     # numbers of a row that share a scale, in q8_0 and q4_0


@dataclasses.dataclass(frozen=True)
class _Out:
    """One tensor to write: `leaf`, or one `layer` of it."""
    name: str
    kind: str
    path: str               # of the parameter
    leaf: Any
    layer: int | None


def export_gguf(path: str | os.PathLike, config: ModelConfig, params: Params, tokenizer: Tokenizer | None,
                template: Template | None, lineage: Lineage, kind: str, extras: HFExtras = NO_EXTRAS) -> Lineage:
    """Writes a GGUF file of type `kind`, one of TYPES; returns the lineage of the numbers in it, which are others.

    Raises UserError for a model or tokenizer that the format cannot say, rows that its blocks do not divide, and
    numbers that float16 has no room for; then nothing is written.
    """
    package, arch = gguf_package(), architecture(config)
    if tokenizer is None:
        raise UserError("a GGUF file holds its tokenizer, and these weights bring none; put tokenizer.json beside them")
    words = vocabulary_of(tokenizer, config.vocab_size)
    written = _lineage(lineage, kind)
    planned = _planned(config, params, arch, kind)
    sample = _sample({tensor.name: _checked_rows(package, _turned(tensor, config, arch), tensor) for tensor in planned})
    with finished_file(path) as file:
        with contextlib.closing(package.GGUFWriter(file, arch)) as writer:
            _say(writer, {**metadata_of(config, arch), **words, **_general(written, kind),
                          **_chat(template, tokenizer, extras), NOTE: _note(written, template, planned, sample)})
            for tensor in planned:
                sizes, raw = _stored(package, _shape(tensor), tensor.kind)
                writer.add_tensor_info(tensor.name, sizes, *raw)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in planned:
                writer.write_tensor_data(_packed(package, _turned(tensor, config, arch), tensor))
    return written


def read_note(file: GGUFFile) -> dict[str, Any] | None:
    """What an export of ours says of its numbers; None for another's, or where the numbers were changed since."""
    text = file.metadata.get(NOTE)
    if not isinstance(text, str):
        return None
    try:
        note = json.loads(text)
        note = {key: note[key] for key in ("lineage", "template", "template_id", "tensors", "sample")}
        same = digest([(name, file.kinds[name].lower()) for name in file.tensors]) == note["tensors"]
        rows = {name: _some_rows(tensor.shape, tensor.read) for name, tensor in file.tensors.items()} if same else {}
        return note if same and _sample(rows) == note["sample"] else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _note(lineage: Lineage, template: Template | None, planned: list[_Out], sample: str) -> str:
    """What `read_note` reads: lineage and template, and by what to tell that the numbers are still those."""
    return json.dumps({"lineage": plain(lineage), "template": template and template.name,
                       "template_id": template and template.id, "sample": sample,
                       "tensors": digest([(tensor.name, tensor.kind) for tensor in planned])})


def _some_rows(shape: tuple[int, ...], read: Callable[..., np.ndarray]) -> np.ndarray:
    """Up to `_SAMPLED` rows of a tensor, from its first to its last; a vector is one row."""
    if len(shape) < 2:
        return read()
    places = np.unique(np.linspace(0, shape[0] - 1, min(shape[0], _SAMPLED)).astype(int)).tolist()
    return np.concatenate([read(slice(place, place + 1)) for place in places])


def _checked_rows(package: Any, value: np.ndarray, tensor: _Out) -> np.ndarray:
    """The rows of `_some_rows` as a reader of the file will have them. Raises UserError for numbers that it has no room
    for."""
    if tensor.kind != "f32" and not np.all(np.abs(value) <= _LARGEST_F16):
        raise UserError(f"'{tensor.name}' has numbers that GGUF's float16 has no room for; export with --format hf")
    rows = _some_rows(value.shape, lambda *index: value[index])
    known = package.GGMLQuantizationType[tensor.kind.upper()]
    return package.quants.dequantize(_packed(package, rows, tensor), known)


def _sample(rows: Mapping[str, np.ndarray]) -> str:
    return digest([(name, digest(np.asarray(rows[name], np.float32).tobytes())) for name in sorted(rows)])


def _lineage(lineage: Lineage, kind: str) -> Lineage:
    """Of the numbers after rounding: weights of their own, from the same base."""
    own = digest([lineage.id, "gguf", kind])
    said = plain(lineage) | {"id": own, "name": f"{lineage.name} ({kind})", "teachers": lineage.teachers}
    if lineage.base == lineage.id:
        said |= {"base": own, "base_name": said["name"]}
    return Lineage(**said)


def _planned(config: ModelConfig, params: Params, arch: str, kind: str) -> list[_Out]:
    """The tensors, in order. Raises UserError."""
    leaves, found = leaf_paths(stack(params)), []
    for entry in family_of(config).names(config).entries:
        leaf, name = leaves[entry.path], tensor_name(arch, entry.path)
        own = _type_of(config, entry.path, kind)
        for layer in range(leaf.shape[0]) if entry.per_layer else (None,):
            found.append(_Out(name if layer is None else name.format(layer=layer), own, entry.path, leaf, layer))
    factors = frequency_factors(config)
    if factors is not None:
        found.append(_Out(FREQUENCIES, "f32", FREQUENCIES, factors, None))
    for tensor in found:
        row = _shape(tensor)[-1]
        if tensor.kind in ("q8_0", "q4_0") and row % _BLOCK:
            raise UserError(f"{kind} packs rows in blocks of {_BLOCK} numbers, and those of '{tensor.name}' have "
                            f"{row}; choose --dtype f16")
    return found


def _type_of(config: ModelConfig, path: str, kind: str) -> str:
    if not path.endswith(("/kernel", "/embedding")) or path == "embed_positions/embedding":
        return "f32"
    head = "embed/embedding" if config.tie_embeddings else "unembed/kernel"
    return "q8_0" if kind == "q4_0" and path == head else kind


def _shape(tensor: _Out) -> tuple[int, ...]:
    """As the file has it: kernels [out, in]."""
    shape = tuple(tensor.leaf.shape if tensor.layer is None else tensor.leaf.shape[1:])
    if tensor.path.endswith("/kernel"):
        return math.prod(shape[1:]), shape[0]
    return (math.prod(shape),) if tensor.path.endswith("/bias") else shape


def _turned(tensor: _Out, config: ModelConfig, arch: str) -> np.ndarray:
    """The numbers as the file has them, float32."""
    value = np.asarray(tensor.leaf if tensor.layer is None else tensor.leaf[tensor.layer], np.float32)
    if tensor.path.endswith("/kernel"):
        value = value.reshape(value.shape[0], -1).T
    elif tensor.path.endswith("/bias"):
        value = value.reshape(-1)
    if pairs_turned(arch, tensor.path) and isinstance(config, LlamaConfig):
        heads = config.heads if "/q/" in tensor.path else config.kv_heads
        value = value.reshape(heads, 2, config.head_dim // 2, -1).swapaxes(1, 2).reshape(value.shape)
    return np.ascontiguousarray(value)


def _stored(package: Any, shape: tuple[int, ...], kind: str) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """(sizes, (dtype, bytes, type)) as the writer wants them; of blocks the sizes are bytes."""
    known = package.GGMLQuantizationType[kind.upper()]
    if kind in ("f32", "f16"):
        dtype = np.dtype(np.float32 if kind == "f32" else np.float16)
        return shape, (dtype, int(np.prod(shape)) * dtype.itemsize, known)
    sizes = package.quants.quant_shape_to_byte_shape(shape, known)
    return sizes, (np.dtype(np.uint8), int(np.prod(sizes)), known)


def _packed(package: Any, value: np.ndarray, tensor: _Out) -> np.ndarray:
    if tensor.kind == "f32":
        return value
    if tensor.kind == "f16":
        return value.astype(np.float16)
    return package.quants.quantize(value, package.GGMLQuantizationType[tensor.kind.upper()])


def _general(lineage: Lineage, kind: str) -> dict[str, Any]:
    return {"general.type": "model", "general.name": lineage.name, "general.file_type": _FILE_TYPES[kind],
            "general.quantization_version": 2}


def _chat(template: Template | None, tokenizer: Tokenizer, extras: HFExtras) -> dict[str, str]:
    chat = (chat_jinja(template, tokenizer) if template is not None else None) or extras.default_chat_template()
    return {"tokenizer.chat_template": chat} if chat else {}


def _say(writer: Any, metadata: dict[str, Any]) -> None:
    """Adds keys with the types that readers expect of them."""
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
