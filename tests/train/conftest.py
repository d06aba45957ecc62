"""Tiny models and batches that the training tests share."""
import jax
import numpy as np
import pytest
from train_helpers import VOCAB, make_batch

from easylm_imitation.models import Model, create, model_config


@pytest.fixture(scope="session")
def tiny_llama() -> tuple[Model, dict]:
    """A LLaMA of two layers whose dims split over 8 devices, with fresh weights."""
    model = create(model_config({"preset": "llama-debug", "vocab_size": VOCAB}))
    return model, jax.jit(model.init)(jax.random.key(0))


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    return make_batch(8)
