"""OPT (Zhang et al. 2022): learned positions that begin at row 2, ReLU, biases, a tied head.

The 350M model differs: its norms stand after each half of a block, there is no final norm, and its embedding is
narrower than its layers, with projections in and out.
"""
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

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
from easylm_imitation.models.layers import Embedding, LayerNorm, Linear, TokenEnds, residual_std
from easylm_imitation.models.names import Entry, NameMap
from easylm_imitation.schema import build

OFFSET = 2      # rows of the position table before position 0, once meant for padding; kept, so that files stay equal


@dataclasses.dataclass(frozen=True)
class OPTConfig(FullHeadsConfig):
    """Sizes of an OPT. `embed_dim` of 0 is filled in with d_model, which means no projections."""
    embed_dim: int = 0
    norm_first: bool = True     # norms before each half of a block and after the last; else after each half
    tie_embeddings: bool = True
    init_std: float = 0.02
    learned_positions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "embed_dim", self.embed_dim or self.d_model)
        if self.embed_dim < 1:
            raise ValueError(f"embed_dim is {self.embed_dim}; it must be at least 1")

    @property
    def family(self) -> str:
        """Name of the family."""
        return "opt"

    @property
    def projected(self) -> bool:
        """Whether the embedding has a width of its own."""
        return self.embed_dim != self.d_model

    def matmul_weights(self) -> int:
        """Weights that multiply each token."""
        layers = self.layers * (4 * self.d_model**2 + 2 * self.d_model * self.d_ff)
        return layers + self.vocab_size * self.embed_dim + self.projected * 2 * self.embed_dim * self.d_model

    def parameters(self) -> int:
        """How many numbers the parameters hold."""
        biases_and_norms = self.layers * (9 * self.d_model + self.d_ff) + self.norm_first * 2 * self.d_model
        embedding = 0 if self.tie_embeddings else self.vocab_size * self.embed_dim
        return self.matmul_weights() + embedding + (self.context + OFFSET) * self.d_model + biases_and_norms


class Attention(nnx.Module):
    """The projections around attention."""

    def __init__(self, config: OPTConfig, rngs: nnx.Rngs):
        d, std = config.d_model, config.init_std
        self.q, self.k, self.v = (Linear(d, d, std=std, bias=True, rngs=rngs) for _ in range(3))
        self.out = Linear(d, d, std=residual_std(std, config.layers), bias=True, rngs=rngs)


