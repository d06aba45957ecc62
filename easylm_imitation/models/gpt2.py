"""GPT-2 (Radford et al. 2019): LayerNorm before each half of a block, learned positions, GELU, biases, tied head."""
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


@dataclasses.dataclass(frozen=True)
class GPT2Config(FullHeadsConfig):
    """Sizes of a GPT-2. A `d_ff` of 0 is filled in: 4 * d_model, as in the published models."""
    tie_embeddings: bool = True
    norm_eps: float = 1e-5
    init_std: float = 0.02
    learned_positions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "d_ff", self.d_ff or 4 * self.d_model)
        super().__post_init__()

    @property
    def family(self) -> str:
        """Name of the family."""
        return "gpt2"

    def matmul_weights(self) -> int:
        """Weights that multiply each token."""
        return self.layers * (4 * self.d_model**2 + 2 * self.d_model * self.d_ff) + self.vocab_size * self.d_model

    def parameters(self) -> int:
        """How many numbers the parameters hold."""
        biases_and_norms = self.layers * (9 * self.d_model + self.d_ff) + 2 * self.d_model
        tables = self.context * self.d_model + (0 if self.tie_embeddings else self.vocab_size * self.d_model)
        return self.matmul_weights() + tables + biases_and_norms


class Attention(nnx.Module):
    """The projections around attention; q, k and v in one kernel [D, 3, D], as in the published files."""

    def __init__(self, config: GPT2Config, rngs: nnx.Rngs):
        d, std = config.d_model, config.init_std
        self.qkv = Linear(d, 3, d, std=std, bias=True, rngs=rngs)
        self.out = Linear(d, d, std=residual_std(std, config.layers), bias=True, rngs=rngs)


