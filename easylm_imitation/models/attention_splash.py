"""Splash attention: JAX's Pallas kernel for TPUs, which holds no scores and skips the blocks that nobody sees.

On a CPU it is interpreted, which is for tests. On a mesh each device runs its rows, heads and queries by itself.
"""
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as pallas
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

Kernel = Callable[..., jax.Array]
_LANES = 128                    # the kernel's smallest block
_BLOCKS = (512, 256, _LANES)    # of queries and keys; the largest that divides a device's queries is taken


def refuses(q: jax.Array, own: bool, segments: bool, platform: str) -> str:
    """Why the kernel cannot compute this, or ""."""
    if platform not in ("tpu", "cpu"):
        return f"runs on TPUs, not on {platform}"
    return "" if own else "wants keys and queries of the same row, and these keys come from a cache"


def splash(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, window: int,
           platform: str) -> jax.Array:
    """q [B, T, N, H], k and v [B, T, K, H] -> [B, T, N, H]; T is padded to what the kernel takes."""
    length = q.shape[1]
    q = (q.astype(jnp.float32) * q.shape[3] ** -0.5).astype(q.dtype)    # the kernel does not scale
    q, k, v = (jnp.moveaxis(_padded(x), 2, 1) for x in (q, k, v))       # [B, N, T, H]
    segment_ids = None if segment_ids is None else _padded(segment_ids)
    out = _on_mesh(q, k, v, segment_ids, window, interpret=platform != "tpu")
    return jnp.moveaxis(out, 1, 2)[:, :length]


def _padded(x: jax.Array) -> jax.Array:
    """Zeros after the end of the rows [B, T, ...]: no query sees keys behind it."""
    return jnp.pad(x, [(0, 0), (0, -x.shape[1] % _LANES), *[(0, 0)] * (x.ndim - 2)])


def _on_mesh(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, window: int,
             interpret: bool) -> jax.Array:
    """Rows over the data axes, heads over `tensor`, queries over `sequence`, wherever these divide; else repeated."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _rows(_kernel(q.shape[1], q.shape[2], window, 1, 1, interpret), q, k, v, segment_ids, segment_ids)
    sizes = mesh.shape
    rows = tuple(a for a in ("replica", "data", "fsdp") if sizes.get(a, 1) > 1)
    rows = rows if q.shape[0] % _product(sizes, rows) == 0 else ()
    heads = "tensor" if sizes.get("tensor", 1) > 1 and k.shape[1] % sizes["tensor"] == 0 else None
    queries = sizes.get("sequence", 1)
    order = "sequence" if queries > 1 and q.shape[2] % (queries * _LANES) == 0 else None
    kernel = _kernel(q.shape[1], q.shape[2], window, _product(sizes, (heads,)), _product(sizes, (order,)), interpret)
    specs = [kernel.manual_sharding_spec(NamedSharding(mesh, P(heads, order))), P(rows, heads, order),
             P(rows, heads), P(rows, heads), *((None, None) if segment_ids is None else (P(rows, order), P(rows)))]
    run = jax.shard_map(_rows, mesh=mesh, in_specs=tuple(specs), out_specs=P(rows, heads, order), check_vma=False)
    return run(kernel, q, k, v, segment_ids, segment_ids)


def _product(sizes: dict[str, int], axes: tuple[str | None, ...]) -> int:
    return functools.reduce(lambda n, axis: n * (sizes[axis] if axis else 1), axes, 1)


def _kernel(heads: int, length: int, window: int, head_shards: int, query_shards: int,
            interpret: bool) -> Kernel:
    """The kernel for causal rows of `length`; made while tracing, its tables are constants of the program."""
    if window:
        mask = pallas.LocalMask((length, length), (window - 1, 0), offset=0, shard_count=query_shards)
    else:
        mask = pallas.CausalMask((length, length), shard_count=query_shards)
    block = next(size for size in _BLOCKS if length // query_shards % size == 0)
    names = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute",
             "block_q_dq", "block_kv_dq")
    return pallas.make_splash_mha(
        pallas.MultiHeadMask([mask] * heads), head_shards=head_shards, q_seq_shards=query_shards,
        block_sizes=pallas.BlockSizes(**dict.fromkeys(names, block)), interpret=interpret)


def _rows(kernel: Kernel, q: jax.Array, k: jax.Array, v: jax.Array,
          segment_ids: jax.Array | None, key_segment_ids: jax.Array | None) -> jax.Array:
    if segment_ids is None or key_segment_ids is None:
        return jax.vmap(kernel)(q, k, v)
    return jax.vmap(kernel)(q, k, v, pallas.SegmentIds(segment_ids, key_segment_ids))
