"""The LLaMA family (LLaMA 1 and 2, Mistral, TinyLlama, Qwen2 and 2.5): RMSNorm, rotary positions, gated SiLU, GQA.

Options that these models need: q/k/v biases, a tied head, a head dim of its own. Not here yet: RoPE scaling (LLaMA
3.1), sliding windows shorter than the context; their configs are refused, never computed differently.
"""
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from easylm_imitation.models.family import Family, ModelConfig, SpecTable, demand, read, vocab_spec
from easylm_imitation.models.layers import Embedding, Linear, RMSNorm, rope_tables, rotate
from easylm_imitation.models.names import Entry, NameMap
from easylm_imitation.schema import UserError, build

Tables = tuple[jax.Array, jax.Array]  # cos and sin of the rotary positions


@dataclasses.dataclass(frozen=True)
class LlamaConfig(ModelConfig):
    """Sizes of a LLaMA. `kv_heads` and `head_dim` of 0 are filled in: as many as heads, d_model / heads."""
    kv_heads: int = 0
    head_dim: int = 0
    tie_embeddings: bool = False
    qkv_bias: bool = False
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    init_std: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "kv_heads", self.kv_heads or self.heads)
        object.__setattr__(self, "head_dim", self.head_dim or self.d_model // self.heads)
        if self.heads % self.kv_heads or self.kv_heads < 1:
            raise ValueError(f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}")
        if self.head_dim % 2 or self.head_dim < 1:
            raise ValueError(f"head_dim={self.head_dim} must be even, because rotary positions turn pairs")

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
        biases = (self.heads + 2 * self.kv_heads) * self.head_dim if self.qkv_bias else 0
        embedding = 0 if self.tie_embeddings else self.vocab_size * self.d_model
        return self.matmul_weights() + embedding + self.layers * (2 * self.d_model + biases) + self.d_model


class Attention(nnx.Module):
    """The projections around attention."""

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        n, k = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q = Linear(config.d_model, n, std=config.init_std, bias=config.qkv_bias, rngs=rngs)
        self.k = Linear(config.d_model, k, std=config.init_std, bias=config.qkv_bias, rngs=rngs)
        self.v = Linear(config.d_model, k, std=config.init_std, bias=config.qkv_bias, rngs=rngs)
        self.out = Linear(n, config.d_model, std=config.init_std, rngs=rngs)


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
        return rotate(q, shared), rotate(k, shared), v

    def finish(self, x: jax.Array, attended: jax.Array) -> jax.Array:
        """x [B, T, D], attended [B, T, N, H] -> [B, T, D]."""
        x = x + self.attention.out(attended.reshape(*x.shape[:-1], -1))
        return x + self.mlp(self.mlp_norm(x))

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], -1, self.head_dim)


class Ends(nnx.Module):
    """What stands before the first layer and after the last."""

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        self.embed = Embedding(config.vocab_size, config.d_model, std=config.init_std, rngs=rngs)
        self.final_norm = RMSNorm(config.d_model, config.norm_eps)
        if not config.tie_embeddings:
            self.unembed = Linear(config.d_model, config.vocab_size, std=config.init_std, rngs=rngs)
        self.head_dim, self.theta = config.head_dim, config.rope_theta

    def start(self, tokens: jax.Array, positions: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, Tables]:
        """tokens, positions [B, T] -> embeddings [B, T, D], and the rotary tables that every layer uses."""
        return self.embed(tokens, dtype), rope_tables(positions, self.head_dim, self.theta)

    def norm(self, x: jax.Array) -> jax.Array:
        """The final norm."""
        return self.final_norm(x)

    def head(self) -> jax.Array:
        """The head's kernel [D, V]."""
        return self.unembed.kernel[...] if hasattr(self, "unembed") else self.embed.embedding[...].T


def specs(config: LlamaConfig) -> SpecTable:
    """Heads and F on `tensor`, D on `fsdp`, the vocabulary on `tensor`."""
    table = vocab_spec(config.vocab_size)
    return (
        ("embed/embedding", table),
        ("layers/(attention|mlp)_norm/scale", P()),
        ("layers/attention/(q|k|v)/kernel", P("fsdp", "tensor")),
        *((("layers/attention/(q|k|v)/bias", P("tensor")),) if config.qkv_bias else ()),
        ("layers/attention/out/kernel", P("tensor", "fsdp")),
        ("layers/mlp/(gate|up)/kernel", P("fsdp", "tensor")),
        ("layers/mlp/down/kernel", P("tensor", "fsdp")),
        ("final_norm/scale", P()),
        *(() if config.tie_embeddings else (("unembed/kernel", P(table[1], table[0])),)),
    )


