"""AdamW with warm-up and decay, through optax; norms and biases are not decayed.

    warm-up:  update i (from 0) of w runs at peak · (i+1) / w, so that no update has learning rate 0
    decay:    update i of n runs at peak · shape((i - w) / (n - w)): from 1 to `final`, reached just after the last
"""
import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

_DECAYED = ("kernel", "embedding")              # leaf names of matrices and tables
_NOT_DECAYED = ("bias", "scale")                # leaf names of biases and norms


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101): the decay is multiplied by the learning rate, as torch does."""
    learning_rate: float = 3e-4         # the peak
    warmup: float = 0.03                # below 1: share of all updates; from 1: updates
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    final: float = 0.0                  # share of the peak that the decay ends at; constant never decays
    weight_decay: float = 0.0
    decay_norms_and_biases: bool = False
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip: float | None = 1.0            # largest global norm of the gradient; None does not clip

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip is {self.clip}; it must be above 0, or None to switch it off")
        if self.warmup < 0 or self.weight_decay < 0 or self.eps <= 0:
            raise ValueError(f"warmup={self.warmup} and weight_decay={self.weight_decay} must not be negative, "
                             f"eps={self.eps} must be above 0")
        for key in ("beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be at least 0 and below 1")
        if not 0 <= self.final <= 1:
            raise ValueError(f"final is {self.final}; it must lie between 0 and 1")


def make_optimizer(config: OptimizerConfig, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer of a run of `steps` updates, and the learning rate that it applies at update i (from 0)."""
    learning_rate = make_schedule(config, steps)
    clip = [] if config.clip is None else [optax.clip_by_global_norm(config.clip)]
    return optax.chain(
        *clip,
        optax.scale_by_adam(config.beta1, config.beta2, config.eps),
        optax.add_decayed_weights(config.weight_decay, None if config.decay_norms_and_biases else decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    ), learning_rate


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate of update i (int32, from 0) as float32. A warm-up longer than the run is obeyed."""
    warmup = warmup_updates(config, steps)

    def learning_rate(i: jax.Array) -> jax.Array:
        done = jnp.clip((i - warmup) / max(steps - warmup, 1), 0.0, 1.0)
        shape = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 + 0.5 * jnp.cos(jnp.pi * done)}[config.schedule]
        decayed = shape if config.schedule == "constant" else config.final + (1.0 - config.final) * shape
        rising = (i + 1) / max(warmup, 1)
        return jnp.float32(config.learning_rate) * jnp.where(i < warmup, rising, decayed)
    return learning_rate


def warmup_updates(config: OptimizerConfig, steps: int) -> int:
    """Updates of the warm-up in a run of `steps` updates."""
    return int(config.warmup) if config.warmup >= 1 else math.ceil(config.warmup * steps)


def decay_mask(params: Any) -> Any:
    """True where weight decay applies: by the leaf's name, as stacked biases and norms have two dims like a matrix.

    >>> decay_mask({"layers": {"norm": {"scale": s}, "up": {"kernel": k, "bias": b}}})
    {"layers": {"norm": {"scale": False}, "up": {"kernel": True, "bias": False}}}
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_decayed(path), params)


def _is_decayed(path: tuple) -> bool:
    name = str(path[-1].key)
    if name not in _DECAYED + _NOT_DECAYED:
        raise ValueError(f"{jax.tree_util.keystr(path)}: no rule says whether weight decay applies to a '{name}'")
    return name in _DECAYED
