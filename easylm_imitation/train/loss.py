"""Next-token cross-entropy as sums over a batch, a part of the vocabulary at a time: the [B, T, V] logits never exist.

Everything is a sum, because sums add over micro-batches and devices; step.py divides once, at the end. It is the
vocabulary that is cut, and not the tokens: so each part of the head is collected once and its gradient reduced once.
(Cut by tokens, every chunk adds to the gradient of the whole head, and the compiler reduces all of it over the devices
once a chunk.) Parts are strided (entry v is in part v mod n): a vocabulary sharded over `tensor` is cut where it lies.
"""
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from easylm_imitation.models import Model
from easylm_imitation.models.layers import flat_rows
from easylm_imitation.sharding import one_device, platform, scan

_FEW_LAYERS = 12
NEVER = -1e30                           # the logit of an entry that pads the vocabulary
Batch = dict[str, jax.Array]            # tokens, segment_ids, positions int32[B, T]; loss_weights float32[B, T]


class Sums(NamedTuple):
    """What a batch adds up to; all are scalars."""
    nll: jax.Array                      # float32, weighted negative log-likelihood in nats
    z: jax.Array                        # float32, weighted squared log-partition
    weight: jax.Array                   # float32, what `nll` is divided by in the end
    tokens: jax.Array                   # int32, without padding
    loss_tokens: jax.Array              # int32, tokens that carry loss
    divergence: jax.Array               # float32, weighted divergence from a teacher; 0 without one


def loss_sums(model: Model, params: dict, batch: Batch, *, normalise: Literal["token_mean", "row_mean"] = "token_mean",
              chunk: int = 4096, dtype: jnp.dtype = jnp.bfloat16, remat: str = "none", attention: str = "auto",
              diverge: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None) -> Sums:
    """Runs the model over a batch and sums the loss of predicting each token from those before it in its conversation.

    `loss_weights[b, t]` is the weight of predicting `tokens[b, t]`, hence 0 at the first token of each conversation:
        tokens        7 8 9 | 4 5 · ·        loss_weights  0 1 1 | 0 1 0 0        segment_ids  1 1 1 | 2 2 0 0
        targets       8 9 4 | 5 · · ·        weights       1 1 0 | 1 0 0 0        (both moved one to the left)

    `diverge(hidden [B, T, D], head [D, V], weights [B, T])` sums what distillation adds (distil.py).
    """
    hidden = model.hidden(params, batch["tokens"], batch["positions"], batch["segment_ids"], dtype=dtype, remat=remat,
                          attention=attention, unroll=_unrolled(model))
    carried, total = _normalised(batch, normalise)
    targets, weights = (jnp.pad(x[:, 1:], ((0, 0), (0, 1))) for x in (batch["tokens"], carried))
    head = model.head(params)
    nll, z = chunked_cross_entropy(hidden, head, targets, weights, chunk)
    divergence = jnp.float32(0) if diverge is None else diverge(hidden, head, weights)
    return Sums(nll, z, total, jnp.sum(batch["segment_ids"] > 0), jnp.sum(batch["loss_weights"] > 0), divergence)


def _unrolled(model: Model) -> bool:
    """Whether training runs the layers without a loop: on one CPU, where their number does not make compiling long.

    There a loop over layers copies each one's weights out of the stack, and fills the stack of what the backward pass
    needs with zeros before it writes there.
    """
    return one_device() and platform() == "cpu" and model.config.layers <= _FEW_LAYERS


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


def chunked_cross_entropy(hidden: jax.Array, kernel: jax.Array, targets: jax.Array, weights: jax.Array,
                          chunk: int) -> tuple[jax.Array, jax.Array]:
    """(Σ w·NLL, Σ w·log²Z) of hidden [B, T, D] times kernel [D, V]; targets [B, T] int32, weights [B, T] float32.

    Logits are float32, multiplied in the dtype of `hidden`. They exist for `chunk` entries of the vocabulary at a time,
    forward and backward: of several parts, the backward pass computes each again.
    """
    vocab, dtype = kernel.shape[1], hidden.dtype
    count = -(-vocab // chunk)
    hidden = flat_rows(hidden).astype(jnp.float32)      # so that the parts' gradients add up in float32
    targets, weights = (x.reshape(hidden.shape[:-1]) for x in (targets, weights))

    def part(number: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        """log Σ exp and the target's logit (0 when it is in another part), both [B, T], of one part [D, C]."""
        logits = part_logits(hidden.astype(dtype), kernel, number, count, vocab)
        entries = number + count * jnp.arange(kernel.shape[1], dtype=jnp.int32)
        # a masked sum and not a gather, which a vocabulary sharded over `tensor` would have to be collected for
        picked = jnp.sum(jnp.where(entries == targets[..., None], logits, 0.0), axis=-1)
        return jax.nn.logsumexp(logits, axis=-1), picked

    if count > 1:       # one part alone is needed backward at once, and need not be computed again
        part = jax.checkpoint(part)
    with jax.named_scope("cross_entropy"):
        parts = jnp.arange(count, dtype=jnp.int32), strided_parts(kernel, count)
        log_parts, picked = scan(lambda _, this: (None, part(*this)), None, parts)[1]       # each [count, B, T]
        log_z = jax.nn.logsumexp(log_parts, axis=0)
        return jnp.sum(weights * (log_z - picked.sum(axis=0))), jnp.sum(weights * log_z**2)


def part_logits(hidden: jax.Array, kernel: jax.Array, number: jax.Array, count: int, vocab: int) -> jax.Array:
    """hidden [..., D] times part `number` of `count`, [D, C]: logits [..., C] float32, multiplied in hidden's dtype.

    What pads the vocabulary beyond its `vocab` entries is NEVER.
    """
    logits = jnp.einsum("...d,dc->...c", hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
    return jnp.where(number + count * jnp.arange(kernel.shape[1], dtype=jnp.int32) < vocab, logits, NEVER)


def strided_parts(kernel: jax.Array, count: int) -> jax.Array:
    """[D, V] to [count, D, V / count]; V is padded with zeros to a multiple of `count`."""
    d_model, vocab = kernel.shape
    kernel = jnp.pad(kernel, ((0, 0), (0, -vocab % count)))
    return jnp.moveaxis(kernel.reshape(d_model, -1, count), 2, 0)
