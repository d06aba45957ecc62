"""The chunked loss against float64 numpy, packed rows against single conversations, and the memory it must not take."""
import functools
from collections.abc import Iterator

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from train_helpers import LENGTH, VOCAB, make_batch

from easylm_imitation.train.loss import chunked_cross_entropy, loss_sums


def _oracle(hidden: np.ndarray, kernel: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> tuple:
    """Σ w·NLL, its gradients by `hidden` and `kernel`, and Σ w·log²Z, in float64."""
    hidden, kernel = hidden.astype(np.float64), kernel.astype(np.float64)
    logits = hidden @ kernel
    log_z = np.log(np.exp(logits).sum(-1))
    rows = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    slope = (np.exp(logits - log_z[..., None]) - np.eye(kernel.shape[1])[targets]) * weights[..., None]
    return ((weights * (log_z - rows)).sum(), slope @ kernel.T, np.einsum("btd,btv->dv", hidden, slope),
            (weights * log_z**2).sum())


@pytest.mark.parametrize("chunk", [1, 5, 31, 64])
def test_chunked_loss_and_gradient_equal_float64(chunk):
    random = np.random.default_rng(1)
    hidden, kernel = random.normal(size=(3, 12, 8)).astype(np.float32), random.normal(size=(8, 31)).astype(np.float32)
    targets, weights = random.integers(0, 31, (3, 12)).astype(np.int32), random.random((3, 12)).astype(np.float32)

    def nll(hidden, kernel):
        return chunked_cross_entropy(hidden, kernel, targets, weights, chunk)
    (value, z), slopes = jax.jit(jax.value_and_grad(nll, argnums=(0, 1), has_aux=True))(hidden, kernel)
    expected, by_hidden, by_kernel, expected_z = _oracle(hidden, kernel, targets, weights)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(z, expected_z, rtol=1e-6)
    np.testing.assert_allclose(slopes[0], by_hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slopes[1], by_kernel, rtol=1e-5, atol=1e-5)


def _shapes(jaxpr: jax.extend.core.Jaxpr) -> Iterator[tuple[int, ...]]:
    """Shapes of everything that a program computes, the bodies of its loops included."""
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _shapes(inner)


def _largest_array(model, params, batch, chunk: int) -> int:
    program = jax.make_jaxpr(jax.grad(lambda p: loss_sums(model, p, batch, chunk=chunk, remat="full").nll))(params)
    return max(int(np.prod(shape)) for shape in _shapes(program.jaxpr))


def test_the_full_logits_never_exist_forward_or_backward(tiny_llama):
    batch, logits = make_batch(4, length=16), 4 * 16 * VOCAB
    assert _largest_array(*tiny_llama, batch, chunk=12) < 0.7 * logits
    assert _largest_array(*tiny_llama, batch, chunk=VOCAB) == logits        # so the test can see them


def _unpack(batch: dict) -> dict:
    """Each conversation in a row of its own."""
    alone = []
    for row in range(len(batch["tokens"])):
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            here = batch["segment_ids"][row] == segment
            fresh = {k: np.zeros(LENGTH, v.dtype) for k, v in batch.items()}
            for name, value in batch.items():
                fresh[name][:here.sum()] = 1 if name == "segment_ids" else value[row, here]
            alone.append(fresh)
    return {k: np.stack([row[k] for row in alone]) for k in batch}


def test_packed_rows_give_the_loss_of_single_conversations(tiny_llama):
    model, params = tiny_llama
    packed = make_batch(4)
    run = jax.jit(functools.partial(loss_sums, model, chunk=8, dtype=jnp.float32))
    together, alone = run(params, packed), run(params, _unpack(packed))
    assert (together.tokens, together.loss_tokens) == (alone.tokens, alone.loss_tokens)
    np.testing.assert_allclose(together.nll / together.weight, alone.nll / alone.weight, rtol=1e-6)
    leaking = run(params, packed | {"segment_ids": np.minimum(packed["segment_ids"], 1)})
    assert abs(leaking.nll - alone.nll) > 1e-3      # without the segments it would differ


def test_row_mean_is_the_mean_of_the_rows_own_means(tiny_llama):
    model, params = tiny_llama
    batch = make_batch(4)
    batch["loss_weights"][0] = 0                    # a row without loss counts as a row
    for name in batch:
        batch[name] = np.concatenate([batch[name], np.zeros_like(batch[name][:1])])     # a row of padding does not
    run = jax.jit(functools.partial(loss_sums, model, dtype=jnp.float32), static_argnames="normalise")
    total = run(params, batch, normalise="row_mean")
    rows = [run(params, {k: v[i:i + 1] for k, v in batch.items()}) for i in range(4)]
    assert total.weight == 4
    np.testing.assert_allclose(total.nll, sum(float(r.nll) / max(float(r.weight), 1.0) for r in rows), rtol=1e-6)
