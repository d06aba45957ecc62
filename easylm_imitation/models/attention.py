"""Attention with one signature and several backends, all equal to `reference`.

A query sees the tokens of its own segment up to itself, the last `window` of them where there is a window. In its own
row that is a matter of the row's order alone: whatever positions the tokens are embedded at hides nothing. Segment 0 is
padding, which sees only padding, so that no row of scores is empty. Keys of a cache say themselves where they stand.
"""
import dataclasses
from collections.abc import Callable

import jax

from easylm_imitation.console import say_once
from easylm_imitation.models import attention_cudnn, attention_splash
from easylm_imitation.models.attention_xla import SMALLEST_CHUNK, chunked, reference
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import platform


@dataclasses.dataclass(frozen=True)
class Backend:
    """One way to compute attention.

    `run(q, k, v, segment_ids, window, positions, key_positions)`. A kernel takes the `platform` in place of positions,
    and `refuses(q, own, segments, platform)` says what it cannot honour, or "".
    """
    run: Callable[..., jax.Array]
    refuses: Callable[..., str] | None = None


BACKENDS: dict[str, Backend] = {
    "reference": Backend(reference),
    "chunked": Backend(chunked),
    "splash": Backend(attention_splash.splash, attention_splash.refuses),
    "cudnn": Backend(attention_cudnn.cudnn, attention_cudnn.refuses),
}
_KERNELS = {"tpu": "splash", "gpu": "cudnn"}    # the backend made for a platform


def attention(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, *, window: int = 0,
              positions: jax.Array | None = None, key_positions: jax.Array | None = None,
              backend: str = "auto") -> jax.Array:
    """Causal attention within segments: q [B, T, N, H], k and v [B, S, K, H] -> [B, T, N, H], in the dtype of q.

    `segment_ids` [B, T] int32; None is one segment a row. `window` is how many tokens a query sees, itself included; 0
    is no limit. Keys are the queries' own row, unless `positions` [B or 1, T] and `key_positions` [B or 1, S] place
    queries and keys of one segment. N is a multiple of K (grouped queries). Scores and softmax are fp32. Raises
    ValueError for an unknown backend, impossible shapes or half of what a cache needs, UserError for a backend that
    cannot honour it.
    """
    own, device = key_positions is None, platform()
    if own != (positions is None) or not (own or segment_ids is None):
        raise ValueError("keys of a cache need positions and key_positions, and have no segments")
    if window < 0 or q.shape[2] % k.shape[2]:
        raise ValueError(f"window={window} must not be negative, and {q.shape[2]} heads a multiple of the {k.shape[2]} "
                         "KV heads")
    if backend == "auto":
        backend = _choose(q, own, segment_ids is not None, device)
    if backend not in BACKENDS:
        raise ValueError(f"attention backend '{backend}' is not one of auto, {', '.join(BACKENDS)}")
    run, refuses = BACKENDS[backend].run, BACKENDS[backend].refuses
    k, v = k.astype(q.dtype), v.astype(q.dtype)
    if refuses is None:
        return run(q, k, v, segment_ids, window, positions, key_positions)
    if reason := refuses(q, own, segment_ids is not None, device):
        raise UserError(f"attention backend '{backend}' {reason}; choose auto, chunked or reference")
    return run(q, k, v, segment_ids, window, device)


def _choose(q: jax.Array, own: bool, segments: bool, platform: str) -> str:
    """The platform's kernel where it can, else `chunked` for long rows, which never holds all scores; said once."""
    if not own:
        return "reference"      # a few queries against a cache
    kernel = _KERNELS.get(platform)
    reason = BACKENDS[kernel].refuses(q, own, segments, platform) if kernel else ""
    long = q.shape[1] >= 2 * SMALLEST_CHUNK
    chosen = kernel if kernel and not reason else "chunked" if long else "reference"
    why = f": {kernel} {reason}" if reason else f", rows of {2 * SMALLEST_CHUNK} tokens or more" * (chosen == "chunked")
    say_once(f"attention: {chosen} on {platform}{why}")
    return chosen
