"""The next token, chosen on the device. Every knob is an array with one entry a row: no request causes a compilation.

    logits [B, V] float32 -> bias, penalties, mask of a grammar -> ids [B]
    temperature 0: the likeliest; else temperature, top_k, top_p, min_p, then a draw

The cut-offs are found by bisection over the bits of a float (as T5X does): a vocabulary of 150,000 is never sorted.
"""
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MAX_BIAS = 300      # entries of a `logit_bias` (OpenAI's cap)


class Knobs(NamedTuple):
    """Sampling settings, one entry a row."""
    temperature: jax.Array  # float32 [B]; 0 is greedy
    top_k: jax.Array        # int32 [B]; 0 keeps every token
    top_p: jax.Array        # float32 [B]; 1 keeps every token
    min_p: jax.Array        # float32 [B]; tokens less likely than this part of the likeliest are cut; 0 keeps all
    presence: jax.Array     # float32 [B]; taken off the logit of each token that the answer has
    frequency: jax.Array    # float32 [B]; the same, as often as the answer has it
    bias_ids: jax.Array     # int32 [B, MAX_BIAS]; -1 where there is none
    biases: jax.Array       # float32 [B, MAX_BIAS]; added to the logits of these ids
    seed: jax.Array         # uint32 [B, 2]; with the position, decides the draw


class Masks(NamedTuple):
    """Which tokens grammars allow; answers without one have all bits set."""
    bits: jax.Array         # uint32 [B, ceil(V / 32)]: bit i of word w stands for token 32 w + i
    any: jax.Array          # bool []: somebody follows a grammar; else `bits` are not looked at


class Sampled(NamedTuple):
    """What became of a position of each row. Log-probabilities are the model's own: before temperature and cut-offs."""
    ids: jax.Array              # int32 [B]
    logprobs: jax.Array         # float32 [B]
    top_ids: jax.Array          # int32 [B, K], likeliest first
    top_logprobs: jax.Array     # float32 [B, K]; the chosen token's entry is the same float as in `logprobs`


def mask_words(vocab_size: int) -> int:
    """Words of a mask over a vocabulary."""
    return (vocab_size + 31) // 32


def neutral(rows: int, xp: ModuleType = np) -> Knobs:
    """Greedy knobs for some rows, as arrays of numpy (or of `xp`)."""
    zeros = [xp.zeros(rows, np.float32) for _ in range(4)]      # one buffer each: they may be donated
    return Knobs(zeros[0], xp.zeros(rows, np.int32), xp.ones(rows, np.float32), *zeros[1:],
                 xp.full((rows, MAX_BIAS), -1, np.int32), xp.zeros((rows, MAX_BIAS), np.float32),
                 xp.zeros((rows, 2), np.uint32))


def sample(logits: jax.Array, knobs: Knobs, positions: jax.Array, allowed: jax.Array, counts: jax.Array,
           masks: "Masks | None" = None) -> jax.Array:
    """Ids [B] for logits [B, V]. Ids from the scalar `allowed` on (padding rows of a vocabulary) are never chosen.

    `counts` [B, V] int32: how often each answer has each token so far. `masks`: what grammars allow.

    `positions` [B] are those of the chosen tokens: with the seed they fix the draw, whatever the other rows hold.
    """
    shifted = jnp.any(knobs.bias_ids >= 0) | jnp.any(knobs.presence != 0) | jnp.any(knobs.frequency != 0)
    logits = jax.lax.cond(shifted, lambda x: _shift(x, knobs, counts), lambda x: x, logits)
    logits = jnp.where(jnp.arange(logits.shape[-1]) < allowed, logits, -jnp.inf)
    if masks is not None:
        logits = jax.lax.cond(masks.any, lambda x: _masked(x, masks.bits), lambda x: x, logits)
    greedy = jnp.argmax(logits, -1).astype(jnp.int32)

    def draw() -> jax.Array:
        scaled = logits / jnp.where(knobs.temperature > 0, knobs.temperature, 1.0)[:, None]
        cut = jnp.any((knobs.temperature > 0) & ((knobs.top_k > 0) | (knobs.top_p < 1) | (knobs.min_p > 0)))
        scaled = jax.lax.cond(cut, lambda x: _cut(x, knobs), lambda x: x, scaled)
        noise = jax.vmap(_noise, in_axes=(0, 0, None))(knobs.seed, positions, logits.shape[-1])
        drawn = jnp.argmax(scaled + noise, -1).astype(jnp.int32)
        return jnp.where(knobs.temperature > 0, drawn, greedy)

    return jax.lax.cond(jnp.any(knobs.temperature > 0), draw, lambda: greedy)


