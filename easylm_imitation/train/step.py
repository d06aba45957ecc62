"""One update, from a global batch to new weights: the page to read when you want to know what training does.

    batch [B, T] ─ split ─► k micro-batches ─ scan: Σ gradients, Σ weights ─► divide once ─► optimizer ─► state

The gradient is that of the *summed* loss; dividing by the summed weight of the whole global batch at the very end makes
k micro-batches equal to one batch and 8 devices equal to one, however unevenly the masks fall. An update that would do
harm is skipped by the optimizer (skip.py); the step is counted all the same.
"""
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from easylm_imitation.models import Adapters, Model
from easylm_imitation.sharding import BATCH, scan
from easylm_imitation.train.distil import Distil, distil_sum
from easylm_imitation.train.loss import Batch, Sums, loss_sums
from easylm_imitation.train.skip import skip_metrics
from easylm_imitation.train.state import TrainState, shardings_of

Metrics = dict[str, jax.Array]
Step = Callable[..., tuple[TrainState, Metrics]]        # of (state, batch, teacher, base)

# Of the compiler for TPU v5e: gradients are summed over devices beside arithmetic. The first two do nothing without
# each other; the third, bytes of the sums that are put together, has three quarters of them beside it instead of one.
_OVERLAPPED_SUMS = {"xla_tpu_enable_async_collective_fusion_fuse_all_reduce": True, "xla_enable_async_all_reduce": True,
                    "xla_jf_crs_combiner_threshold_in_bytes": "1000000"}


def make_step(model: Model, optimizer: optax.GradientTransformationExtraArgs, learning_rate: optax.Schedule, mesh: Mesh,
              abstract: TrainState, *, accumulate: int = 1, z_loss: float = 0.0, loss_chunk: int = 4096,
              normalise: Literal["token_mean", "row_mean"] = "token_mean", dtype: jnp.dtype = jnp.bfloat16,
              remat: str = "full", attention: str = "auto", overlap_sums: bool = False, distil: Distil | None = None,
              mixed: np.ndarray | None = None, adapters: Adapters | None = None) -> Step:
    """Compiles `(state, batch) -> (state, metrics)` for one mesh; the old state's memory is given to the new one.

    The batch is sharded as `sharding.BATCH`; metrics are replicated scalars: loss, z_loss, grad_norm (before clipping),
    learning_rate (of this very update), weight, tokens, loss_tokens, and those of `skip_metrics`. `optimizer` is one of
    `make_optimizer`, or another in `skipping`. With `distil` the step takes the teacher's parameters, too (None where
    batches bring its best tokens), and metrics have the divergence. `mixed`, bool [B]: rows of another dataset, whose
    tokens are counted apart, too. With `adapters` these are what the state holds and what learns; the step takes the
    model's own parameters, frozen, behind the teacher's (None without one). `overlap_sums` is for TPU v5e; other
    compilers refuse it.
    """
    def objective(params: dict, rows: Batch, teacher: dict | None, base: dict | None) -> tuple[jax.Array, Sums]:
        params = params if adapters is None else adapters.attach(base, params, rows.get("seeds"))
        diverge = None if distil is None else functools.partial(
            distil_sum, distil, teacher, rows, chunk=loss_chunk, attention=attention)
        sums = loss_sums(model, params, rows, normalise=normalise, chunk=loss_chunk, dtype=dtype, remat=remat,
                         attention=attention, diverge=diverge)
        share = distil.config.weight if distil else 0.0
        return (1 - share) * sums.nll + share * sums.divergence + z_loss * sums.z, sums

    def gradient(params: dict, batch: Batch, *beside: dict | None) -> tuple[dict, Sums]:
        """Summed over micro-batches, as sharded as the weights, so that devices reduce-scatter into their own part."""
        def _constrain(total: tuple) -> tuple:
            return jax.lax.with_sharding_constraint(total[0], shardings_of(abstract.params)), total[1]

        def of(rows: Batch) -> tuple:
            return jax.grad(objective, has_aux=True)(params, rows, *beside)

        def add(total: tuple, rows: Batch) -> tuple[tuple, None]:
            return _constrain(jax.tree.map(jnp.add, total, of(rows))), None

        if accumulate == 1:         # nothing to add to: a zero for each weight would be written and read for nothing
            return _constrain(of(batch))
        zero = Sums(*[jnp.zeros((), jnp.int32 if "tokens" in name else jnp.float32) for name in Sums._fields])
        start = _constrain((jax.tree.map(jnp.zeros_like, params), zero))
        return scan(add, start, micro_batches(batch, accumulate))[0]

    def step(state: TrainState, batch: Batch, teacher: dict | None = None,
             base: dict | None = None) -> tuple[TrainState, Metrics]:
        seeds = None if adapters is None else adapters.row_seeds(state.step, len(batch["tokens"]))
        rows = batch if seeds is None else {**batch, "seeds": seeds}
        grads, sums = gradient(state.params, rows, teacher, base)
        weight = jnp.maximum(sums.weight, jnp.finfo(jnp.float32).tiny)      # a batch without loss is a zero gradient
        grads = jax.tree.map(lambda g: g / weight, grads)
        loss = sums.nll / weight
        updates, opt_state = optimizer.update(grads, state.optimizer, state.params, step=state.step, loss=loss)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss, "z_loss": z_loss * sums.z / weight, "grad_norm": optax.tree.norm(grads),
            "learning_rate": learning_rate(state.step), "weight": sums.weight, "tokens": sums.tokens,
            "loss_tokens": sums.loss_tokens, **skip_metrics(opt_state)}
        if distil is not None:
            metrics["divergence"] = sums.divergence / weight
        if mixed is not None:
            metrics["mixed_tokens"] = jnp.sum((batch["segment_ids"] > 0) & mixed[:, None])
            metrics["mixed_loss_tokens"] = jnp.sum((batch["loss_weights"] > 0) & mixed[:, None])
        return TrainState(state.step + 1, params, opt_state), metrics

    placed = shardings_of(abstract)
    batch_placed = NamedSharding(mesh, BATCH)
    beside = (None, None) if adapters else () if distil is None else (None,)    # wherever teacher and base lie
    return jax.jit(step, in_shardings=(placed, batch_placed, *beside), donate_argnums=0,
                   out_shardings=(placed, NamedSharding(mesh, PartitionSpec())),
                   compiler_options=_OVERLAPPED_SUMS if overlap_sums else None)


def micro_batches(batch: Batch, count: int) -> Batch:
    """[B, T] to [count, B/count, T]. Micro-batch j holds rows j, j+count, …: every device splits its own rows."""
    return {name: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0) for name, x in batch.items()}