def names(config: LlamaConfig) -> NameMap:
    """Hugging Face names (LlamaForCausalLM, Qwen2ForCausalLM, MistralForCausalLM)."""
    layer = "model.layers.{layer}."
    attention = [Entry(f"layers/attention/{ours}/kernel", f"{layer}self_attn.{theirs}.weight", "transposed")
                 for ours, theirs in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("out", "o_proj"))]
    biases = [Entry(f"layers/attention/{p}/bias", f"{layer}self_attn.{p}_proj.bias")
              for p in ("q", "k", "v") if config.qkv_bias]
    mlp = [Entry(f"layers/mlp/{p}/kernel", f"{layer}mlp.{p}_proj.weight", "transposed") for p in ("gate", "up", "down")]
    norms = [Entry("layers/attention_norm/scale", f"{layer}input_layernorm.weight"),
             Entry("layers/mlp_norm/scale", f"{layer}post_attention_layernorm.weight")]
    head = [] if config.tie_embeddings else [Entry("unembed/kernel", "lm_head.weight", "transposed")]
    embed, final = Entry("embed/embedding", "model.embed_tokens.weight"), Entry("final_norm/scale", "model.norm.weight")
    copies = (("lm_head.weight", embed.name),) if config.tie_embeddings else ()
    entries = (embed, *attention, *biases, *mlp, *norms, final, *head)
    return NameMap(entries, (r".*rotary_emb\.inv_freq",), copies, "model.")


def config_from_hf(mapping: Mapping[str, Any]) -> LlamaConfig:
    """Reads config.json of model_type llama, mistral or qwen2. Raises UserError for what this file does not compute."""
    demand(mapping, "hidden_act", ("silu",), "silu")
    demand(mapping, "attention_bias", (False,), False)
    demand(mapping, "mlp_bias", (False,), False)
    context = read(mapping, "max_position_embeddings")
    _refuse_window(mapping, context)
    return build(LlamaConfig, dict(
        vocab_size=read(mapping, "vocab_size"), context=context, layers=read(mapping, "num_hidden_layers"),
        d_model=read(mapping, "hidden_size"), heads=read(mapping, "num_attention_heads"),
        d_ff=read(mapping, "intermediate_size"), kv_heads=mapping.get("num_key_value_heads") or 0,
        head_dim=mapping.get("head_dim") or 0,
        tie_embeddings=mapping.get("tie_word_embeddings", False), qkv_bias=mapping["model_type"] == "qwen2",
        rope_theta=_rope_theta(mapping), norm_eps=mapping.get("rms_norm_eps", 1e-6),
        init_std=mapping.get("initializer_range", 0.02)), "config.json")


def config_to_hf(config: LlamaConfig) -> dict[str, Any]:
    """config.json as transformers 4 and 5 and vLLM read it: model_type qwen2 with q/k/v biases, else llama."""
    kind, architecture = ("qwen2", "Qwen2ForCausalLM") if config.qkv_bias else ("llama", "LlamaForCausalLM")
    own = {"use_sliding_window": False} if config.qkv_bias else {"attention_bias": False, "mlp_bias": False}
    return {
        "architectures": [architecture], "model_type": kind, "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context, "num_hidden_layers": config.layers, "hidden_size": config.d_model,
        "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads, "head_dim": config.head_dim,
        "intermediate_size": config.d_ff, "hidden_act": "silu", "tie_word_embeddings": config.tie_embeddings,
        "rope_theta": config.rope_theta, "rope_scaling": None, "rms_norm_eps": config.norm_eps,
        "initializer_range": config.init_std, "attention_dropout": 0.0, **own}


def _rope_theta(mapping: Mapping[str, Any]) -> float:
    """`rope_theta` of transformers 4 files, or of `rope_parameters` in transformers 5 files; scaled RoPE is refused."""
    scaling = mapping.get("rope_parameters") or mapping.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        raise UserError(f"config.json: rope type '{kind}' is not supported; only unscaled rotary positions are")
    return float(scaling.get("rope_theta", mapping.get("rope_theta", 10000.0)))


def _refuse_window(mapping: Mapping[str, Any], context: int) -> None:
    window = mapping.get("sliding_window")
    in_use = mapping.get("use_sliding_window", mapping["model_type"] == "mistral")
    if in_use and window is not None and window < context:
        raise UserError(f"config.json: sliding_window={window} is shorter than the context of {context}, which is not "
                        f"supported; set max_position_embeddings to {window} to use the model within its window")


FAMILY = Family("llama", LlamaConfig, Block, Ends, specs, names, config_from_hf, config_to_hf,
                hf_types=("llama", "mistral", "qwen2"))
