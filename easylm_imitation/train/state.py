"""The state that training carries, abstract first: shapes, then shardings, then either a sharded init or a restore.

Nothing is ever made to be thrown away: a restored run allocates no initial weights, and a fresh run makes each weight
on the device that holds it.
"""
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from easylm_imitation.models import Adapters, Model
from easylm_imitation.sharding import like_params
from easylm_imitation.sharding import shardings as param_shardings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What an update reads and replaces; also used as a tree of shapes and as a tree of shardings."""
    step: Any                   # int32 scalar, updates done
    params: Any                 # nested dict of float32 master weights, or of adapters
    optimizer: Any              # optax state


def abstract_state(model: Model | Adapters, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state as `jax.ShapeDtypeStruct`s that carry their sharding on `mesh`: what init and restore both aim at."""
    params = model.abstract(jnp.float32)
    shapes = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, jax.eval_shape(optimizer.init, params))
    by_param = param_shardings(mesh, model.rules(), params)
    by_leaf = TrainState(NamedSharding(mesh, PartitionSpec()), by_param, like_params(by_param, shapes.optimizer))
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, by_leaf)


def frozen_base(model: Model, dtype: jnp.dtype, mesh: Mesh) -> Any:
    """Shapes of the weights that adapters stand beside, with their sharding on `mesh`."""
    params = model.abstract(dtype)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params,
                        param_shardings(mesh, model.rules(), params))


def shardings_of(abstract: Any) -> Any:
    """The tree of shardings of a tree of abstract or real arrays."""
    return jax.tree.map(lambda x: x.sharding, abstract)


def init_state(model: Model | Adapters, optimizer: optax.GradientTransformation, abstract: TrainState,
               seed: int) -> TrainState:
    """Fresh weights. Each is computed where it lives; the values do not depend on the mesh."""
    def init(key: jax.Array) -> TrainState:
        params = model.init(key, jnp.float32)
        return TrainState(jnp.int32(0), params, optimizer.init(params))
    compiled = jax.jit(init, out_shardings=shardings_of(abstract), compiler_options=_quick_to_compile())
    return compiled(jax.random.key(seed))


def state_from(params: Any, optimizer: optax.GradientTransformation, abstract: TrainState) -> TrainState:
    """A state at step 0 around given weights, which already lie where `abstract` wants them."""
    init = jax.jit(lambda p: (jnp.int32(0), optimizer.init(p)),
                   out_shardings=shardings_of((abstract.step, abstract.optimizer)))
    step, opt_state = init(params)
    return TrainState(step, params, opt_state)


def _quick_to_compile() -> dict[str, Any] | None:
    """Compiler options of a program that runs once: on CPU, random numbers take 10 s to optimise for a tiny model."""
    options = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    return options if jax.default_backend() == "cpu" else None


def bytes_per_device(abstract: Any) -> int:
    """Bytes that a tree of sharded shapes takes on each device (gradients take as much again as the weights)."""
    return sum(x.dtype.itemsize * _size(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(abstract))


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for dim in shape:
        size *= dim
    return size
