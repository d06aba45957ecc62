"""Next-token cross-entropy as sums over a batch, a chunk of positions at a time: the [B, T, V] logits never exist.

Everything is a sum, because sums add over chunks, micro-batches and devices; step.py divides once, at the end. Chunks
are strided (position t is in chunk t mod n), so that a `sequence`-sharded row is cut where it lies and nothing moves.
"""
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from easylm_imitation.models import Model

Batch = dict[str, jax.Array]            # tokens, segment_ids, positions int32[B, T]; loss_weights float32[B, T]


class Sums(NamedTuple):
    """What a batch adds up to; all are scalars."""
    nll: jax.Array                      # float32, weighted negative log-likelihood in nats
    z: jax.Array                        # float32, weighted squared log-partition
    weight: jax.Array                   # float32, what `nll` is divided by in the end
    tokens: jax.Array                   # int32, without padding
    loss_tokens: jax.Array              # int32, tokens that carry loss


def loss_sums(model: Model, params: dict, batch: Batch, *, normalise: Literal["token_mean", "row_mean"] = "token_mean",
              chunk: int = 128, dtype: jnp.dtype = jnp.bfloat16, remat: str = "none") -> Sums:
    """Runs the model over a batch and sums the loss of predicting each token from those before it in its conversation.

    `loss_weights[b, t]` is the weight of predicting `tokens[b, t]`, hence 0 at the first token of each conversation:
        tokens        7 8 9 | 4 5 · ·        loss_weights  0 1 1 | 0 1 0 0        segment_ids  1 1 1 | 2 2 0 0
        targets       8 9 4 | 5 · · ·        weights       1 1 0 | 1 0 0 0        (both moved one to the left)
    """
    hidden = model.hidden(params, batch["tokens"], batch["positions"], batch["segment_ids"], dtype=dtype, remat=remat)
    carried, total = _normalised(batch, normalise)
    targets, weights = (jnp.pad(x[:, 1:], ((0, 0), (0, 1))) for x in (batch["tokens"], carried))
    nll, z = chunked_cross_entropy(lambda h: model.unembed(params, h), hidden, targets, weights, chunk)
    return Sums(nll, z, total, jnp.sum(batch["segment_ids"] > 0), jnp.sum(batch["loss_weights"] > 0))


def _normalised(batch: Batch, how: str) -> tuple[jax.Array, jax.Array]:
    """Weights [B, T] of the tokens' losses, and what their sum is divided by.

    By rows, a row without loss adds 0 and still counts, as in EasyLM; a row of nothing but padding does not.
    """
    weights = batch["loss_weights"]
    if how == "token_mean":
        return weights, weights.sum()
    rows = weights.sum(axis=1, keepdims=True)
    weights = weights / jnp.where(rows > 0, rows, 1.0)
    return weights, jnp.sum(batch["segment_ids"].max(axis=1) > 0, dtype=jnp.float32)


def chunked_cross_entropy(unembed: Callable[[jax.Array], jax.Array], hidden: jax.Array, targets: jax.Array,
                          weights: jax.Array, chunk: int) -> tuple[jax.Array, jax.Array]:
    """(Σ w·NLL, Σ w·log²Z) of hidden [B, T, D] against targets [B, T] int32 with weights [B, T] float32.

    `unembed` maps [B, C, D] to float32 logits [B, C, V]. They exist for `chunk` positions of each row at a time,
    forward and backward: the scan's body is checkpointed, so the backward pass computes them again.
    """
    @jax.checkpoint
    def add(sums: tuple[jax.Array, jax.Array], piece: tuple) -> tuple[tuple[jax.Array, jax.Array], None]:
        h, target, weight = piece
        logits = unembed(h)                                                     # [B, C, V]
        log_z = jax.nn.logsumexp(logits, axis=-1)                               # [B, C]
        # a masked sum and not a gather, which a vocabulary sharded over `tensor` would have to be collected for
        is_target = target[..., None] == jnp.arange(logits.shape[-1], dtype=target.dtype)
        picked = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
        return (sums[0] + jnp.sum(weight * (log_z - picked)), sums[1] + jnp.sum(weight * log_z**2)), None

    with jax.named_scope("cross_entropy"):
        pieces = [_strided_chunks(x, chunk) for x in (hidden, targets, weights)]
        return jax.lax.scan(add, (jnp.float32(0), jnp.float32(0)), tuple(pieces))[0]


def _strided_chunks(x: jax.Array, chunk: int) -> jax.Array:
    """[B, T, ...] to [n, B, T/n, ...] with n = ceil(T / chunk); T is padded with zeros to a multiple of n."""
    rows, length = x.shape[:2]
    count = -(-length // chunk)
    x = jnp.pad(x, ((0, 0), (0, -length % count), *[(0, 0)] * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(rows, -1, count, *x.shape[2:]), 2, 0)
