"""Rotary positions (Su et al. 2021), plain or scaled to a longer context, and how config.json spells them."""
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from easylm_imitation.models.family import read
from easylm_imitation.schema import UserError, build
from easylm_imitation.sharding import platform

Tables = tuple[jax.Array, jax.Array]    # cos and sin of the angles
_SHARED_KEYS = {"rope_type", "rope_theta", "partial_rotary_factor"}
_KEYS = {"factor": "factor", "low_freq_factor": "low_frequency_factor", "high_freq_factor": "high_frequency_factor",
         "original_max_position_embeddings": "original_context"}
_KEYS_OF = {"linear": ("factor",), "llama3": tuple(_KEYS)}


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How the angles are slowed down so that more positions than `original_context` look familiar.

    `linear` divides every frequency by `factor` (Chen et al. 2023). `llama3` (LLaMA 3.1's reference code) divides
    those that turn less than `low_frequency_factor` times within the original context, leaves those that turn more
    than `high_frequency_factor` times, and blends in between.
    """
    kind: Literal["linear", "llama3"]
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192        # tokens; the last three are llama3's alone

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor is {self.factor}; rotary positions are stretched by 1 or more")
        if not 0 < self.low_frequency_factor < self.high_frequency_factor:
            raise ValueError(f"low_frequency_factor={self.low_frequency_factor} must be positive and below "
                             f"high_frequency_factor={self.high_frequency_factor}")
        if self.original_context < 1:
            raise ValueError(f"original_context is {self.original_context}; it must be at least 1")


def rope_tables(positions: jax.Array, dims: int, theta: float, scaling: RopeScaling | None = None) -> Tables:
    """(cos, sin), each [B, T, 1, dims / 2] in fp32: position * theta^(-2i / dims), slowed down by `scaling`."""
    angles = positions.astype(jnp.float32)[:, :, None, None] * frequencies(dims, theta, scaling)
    tables = jnp.cos(angles), jnp.sin(angles)
    # without the barrier a CPU computes them anew for every head of every layer
    return jax.lax.optimization_barrier(tables) if platform() == "cpu" else tables


def frequencies(dims: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """Radians a position, [dims / 2] fp32; made by numpy, so that they are the same constants on every device."""
    plain = theta ** (-np.arange(0, dims, 2) / dims)
    if scaling is None:
        return plain.astype(np.float32)
    if scaling.kind == "linear":
        return (plain / scaling.factor).astype(np.float32)
    turns = scaling.original_context * plain / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)      # 0: slowed down whole, 1: left alone
    return (plain * (kept + (1 - kept) / scaling.factor)).astype(np.float32)


def rotate(x: jax.Array, tables: Tables) -> jax.Array:
    """Rotates the first dims of x [B, T, N, H], as many as the tables are for, in the convention of Hugging Face files.

    Of R turned dims, i pairs with i + R/2; the H - R others pass.
    """
    half = tables[0].shape[-1]
    turn = _turn_swapped if platform() == "cpu" else _turn_halves
    turned = turn(x[..., :2 * half].astype(jnp.float32), *tables).astype(x.dtype)
    return turned if 2 * half == x.shape[-1] else jnp.concatenate([turned, x[..., 2 * half:]], axis=-1)


def _turn_halves(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _turn_swapped(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """The same, for a CPU: XLA would compute a concatenation of sums number by number, in a quarter of the speed."""
    cos, sin = jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)
    return x * cos + jnp.roll(x, x.shape[-1] // 2, axis=-1) * sin


def rope_from_hf(mapping: Mapping[str, Any], theta_key: str = "rope_theta", part_key: str = "partial_rotary_factor",
                 part: float = 1.0) -> tuple[float, float, RopeScaling | None]:
    """(theta, turned part of each head, scaling) of config.json.

    transformers 4 keeps `rope_theta` beside `rope_scaling`, transformers 5 has all in `rope_parameters`. `theta_key`
    and `part_key` are a family's own names for the outer keys, `part` is what it turns when no key says it. Raises
    UserError for a rope type or key that is not computed, and for spellings that disagree.
    """
    inner = _rope_mapping(mapping)
    kind = inner.get("rope_type", "default")
    if kind not in ("default", *_KEYS_OF):
        raise UserError(f"config.json: rope type '{kind}' is not supported; supported: default, {', '.join(_KEYS_OF)}")
    known = _SHARED_KEYS.union(_KEYS_OF.get(kind, ()))
    for key in inner:
        # what transformers 5 adds to every rope_parameters, whether the type uses it or not
        if key not in known and key != "original_max_position_embeddings":
            raise UserError(f"config.json: '{key}' is not supported for rope type '{kind}'; remove it if it means "
                            "nothing for this model")
    theta = _agreed(mapping, inner, (theta_key, "rope_theta"), 10000.0)
    part = _agreed(mapping, inner, (part_key, "partial_rotary_factor"), part)
    return theta, part, _scaling_from_hf(kind, mapping, inner)


def _rope_mapping(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """`rope_parameters` and `rope_scaling` in one. Raises UserError when one is no mapping, or they disagree."""
    inner: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        given = mapping.get(name) or {}
        if not isinstance(given, Mapping):
            raise UserError(f"config.json: {name}={given!r} is not a mapping such as {{'rope_type': 'linear', "
                            "'factor': 2.0}, or null")
        for key, value in given.items():
            key = "rope_type" if key == "type" else key     # its name before transformers 4.43
            if inner.setdefault(key, value) != value:
                raise UserError(f"config.json: {name} has {key}={value!r} where another key has {inner[key]!r}; "
                                "remove the wrong one")
    return inner


def _agreed(mapping: Mapping[str, Any], inner: Mapping[str, Any], keys: tuple[str, str], default: float) -> float:
    """The number that the outer `keys` and the last of them inside give. Raises UserError when they disagree."""
    given = {key: mapping[key] for key in keys if key in mapping}
    given |= {f"rope_parameters.{keys[1]}": inner[keys[1]]} if keys[1] in inner else {}
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise UserError(f"config.json: {key}={value!r} is not a number above 0")
    if len(set(given.values())) > 1:
        said = " and ".join(f"{key}={value}" for key, value in given.items())
        raise UserError(f"config.json: {said} disagree; remove the wrong one")
    return float(next(iter(given.values()), default))


def rope_to_hf(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """The keys that transformers 4 and 5 and vLLM read."""
    if scaling is None:
        return {"rope_theta": theta, "rope_scaling": None}
    values = {key: getattr(scaling, _KEYS[key]) for key in _KEYS_OF[scaling.kind]}
    # `type` is what transformers before 4.43 looked for
    return {"rope_theta": theta, "rope_scaling": {"rope_type": scaling.kind, "type": scaling.kind, **values}}


def _scaling_from_hf(kind: str, mapping: Mapping[str, Any], inner: Mapping[str, Any]) -> RopeScaling | None:
    if kind == "default":
        return None
    either = {**{key: mapping[key] for key in _KEYS if key in mapping}, **inner}
    values = {_KEYS[key]: read(either, key) for key in _KEYS_OF[kind]}
    return build(RopeScaling, {"kind": kind, **values}, "config.json.rope_scaling")
