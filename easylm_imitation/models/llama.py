"""The LLaMA family (LLaMA 1 to 3.2, Mistral, TinyLlama, Qwen 2 to 3): RMSNorm, rotary positions, gated SiLU, GQA.

Options that these models need: biases, a tied head, a head dim of its own, scaled rotary positions, a sliding window,
norms on q and k. What another config asks (biases in the MLP, windows in some layers only) is refused.
"""
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from easylm_imitation.models.family import (
    Family,
    ModelConfig,
    SpecTable,
    demand,
    note_dropout,
    read,
    vocab_spec,
)
from easylm_imitation.models.layers import Embedding, Linear, RMSNorm, TokenEnds
from easylm_imitation.models.names import Entry, NameMap
from easylm_imitation.models.rope import RopeScaling, Tables, rope_from_hf, rope_tables, rope_to_hf, rotate
from easylm_imitation.schema import UserError, build


@dataclasses.dataclass(frozen=True)
class LlamaConfig(ModelConfig):
    """Sizes of a LLaMA. `kv_heads` and `head_dim` of 0 are filled in: as many as heads, d_model / heads."""
    kv_heads: int = 0
    head_dim: int = 0
    tie_embeddings: bool = False
    qkv_bias: bool = False
    out_bias: bool = False      # of attention's output projection
    qk_norm: bool = False       # RMSNorm of every head's q and k before they are turned
    window: int = 0             # tokens that a query sees, itself included; 0: all
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    init_std: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "kv_heads", self.kv_heads or self.heads)
        if not self.head_dim and self.d_model % self.heads:
            raise ValueError(f"d_model={self.d_model} is not a multiple of heads={self.heads}; or give head_dim")
        object.__setattr__(self, "head_dim", self.head_dim or self.d_model // self.heads)
        if self.heads % self.kv_heads or self.kv_heads < 1:
            raise ValueError(f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}")
        if self.head_dim % 2 or self.head_dim < 1:
            raise ValueError(f"head_dim={self.head_dim} must be even, because rotary positions turn pairs")
        if self.window < 0:
            raise ValueError(f"window={self.window} must be a number of tokens, or 0 for none")

    @property
    def family(self) -> str:
        """Name of the family."""
        return "llama"

    @property
    def attention_dim(self) -> int:
        """N * H."""
        return self.heads * self.head_dim

    def matmul_weights(self) -> int:
        """Weights that multiply each token."""
        attention = 2 * self.d_model * (self.heads + self.kv_heads) * self.head_dim
        return self.layers * (attention + 3 * self.d_model * self.d_ff) + self.vocab_size * self.d_model

    def parameters(self) -> int:
        """How many numbers the parameters hold."""
        biases = self.qkv_bias * (self.heads + 2 * self.kv_heads) * self.head_dim + self.out_bias * self.d_model
        norms = 2 * self.d_model + self.qk_norm * 2 * self.head_dim
        embedding = 0 if self.tie_embeddings else self.vocab_size * self.d_model
        return self.matmul_weights() + embedding + self.layers * (norms + biases) + self.d_model


class Attention(nnx.Module):
    """The projections around attention."""

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        n, k = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q = Linear(config.d_model, n, std=config.init_std, bias=config.qkv_bias, rngs=rngs)
        self.k = Linear(config.d_model, k, std=config.init_std, bias=config.qkv_bias, rngs=rngs)
        self.v = Linear(config.d_model, k, std=config.init_std, bias=config.qkv_bias, rngs=rngs)
        self.out = Linear(n, config.d_model, std=config.init_std, bias=config.out_bias, rngs=rngs)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps)


