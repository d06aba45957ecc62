"""Where the parts of an engine lie on the devices of a mesh.

    weights         by the rules of training (models/*.py): over `fsdp` and `tensor`
    cache           slots over `replica`, `data` and `fsdp`; KV heads over `tensor` where it divides them
    token counts    slots alike
    prefix cache    KV heads alike; whole over the other axes, since rows on all of them grow from the same beginnings
    all else        on every device: it is small, and the host reads it
"""
import dataclasses
import functools
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from easylm_imitation.console import say_once
from easylm_imitation.models import Model, ModelConfig, Quantised, unstack
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import BATCH, axis_size, make_mesh, shardings
from easylm_imitation.weights import Bits, quantised

Tree = Any
ROWS = BATCH[0]         # axes over which slots, and rows of texts to score, are spread


@functools.lru_cache
def mesh_of(text: str) -> Mesh:
    """The mesh that `ServeConfig.mesh` names; "" is this process' first device alone.

    Raises UserError as `make_mesh` does, for a `sequence` axis, and where a process of several would have no part.
    """
    if not text:
        if jax.process_count() > 1:
            raise UserError(f"{jax.process_count()} processes serve one model, and nothing says how they share it; "
                            "give --mesh, as in 'tensor:-1'")
        return make_mesh("", jax.local_devices()[:1])
    mesh = make_mesh(text)
    if mesh.shape["sequence"] > 1:
        raise UserError(f"mesh '{text}': a server has no use for the axis 'sequence'; give its devices to 'tensor' or "
                        "'data'")
    idle = jax.process_count() - len(processes(mesh))
    if idle:
        raise UserError(f"mesh '{text}': {idle} of {jax.process_count()} processes have no device in it; make it "
                        "larger, or start fewer")
    return mesh


def processes(mesh: Mesh) -> set[int]:
    """Numbers of the processes that own the devices of a mesh."""
    return {device.process_index for device in mesh.devices.flat}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Shardings of everything that a program is given or returns. Hashable."""
    mesh: Mesh

    @property
    def alone(self) -> bool:
        """Whether this is one device."""
        return self.mesh.size == 1

    @property
    def ways(self) -> int:
        """Groups of devices that slots and rows are spread over."""
        return axis_size(self.mesh, ROWS)

    def spread(self, *spec: str | tuple[str, ...] | None) -> Sharding:
        """`PartitionSpec(*spec)` on this mesh; without arguments: on every device."""
        if self.alone:
            return SingleDeviceSharding(self.mesh.devices.flat[0])
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def cache(self, cache: Tree, rows: tuple[str, ...] | None) -> Tree:
        """Shardings of a cache of `Model.init_cache`, its rows over the axes `rows`."""
        def one(leaf: jax.ShapeDtypeStruct) -> Sharding:
            heads = "tensor" if leaf.shape[-3] % self.mesh.shape["tensor"] == 0 else None
            return self.spread(*[None] * (leaf.ndim - 4), rows, heads)
        return jax.tree.map(one, cache)

    def params(self, model: Model, unstacked: bool, bits: Bits = "none") -> Tree:
        """Shardings of what `prepare` returns. Raises UserError where an axis does not divide a dim."""
        abstract = jax.eval_shape(unstack, model.abstract()) if unstacked else model.abstract()
        few = prepared(model, jnp.float32, unstacked, bits)
        if self.alone:
            return jax.tree.map(lambda leaf: self.spread(), few)
        placed = shardings(self.mesh, model.rules(stacked=not unstacked), abstract)
        placed = jax.tree.map(self._parts, placed, few, is_leaf=lambda leaf: isinstance(leaf, Quantised))
        if not unstacked:
            return placed

        def turned(path: tuple, leaf: jax.ShapeDtypeStruct, where: NamedSharding) -> Sharding:
            spec = (*where.spec, None, None)[:2]
            return self.spread(*reversed(spec)) if _turns(path, leaf) else where
        return jax.tree_util.tree_map_with_path(turned, few, placed)

    def _parts(self, where: Sharding, leaf: Any) -> Tree:
        """Shardings of a quantised kernel's parts: its own, but where there are too few groups to split."""
        if not isinstance(leaf, Quantised):
            return where
        def one(part: jax.ShapeDtypeStruct) -> Sharding:
            return self.spread(*(axes if size % axis_size(self.mesh, axes) == 0 else None
                                 for size, axes in zip(part.shape, where.spec, strict=False)))
        return jax.tree.map(one, leaf)

    def check_memory(self, state: Tree, slots: int, context: int) -> None:
        """Raises UserError where what slots hold (shapes with shardings) is more than a device has by itself."""
        device = self.mesh.devices.flat[0]
        has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if device.platform == "cpu" else (
            device.memory_stats() or {}).get("bytes_limit")
        needs = bytes_on_device(state)
        if has and needs > has:
            raise UserError(f"slots {slots} of context {context} take {needs / 1e9:,.1f} GB a device, which has "
                            f"{has / 1e9:,.1f} GB; lower slots or context")

    def check(self, config: ModelConfig, slots: int) -> None:
        """Raises UserError where slots cannot be spread evenly; says what cannot be split."""
        if slots % self.ways:
            raise UserError(f"slots is {slots}, which does not split over the {self.ways} devices of the mesh axes "
                            f"{', '.join(ROWS)}; take a multiple of {self.ways}, or another --mesh")
        tensor = self.mesh.shape["tensor"]
        if config.kv_heads % tensor:
            say_once(f"mesh: {config.kv_heads} KV heads do not split over tensor:{tensor}, so each of its devices "
                     "holds them all")


def bytes_on_device(tree: Tree) -> int:
    """Of one device's part of arrays, or of shapes with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def prepared(model: Model, dtype: jnp.dtype, unstacked: bool, bits: Bits) -> Tree:
    """Shapes and dtypes of what `prepare` returns, before kernels are transposed."""
    few = jax.eval_shape(functools.partial(quantised, bits=bits), model.abstract(dtype))
    return jax.eval_shape(unstack, few) if unstacked else few


def prepare(params: Tree, dtype: jnp.dtype, unstacked: bool, where: Tree, bits: Bits = "none") -> Tree:
    """Parameters as the programs take them, at the shardings `where` (`Layout.params`): cast once, and in few bits;
    where layers are to be apart, that, and kernels transposed."""
    params = quantised(jax.tree.map(lambda leaf: leaf.astype(dtype), params), bits)
    if not unstacked:
        return jax.device_put(params, where)
    params = unstack(params)
    layers = list(params["layers"])
    for i, layer in enumerate(layers):      # one by one, so that the memory of each is free before the next
        layers[i] = jax.device_put(turn(layer), where["layers"][i])
    rest = turn({name: leaf for name, leaf in params.items() if name != "layers"})
    return {**{name: jax.device_put(leaf, where[name]) for name, leaf in rest.items()}, "layers": tuple(layers)}


def turn(params: Tree) -> Tree:
    """Kernels [D, F] transposed, from how they are declared to how they are stored and back (`turned_kernels`)."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf.T if _turns(path, leaf) else leaf, params)


def _turns(path: tuple, leaf: Any) -> bool:
    return getattr(path[-1], "key", None) == "kernel" and leaf.ndim == 2     # none of a quantised one's parts
