"""Meta's own LLaMA checkpoints: `params.json` and `consolidated.00.pth`, `consolidated.01.pth`, ...

Each file holds one model-parallel part of every tensor. They are presented under Hugging Face's names and in its form,
so that everything behind this file knows one kind of checkpoint: parts are joined as they are read, and the rows of q
and k change places, because Meta turns neighbouring pairs of a head and Hugging Face its two halves.
"""
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from easylm_imitation.console import say
from easylm_imitation.schema import UserError
from easylm_imitation.weights.stored import HeadsTurned, Joined, Stored, Tensor
from easylm_imitation.weights.tensor_files import TensorFiles
from easylm_imitation.weights.torch_files import open_torch

PARAMS = "params.json"
# (Meta's name, Hugging Face's, the dim along which model-parallel parts join; None: every part holds all of it)
_NAMES = (
    (r"output\.weight", "lm_head.weight", 0),
    (r"norm\.weight", "model.norm.weight", None),
    (r"layers\.(\d+)\.attention_norm\.weight", r"model.layers.\1.input_layernorm.weight", None),
    (r"layers\.(\d+)\.ffn_norm\.weight", r"model.layers.\1.post_attention_layernorm.weight", None),
    (r"layers\.(\d+)\.attention\.w([qkv])\.weight", r"model.layers.\1.self_attn.\2_proj.weight", 0),
    (r"layers\.(\d+)\.attention\.wo\.weight", r"model.layers.\1.self_attn.o_proj.weight", 1),
    (r"layers\.(\d+)\.feed_forward\.w1\.weight", r"model.layers.\1.mlp.gate_proj.weight", 0),
    (r"layers\.(\d+)\.feed_forward\.w2\.weight", r"model.layers.\1.mlp.down_proj.weight", 1),
    (r"layers\.(\d+)\.feed_forward\.w3\.weight", r"model.layers.\1.mlp.up_proj.weight", 0),
)
_TABLE = "rope.freqs"       # rotary angles, which follow from the config
_KNOWN = {"dim", "n_layers", "n_heads", "n_kv_heads", "multiple_of", "ffn_dim_multiplier", "norm_eps", "vocab_size",
          "rope_theta", "use_scaled_rope", "max_batch_size", "max_seq_len"}
_SIZES = ("dim", "n_layers", "n_heads")
_NUMBERS = ("n_kv_heads", "norm_eps", "vocab_size", "rope_theta", "max_seq_len")


def is_meta(folder: str | os.PathLike) -> bool:
    """Whether the folder holds such a checkpoint (and no config.json, which would speak first)."""
    folder = pathlib.Path(folder)
    return (folder / PARAMS).is_file() and not (folder / "config.json").exists()


def open_meta(folder: str | os.PathLike) -> tuple[dict[str, Any], TensorFiles]:
    """(what config.json would say, the tensors as Hugging Face has them). Raises UserError for what is damaged, missing
    or unknown."""
    folder = pathlib.Path(folder)
    params = _read_params(folder / PARAMS)
    parts = [open_torch(path) for path in _part_files(folder)]
    dropped = (_TABLE,) if _TABLE in parts[0] else ()
    files = TensorFiles(folder, dict(_tensors(folder, params, parts)), dropped)
    return _config(folder, params, files), files


def _part_files(folder: pathlib.Path) -> list[pathlib.Path]:
    found = sorted(folder.glob("consolidated.*.pth"))
    wanted = [folder / f"consolidated.{i:02}.pth" for i in range(max(len(found), 1))]
    for path in wanted:
        if path not in found:
            raise UserError(f"{path}: no such file, a part of the weights that {PARAMS} belongs to")
    return wanted


def _read_params(path: pathlib.Path) -> dict[str, Any]:
    try:
        params = json.loads(path.read_text())
        unknown = sorted(set(params) - _KNOWN)
        sizes = all(isinstance(params[key], int) and params[key] > 0 for key in _SIZES)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not the parameters of a LLaMA checkpoint ({error!r})") from None
    if unknown:
        raise UserError(f"{path}: the key '{unknown[0]}' is not known; what it asks for would not be computed")
    if not sizes:
        raise UserError(f"{path}: {', '.join(_SIZES)} must be positive numbers")
    for key in _NUMBERS:
        if key in params and (isinstance(params[key], bool) or not isinstance(params[key], int | float)):
            raise UserError(f"{path}: {key}={params[key]!r} is not a number")
    if params.get("max_seq_len", 1) < 1:
        raise UserError(f"{path}: max_seq_len={params['max_seq_len']} must be a number of tokens")
    return params


