"""What GGUF calls the parameters and sizes of our models: four of its architectures, and what it cannot say.

`llama` turns pairs (0, 1), (2, 3), ... of a head's dims, so q and k have their rows in that order; `qwen2` and `qwen3`
turn halves, as Hugging Face files do. Every kernel lies as [out, in].
"""
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from easylm_imitation.models import GPT2Config, LlamaConfig, ModelConfig, RopeScaling, hf_family
from easylm_imitation.models.rope import frequencies
from easylm_imitation.schema import UserError, brief

FREQUENCIES = "rope_freqs.weight"       # what llama3's scaling divides each frequency by
_LLAMA = {
    "embed/embedding": "token_embd", "final_norm": "output_norm", "unembed/kernel": "output",
    "layers/attention_norm": "attn_norm", "layers/attention/q": "attn_q", "layers/attention/k": "attn_k",
    "layers/attention/v": "attn_v", "layers/attention/out": "attn_output", "layers/attention/q_norm": "attn_q_norm",
    "layers/attention/k_norm": "attn_k_norm", "layers/mlp_norm": "ffn_norm", "layers/mlp/gate": "ffn_gate",
    "layers/mlp/up": "ffn_up", "layers/mlp/down": "ffn_down"}
_GPT2 = {
    "embed/embedding": "token_embd", "embed_positions/embedding": "position_embd", "final_norm": "output_norm",
    "unembed/kernel": "output", "layers/attention_norm": "attn_norm", "layers/attention/qkv": "attn_qkv",
    "layers/attention/out": "attn_output", "layers/mlp_norm": "ffn_norm", "layers/mlp/up": "ffn_up",
    "layers/mlp/down": "ffn_down"}
_TABLES = {"llama": _LLAMA, "qwen2": _LLAMA, "qwen3": _LLAMA, "gpt2": _GPT2}
# Keys behind "<architecture>."; others say what is not computed here, unless they are empty.
_SIZES = ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count")
_NUMBERS = (*_SIZES, "attention.head_count_kv", "attention.key_length", "attention.value_length",
            "rope.dimension_count", "rope.scaling.original_context_length", "vocab_size")
_FRACTIONS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "rope.freq_base",
              "rope.scaling.factor")
_KNOWN = (*_NUMBERS, *_FRACTIONS, "rope.scaling.type")


def architecture(config: ModelConfig) -> str:
    """GGUF's name for models of this kind. Raises UserError for one that it, or llama.cpp, cannot compute as we do."""
    if isinstance(config, GPT2Config):
        return "gpt2"
    if not isinstance(config, LlamaConfig):
        raise UserError(f"GGUF is written for LLaMA's family and GPT-2, not for '{config.family}'; export it with "
                        "--format hf")
    if config.window and config.window < config.context:
        raise UserError(f"GGUF has no sliding window for LLaMAs, and this model sees {config.window} tokens of "
                        f"{config.context}; export it with --format hf")
    biases = config.qkv_bias, config.out_bias
    kinds = {(True, (False, False)): "qwen3", (False, (True, False)): "qwen2", (False, (False, False)): "llama",
             (False, (True, True)): "llama"}
    kind = kinds.get((config.qk_norm, biases))
    if kind is None or (config.rope_scaling and config.rope_scaling.kind == "llama3" and kind != "llama"):
        raise UserError(f"GGUF has no architecture with qkv_bias={config.qkv_bias}, out_bias={config.out_bias}, "
                        f"qk_norm={config.qk_norm} and rope_scaling={config.rope_scaling}; export it with --format hf")
    return kind


def tensor_name(kind: str, path: str) -> str:
    """`layers/attention/q/kernel` as `blk.{layer}.attn_q.weight`, with `{layer}` where there is one a layer."""
    table = _TABLES[kind]
    module, _, leaf = path.rpartition("/")
    name = table.get(path) or table[module]
    suffix = "bias" if leaf == "bias" else "weight"
    return f"blk.{{layer}}.{name}.{suffix}" if path.startswith("layers/") else f"{name}.{suffix}"


def pairs_turned(kind: str, path: str) -> bool:
    """Whether the rows of this tensor are in the order of pairs."""
    return kind == "llama" and path.startswith(("layers/attention/q/", "layers/attention/k/"))


def metadata_of(config: ModelConfig, kind: str) -> dict[str, int | float | str]:
    """The sizes, under GGUF's keys."""
    sizes: dict[str, Any] = {
        "block_count": config.layers, "context_length": config.context, "embedding_length": config.d_model,
        "feed_forward_length": config.d_ff, "attention.head_count": config.heads, "vocab_size": config.vocab_size}
    if isinstance(config, GPT2Config):
        sizes["attention.layer_norm_epsilon"] = config.norm_eps
    else:
        sizes |= {"attention.head_count_kv": config.kv_heads, "attention.layer_norm_rms_epsilon": config.norm_eps,
                  "attention.key_length": config.head_dim, "attention.value_length": config.head_dim,
                  "rope.dimension_count": config.head_dim, "rope.freq_base": config.rope_theta}
        if config.rope_scaling and config.rope_scaling.kind == "linear":
            sizes |= {"rope.scaling.type": "linear", "rope.scaling.factor": config.rope_scaling.factor}
        elif config.rope_scaling:       # FREQUENCIES says the rest
            sizes["rope.scaling.original_context_length"] = config.rope_scaling.original_context
    return {f"{kind}.{key}": value for key, value in sizes.items()}