class MLP(nnx.Module):
    """down(relu(up(x)))."""

    def __init__(self, config: OPTConfig, rngs: nnx.Rngs):
        d, std = config.d_model, config.init_std
        self.up = Linear(d, config.d_ff, std=std, bias=True, rngs=rngs)
        self.down = Linear(config.d_ff, d, std=residual_std(std, config.layers), bias=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        return self.down(jax.nn.relu(self.up(x)))


class Block(nnx.Module):
    """One layer, in two halves around attention."""

    def __init__(self, config: OPTConfig, rngs: nnx.Rngs):
        self.attention_norm = LayerNorm(config.d_model)
        self.attention = Attention(config, rngs)
        self.mlp_norm = LayerNorm(config.d_model)
        self.mlp = MLP(config, rngs)
        self.heads, self.norm_first = config.heads, config.norm_first

    def project(self, x: jax.Array, shared: None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [B, T, D] -> q, k and v [B, T, N, H]."""
        x = self.attention_norm(x) if self.norm_first else x
        q, k, v = (projection(x).reshape(*x.shape[:-1], self.heads, -1)
                   for projection in (self.attention.q, self.attention.k, self.attention.v))
        return q, k, v

    def finish(self, x: jax.Array, attended: jax.Array) -> jax.Array:
        """x [B, T, D], attended [B, T, N, H] -> [B, T, D]."""
        x = x + self.attention.out(attended.reshape(x.shape))
        if self.norm_first:
            return x + self.mlp(self.mlp_norm(x))
        x = self.attention_norm(x)
        return self.mlp_norm(x + self.mlp(x))


class Ends(TokenEnds):
    """Before the first layer and after the last."""

    def __init__(self, config: OPTConfig, rngs: nnx.Rngs):
        std = config.init_std
        self.embed = Embedding(config.vocab_size, config.embed_dim, std=std, rngs=rngs)
        self.embed_positions = Embedding(config.context + OFFSET, config.d_model, std=std, rngs=rngs)
        if config.projected:
            self.project_in = Linear(config.embed_dim, config.d_model, std=std, rngs=rngs)
            self.project_out = Linear(config.d_model, config.embed_dim, std=std, rngs=rngs)
        if config.norm_first:
            self.final_norm = LayerNorm(config.d_model)
        if not config.tie_embeddings:
            self.unembed = Linear(config.embed_dim, config.vocab_size, std=std, rngs=rngs)

    def start(self, tokens: jax.Array, positions: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, None]:
        """tokens, positions [B, T] -> token plus position embeddings [B, T, D]; the layers need no positions."""
        x = self.embed(tokens, dtype)
        x = self.project_in(x) if hasattr(self, "project_in") else x
        return x + self.embed_positions(positions + OFFSET, dtype), None

    def norm(self, x: jax.Array) -> jax.Array:
        """The final norm, if any, and the projection to the head's width: [B, T, D] -> [B, T, embed_dim]."""
        x = self.final_norm(x) if hasattr(self, "final_norm") else x
        return self.project_out(x) if hasattr(self, "project_out") else x


def specs(config: OPTConfig) -> SpecTable:
    """Heads and F on `tensor`, D on `fsdp`, the vocabulary on `tensor`."""
    table = vocab_spec(config.vocab_size)
    return (
        ("embed/embedding", table),
        ("embed_positions/embedding", P(None, "fsdp")),
        *((("project_(in|out)/kernel", P("fsdp", "tensor")),) if config.projected else ()),
        ("layers/(attention|mlp)_norm/(scale|bias)", P()),
        ("layers/attention/(q|k|v)/kernel", P("fsdp", "tensor")),
        ("layers/attention/(q|k|v)/bias", P("tensor")),
        ("layers/mlp/up/kernel", P("fsdp", "tensor")),
        ("layers/mlp/up/bias", P("tensor")),
        ("layers/(attention/out|mlp/down)/kernel", P("tensor", "fsdp")),
        ("layers/(attention/out|mlp/down)/bias", P()),
        *((("final_norm/(scale|bias)", P()),) if config.norm_first else ()),
        *(() if config.tie_embeddings else (("unembed/kernel", P(table[1], table[0])),)),
    )


def names(config: OPTConfig) -> NameMap:
    """Hugging Face names (OPTForCausalLM); a layer's second norm is its `final_layer_norm`, like the model's own."""
    top, layer = "model.decoder.", "model.decoder.layers.{layer}."
    norms = [(f"layers/{ours}_norm", f"{layer}{theirs}") for ours, theirs in
             (("attention", "self_attn_layer_norm"), ("mlp", "final_layer_norm"))]
    norms += [("final_norm", f"{top}final_layer_norm")] if config.norm_first else []
    linears = [(f"layers/attention/{p}", f"{layer}self_attn.{p}_proj") for p in ("q", "k", "v", "out")]
    linears += [("layers/mlp/up", f"{layer}fc1"), ("layers/mlp/down", f"{layer}fc2")]
    projections = [f"project_{p}" for p in ("in", "out") if config.projected]
    head = [] if config.tie_embeddings else [Entry("unembed/kernel", "lm_head.weight", "transposed")]
    entries = (
        Entry("embed/embedding", f"{top}embed_tokens.weight"),
        Entry("embed_positions/embedding", f"{top}embed_positions.weight"),
        *(Entry(f"{p}/kernel", f"{top}{p}.weight", "transposed") for p in projections),
        *(Entry(f"{ours}/scale", f"{theirs}.weight") for ours, theirs in norms),
        *(Entry(f"{ours}/kernel", f"{theirs}.weight", "transposed") for ours, theirs in linears),
        *(Entry(f"{ours}/bias", f"{theirs}.bias") for ours, theirs in (*norms, *linears)), *head)
    copies = (("lm_head.weight", entries[0].name),) if config.tie_embeddings else ()
    return NameMap(entries, copies=copies, prefix="model.")


def config_from_hf(mapping: Mapping[str, Any]) -> OPTConfig:
    """Reads config.json of model_type opt. Raises UserError for what this file does not compute."""
    demand(mapping, "activation_function", ("relu",), "relu")
    demand(mapping, "enable_bias", (True,), True)
    demand(mapping, "layer_norm_elementwise_affine", (True,), True)
    demand(mapping, "_remove_final_layer_norm", (False,), False)
    note_dropout(mapping, "dropout", "attention_dropout", "layerdrop")
    return build(OPTConfig, dict(
        vocab_size=read(mapping, "vocab_size"), context=read(mapping, "max_position_embeddings"),
        layers=read(mapping, "num_hidden_layers"), d_model=read(mapping, "hidden_size"),
        heads=read(mapping, "num_attention_heads"), d_ff=read(mapping, "ffn_dim"),
        embed_dim=mapping.get("word_embed_proj_dim") or 0, norm_first=mapping.get("do_layer_norm_before", True),
        tie_embeddings=mapping.get("tie_word_embeddings", True), init_std=mapping.get("init_std", 0.02)), "config.json")


def config_to_hf(config: OPTConfig) -> dict[str, Any]:
    """config.json as OPTForCausalLM reads it."""
    return {
        "architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context, "num_hidden_layers": config.layers, "hidden_size": config.d_model,
        "num_attention_heads": config.heads, "ffn_dim": config.d_ff, "word_embed_proj_dim": config.embed_dim,
        "do_layer_norm_before": config.norm_first, "activation_function": "relu", "enable_bias": True,
        "layer_norm_elementwise_affine": True, "_remove_final_layer_norm": False,
        "tie_word_embeddings": config.tie_embeddings, "init_std": config.init_std, "dropout": 0.0,
        "attention_dropout": 0.0, "layerdrop": 0.0}


def _opt(layers: int, d_model: int, heads: int, **own: Any) -> OPTConfig:
    return OPTConfig(50272, 2048, layers, d_model, heads, 4 * d_model, **own)


PRESETS = {
    "opt-debug": OPTConfig(256, 128, layers=2, d_model=32, heads=4, d_ff=128),
    # published sizes
    "opt-125m": _opt(12, 768, 12),
    "opt-350m": _opt(24, 1024, 16, embed_dim=512, norm_first=False),
    "opt-1.3b": _opt(24, 2048, 32),
    "opt-2.7b": _opt(32, 2560, 32),
    "opt-6.7b": _opt(32, 4096, 32),
    "opt-13b": _opt(40, 5120, 40),
    "opt-30b": _opt(48, 7168, 56),
    "opt-66b": _opt(64, 9216, 72),
}

FAMILY = Family("opt", OPTConfig, Block, Ends, specs, names, config_from_hf, config_to_hf, ("opt",), PRESETS)
