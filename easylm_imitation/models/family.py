"""What a model family offers to the rest: its config, its two modules, its sharding table and its Hugging Face maps."""
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from flax import nnx
from jax.sharding import PartitionSpec

from easylm_imitation.console import say_once
from easylm_imitation.models.names import NameMap
from easylm_imitation.schema import UserError

_MOST_LAYERS = 10000    # a damaged file asks for more, and would keep the reader busy for ever
SpecTable = tuple[tuple[str, PartitionSpec], ...]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes that every family has. Subclasses add their own, and say how many parameters and FLOPs these make.

    They also have `kv_heads` and `head_dim` (K and H of the cache), as fields or properties.
    """
    vocab_size: int
    context: int        # tokens of the longest row the weights were made for
    layers: int
    d_model: int
    heads: int
    d_ff: int

    learned_positions: ClassVar[bool] = False   # a table of positions, which ends at `context`
    window: ClassVar[int] = 0   # tokens that a query sees, itself included; 0: all. A field where a family has it

    def __post_init__(self) -> None:
        for field in ("vocab_size", "context", "layers", "d_model", "heads", "d_ff"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be at least 1")
        if self.layers > _MOST_LAYERS:
            raise ValueError(f"layers is {self.layers}; no model has more than {_MOST_LAYERS}")
        for field in ("norm_eps", "rope_theta"):    # of those that have it
            if not 0 < getattr(self, field, 1) < math.inf:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be a number above 0")

    @property
    def family(self) -> str:
        """Name of the family, as in FAMILIES."""
        raise NotImplementedError

    @property
    def attention_dim(self) -> int:
        """N * H."""
        raise NotImplementedError

    def parameters(self) -> int:
        """How many numbers the parameters hold."""
        raise NotImplementedError

    def matmul_weights(self) -> int:
        """Weights that multiply each token: all kernels and the head, not norms, biases and looked-up tables."""
        raise NotImplementedError

    def flops_per_token(self, context: int) -> float:
        """Forward and backward FLOPs of one token in a row of `context` tokens, without recomputation.

        6 for each matmul weight (2 forward, 4 backward). Attention is counted causal: scores and values cost
        2 * 2 * N * H for each key seen, three times, and a token sees context / 2 keys on average; a window W shorter
        than the row leaves W - W^2 / (2 * context) of them.
        """
        window = min(self.window or context, context)
        keys = window - window**2 / (2 * context)
        return 6.0 * self.matmul_weights() + 12.0 * self.layers * self.attention_dim * keys

    def check_context(self, tokens: int) -> None:
        """Raises UserError when rows of `tokens` cannot be represented; rotary positions take any length."""
        if tokens < 1:
            raise UserError(f"context {tokens}: a row needs at least one token")
        if self.learned_positions and tokens > self.context:
            raise UserError(f"context {tokens}: this {self.family} has learned {self.context} positions; "
                            "ask for no more")


@dataclasses.dataclass(frozen=True)
class FullHeadsConfig(ModelConfig):
    """Sizes of a family whose heads divide d_model among them and have keys and values of their own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % self.heads:
            raise ValueError(f"d_model={self.d_model} is not a multiple of heads={self.heads}")

    @property
    def kv_heads(self) -> int:
        """As many as heads."""
        return self.heads

    @property
    def head_dim(self) -> int:
        """H."""
        return self.d_model // self.heads

    @property
    def attention_dim(self) -> int:
        """N * H."""
        return self.d_model


@dataclasses.dataclass(frozen=True)
class Family:
    """One family's parts; `Model` is generic over them.

    `block(config, rngs=)` offers `project(x, shared) -> (q, k, v)` and `finish(x, attended) -> x`;
    `ends(config, rngs=)` offers `start(tokens, positions, dtype) -> (x, shared)`, `norm(x)` and `head() -> [D, V]`,
    where `shared` is whatever the blocks need to know of the positions. `specs` is the sharding table of one config,
    with `layers/...` for the parameters of one layer.
    """
    name: str
    config: type[ModelConfig]
    block: Callable[..., nnx.Module]
    ends: Callable[..., nnx.Module]
    specs: Callable[[Any], SpecTable]
    names: Callable[[Any], NameMap]
    config_from_hf: Callable[[Mapping[str, Any]], ModelConfig]
    config_to_hf: Callable[[Any], dict[str, Any]]
    hf_types: tuple[str, ...]       # `model_type`s of config.json that this family reads
    presets: Mapping[str, ModelConfig]


def vocab_spec(vocab_size: int) -> PartitionSpec:
    """Spec of a [V, D] table: V on `tensor` where usual sizes of that axis divide it, else D on both axes."""
    return PartitionSpec("tensor", "fsdp") if vocab_size % 8 == 0 else PartitionSpec(None, ("fsdp", "tensor"))


def demand(mapping: Mapping[str, Any], key: str, allowed: tuple[Any, ...], default: Any) -> None:
    """Raises UserError unless config.json's `key` (or the default) is allowed: what is not computed is refused."""
    value = mapping.get(key, default)
    if value not in allowed:
        raise UserError(f"config.json: {key}={value!r} is not supported for model_type '{mapping.get('model_type')}'; "
                        f"supported: {', '.join(map(repr, allowed))}")


def note_dropout(mapping: Mapping[str, Any], *keys: str) -> None:
    """Says once that config.json asks for dropout in training, which is not computed; nothing else depends on it.

    Raises UserError for a value that is no share.
    """
    for key in keys:
        share = mapping.get(key) or 0
        if type(share) not in (int, float) or not 0 <= share < 1:
            raise UserError(f"config.json: {key}={share!r} is no share of at least 0 and below 1")
        if share:
            say_once(f"note: config.json asks for {key}={mapping[key]} in training; dropout is not computed here")


def read(mapping: Mapping[str, Any], key: str) -> Any:
    """config.json's `key`. Raises UserError naming it when it is absent."""
    if mapping.get(key) is None:
        raise UserError(f"config.json: the key '{key}' is missing; is this a Hugging Face model directory?")
    return mapping[key]
