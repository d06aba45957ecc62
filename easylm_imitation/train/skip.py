"""Updates that are not applied: a loss or gradient that is not finite, or a gradient far larger than usual.

A skipped update leaves weights, moments and their counters as they were, bit for bit. The step is counted all the same,
so learning rate and data go on. What is usual is part of the optimizer's state and of checkpoints, hence a run that
continues skips what it would have skipped.
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from easylm_imitation.sharding import cond

REASONS = ("", "not finite", "spike")   # by the number in `SkipState.reason`
NOT_FINITE, SPIKE = 1, 2
# The usual norm is an exponential mean, with the constant of ZClip (Kumar et al. 2025, arXiv 2504.02507).
_DECAY, _TRUSTED_AFTER = 0.97, 25


class SkipState(NamedTuple):
    """The state of an optimizer that skips; all but `inner` are scalars."""
    inner: Any                      # the optimizer's own
    norms: jax.Array                # float32, exponential mean of the applied gradients' norms, starting from 0
    applied: jax.Array              # int32, updates
    skipped: jax.Array              # int32, updates
    in_a_row: jax.Array             # int32, updates skipped since the last that was applied
    reason: jax.Array               # int32, why the last update was skipped; 0 if it was applied


def skipping(inner: optax.GradientTransformation,
             spike_factor: float | None = None) -> optax.GradientTransformationExtraArgs:
    """`inner`, which skips. Its `update` wants `loss`, a scalar, and hands other keywords on.

    A gradient is a spike when its norm exceeds `spike_factor` times the usual one (None: never).
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> SkipState:
        return SkipState(inner.init(params), jnp.float32(0), *(jnp.int32(0) for _ in range(4)))

    def update(grads: Any, state: SkipState, params: Any, *, loss: jax.Array, **extra: Any) -> tuple:
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        reason = jnp.where(finite, jnp.where(_spike(state, norm), SPIKE, 0), NOT_FINITE)
        applied = reason == 0

        def apply() -> tuple:
            return inner.update(grads, state.inner, params, **extra)

        def skip() -> tuple:    # x + -0.0 is x, whatever x is; -0.0 + 0.0 would be 0.0
            return jax.tree.map(lambda p: jnp.full_like(p, -0.0), params), state.inner

        # A branch, not a selection of each number: that took as much memory more as the weights (measured, 4 devices)
        updates, after = cond(applied, apply, skip)
        norms = jnp.where(applied, _DECAY * state.norms + (1 - _DECAY) * norm, state.norms)
        return updates, SkipState(after, norms, state.applied + applied, state.skipped + ~applied,
                                  jnp.where(applied, 0, state.in_a_row + 1), reason.astype(jnp.int32))

    def _spike(state: SkipState, norm: jax.Array) -> jax.Array | bool:
        if spike_factor is None:
            return False
        usual = state.norms / (1 - _DECAY ** jnp.maximum(state.applied, 1))
        return (state.applied >= _TRUSTED_AFTER) & (norm > spike_factor * usual)

    return optax.GradientTransformationExtraArgs(init, update)


def skip_metrics(state: SkipState) -> dict[str, jax.Array]:
    """What a step reports of its update: three int32 scalars."""
    return {"skipped": state.skipped, "skipped_in_a_row": state.in_a_row, "skip_reason": state.reason}
