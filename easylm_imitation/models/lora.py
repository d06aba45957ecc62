"""LoRA (Hu et al. 2021, arXiv 2106.09685): small matrices trained beside kernels that stay as they are.

    y = x W + (alpha / rank) x A B        W [d_in, d_out] frozen, A [d_in, R], B [R, d_out] trained, B begins as zeros

`Adapters` stands where training has a `Model`: it makes the trained tree, its shapes and its sharding table.

    {"layers": {"attention": {"q": {"a": [L, d_in, R], "b": [L, R, *d_out]}, ...}}}
"""
import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import PartitionSpec

from easylm_imitation.models.kernels import Adapted
from easylm_imitation.models.model import Model, Params
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import Rule, leaf_paths, map_paths


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Which kernels are adapted, and how. The adapter is multiplied by alpha / rank."""
    targets: str = "layers/attention/(q|v)/kernel"  # a regular expression of whole parameter paths
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0                            # share of an adapter's inputs that an update does not see

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; it must be at least 1")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha is {self.alpha}; it must be above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1")
        try:
            re.compile(self.targets)
        except re.error as error:
            raise ValueError(f"targets is {self.targets!r}, which is no regular expression ({error})") from None


@dataclasses.dataclass(frozen=True)
class Adapters:
    """The adapters of one model, without their numbers; hashable. `seed`: of the dropout.

    Raises UserError when `config.targets` matches nothing, or what no adapter can stand beside.
    """
    model: Model
    config: LoraConfig
    seed: int = 0

    def __post_init__(self) -> None:
        possible = adaptable(self.model)
        matched = [path for path in leaf_paths(self.model.abstract()) if re.fullmatch(self.config.targets, path)]
        others = [path for path in matched if path not in possible]
        if others or not matched:
            said = f"matches '{others[0]}', which no adapter stands beside" if others else "matches no parameter"
            raise UserError(f"lora.targets '{self.config.targets}' {said}; those that can be adapted: "
                            f"{', '.join(possible)}")

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.config.alpha / self.config.rank

    def targets(self) -> dict[str, jax.ShapeDtypeStruct]:
        """{path: shape} of the kernels that are adapted, stacked."""
        return {path: leaf for path, leaf in adaptable(self.model).items() if re.fullmatch(self.config.targets, path)}

    def told(self) -> str:
        """The kernels that are adapted, and those that are not, for a reader."""
        own, every = self.targets(), adaptable(self.model)
        names = {path: _module(path).removeprefix("layers/") for path in every}
        others = ", ".join(names[path] for path in every if path not in own)
        return (f"{', '.join(names[path] for path in own)} of each layer" + (f" (not to {others})" if others else ""))

    def abstract(self, dtype: jnp.dtype = jnp.float32) -> Params:
        """Shapes and dtypes of the adapters."""
        return jax.eval_shape(lambda: self.init(jax.random.key(0), dtype))

    def init(self, key: jax.Array, dtype: jnp.dtype = jnp.float32) -> Params:
        """Fresh ones, which add nothing yet: A is uniform within 1 / √d_in (as in PEFT), B is zero."""
        leaves = {}
        for number, (path, kernel) in enumerate(self.targets().items()):
            (layers, d_in, *out), rank = kernel.shape, self.config.rank
            bound, own = d_in**-0.5, jax.random.fold_in(key, number)
            leaves[f"{_module(path)}/a"] = jax.random.uniform(own, (layers, d_in, rank), dtype, -bound, bound)
            leaves[f"{_module(path)}/b"] = jnp.zeros((layers, rank, *out), dtype)
        return traverse_util.unflatten_dict(leaves, sep="/")

    def rules(self) -> tuple[Rule, ...]:
        """Their sharding table, from the model's: A is split as the kernel's rows, B as its columns."""
        rules = []
        for path, kernel in self.targets().items():
            spec = next(rule.spec for rule in self.model.rules() if re.fullmatch(rule.pattern, path))
            stacked, rows, *columns = (*spec, *[None] * (len(kernel.shape) - len(spec)))
            rules += [Rule(re.escape(f"{_module(path)}/a"), PartitionSpec(stacked, rows, None)),
                      Rule(re.escape(f"{_module(path)}/b"), PartitionSpec(stacked, None, *columns))]
        return tuple(rules)

    def attach(self, base: Params, adapters: Params, seeds: jax.Array | None = None) -> Params:
        """The model's parameters, stacked, with `Adapted` kernels; no number is copied.

        `seeds` uint32 [B, 2], of `row_seeds`: with dropout. None: without.
        """
        numbers = {path: number for number, path in enumerate(self.targets())}

        def of(path: str, leaf: Any) -> Any:
            if path not in numbers:
                return leaf
            own = adapters
            for key in path.split("/")[:-1]:
                own = own[key]
            return Adapted(leaf, own["a"], own["b"], self._layer_seeds(seeds, numbers[path]), self.scale,
                           self.config.dropout)
        return map_paths(of, base)

    def row_seeds(self, step: jax.Array, rows: int) -> jax.Array | None:
        """Seeds of one update's rows, uint32 [rows, 2]; None where there is no dropout."""
        if not self.config.dropout:
            return None
        key = jax.random.fold_in(jax.random.key(self.seed), step)
        return jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows)))

    def _layer_seeds(self, seeds: jax.Array | None, number: int) -> jax.Array | None:
        """[B, 2] to [L, B, 2]: one for each layer of target `number`."""
        if seeds is None:
            return None
        layers = self.model.config.layers
        keys, places = jax.random.wrap_key_data(seeds), number * layers + jnp.arange(layers)
        return jax.random.key_data(jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))(keys, places))


def adaptable(model: Model) -> dict[str, jax.ShapeDtypeStruct]:
    """{path: shape} of the kernels that adapters can stand beside: those of the layers."""
    return {path: leaf for path, leaf in leaf_paths(model.abstract()).items()
            if path.startswith("layers/") and path.endswith("/kernel")}


def _module(path: str) -> str:
    return path.removesuffix("/kernel")
