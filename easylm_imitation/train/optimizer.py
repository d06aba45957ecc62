"""Optimizers through optax: AdamW, the paper's scaled AdamW, Adafactor, Lion, Muon; all with the same frame.

    gradient ─ clip by its global norm ─► optimizer · learning rate ─► + learning rate · weight decay · weights ─► ·(-1)

Where an optimizer looks at a tensor as a whole (its RMS, its rows and columns, its singular values) a tensor is one
layer's: layers are stacked along a leading dim, and each is treated by itself.
"""
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from easylm_imitation.train.optimizer_config import OptimizerConfig
from easylm_imitation.train.schedule import make_schedule
from easylm_imitation.train.skip import skipping

Transforms = tuple[optax.GradientTransformation, ...]

_DECAYED = ("kernel", "embedding", "a", "b")    # leaf names of matrices and tables, and of an adapter's two
_NOT_DECAYED = ("bias", "scale")                # leaf names of biases and norms
_MUON_RMS = 0.2     # of an orthogonal update's entries: like AdamW's, so both parts share a learning rate (see _muon)


def make_optimizer(config: OptimizerConfig, steps: int) -> tuple[optax.GradientTransformationExtraArgs, optax.Schedule]:
    """The optimizer of a run of `steps` updates, and the learning rate that it applies at update i (from 0).

    `update(gradients, state, params, step=i, loss=loss)`: i is the step of the run and no count of the optimizer's own,
    so that the rate applied is the rate logged even after an update that was skipped (skip.py).
    """
    learning_rate = make_schedule(config, steps)
    clip = () if config.clip is None else (optax.clip_by_global_norm(config.clip),)
    core = {"adamw": _adamw, "scaled_adamw": _scaled_adamw, "adafactor": _adafactor, "lion": _lion,
            "muon": _muon}[config.name](config, _times_rate(learning_rate))
    decay = _plus_decay(learning_rate, config.weight_decay, None if config.decay_norms_and_biases else decay_mask)
    return skipping(optax.chain(*clip, *core, decay, optax.scale(-1.0)), config.spike_factor), learning_rate


def _adamw(config: OptimizerConfig, times_rate: optax.GradientTransformation) -> Transforms:
    """Loshchilov and Hutter 2019 (arXiv 1711.05101)."""
    return optax.scale_by_adam(config.beta1, config.beta2, config.eps, mu_dtype=config.moment_dtype), times_rate


def _scaled_adamw(config: OptimizerConfig, times_rate: optax.GradientTransformation) -> Transforms:
    """The paper's "AdamW with gradients re-scaled by the magnitude of each weight", as EasyLM had it in April 2023.

    v ← β v + (1 - β) (g² + 1e-30), β = 1 - t^-beta2_exponent;   u = rate · g/√v · max(rms(weights), 1e-3)
    m ← beta1 m + (1 - beta1) u, from 0 and not debiased;        weights ← weights - m - rate · decay · weights
    Source: EasyLM at efcea8a, optimizers.py, AdamWOptimizerFactory: an Adafactor without factors, and no AdamW.
    """
    scaled = optax.chain(
        optax.scale_by_factored_rms(factored=False, decay_rate=config.beta2_exponent), optax.scale_by_param_block_rms())
    return per_layer(scaled), times_rate, optax.ema(config.beta1, debias=False, accumulator_dtype=config.moment_dtype)


def _adafactor(config: OptimizerConfig, times_rate: optax.GradientTransformation) -> Transforms:
    """Shazeer and Stern 2018 (arXiv 1804.04235), Algorithms 4 and 5: an RMS of at most 1, times the weights' RMS.

    Second moments of tensors with two dims of at least 128 are kept as the means of their rows and columns.
    """
    scaled = optax.chain(optax.scale_by_factored_rms(decay_rate=config.beta2_exponent), optax.clip_by_block_rms(1.0),
                         optax.scale_by_param_block_rms())
    return per_layer(scaled), times_rate


