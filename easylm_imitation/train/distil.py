"""Distillation: the student's distribution against a teacher's, token by token, beside (or instead of) the text's loss.

    forward   KL(teacher ‖ student)     covers all that the teacher might say (Hinton et al. 2015, arXiv 1503.02531)
    reverse   KL(student ‖ teacher)     keeps to what the teacher would say (Gu et al. 2024, arXiv 2306.08543)

The teacher is either run beside the student, or it was asked once for its best K tokens at each place (`logits`). Its
full logits never exist: like the cross-entropy, divergences are summed over parts of the vocabulary.
"""
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from easylm_imitation.data import IDS, LOGPROBS
from easylm_imitation.models import Model
from easylm_imitation.sharding import scan
from easylm_imitation.train.config import DistilConfig
from easylm_imitation.train.loss import Batch, part_logits, strided_parts


@dataclasses.dataclass(frozen=True)
class Distil:
    """A config with its teacher: a model that runs beside the student, or None where batches bring its best tokens."""
    config: DistilConfig
    entries: int                    # of the vocabulary that have a token; models pad theirs differently
    model: Model | None = None


def distil_sum(distil: Distil, teacher: Any, batch: Batch, hidden: jax.Array, kernel: jax.Array, weights: jax.Array,
               chunk: int, attention: str = "auto") -> jax.Array:
    """Σ w·divergence over a batch, float32 scalar: hidden [B, T, D] of the student, its head [D, V], weights [B, T].

    `teacher`: the parameters of `distil.model`. No gradient flows into them.
    """
    with jax.named_scope("distil"):
        if distil.model is None:
            return _from_best(distil, hidden, kernel, batch[IDS], batch[LOGPROBS], weights, chunk)
        teacher = jax.lax.stop_gradient(teacher)
        theirs = distil.model.hidden(teacher, batch["tokens"], batch["positions"], batch["segment_ids"],
                                     dtype=hidden.dtype, attention=attention)
        return _from_model(distil, hidden, kernel, jax.lax.stop_gradient(theirs), distil.model.head(teacher), weights,
                           chunk)


def _from_model(distil: Distil, hidden: jax.Array, kernel: jax.Array, theirs: jax.Array, their_kernel: jax.Array,
                weights: jax.Array, chunk: int) -> jax.Array:
    """KL(p ‖ q) = E_p[log p - log q] = E_p[a - b] - log Σ exp a + log Σ exp b, with p's logits a and q's b. A part of
    the vocabulary gives its own three; expectations of parts are weighted by the parts' share of p."""
    config, entries = distil.config, distil.entries
    count = -(-entries // chunk)
    forward = config.divergence == "forward"
    dtype, hidden = hidden.dtype, hidden.astype(jnp.float32)    # so that the parts' gradients add up in float32

    @jax.checkpoint
    def part(number: jax.Array, ours: jax.Array, teachers: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """log Σ exp of p and of q, and E_p[a - b] within the part, each [B, T]."""
        student, teacher = (part_logits(x.astype(dtype), head, number, count, entries) / config.temperature
                            for x, head in ((hidden, ours), (theirs, teachers)))
        a, b = (teacher, student) if forward else (student, teacher)
        return (jax.nn.logsumexp(a, axis=-1), jax.nn.logsumexp(b, axis=-1),
                jnp.sum(jax.nn.softmax(a, axis=-1) * (a - b), axis=-1))

    parts = (jnp.arange(count, dtype=jnp.int32), strided_parts(kernel[:, :entries], count),
             strided_parts(their_kernel[:, :entries], count))
    log_p, log_q, means = scan(lambda _, this: (None, part(*this)), None, parts)[1]     # each [count, B, T]
    mean = jnp.sum(jax.nn.softmax(log_p, axis=0) * means, axis=0)
    divergence = mean - jax.nn.logsumexp(log_p, axis=0) + jax.nn.logsumexp(log_q, axis=0)
    return config.temperature**2 * jnp.sum(weights * divergence)


def _from_best(distil: Distil, hidden: jax.Array, kernel: jax.Array, ids: jax.Array, logprobs: jax.Array,
               weights: jax.Array, chunk: int) -> jax.Array:
    """The divergence of two distributions over K + 1 outcomes: the teacher's best tokens, and all others together."""
    dtype, count = hidden.dtype, -(-distil.entries // chunk)
    hidden = hidden.astype(jnp.float32)

    @jax.checkpoint
    def part(number: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        """log Σ exp [B, T], and the logits of those of the best that are in this part [B, T, K]."""
        logits = part_logits(hidden.astype(dtype), kernel, number, count, distil.entries)
        picked = jnp.take_along_axis(logits, ids // count, axis=-1)
        return jax.nn.logsumexp(logits, axis=-1), jnp.where(ids % count == number, picked, 0.0)

    parts = jnp.arange(count, dtype=jnp.int32), strided_parts(kernel[:, :distil.entries], count)
    log_parts, picked = scan(lambda _, this: (None, part(*this)), None, parts)[1]
    student = picked.sum(axis=0) - jax.nn.logsumexp(log_parts, axis=0)[..., None]
    log_p, log_q = (_with_rest(x) for x in (logprobs.astype(jnp.float32), student))
    if distil.config.divergence == "reverse":
        log_p, log_q = log_q, log_p
    return jnp.sum(weights * jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))


def _with_rest(logprobs: jax.Array) -> jax.Array:
    """[B, T, K] to [B, T, K + 1]: the last is what all other tokens have together."""
    rest = 1.0 - jnp.sum(jnp.exp(logprobs), axis=-1, keepdims=True)
    return jnp.concatenate([logprobs, jnp.log(jnp.maximum(rest, 1e-6))], axis=-1)       # rounding may leave less than 0