def describe(logits: jax.Array, ids: jax.Array, want_top: jax.Array, k: int, allowed: jax.Array) -> Sampled:
    """Log-probabilities of `ids` [B] under logits [B, V], and of the `k` likeliest if the scalar `want_top` is true.

    The likeliest are those that can be sampled, below the scalar `allowed`; probabilities sum to 1 over all of V.
    """
    k = min(k, logits.shape[-1])
    norm = jax.nn.logsumexp(logits, -1)
    chosen = jnp.take_along_axis(logits, ids[:, None], 1)[:, 0] - norm

    def top() -> tuple[jax.Array, jax.Array]:
        # Without the barrier XLA may merge what follows into it, no longer see a top-k, and sort the whole vocabulary.
        # With nothing but the top-k in it, XLA's CPU compiler aborts on some meshes (jaxlib 0.10.2).
        real = jnp.where(jnp.arange(logits.shape[-1]) < allowed, logits, -jnp.inf)
        values, indices, normed = jax.lax.optimization_barrier((*jax.lax.top_k(real, k), norm))
        return indices.astype(jnp.int32), values - normed[:, None]

    def nothing() -> tuple[jax.Array, jax.Array]:
        return jnp.zeros((len(ids), k), jnp.int32), jnp.zeros((len(ids), k), jnp.float32)

    return Sampled(ids, chosen, *jax.lax.cond(want_top, top, nothing))


def _noise(seed: jax.Array, position: jax.Array, size: int) -> jax.Array:
    key = jax.random.wrap_key_data(seed, impl="threefry2x32")   # gives each row the same bits in any batch
    return jax.random.gumbel(jax.random.fold_in(key, position), (size,))


def _shift(logits: jax.Array, knobs: Knobs, counts: jax.Array) -> jax.Array:
    rows = jnp.arange(len(logits))[:, None]
    ids = jnp.where(knobs.bias_ids < 0, logits.shape[-1], knobs.bias_ids)
    logits = logits.at[rows, ids].add(knobs.biases, mode="drop")
    return logits - knobs.presence[:, None] * (counts > 0) - knobs.frequency[:, None] * counts


def _masked(logits: jax.Array, bits: jax.Array) -> jax.Array:
    apart = (bits[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    return jnp.where(apart.reshape(len(bits), -1)[:, :logits.shape[-1]] == 1, logits, -jnp.inf)


def _cut(logits: jax.Array, knobs: Knobs) -> jax.Array:
    """-inf for tokens outside the top_k likeliest, then outside the smallest set that holds top_p of what is left, then
    below min_p of the likeliest."""
    size = logits.shape[-1]
    count = jnp.where(knobs.top_k > 0, jnp.minimum(knobs.top_k, size), size).astype(jnp.float32)
    logits = _keep(logits, jnp.ones_like(logits), count)
    mass = jnp.where(knobs.top_p < 1, jnp.maximum(knobs.top_p, 1e-6), 0.0)
    kept = _keep(logits, jax.nn.softmax(logits, -1), mass)
    logits = jnp.where((knobs.top_p < 1)[:, None], kept, logits)
    least = jnp.max(logits, -1) + jnp.log(knobs.min_p)      # -inf where min_p is 0
    return jnp.where(logits >= least[:, None], logits, -jnp.inf)


def _keep(logits: jax.Array, weights: jax.Array, target: jax.Array) -> jax.Array:
    """Keeps the largest logits of each row, as few as weigh `target` [B] together (ties are kept together)."""
    keys = _sortable(logits)

    def bit(i: jax.Array, threshold: jax.Array) -> jax.Array:
        higher = threshold | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        weight = jnp.sum(jnp.where(keys >= higher[:, None], weights, 0.0), -1)
        return jnp.where(weight >= target, higher, threshold)

    threshold = jax.lax.fori_loop(0, 32, bit, jnp.zeros(logits.shape[:1], jnp.uint32))
    return jnp.where(keys >= threshold[:, None], logits, -jnp.inf)


def _sortable(x: jax.Array) -> jax.Array:
    """uint32 that order as the float32 in `x` do."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))
