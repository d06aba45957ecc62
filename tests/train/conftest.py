"""Tiny models, batches and a packed dataset that the training tests share."""
import pathlib

import jax
import numpy as np
import pytest
from tiny_tokenizers import byte_tokenizer
from train_helpers import VOCAB, build_data, make_batch, tiny_config

from easylm_imitation.models import Model, create, model_config
from easylm_imitation.train import train


@pytest.fixture(scope="session", autouse=True)
def _compiled_programs_kept(tmp_path_factory):
    """One compilation of a program serves every test that runs it, those in processes of their own included."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("programs"))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
        before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        yield
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])


@pytest.fixture(scope="session")
def tiny_llama() -> tuple[Model, dict]:
    """A LLaMA of two layers whose dims split over 8 devices, with fresh weights."""
    model = create(model_config({"preset": "llama-debug", "vocab_size": VOCAB}))
    return model, jax.jit(model.init)(jax.random.key(0))


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    return make_batch(8)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A built dataset of 60 short conversations that a teacher answered."""
    return build_data(tmp_path_factory.mktemp("data"), byte_tokenizer(), teacher="teacher")


@pytest.fixture(scope="session")
def whole(data, tmp_path_factory) -> pathlib.Path:
    """A finished run of nine updates with checkpoints 3, 6 and 9. Copy it before you change it."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    result = train(tiny_config(), data_dir=data, workdir=workdir)
    assert (result.step, result.total_steps, result.interrupted) == (9, 9, False)
    return workdir
