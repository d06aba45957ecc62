"""cuDNN's flash attention for GPUs, through `jax.nn.dot_product_attention`.

That function takes no segment ids. Packed rows are therefore given as a mask, which cuDNN adds to the scores as a bias
[B, 1, T, T] in the dtype of q: correct, at T^2 numbers a row; rows of one segment use the kernel's own causal mask.
"""
import jax
import jax.numpy as jnp

from easylm_imitation.models.attention_xla import visible

_LARGEST_HEAD = 128     # that every supported GPU takes; Hopper's 256 would be refused only while compiling elsewhere
_IMPLEMENTATION = "cudnn"


def refuses(q: jax.Array, own: bool, segments: bool, platform: str) -> str:
    """Why the kernel cannot compute this, or ""."""
    mesh = jax.sharding.get_abstract_mesh()
    if platform != "gpu":
        return f"runs on NVIDIA GPUs, not on {platform}"
    if not own:
        return "wants keys and queries of the same row, and these keys come from a cache"
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"computes in bfloat16 or float16, not in {q.dtype}"
    if q.shape[3] % 8 or q.shape[3] > _LARGEST_HEAD:
        return f"wants a head dim that is a multiple of 8 up to {_LARGEST_HEAD}, not {q.shape[3]}"
    if segments and q.shape[1] % 2:
        return f"wants packed rows of an even length, not {q.shape[1]}"
    return "" if mesh.empty or mesh.shape.get("sequence", 1) == 1 else "cannot split a row over the axis 'sequence'"


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, window: int,
          platform: str) -> jax.Array:
    """q [B, T, N, H], k and v [B, T, K, H] -> [B, T, N, H]."""
    if segment_ids is None:
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=_IMPLEMENTATION,
                                            local_window_size=(window - 1, 0) if window else None)
    order = jnp.arange(q.shape[1])[None]
    mask = visible(order, order, segment_ids, segment_ids, window)[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=_IMPLEMENTATION)