def frequency_factors(config: ModelConfig) -> np.ndarray | None:
    """What each rotary frequency is divided by, float32 [head_dim / 2]; None where nothing or all by one factor."""
    scaling = getattr(config, "rope_scaling", None)
    if scaling is None or scaling.kind != "llama3":
        return None
    plain = frequencies(config.head_dim, config.rope_theta)
    return (plain / frequencies(config.head_dim, config.rope_theta, scaling)).astype(np.float32)


def config_of(metadata: Mapping[str, Any], names: Mapping[str, tuple[int, ...]],
              factors: np.ndarray | None) -> tuple[ModelConfig, str]:
    """(config, architecture) of a GGUF file's metadata, its tensors' shapes, and its frequency factors.

    Raises UserError for what is missing or not computed here."""
    kind = metadata.get("general.architecture")
    if not isinstance(kind, str) or kind not in _TABLES:
        raise UserError(f"general.architecture is {brief(kind)}; those that are read: {', '.join(_TABLES)}")
    own = {key.removeprefix(f"{kind}."): value for key, value in metadata.items() if key.startswith(f"{kind}.")}
    _check_keys(kind, own)
    if "token_embd.weight" not in names:
        raise UserError("the tensor 'token_embd.weight' is missing")
    if own["block_count"] > len(names):
        raise UserError(f"{kind}.block_count is {own['block_count']:,}, and the file has {len(names):,} tensors")
    mapping = _gpt2_mapping(own, names) if kind == "gpt2" else _llama_mapping(kind, own, names)
    config = hf_family(mapping["model_type"]).config_from_hf(mapping)
    if factors is not None:
        config = _with_llama3(config, factors, own.get("rope.scaling.original_context_length"))
    return config, kind


def _check_keys(kind: str, own: Mapping[str, Any]) -> None:
    """Raises UserError for a key that asks for what is not computed, or whose value is of another sort."""
    for key, value in own.items():
        shown = f"{kind}.{key} is {brief(value)}"
        empty = isinstance(value, (int, float, str)) and not value
        if key not in _KNOWN and not (value is True if key == "attention.causal" else empty):
            raise UserError(f"{shown}, which asks for something that is not computed here")
        if key in _NUMBERS and type(value) is not int:
            raise UserError(f"{shown}; it must be a number")
        if key in _FRACTIONS and not (type(value) in (int, float) and 0 < value < math.inf):
            raise UserError(f"{shown}; it must be a number above 0")
    missing = [key for key in _SIZES if key not in own]
    if missing:
        raise UserError(f"{kind}.{missing[0]} is missing")


def _llama_mapping(kind: str, own: Mapping[str, Any], names: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What config.json would say."""
    head_dim = own.get("attention.key_length") or own["embedding_length"] // max(own["attention.head_count"], 1)
    if {own.get(key, head_dim) for key in ("attention.value_length", "rope.dimension_count")} != {head_dim}:
        raise UserError(f"{kind}: heads whose values, or turned dims, are not {head_dim} as their keys are not "
                        "computed here")
    scaling = own.get("rope.scaling.type", "none")
    if scaling not in ("none", "linear", ""):
        raise UserError(f"{kind}.rope.scaling.type is {brief(scaling)}, which is not computed here")
    rope = {"rope_type": "linear", "factor": own.get("rope.scaling.factor")} if scaling == "linear" else None
    return {
        "model_type": kind, "vocab_size": names["token_embd.weight"][0],
        "max_position_embeddings": own["context_length"], "num_hidden_layers": own["block_count"],
        "hidden_size": own["embedding_length"], "head_dim": head_dim,
        "num_attention_heads": own["attention.head_count"], "intermediate_size": own["feed_forward_length"],
        "num_key_value_heads": own.get("attention.head_count_kv") or own["attention.head_count"], "hidden_act": "silu",
        "rms_norm_eps": _short(own.get("attention.layer_norm_rms_epsilon", 1e-5)), "rope_scaling": rope,
        "rope_theta": _short(own.get("rope.freq_base", 10000.0)), "tie_word_embeddings": "output.weight" not in names,
        **({"attention_bias": "blk.0.attn_q.bias" in names} if kind == "llama" else {})}


def _gpt2_mapping(own: Mapping[str, Any], names: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    return {
        "model_type": "gpt2", "vocab_size": names["token_embd.weight"][0], "n_positions": own["context_length"],
        "n_layer": own["block_count"], "n_embd": own["embedding_length"], "n_head": own["attention.head_count"],
        "n_inner": own["feed_forward_length"],
        "layer_norm_epsilon": _short(own.get("attention.layer_norm_epsilon", 1e-5)),
        "tie_word_embeddings": "output.weight" not in names}


def _with_llama3(config: ModelConfig, factors: np.ndarray, original: int | None) -> ModelConfig:
    """The config with LLaMA 3's scaling, whose largest factor is the file's. Raises UserError when it makes others."""
    if isinstance(config, LlamaConfig) and factors.shape == (config.head_dim // 2,):
        factor = float(np.round(factors.max(), 3))
        for context in filter(None, (original, 8192)):
            scaled = dataclasses.replace(config, rope_scaling=RopeScaling("llama3", max(factor, 1.0),
                                                                          original_context=context))
            found = frequency_factors(scaled)
            if np.allclose(found, factors, rtol=1e-3):
                return scaled
    raise UserError(f"the factors of '{FREQUENCIES}' are not those of LLaMA 3's scaled positions; others are not "
                    "computed here")


def _short(value: float) -> float:
    """A float32 as the shortest decimal that means it: 1e-06 and not 9.999999974752427e-07."""
    return float(str(np.float32(value)))
