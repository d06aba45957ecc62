"""One update, from a global batch to new weights: the page to read when you want to know what training does.

    batch [B, T] ─ split ─► k micro-batches ─ scan: Σ gradients, Σ weights ─► divide once ─► clip, AdamW ─► state

The gradient is that of the *summed* loss; dividing by the summed weight of the whole global batch at the very end makes
k micro-batches equal to one batch and 8 devices equal to one, however unevenly the masks fall.
"""
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from easylm_imitation.models import Model
from easylm_imitation.sharding import BATCH, scan
from easylm_imitation.train.loss import Batch, Sums, loss_sums
from easylm_imitation.train.state import TrainState, shardings_of

Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_step(model: Model, optimizer: optax.GradientTransformation, learning_rate: optax.Schedule, mesh: Mesh,
              abstract: TrainState, *, accumulate: int = 1, z_loss: float = 0.0, loss_chunk: int = 4096,
              normalise: Literal["token_mean", "row_mean"] = "token_mean", dtype: jnp.dtype = jnp.bfloat16,
              remat: str = "full", attention: str = "auto") -> Step:
    """Compiles `(state, batch) -> (state, metrics)` for one mesh; the old state's memory is given to the new one.

    The batch is sharded as `sharding.BATCH`; metrics are replicated scalars: loss, z_loss, grad_norm (before clipping),
    learning_rate (of this very update), weight, tokens, loss_tokens.
    """
    def objective(params: dict, rows: Batch) -> tuple[jax.Array, Sums]:
        sums = loss_sums(model, params, rows, normalise=normalise, chunk=loss_chunk, dtype=dtype, remat=remat,
                         attention=attention)
        return sums.nll + z_loss * sums.z, sums

    def gradient(params: dict, batch: Batch) -> tuple[dict, Sums]:
        """Summed over micro-batches, as sharded as the weights, so that devices reduce-scatter into their own part."""
        def _constrain(total: tuple) -> tuple:
            return jax.lax.with_sharding_constraint(total[0], shardings_of(abstract.params)), total[1]

        def of(rows: Batch) -> tuple:
            return jax.grad(objective, has_aux=True)(params, rows)

        def add(total: tuple, rows: Batch) -> tuple[tuple, None]:
            return _constrain(jax.tree.map(jnp.add, total, of(rows))), None

        if accumulate == 1:         # nothing to add to: a zero for each weight would be written and read for nothing
            return _constrain(of(batch))
        zero = Sums(*[jnp.zeros((), d) for d in (jnp.float32, jnp.float32, jnp.float32, jnp.int32, jnp.int32)])
        start = _constrain((jax.tree.map(jnp.zeros_like, params), zero))
        return scan(add, start, micro_batches(batch, accumulate))[0]

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        grads, sums = gradient(state.params, batch)
        weight = jnp.maximum(sums.weight, jnp.finfo(jnp.float32).tiny)      # a batch without loss is a zero gradient
        grads = jax.tree.map(lambda g: g / weight, grads)
        updates, opt_state = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": sums.nll / weight, "z_loss": z_loss * sums.z / weight, "grad_norm": optax.tree.norm(grads),
            "learning_rate": learning_rate(state.step), "weight": sums.weight, "tokens": sums.tokens,
            "loss_tokens": sums.loss_tokens}
        return TrainState(state.step + 1, params, opt_state), metrics

    placed = shardings_of(abstract)
    batch_placed = NamedSharding(mesh, BATCH)
    return jax.jit(step, in_shardings=(placed, batch_placed), donate_argnums=0,
                   out_shardings=(placed, NamedSharding(mesh, PartitionSpec())))


def micro_batches(batch: Batch, count: int) -> Batch:
    """[B, T] to [count, B/count, T]. Micro-batch j holds rows j, j+count, …: every device splits its own rows."""
    return {name: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0) for name, x in batch.items()}
