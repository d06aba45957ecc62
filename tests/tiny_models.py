"""Tiny models of every kind, with numbers, and packed rows to run them on."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from easylm_imitation.models import GPT2Config, LlamaConfig, NeoXConfig, OPTConfig, RopeScaling, create
from easylm_imitation.sharding import map_paths

CONFIGS = {
    "llama": LlamaConfig(64, 64, layers=2, d_model=16, heads=4, d_ff=24, kv_heads=2),
    "llama3": LlamaConfig(64, 64, layers=2, d_model=16, heads=4, d_ff=24, kv_heads=2, tie_embeddings=True,
                          rope_theta=100.0, rope_scaling=RopeScaling("llama3", 8.0, original_context=32)),
    "llama_bias": LlamaConfig(64, 64, layers=2, d_model=16, heads=2, d_ff=24, qkv_bias=True, out_bias=True,
                              rope_scaling=RopeScaling("linear", 2.0)),
    "mistral": LlamaConfig(64, 64, layers=2, d_model=16, heads=4, d_ff=24, kv_heads=2, head_dim=8, window=5),
    "qwen2": LlamaConfig(64, 64, layers=2, d_model=16, heads=4, d_ff=24, kv_heads=1, head_dim=8, tie_embeddings=True,
                         qkv_bias=True, rope_theta=1e6),
    "qwen3": LlamaConfig(64, 64, layers=2, d_model=16, heads=6, d_ff=24, kv_heads=2, head_dim=8, qk_norm=True),
    "gpt2": GPT2Config(64, 64, layers=2, d_model=16, heads=4, d_ff=32),
    "opt": OPTConfig(64, 64, layers=2, d_model=16, heads=4, d_ff=32),
    "opt_350m": OPTConfig(64, 64, layers=2, d_model=16, heads=4, d_ff=32, embed_dim=8, norm_first=False),
    "pythia": NeoXConfig(64, 64, layers=2, d_model=16, heads=2, d_ff=32),
    "neox_serial": NeoXConfig(64, 64, layers=2, d_model=16, heads=4, d_ff=32, rotary_part=1.0, parallel=False,
                              gelu="tanh", tie_embeddings=True, rope_scaling=RopeScaling("linear", 2.0)),
}
KINDS = {       # what each stands for in the table of docs/models.md
    "llama": "LLaMA 1 and 2, TinyLlama: untied head, grouped queries",
    "llama3": "LLaMA 3.1 and 3.2: scaled rotary positions, tied head",
    "llama_bias": "LLaMA with biases and linearly scaled positions, as many KV heads as heads",
    "mistral": "Mistral: sliding window, a head dim of its own",
    "qwen2": "Qwen 2 and 2.5: q/k/v biases, one KV head, tied head",
    "qwen3": "Qwen 3: norms of q and k",
    "gpt2": "GPT-2",
    "opt": "OPT",
    "opt_350m": "OPT-350M: norms after each half, projections",
    "pythia": "GPT-NeoX and Pythia: partly rotary, parallel residual",
    "neox_serial": "GPT-NeoX without parallel residual, wholly rotary, tanh GELU, tied head",
}
LENGTHS = (7, 5, 9)     # conversations of a packed row
ROW = 24                # its length: three tokens of padding


def made(name, seed=0, **changes):
    """(model, params) with every number random, so that no parameter can be left out unnoticed; made by numpy."""
    model = create(dataclasses.replace(CONFIGS[name], **changes))
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        return np.float32(path.endswith("scale")) + np.float32(0.2) * rng.standard_normal(leaf.shape, np.float32)
    return model, map_paths(fill, model.abstract())


def packed(seed=0):
    """tokens, positions, segment_ids [2, 24] of two packed rows."""
    rng = np.random.default_rng(seed)
    positions = np.concatenate([np.arange(n) for n in LENGTHS] + [np.zeros(ROW - sum(LENGTHS), int)])
    segments = np.repeat([1, 2, 3, 0], [*LENGTHS, ROW - sum(LENGTHS)])
    whole = rng.integers(0, 64, (2, ROW)), np.stack([positions] * 2), np.stack([segments] * 2)
    return tuple(x.astype(np.int32) for x in whole)


def logits(model, params, tokens, positions, segments=None):
    """Logits [B, T, V] in fp32; one program per model and shapes."""
    return np.asarray(_forward(model)(params, tokens, positions, segments))


@functools.cache
def _forward(model):
    def run(params, tokens, positions, segments):
        return model.unembed(params, model.hidden(params, tokens, positions, segments, dtype=jnp.float32))
    return jax.jit(run)