def _lion(config: OptimizerConfig, times_rate: optax.GradientTransformation) -> Transforms:
    """Chen et al. 2023 (arXiv 2302.06675)."""
    return optax.scale_by_lion(config.beta1, config.beta2, mu_dtype=config.moment_dtype), times_rate


def _muon(config: OptimizerConfig, times_rate: optax.GradientTransformation) -> Transforms:
    """Jordan 2024 for the layers' matrices, AdamW for embeddings, head, norms and biases.

    Updates are scaled by 0.2 √max(rows, columns) as in Liu et al. 2025 (arXiv 2502.16982, section 2.2), so that AdamW's
    learning rate and weight decay serve both parts. q, k and v of a fused kernel [D, 3, D] are three matrices.
    """
    dims = functools.partial(jax.tree_util.tree_map_with_path, _matrix_dims)
    muon = optax.chain(
        optax.contrib.scale_by_muon(beta=config.momentum, mu_dtype=config.moment_dtype, weight_dimension_numbers=dims),
        optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(_scaled_by_size, updates)))
    adamw = optax.scale_by_adam(config.beta1, config.beta2, config.eps, mu_dtype=config.moment_dtype)
    labels = functools.partial(jax.tree_util.tree_map_with_path,
                               lambda path, _: "muon" if _is_hidden_matrix(path) else "adamw")
    return optax.partition({"muon": muon, "adamw": adamw}, labels), times_rate


def _is_hidden_matrix(path: tuple) -> bool:
    return path[0].key == "layers" and path[-1].key == "kernel"


def _matrix_dims(path: tuple, kernel: jax.Array) -> optax.contrib.MuonDimensionNumbers:
    """[L, d_in, ..., d_out], or without L where layers are not stacked: a matrix d_in × d_out for each other index."""
    stacked = not isinstance(path[1], jax.tree_util.SequenceKey)
    return optax.contrib.MuonDimensionNumbers(int(stacked), kernel.ndim - 1)


def _scaled_by_size(path: tuple, update: jax.Array) -> jax.Array:
    dims = _matrix_dims(path, update)
    return update * (_MUON_RMS * max(update.shape[dims.reduction_axis], update.shape[dims.output_axis]) ** 0.5)


def per_layer(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, which treats each leaf as one tensor, for parameters whose "layers" are stacked along a leading dim.

    Its state keeps the parameters' paths, by which `sharding.like_params` finds their shardings.
    """
    def of(part: str, function: Callable) -> Callable:
        return jax.vmap(function) if part == "stacked" else function

    def init(params: Any) -> dict[str, Any]:
        return {name: of(name, inner.init)(part) for name, part in _parts(params).items()}

    def update(updates: Any, state: dict[str, Any], params: Any) -> tuple[Any, dict[str, Any]]:
        params = _parts(params)
        made = {name: of(name, inner.update)(part, state[name], params[name])
                for name, part in _parts(updates).items()}
        joined = {key: value for part, _ in made.values() for key, value in part.items()}
        return joined, {name: after for name, (_, after) in made.items()}

    return optax.GradientTransformation(init, update)


def _parts(tree: dict[str, Any]) -> dict[str, Any]:
    """What is stacked and what is not, each under its old keys. Layers in a list are not stacked."""
    if not isinstance(tree.get("layers"), Mapping):
        return {"single": tree}
    single = {key: value for key, value in tree.items() if key != "layers"}
    return {"single": single, "stacked": {"layers": tree["layers"]}}


def _times_rate(learning_rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    def update(updates: Any, state: optax.EmptyState, params: Any = None, *, step: jax.Array, **_: Any) -> tuple:
        return jax.tree.map(lambda u: learning_rate(step) * u, updates), state
    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _plus_decay(learning_rate: optax.Schedule, weight_decay: float,
                mask: Callable | None) -> optax.GradientTransformation:
    def update(updates: Any, state: optax.EmptyState, params: Any, *, step: jax.Array, **_: Any) -> tuple:
        return jax.tree.map(lambda u, p: u + learning_rate(step) * weight_decay * p, updates, params), state
    if not weight_decay:
        return optax.identity()
    transform = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    return transform if mask is None else optax.masked(transform, mask)


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
