"""Rotary positions against complex numbers in float64: both ways to compute them, forward and backward."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from easylm_imitation.models import rope

_THETA, _TURNED, _HEAD = 10000.0, 12, 20


def _by_complex_numbers(x: np.ndarray, positions: np.ndarray, direction: int) -> np.ndarray:
    """x [B, T, N, H]: of the first R dims, i and i + R/2 are a complex number, turned by its angle."""
    half = _TURNED // 2
    angles = positions[:, :, None, None] * _THETA ** (-np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:_TURNED]) * np.exp(1j * direction * angles)
    return np.concatenate([turned.real, turned.imag, x[..., _TURNED:]], axis=-1)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_rotation_is_that_of_complex_numbers_and_its_gradient_turns_back(monkeypatch, platform):
    monkeypatch.setattr(rope, "platform", lambda: platform)
    x, slope = np.random.default_rng(0).standard_normal((2, 2, 9, 3, _HEAD))
    positions = np.stack([np.arange(9), [0, 1, 2, 3, 0, 1, 2, 0, 40]])
    tables = rope.rope_tables(jnp.asarray(positions), _TURNED, _THETA)
    turned, backward = jax.vjp(lambda x: rope.rotate(x, tables), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(turned, _by_complex_numbers(x, positions, 1), atol=2e-5)
    np.testing.assert_allclose(backward(jnp.asarray(slope, jnp.float32))[0], _by_complex_numbers(slope, positions, -1),
                               atol=2e-5)