class GatedMLP(nnx.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        self.gate = Linear(config.d_model, config.d_ff, std=config.init_std, rngs=rngs)
        self.up = Linear(config.d_model, config.d_ff, std=config.init_std, rngs=rngs)
        self.down = Linear(config.d_ff, config.d_model, std=config.init_std, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """One layer, in two halves around attention."""

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config, rngs)
        self.mlp_norm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = GatedMLP(config, rngs)
        self.head_dim = config.head_dim

    def project(self, x: jax.Array, shared: Tables) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [B, T, D], rotary tables -> q [B, T, N, H], k and v [B, T, K, H]."""
        x = self.attention_norm(x)
        q, k, v = (self._heads(projection(x)) for projection in (self.attention.q, self.attention.k, self.attention.v))
        if hasattr(self.attention, "q_norm"):
            q, k = self.attention.q_norm(q), self.attention.k_norm(k)
        return rotate(q, shared), rotate(k, shared), v

    def finish(self, x: jax.Array, attended: jax.Array) -> jax.Array:
        """x [B, T, D], attended [B, T, N, H] -> [B, T, D]."""
        x = x + self.attention.out(attended.reshape(*x.shape[:-1], -1))
        return x + self.mlp(self.mlp_norm(x))

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], -1, self.head_dim)


class Ends(TokenEnds):
    """Before the first layer and after the last."""

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        self.embed = Embedding(config.vocab_size, config.d_model, std=config.init_std, rngs=rngs)
        self.final_norm = RMSNorm(config.d_model, config.norm_eps)
        if not config.tie_embeddings:
            self.unembed = Linear(config.d_model, config.vocab_size, std=config.init_std, rngs=rngs)
        self.rope = config.head_dim, config.rope_theta, config.rope_scaling

    def start(self, tokens: jax.Array, positions: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, Tables]:
        """tokens, positions [B, T] -> embeddings [B, T, D], and the rotary tables that every layer uses."""
        return self.embed(tokens, dtype), rope_tables(positions, *self.rope)


def specs(config: LlamaConfig) -> SpecTable:
    """Heads and F on `tensor`, D on `fsdp`, the vocabulary on `tensor`."""
    table = vocab_spec(config.vocab_size)
    return (
        ("embed/embedding", table),
        ("layers/(attention|mlp)_norm/scale", P()),
        ("layers/attention/(q|k|v)/kernel", P("fsdp", "tensor")),
        *((("layers/attention/(q|k|v)/bias", P("tensor")),) if config.qkv_bias else ()),
        *((("layers/attention/(q|k)_norm/scale", P()),) if config.qk_norm else ()),
        ("layers/attention/out/kernel", P("tensor", "fsdp")),
        *((("layers/attention/out/bias", P()),) if config.out_bias else ()),
        ("layers/mlp/(gate|up)/kernel", P("fsdp", "tensor")),
        ("layers/mlp/down/kernel", P("tensor", "fsdp")),
        ("final_norm/scale", P()),
        *(() if config.tie_embeddings else (("unembed/kernel", P(table[1], table[0])),)),
    )


def names(config: LlamaConfig) -> NameMap:
    """Hugging Face names (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)."""
    layer = "model.layers.{layer}."
    attention = [Entry(f"layers/attention/{ours}/kernel", f"{layer}self_attn.{theirs}.weight", "transposed")
                 for ours, theirs in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("out", "o_proj"))]
    with_bias = [*(("q", "k", "v") if config.qkv_bias else ()), *(("out",) if config.out_bias else ())]
    biases = [Entry(f"layers/attention/{p}/bias", f"{layer}self_attn.{p[0]}_proj.bias") for p in with_bias]
    mlp = [Entry(f"layers/mlp/{p}/kernel", f"{layer}mlp.{p}_proj.weight", "transposed") for p in ("gate", "up", "down")]
    norms = [Entry("layers/attention_norm/scale", f"{layer}input_layernorm.weight"),
             Entry("layers/mlp_norm/scale", f"{layer}post_attention_layernorm.weight"),
             *(Entry(f"layers/attention/{p}_norm/scale", f"{layer}self_attn.{p}_norm.weight")
               for p in ("q", "k") if config.qk_norm)]
    head = [] if config.tie_embeddings else [Entry("unembed/kernel", "lm_head.weight", "transposed")]
    embed, final = Entry("embed/embedding", "model.embed_tokens.weight"), Entry("final_norm/scale", "model.norm.weight")
    copies = (("lm_head.weight", embed.name),) if config.tie_embeddings else ()
    entries = (embed, *attention, *biases, *mlp, *norms, final, *head)
    return NameMap(entries, (r".*rotary_emb\.inv_freq",), copies, "model.")


def config_from_hf(mapping: Mapping[str, Any]) -> LlamaConfig:
    """Reads config.json of the four model_types. Raises UserError for what this file does not compute."""
    kind = mapping["model_type"]
    demand(mapping, "hidden_act", ("silu",), "silu")
    demand(mapping, "mlp_bias", (False,), False)
    demand(mapping, "attention_bias", (False, True) if kind in ("llama", "qwen3") else (False,), False)
    note_dropout(mapping, "attention_dropout")
    theta, part, scaling = rope_from_hf(mapping)
    if part != 1:
        raise UserError(f"config.json: partial_rotary_factor={part} is not supported for model_type '{kind}'")
    biased = bool(mapping.get("attention_bias", False))
    config = build(LlamaConfig, dict(
        vocab_size=read(mapping, "vocab_size"),
        # LLaMA 1's first dirs call it so
        context=mapping.get("max_sequence_length") or read(mapping, "max_position_embeddings"),
        layers=read(mapping, "num_hidden_layers"), d_model=read(mapping, "hidden_size"),
        heads=read(mapping, "num_attention_heads"), d_ff=read(mapping, "intermediate_size"),
        # transformers fills in what is missing by the class; only LLaMA's filling depends on nothing else
        kv_heads=mapping.get("num_key_value_heads") or (0 if kind == "llama" else read(mapping, "num_key_value_heads")),
        head_dim=mapping.get("head_dim") or (128 if kind == "qwen3" else 0),
        tie_embeddings=mapping.get("tie_word_embeddings", False),
        qkv_bias=kind == "qwen2" or biased, out_bias=biased, qk_norm=kind == "qwen3", rope_theta=theta,
        rope_scaling=scaling, norm_eps=mapping.get("rms_norm_eps", 1e-6),
        init_std=mapping.get("initializer_range", 0.02)), "config.json")
    return dataclasses.replace(config, window=_window(mapping, config.layers))


def config_to_hf(config: LlamaConfig) -> dict[str, Any]:
    """config.json as transformers 4 and 5 and vLLM read it. Raises UserError when no model_type has all options."""
    kind, own = _hf_kind(config)
    return {
        "architectures": [f"{kind.capitalize()}ForCausalLM"], "model_type": kind, "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context, "num_hidden_layers": config.layers, "hidden_size": config.d_model,
        "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads, "head_dim": config.head_dim,
        "intermediate_size": config.d_ff, "hidden_act": "silu", "tie_word_embeddings": config.tie_embeddings,
        **rope_to_hf(config.rope_theta, config.rope_scaling), "rms_norm_eps": config.norm_eps,
        "initializer_range": config.init_std, "attention_dropout": 0.0, **own}


def _hf_kind(config: LlamaConfig) -> tuple[str, dict[str, Any]]:
    """The model_type with exactly these options, and its own keys."""
    biases = (config.qkv_bias, config.out_bias)
    windowed = {"use_sliding_window": True, "sliding_window": config.window, "max_window_layers": 0}
    qwen = windowed if config.window else {"use_sliding_window": False}
    if config.qk_norm and biases in ((False, False), (True, True)):
        return "qwen3", {"attention_bias": config.out_bias, **qwen}
    if biases == (True, False) and not config.qk_norm:
        return "qwen2", qwen
    if config.window and biases == (False, False):
        return "mistral", {"sliding_window": config.window}
    if biases in ((False, False), (True, True)) and not config.window and not config.qk_norm:
        return "llama", {"attention_bias": config.out_bias, "mlp_bias": False}
    raise UserError(f"no Hugging Face model has qkv_bias={config.qkv_bias}, out_bias={config.out_bias}, "
                    f"qk_norm={config.qk_norm} and window={config.window} together; it cannot be exported")


def _window(mapping: Mapping[str, Any], layers: int) -> int:
    """The sliding window of all layers, 0 for none. Raises UserError when only some layers have it."""
    kind = mapping["model_type"]
    if kind == "llama":
        demand(mapping, "sliding_window", (None,), None)
    demand(mapping, "use_sliding_window", (True, False, None), False)
    in_use = mapping.get("use_sliding_window", False) if kind.startswith("qwen") else kind == "mistral"
    window = mapping.get("sliding_window", 4096) if in_use else None
    if window is not None and (type(window) is not int or window < 1):
        raise UserError(f"config.json: sliding_window={window!r} is not a number of tokens")
    windowed = _may_be_windowed(mapping, layers)
    if window is None or not windowed:
        return 0
    if windowed < layers:
        raise UserError(f"config.json: sliding_window={window} in {windowed} of {layers} layers is not supported; "
                        "it must be in all layers or none")
    return window


def _may_be_windowed(mapping: Mapping[str, Any], layers: int) -> int:
    """In how many layers a window would be."""
    kinds = mapping.get("layer_types")
    if kinds is None:
        full = mapping.get("max_window_layers", 28) if mapping["model_type"].startswith("qwen") else 0
        if type(full) is not int:
            raise UserError(f"config.json: max_window_layers={full!r} is not a number of layers")
        return max(layers - max(full, 0), 0)
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise UserError(f"config.json: layer_types={kinds!r} is not a list of {layers} layers' kinds")
    for layer in kinds:
        demand({**mapping, "layer_types": layer}, "layer_types", ("full_attention", "sliding_attention"), None)
    return kinds.count("sliding_attention")


def _llama1(layers: int, d_model: int, heads: int, d_ff: int, context: int = 2048, **own: Any) -> LlamaConfig:
    return LlamaConfig(32000, context, layers, d_model, heads, d_ff, **own)


def _llama3(layers: int, d_model: int, heads: int, d_ff: int, factor: float = 0, tied: bool = False,
            **own: Any) -> LlamaConfig:
    """LLaMA 3 reads 8,192 tokens; 3.1 and 3.2 stretch them (by `factor`) to 131,072."""
    scaling = RopeScaling("llama3", factor) if factor else None
    return LlamaConfig(128256, 131072 if factor else 8192, layers, d_model, heads, d_ff, kv_heads=8,
                       tie_embeddings=tied, rope_theta=5e5, rope_scaling=scaling, **own)


def _qwen2(layers: int, d_model: int, heads: int, d_ff: int, kv_heads: int, context: int = 32768, vocab: int = 151936,
           tied: bool = False, norm_eps: float = 1e-6) -> LlamaConfig:
    return LlamaConfig(vocab, context, layers, d_model, heads, d_ff, kv_heads=kv_heads, tie_embeddings=tied,
                       qkv_bias=True, rope_theta=1e6, norm_eps=norm_eps)


def _qwen3(layers: int, d_model: int, heads: int, d_ff: int, tied: bool = False) -> LlamaConfig:
    return LlamaConfig(151936, 40960, layers, d_model, heads, d_ff, kv_heads=8, head_dim=128, tie_embeddings=tied,
                       qk_norm=True, rope_theta=1e6, norm_eps=1e-6)


PRESETS: dict[str, LlamaConfig] = {
    # for tests and trials; override vocab_size with the tokenizer's
    "llama-debug": LlamaConfig(256, 128, layers=2, d_model=32, heads=4, d_ff=64, kv_heads=2),
    "mistral-debug": LlamaConfig(256, 128, layers=2, d_model=32, heads=4, d_ff=64, kv_heads=2, window=32),
    "qwen2-debug": LlamaConfig(256, 128, layers=2, d_model=32, heads=4, d_ff=64, kv_heads=2, tie_embeddings=True,
                               qkv_bias=True),
    "qwen3-debug": LlamaConfig(256, 128, layers=2, d_model=32, heads=4, d_ff=64, kv_heads=2, head_dim=16, qk_norm=True),
    "llama-10m": LlamaConfig(16384, 1024, layers=8, d_model=256, heads=8, d_ff=704, kv_heads=4, tie_embeddings=True),
    # published sizes: (layers, d_model, heads, d_ff)
    "llama-7b": _llama1(32, 4096, 32, 11008, norm_eps=1e-6),
    "llama-13b": _llama1(40, 5120, 40, 13824, norm_eps=1e-6),
    "llama-30b": _llama1(60, 6656, 52, 17920, norm_eps=1e-6),
    "llama-65b": _llama1(80, 8192, 64, 22016, norm_eps=1e-5),
    "llama-2-7b": _llama1(32, 4096, 32, 11008, context=4096),
    "llama-2-13b": _llama1(40, 5120, 40, 13824, context=4096),
    "llama-2-70b": _llama1(80, 8192, 64, 28672, context=4096, kv_heads=8),
    "llama-3-8b": _llama3(32, 4096, 32, 14336),
    "llama-3-70b": _llama3(80, 8192, 64, 28672),
    "llama-3.1-8b": _llama3(32, 4096, 32, 14336, factor=8),
    "llama-3.1-70b": _llama3(80, 8192, 64, 28672, factor=8),
    "llama-3.2-1b": _llama3(16, 2048, 32, 8192, factor=32, tied=True),
    "llama-3.2-3b": _llama3(28, 3072, 24, 8192, factor=32, tied=True),
    "tinyllama-1.1b": _llama1(22, 2048, 32, 5632, kv_heads=4),
    "open-llama-3b": _llama1(26, 3200, 32, 8640, norm_eps=1e-6),
    "open-llama-7b": _llama1(32, 4096, 32, 11008, norm_eps=1e-6),
    "open-llama-13b": _llama1(40, 5120, 40, 13824, norm_eps=1e-6),
    "mistral-7b": _llama1(32, 4096, 32, 14336, context=32768, kv_heads=8, window=4096),
    "mistral-7b-v0.3": LlamaConfig(32768, 32768, 32, 4096, 32, 14336, kv_heads=8, rope_theta=1e6),
    "qwen2-0.5b": _qwen2(24, 896, 14, 4864, 2, context=131072, tied=True),
    "qwen2-1.5b": _qwen2(28, 1536, 12, 8960, 2, context=131072, tied=True),
    "qwen2-7b": _qwen2(28, 3584, 28, 18944, 4, context=131072, vocab=152064),
    "qwen2-72b": _qwen2(80, 8192, 64, 29568, 8, context=131072, vocab=152064, norm_eps=1e-5),
    "qwen2.5-0.5b": _qwen2(24, 896, 14, 4864, 2, tied=True),
    "qwen2.5-1.5b": _qwen2(28, 1536, 12, 8960, 2, context=131072, tied=True),
    "qwen2.5-3b": _qwen2(36, 2048, 16, 11008, 2, tied=True),
    "qwen2.5-7b": _qwen2(28, 3584, 28, 18944, 4, context=131072, vocab=152064),
    "qwen2.5-14b": _qwen2(48, 5120, 40, 13824, 8, context=131072, vocab=152064, norm_eps=1e-5),
    "qwen2.5-32b": _qwen2(64, 5120, 40, 27648, 8, context=131072, vocab=152064, norm_eps=1e-5),
    "qwen2.5-72b": _qwen2(80, 8192, 64, 29568, 8, context=131072, vocab=152064, norm_eps=1e-5),
    "qwen3-0.6b": _qwen3(28, 1024, 16, 3072, tied=True),
    "qwen3-1.7b": _qwen3(28, 2048, 16, 6144, tied=True),
    "qwen3-4b": _qwen3(36, 2560, 32, 9728, tied=True),
    "qwen3-8b": _qwen3(36, 4096, 32, 12288),
    "qwen3-14b": _qwen3(40, 5120, 40, 17408),
    "qwen3-32b": _qwen3(64, 5120, 64, 25600),
}

FAMILY = Family("llama", LlamaConfig, Block, Ends, specs, names, config_from_hf, config_to_hf,
                hf_types=("llama", "mistral", "qwen2", "qwen3"), presets=PRESETS)
