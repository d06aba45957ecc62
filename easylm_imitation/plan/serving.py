"""What a server would need on a pod: weights, cache and the programs' own memory a device, and how many tokens a second
the memory's bandwidth allows. By formula: weights and cache are exact, the rest is what the largest program holds."""
import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from easylm_imitation.models import ModelConfig, create
from easylm_imitation.plan.pods import Pod
from easylm_imitation.schema import UserError
from easylm_imitation.serve import ServeConfig
from easylm_imitation.serve.config import Shapes, shapes
from easylm_imitation.sharding import AXES, axis_size, leaf_paths, mesh_sizes, shardings

_ROWS = ("replica", "data", "fsdp")     # axes that slots are spread over


@dataclasses.dataclass(frozen=True)
class ServingPlan:
    """One server. Bytes are of a device."""
    pod: Pod
    axes: Mapping[str, int]
    slots: int
    context: int
    weights: float
    cache: float
    working: float              # activations and logits of the largest program
    tokens_per_second: float    # at most, all slots full of contexts half as long as they may be
    seconds_a_token: float      # of one answer, at that load

    @property
    def peak(self) -> float:
        """All of it."""
        return self.weights + self.cache + self.working

    @property
    def fits(self) -> bool:
        """Whether a device has room for it."""
        return self.peak <= self.pod.memory


def plan_serving(config: ServeConfig, model: ModelConfig, pod: Pod) -> ServingPlan:
    """What a server takes. Raises UserError for a mesh or sizes that `serve` would refuse."""
    axes = mesh_sizes(config.mesh, pod.devices if config.mesh else 1)
    if axes["sequence"] > 1:
        raise UserError(f"mesh '{config.mesh}': a server has no use for the axis 'sequence'")
    mesh = AbstractMesh(tuple(axes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    ways = axis_size(mesh, _ROWS)
    if config.slots % ways:
        raise UserError(f"slots is {config.slots}, which does not split over the {ways} devices of the mesh axes "
                        f"{', '.join(_ROWS)}; take a multiple of {ways}, or another --mesh")
    dtype = jnp.dtype(config.dtype_on("tpu"))
    sizes = shapes(config, model_context=model.context, vocab_size=model.vocab_size, parameters=model.parameters(),
                   platform="tpu", ways=ways)
    weights = _weights(model, mesh, dtype)
    a_token = _cached(model, axes["tensor"]) * dtype.itemsize
    rows = config.slots // ways
    cache = (rows + config.prefixes) * sizes.context * a_token
    moved = weights + rows * sizes.context / 2 * a_token
    arithmetic = 2 * model.matmul_weights() / axes["tensor"] * rows / pod.flops
    exchange = 2 * model.layers * rows * model.d_model * dtype.itemsize * (axes["tensor"] > 1) / _link(pod)
    step = max(moved * pod.chip.cores / pod.chip.memory_bandwidth, arithmetic) + exchange
    return ServingPlan(pod, axes, config.slots, sizes.context, weights, cache,
                       _working(model, sizes, axes["tensor"], rows, dtype), config.slots / step, step)


def _weights(model: ModelConfig, mesh: AbstractMesh, dtype: jnp.dtype) -> float:
    made = create(model)
    abstract = made.abstract(dtype)
    placed = leaf_paths(shardings(mesh, made.rules(), abstract))
    return sum(leaf.size * dtype.itemsize / _parts(mesh, placed[path]) for path, leaf in leaf_paths(abstract).items())


def _parts(mesh: AbstractMesh, placed: jax.sharding.NamedSharding) -> int:
    parts = 1
    for axes in placed.spec:
        parts *= axis_size(mesh, axes)
    return parts


def _cached(model: ModelConfig, tensor: int) -> float:
    """Numbers a token that a device's cache holds; heads that do not split are held whole."""
    heads = model.kv_heads / tensor if model.kv_heads % tensor == 0 else model.kv_heads
    return 2 * model.layers * heads * model.head_dim


def _working(model: ModelConfig, sizes: Shapes, tensor: int, rows: int, dtype: jnp.dtype) -> float:
    """The widest layer of the largest prefill or scoring, and one step's logits in float32."""
    tokens = max([prompts * chunk for prompts, chunk in sizes.prefill] + [n * length for n, length in sizes.score])
    layer = tokens * (3 * model.d_ff / tensor + 4 * model.d_model) * dtype.itemsize
    return layer + max(rows, sizes.head_chunk) * model.vocab_size * 4 / tensor


def _link(pod: Pod) -> float:
    return 2 * pod.chip.link_bandwidth / pod.chip.cores
