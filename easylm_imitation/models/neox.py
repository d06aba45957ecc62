"""GPT-NeoX and Pythia (Black et al. 2022, Biderman et al. 2023): LayerNorm, partly rotary positions, GELU, biases.

Attention and MLP may both read the block's input (parallel residual) or follow each other.
"""
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from easylm_imitation.models.family import (
    Family,
    FullHeadsConfig,
    SpecTable,
    demand,
    note_dropout,
    read,
    vocab_spec,
)
from easylm_imitation.models.layers import Embedding, LayerNorm, Linear, TokenEnds
from easylm_imitation.models.names import Entry, NameMap
from easylm_imitation.models.rope import RopeScaling, Tables, rope_from_hf, rope_tables, rope_to_hf, rotate
from easylm_imitation.schema import build

_GELUS = {"gelu": "exact", "gelu_fast": "tanh", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


@dataclasses.dataclass(frozen=True)
class NeoXConfig(FullHeadsConfig):
    """Sizes of a GPT-NeoX. `rotary_part` of each head's dims are turned, rounded down."""
    rotary_part: float = 0.25
    parallel: bool = True           # attention and MLP both read the block's input
    gelu: Literal["exact", "tanh"] = "exact"
    tie_embeddings: bool = False
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    init_std: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rotary_part <= 1 or self.rotary_dims % 2 or self.rotary_dims < 2:
            raise ValueError(f"rotary_part={self.rotary_part} of a head dim of {self.head_dim} is {self.rotary_dims} "
                             "dims; it must be an even number from 2 on, because rotary positions turn pairs")

    @property
    def family(self) -> str:
        """Name of the family."""
        return "neox"

    @property
    def rotary_dims(self) -> int:
        """How many dims of each head are turned."""
        return int(self.head_dim * self.rotary_part)

    def matmul_weights(self) -> int:
        """Weights that multiply each token."""
        return self.layers * (4 * self.d_model**2 + 2 * self.d_model * self.d_ff) + self.vocab_size * self.d_model

    def parameters(self) -> int:
        """How many numbers the parameters hold."""
        biases_and_norms = self.layers * (9 * self.d_model + self.d_ff) + 2 * self.d_model
        embedding = 0 if self.tie_embeddings else self.vocab_size * self.d_model
        return self.matmul_weights() + embedding + biases_and_norms


class Attention(nnx.Module):
    """The projections around attention; q, k and v of a head lie together, as in the published files."""

    def __init__(self, config: NeoXConfig, rngs: nnx.Rngs):
        self.qkv = Linear(config.d_model, 3 * config.d_model, std=config.init_std, bias=True, rngs=rngs)
        self.out = Linear(config.d_model, config.d_model, std=config.init_std, bias=True, rngs=rngs)


class MLP(nnx.Module):
    """down(gelu(up(x)))."""

    def __init__(self, config: NeoXConfig, rngs: nnx.Rngs):
        self.up = Linear(config.d_model, config.d_ff, std=config.init_std, bias=True, rngs=rngs)
        self.down = Linear(config.d_ff, config.d_model, std=config.init_std, bias=True, rngs=rngs)
        self.approximate = config.gelu == "tanh"

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        return self.down(jax.nn.gelu(self.up(x), approximate=self.approximate))


class Block(nnx.Module):
    """One layer, in two halves around attention."""

    def __init__(self, config: NeoXConfig, rngs: nnx.Rngs):
        self.attention_norm = LayerNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config, rngs)
        self.mlp_norm = LayerNorm(config.d_model, config.norm_eps)
        self.mlp = MLP(config, rngs)
        self.heads, self.parallel = config.heads, config.parallel

    def project(self, x: jax.Array, shared: Tables) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [B, T, D], rotary tables -> q, k and v [B, T, N, H]."""
        qkv = self.attention.qkv(self.attention_norm(x))
        q, k, v = jnp.split(qkv.reshape(*x.shape[:-1], self.heads, -1), 3, axis=-1)
        return rotate(q, shared), rotate(k, shared), v

    def finish(self, x: jax.Array, attended: jax.Array) -> jax.Array:
        """x [B, T, D], attended [B, T, N, H] -> [B, T, D]."""
        after = x + self.attention.out(attended.reshape(x.shape))
        return after + self.mlp(self.mlp_norm(x if self.parallel else after))


class Ends(TokenEnds):
    """Before the first layer and after the last."""

    def __init__(self, config: NeoXConfig, rngs: nnx.Rngs):
        self.embed = Embedding(config.vocab_size, config.d_model, std=config.init_std, rngs=rngs)
        self.final_norm = LayerNorm(config.d_model, config.norm_eps)
        if not config.tie_embeddings:
            self.unembed = Linear(config.d_model, config.vocab_size, std=config.init_std, rngs=rngs)
        self.rope = config.rotary_dims, config.rope_theta, config.rope_scaling

    def start(self, tokens: jax.Array, positions: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, Tables]:
        """tokens, positions [B, T] -> embeddings [B, T, D], and the rotary tables that every layer uses."""
        return self.embed(tokens, dtype), rope_tables(positions, *self.rope)


def specs(config: NeoXConfig) -> SpecTable:
    """Heads and F on `tensor`, D on `fsdp`, the vocabulary on `tensor`."""
    table = vocab_spec(config.vocab_size)
    return (
        ("embed/embedding", table),
        ("layers/(attention|mlp)_norm/(scale|bias)", P()),
        ("layers/(attention/qkv|mlp/up)/kernel", P("fsdp", "tensor")),
        ("layers/(attention/qkv|mlp/up)/bias", P("tensor")),
        ("layers/(attention/out|mlp/down)/kernel", P("tensor", "fsdp")),
        ("layers/(attention/out|mlp/down)/bias", P()),
        ("final_norm/(scale|bias)", P()),
        *(() if config.tie_embeddings else (("unembed/kernel", P(table[1], table[0])),)),
    )


def names(config: NeoXConfig) -> NameMap:
    """Hugging Face names (GPTNeoXForCausalLM)."""
    layer = "gpt_neox.layers.{layer}."
    norms = [("layers/attention_norm", f"{layer}input_layernorm"),
             ("layers/mlp_norm", f"{layer}post_attention_layernorm"), ("final_norm", "gpt_neox.final_layer_norm")]
    linears = [("layers/attention/qkv", f"{layer}attention.query_key_value"),
               ("layers/attention/out", f"{layer}attention.dense"),
               ("layers/mlp/up", f"{layer}mlp.dense_h_to_4h"), ("layers/mlp/down", f"{layer}mlp.dense_4h_to_h")]
    head = [] if config.tie_embeddings else [Entry("unembed/kernel", "embed_out.weight", "transposed")]
    entries = (
        Entry("embed/embedding", "gpt_neox.embed_in.weight"),
        *(Entry(f"{ours}/scale", f"{theirs}.weight") for ours, theirs in norms),
        *(Entry(f"{ours}/kernel", f"{theirs}.weight", "transposed") for ours, theirs in linears),
        *(Entry(f"{ours}/bias", f"{theirs}.bias") for ours, theirs in (*norms, *linears)), *head)
    buffers = (r".*\.attention\.(masked_)?bias", r".*\.rotary_emb\.inv_freq")
    copies = (("embed_out.weight", entries[0].name),) if config.tie_embeddings else ()
    return NameMap(entries, buffers, copies, "gpt_neox.")


def config_from_hf(mapping: Mapping[str, Any]) -> NeoXConfig:
    """Reads config.json of model_type gpt_neox. Raises UserError for what this file does not compute."""
    demand(mapping, "hidden_act", tuple(_GELUS), "gelu")
    demand(mapping, "attention_bias", (True,), True)
    note_dropout(mapping, "attention_dropout", "hidden_dropout")
    theta, part, scaling = rope_from_hf(mapping, "rotary_emb_base", "rotary_pct", part=0.25)
    return build(NeoXConfig, dict(
        vocab_size=read(mapping, "vocab_size"), context=read(mapping, "max_position_embeddings"),
        layers=read(mapping, "num_hidden_layers"), d_model=read(mapping, "hidden_size"),
        heads=read(mapping, "num_attention_heads"), d_ff=read(mapping, "intermediate_size"), rotary_part=part,
        parallel=mapping.get("use_parallel_residual", True), gelu=_GELUS[mapping.get("hidden_act", "gelu")],
        tie_embeddings=mapping.get("tie_word_embeddings", False), rope_theta=theta, rope_scaling=scaling,
        norm_eps=mapping.get("layer_norm_eps", 1e-5), init_std=mapping.get("initializer_range", 0.02)), "config.json")


def config_to_hf(config: NeoXConfig) -> dict[str, Any]:
    """config.json as GPTNeoXForCausalLM reads it; transformers 4 has names of its own for theta and the turned part."""
    rope = rope_to_hf(config.rope_theta, config.rope_scaling)
    return {
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context, "num_hidden_layers": config.layers, "hidden_size": config.d_model,
        "num_attention_heads": config.heads, "intermediate_size": config.d_ff,
        "hidden_act": "gelu" if config.gelu == "exact" else "gelu_fast", "attention_bias": True,
        "rotary_pct": config.rotary_part, "rotary_emb_base": rope.pop("rope_theta"), **rope,
        "use_parallel_residual": config.parallel, "tie_word_embeddings": config.tie_embeddings,
        "layer_norm_eps": config.norm_eps, "initializer_range": config.init_std, "attention_dropout": 0.0,
        "hidden_dropout": 0.0}


def _neox(layers: int, d_model: int, heads: int, vocab: int = 50304, **own: Any) -> NeoXConfig:
    return NeoXConfig(vocab, 2048, layers, d_model, heads, 4 * d_model, **own)


PRESETS = {
    "pythia-debug": NeoXConfig(256, 128, layers=2, d_model=32, heads=4, d_ff=128),
    # published sizes
    "pythia-70m": _neox(6, 512, 8),
    "pythia-160m": _neox(12, 768, 12),
    "pythia-410m": _neox(24, 1024, 16),
    "pythia-1b": _neox(16, 2048, 8),
    "pythia-1.4b": _neox(24, 2048, 16),
    "pythia-2.8b": _neox(32, 2560, 32),
    "pythia-6.9b": _neox(32, 4096, 32, vocab=50432),
    "pythia-12b": _neox(36, 5120, 40, vocab=50688),
    "gpt-neox-20b": _neox(44, 6144, 64, vocab=50432, gelu="tanh"),
}

FAMILY = Family("neox", NeoXConfig, Block, Ends, specs, names, config_from_hf, config_to_hf, ("gpt_neox",), PRESETS)
