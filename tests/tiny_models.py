"""Tiny models of every kind, with numbers, and packed rows to run them on."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from easylm_imitation.models import GPT2Config, LlamaConfig, RopeScaling, create
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
