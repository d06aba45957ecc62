"""Learning rates: a warm-up, then linear, cosine, constant, or constant with a decay at the end (wsd).

    warm-up:  update i (from 0) of w runs at peak · (i+1) / w, so that no update has learning rate 0
    decay:    update i of n, from update s on, runs at peak · shape((i - s) / (n - s)): from 1 to `final`, reached just
              after the last. s is the end of the warm-up; in wsd, n less the length of the decay, if that is later

wsd is the schedule of Hu et al. 2024 (MiniCPM, arXiv 2404.06395) with the decay of Hägele et al. 2024 (arXiv
2405.18392, section 3): 1 - √x, which they find to end lower than a linear one.
"""
import math

import jax
import jax.numpy as jnp
import optax

from easylm_imitation.train.optimizer_config import OptimizerConfig


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate of update i (int32, from 0) as float32. A warm-up longer than the run is obeyed."""
    warmup = warmup_updates(config, steps)
    start = max(warmup, steps - _updates(config.decay, steps)) if config.schedule == "wsd" else warmup

    def learning_rate(i: jax.Array) -> jax.Array:
        done = jnp.clip((i - start) / max(steps - start, 1), 0.0, 1.0)
        shape = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 + 0.5 * jnp.cos(jnp.pi * done),
                 "wsd": 1.0 - jnp.sqrt(done)}[config.schedule]
        decayed = shape if config.schedule == "constant" else config.final + (1.0 - config.final) * shape
        rising = (i + 1) / max(warmup, 1)
        return jnp.float32(config.learning_rate) * jnp.where(i < warmup, rising, decayed)
    return learning_rate


def warmup_updates(config: OptimizerConfig, steps: int) -> int:
    """Updates of the warm-up in a run of `steps` updates."""
    return _updates(config.warmup, steps)


def _updates(length: float, steps: int) -> int:
    return int(length) if length >= 1 else math.ceil(length * steps)
