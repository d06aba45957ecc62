"""Attention with one signature and several backends, all equal to `reference`.

A query sees a key of the same segment at its own position or before, less than `window` positions away where there is
a window. Positions restart in every segment of a packed row and grow by one a token; segment 0 is padding, which sees
only padding, so that no row of scores is empty.
"""
import dataclasses
import functools
from collections.abc import Callable

import jax

from easylm_imitation.console import say_once
from easylm_imitation.models import attention_cudnn, attention_splash
from easylm_imitation.models.attention_xla import SMALLEST_CHUNK, chunked, reference
from easylm_imitation.schema import UserError


@dataclasses.dataclass(frozen=True)
class Backend:
    """One way to compute attention.

    `run(q, k, v, positions, segment_ids, key_positions, key_segment_ids, window=)`; a kernel also takes the `platform`,
    and `refuses(q, k, own, segments, platform)` says what it cannot honour, or "".
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


def attention(q: jax.Array, k: jax.Array, v: jax.Array, positions: jax.Array, segment_ids: jax.Array | None, *,
              window: int = 0, key_positions: jax.Array | None = None, key_segment_ids: jax.Array | None = None,
              backend: str = "auto") -> jax.Array:
    """Causal attention within segments: q [B, T, N, H], k and v [B, S, K, H] -> [B, T, N, H], in the dtype of q.

    positions, segment_ids [B, T] int32; `segment_ids=None` is one segment a row. `window` is how many tokens a query
    sees, itself included; 0 is no limit. Keys are the queries' own row unless `key_positions` ([B, S] or [1, S]) says
    otherwise. N is a multiple of K (grouped queries). Scores and softmax are fp32. Raises ValueError for an unknown
    backend, UserError for one that cannot honour the request.
    """
    own, platform = key_positions is None, _platform()
    if backend == "auto":
        backend = _choose(q, k, own, segment_ids is not None, platform)
    if backend not in BACKENDS:
        raise ValueError(f"attention backend '{backend}' is not one of auto, {', '.join(BACKENDS)}")
    run = BACKENDS[backend].run
    if (refuses := BACKENDS[backend].refuses) is not None:
        if reason := refuses(q, k, own, segment_ids is not None, platform):
            raise UserError(f"attention backend '{backend}' {reason}; choose auto, chunked or reference")
        run = functools.partial(run, platform=platform)
    k, v = k.astype(q.dtype), v.astype(q.dtype)
    return run(q, k, v, positions, segment_ids, key_positions, key_segment_ids, window=window)


def _choose(q: jax.Array, k: jax.Array, own: bool, segments: bool, platform: str) -> str:
    """The platform's kernel where it can, else `chunked` for long rows, which never holds all scores; said once."""
    if not own:
        return "reference"      # a few queries against a cache
    kernel = _KERNELS.get(platform)
    reason = BACKENDS[kernel].refuses(q, k, own, segments, platform) if kernel else ""
    long = q.shape[1] >= 2 * SMALLEST_CHUNK
    chosen = kernel if kernel and not reason else "chunked" if long else "reference"
    why = f": {kernel} {reason}" if reason else f", rows of {2 * SMALLEST_CHUNK} tokens or more" * (chosen == "chunked")
    say_once(f"attention: {chosen} on {platform}{why}")
    return chosen


def _platform() -> str:
    """Where the program will run: on the devices of `jax.set_mesh`, which may be absent ones, else on the host's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else jax.default_backend()