def _tensors(folder: pathlib.Path, params: Mapping[str, Any],
             parts: list[dict[str, Stored]]) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face name, tensor); a name that is not Meta's is kept, and reported as one that has no place."""
    for name in {name: None for part in parts for name in part if name != _TABLE}:
        missing = [i for i, part in enumerate(parts) if name not in part]
        if missing:
            raise UserError(f"{folder}/consolidated.{missing[0]:02}.pth: the tensor '{name}' is missing, which other "
                            "parts have; they do not belong together")
        here = tuple(part[name] for part in parts)
        theirs, dim = _translated(name, here[0].shape, params["dim"])
        yield theirs, _turned(params, name, _joined(folder, name, here, dim))


def _translated(name: str, part: tuple[int, ...], width: int) -> tuple[str, int | None]:
    """(Hugging Face name, dim along which the parts join)."""
    if name == "tok_embeddings.weight":     # LLaMA 1 and 2 cut the width, LLaMA 3 the vocabulary
        return "model.embed_tokens.weight", 0 if part[-1:] == (width,) else 1
    for pattern, theirs, dim in _NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(theirs), dim
    return name, None


def _joined(folder: pathlib.Path, name: str, parts: tuple[Stored, ...], dim: int | None) -> Tensor:
    if dim is None or len(parts) == 1:
        return parts[0]
    alike = {(part.dtype, len(part.shape), part.shape[:dim] + part.shape[dim + 1:]) for part in parts}
    if len(alike) > 1 or len(parts[0].shape) <= dim:
        shapes = ", ".join(str(list(part.shape)) for part in parts)
        raise UserError(f"{folder}: the parts of the tensor '{name}' have shapes {shapes}, which do not join along dim "
                        f"{dim}")
    return Joined(parts, dim)


def _turned(params: Mapping[str, Any], name: str, tensor: Tensor) -> Tensor:
    kind = name.removesuffix(".weight")[-2:]
    if kind not in ("wq", "wk"):
        return tensor
    heads = params["n_heads"] if kind == "wq" else params.get("n_kv_heads") or params["n_heads"]
    head_dim = params["dim"] // params["n_heads"]
    # another shape is refused later, when all shapes are compared with the config's
    return HeadsTurned(tensor, heads) if tensor.shape == (heads * head_dim, params["dim"]) else tensor


def _config(folder: pathlib.Path, params: Mapping[str, Any], files: TensorFiles) -> dict[str, Any]:
    """What config.json would say. Vocabulary and F are the tensors' own: the file gives only hints of them."""
    for name in ("model.embed_tokens.weight", "model.layers.0.mlp.gate_proj.weight", "lm_head.weight"):
        if name not in files.shapes:
            raise UserError(f"{folder}: the tensor '{name}' (its name in Hugging Face's files) is missing")
    vocabulary, theta = files.shapes["model.embed_tokens.weight"][0], float(params.get("rope_theta", 10000.0))
    if params.get("vocab_size", -1) not in (-1, vocabulary):
        raise UserError(f"{folder / PARAMS}: vocab_size is {params['vocab_size']}, but the embedding has {vocabulary} "
                        "rows")
    scaling = _scaling(params)
    context = params.get("max_seq_len")
    if context is None:
        context = published_context(params, vocabulary, theta)
        say(f"{folder}: {PARAMS} does not say the context; {context} tokens are taken, as published")
    return {
        "model_type": "llama", "vocab_size": vocabulary, "max_position_embeddings": context,
        "num_hidden_layers": params["n_layers"], "hidden_size": params["dim"], "num_attention_heads": params["n_heads"],
        "num_key_value_heads": params.get("n_kv_heads") or params["n_heads"], "hidden_act": "silu",
        "intermediate_size": files.shapes["model.layers.0.mlp.gate_proj.weight"][0],
        "rms_norm_eps": params.get("norm_eps", 1e-5), "rope_theta": theta, "rope_scaling": scaling,
        "tie_word_embeddings": files.equal("lm_head.weight", "model.embed_tokens.weight")}


def _scaling(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """LLaMA 3.1's scaled positions; 3.2's small models (D of 2048 and 3072) stretch them further."""
    if not params.get("use_scaled_rope"):
        return None
    factor = 32.0 if params["dim"] in (2048, 3072) else 8.0
    return {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}


def published_context(params: Mapping[str, Any], vocabulary: int, theta: float) -> int:
    """The context of the published models: 3.1 and later scale, 3 has the large vocabulary, Code Llama a larger
    theta; LLaMA 2 differs from 1 in its epsilon, and in the grouped queries of 70B from 65B."""
    if params.get("use_scaled_rope"):
        return 131072
    if vocabulary >= 128000:
        return 8192
    if theta > 10000:
        return 16384
    is_65b = params.get("dim") == 8192 and "n_kv_heads" not in params
    return 4096 if params.get("norm_eps", 1e-5) == 1e-5 and not is_65b else 2048