class MLP(nnx.Module):
    """down(gelu(up(x)))."""

    def __init__(self, config: GPT2Config, rngs: nnx.Rngs):
        d, std = config.d_model, config.init_std
        self.up = Linear(d, config.d_ff, std=std, bias=True, rngs=rngs)
        self.down = Linear(config.d_ff, d, std=residual_std(std, config.layers), bias=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        return self.down(jax.nn.gelu(self.up(x), approximate=True))


class Block(nnx.Module):
    """One layer, in two halves around attention."""

    def __init__(self, config: GPT2Config, rngs: nnx.Rngs):
        self.attention_norm = LayerNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config, rngs)
        self.mlp_norm = LayerNorm(config.d_model, config.norm_eps)
        self.mlp = MLP(config, rngs)
        self.heads = config.heads

    def project(self, x: jax.Array, shared: None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [B, T, D] -> q, k and v [B, T, N, H]."""
        qkv = self.attention.qkv(self.attention_norm(x))
        q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:-1], 3, self.heads, -1), -3, 0)
        return q, k, v

    def finish(self, x: jax.Array, attended: jax.Array) -> jax.Array:
        """x [B, T, D], attended [B, T, N, H] -> [B, T, D]."""
        x = x + self.attention.out(attended.reshape(x.shape))
        return x + self.mlp(self.mlp_norm(x))


class Ends(TokenEnds):
    """Before the first layer and after the last."""

    def __init__(self, config: GPT2Config, rngs: nnx.Rngs):
        self.embed = Embedding(config.vocab_size, config.d_model, std=config.init_std, rngs=rngs)
        self.embed_positions = Embedding(config.context, config.d_model, std=config.init_std, rngs=rngs)
        self.final_norm = LayerNorm(config.d_model, config.norm_eps)
        if not config.tie_embeddings:
            self.unembed = Linear(config.d_model, config.vocab_size, std=config.init_std, rngs=rngs)

    def start(self, tokens: jax.Array, positions: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, None]:
        """tokens, positions [B, T] -> token plus position embeddings [B, T, D]; the layers need no positions."""
        return self.embed(tokens, dtype) + self.embed_positions(positions, dtype), None


def specs(config: GPT2Config) -> SpecTable:
    """Heads and F on `tensor`, D on `fsdp`, the vocabulary on `tensor`."""
    table = vocab_spec(config.vocab_size)
    return (
        ("embed/embedding", table),
        ("embed_positions/embedding", P(None, "fsdp")),
        ("layers/(attention|mlp)_norm/(scale|bias)", P()),
        ("layers/attention/qkv/kernel", P("fsdp", None, "tensor")),
        ("layers/attention/qkv/bias", P(None, "tensor")),
        ("layers/mlp/up/kernel", P("fsdp", "tensor")),
        ("layers/mlp/up/bias", P("tensor")),
        ("layers/(attention/out|mlp/down)/kernel", P("tensor", "fsdp")),
        ("layers/(attention/out|mlp/down)/bias", P()),
        ("final_norm/(scale|bias)", P()),
        *(() if config.tie_embeddings else (("unembed/kernel", P(table[1], table[0])),)),
    )


def names(config: GPT2Config) -> NameMap:
    """Hugging Face names (GPT2LMHeadModel). Its Conv1D keeps kernels as [in, out], as we do; q, k and v are merged."""
    h = "transformer.h.{layer}."
    norms = [Entry(f"layers/{ours}/{a}", f"{h}{theirs}.{b}")
             for ours, theirs in (("attention_norm", "ln_1"), ("mlp_norm", "ln_2"))
             for a, b in (("scale", "weight"), ("bias", "bias"))]
    maps = (("attention/qkv", "attn.c_attn", "merged"), ("attention/out", "attn.c_proj", "same"),
            ("mlp/up", "mlp.c_fc", "same"), ("mlp/down", "mlp.c_proj", "same"))
    linears = [Entry(f"layers/{ours}/{a}", f"{h}{theirs}.{b}", form) for ours, theirs, form in maps
               for a, b in (("kernel", "weight"), ("bias", "bias"))]
    ends = [Entry("embed/embedding", "transformer.wte.weight"),
            Entry("embed_positions/embedding", "transformer.wpe.weight"),
            Entry("final_norm/scale", "transformer.ln_f.weight"), Entry("final_norm/bias", "transformer.ln_f.bias")]
    head = [] if config.tie_embeddings else [Entry("unembed/kernel", "lm_head.weight", "transposed")]
    copies = (("lm_head.weight", "transformer.wte.weight"),) if config.tie_embeddings else ()
    return NameMap((*ends, *norms, *linears, *head), (r".*\.attn\.(masked_)?bias",), copies, "transformer.")


def config_from_hf(mapping: Mapping[str, Any]) -> GPT2Config:
    """Reads config.json of model_type gpt2. Raises UserError for what this file does not compute."""
    demand(mapping, "activation_function", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new")
    demand(mapping, "scale_attn_weights", (True,), True)
    demand(mapping, "scale_attn_by_inverse_layer_idx", (False,), False)
    demand(mapping, "add_cross_attention", (False,), False)
    note_dropout(mapping, "attn_pdrop", "embd_pdrop", "resid_pdrop")
    return build(GPT2Config, dict(
        vocab_size=read(mapping, "vocab_size"), context=mapping.get("n_positions") or read(mapping, "n_ctx"),
        layers=read(mapping, "n_layer"), d_model=read(mapping, "n_embd"),
        heads=read(mapping, "n_head"), d_ff=mapping.get("n_inner") or 0,
        tie_embeddings=mapping.get("tie_word_embeddings", True),
        norm_eps=mapping.get("layer_norm_epsilon", 1e-5), init_std=mapping.get("initializer_range", 0.02)),
        "config.json")


def config_to_hf(config: GPT2Config) -> dict[str, Any]:
    """config.json as GPT2LMHeadModel reads it."""
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": config.vocab_size,
        "n_positions": config.context, "n_ctx": config.context, "n_layer": config.layers, "n_embd": config.d_model,
        "n_head": config.heads, "n_inner": config.d_ff, "activation_function": "gelu_new",
        "tie_word_embeddings": config.tie_embeddings, "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.init_std, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}


PRESETS = {
    "gpt2-debug": GPT2Config(256, 128, layers=2, d_model=32, heads=4, d_ff=128),
    "gpt2-10m": GPT2Config(16384, 1024, layers=8, d_model=256, heads=8, d_ff=1024),
    # published sizes
    "gpt2": GPT2Config(50257, 1024, layers=12, d_model=768, heads=12, d_ff=3072),
    "gpt2-medium": GPT2Config(50257, 1024, layers=24, d_model=1024, heads=16, d_ff=4096),
    "gpt2-large": GPT2Config(50257, 1024, layers=36, d_model=1280, heads=20, d_ff=5120),
    "gpt2-xl": GPT2Config(50257, 1024, layers=48, d_model=1600, heads=25, d_ff=6400),
}

FAMILY = Family("gpt2", GPT2Config, Block, Ends, specs, names, config_from_hf, config_to_hf, ("gpt2",), PRESETS)
