"""How the TPU compiler sums a kernel's gradient over a v5e pod of 64 that is not there: by all-reduce, or half of it.

    pip install libtpu==0.0.52
    python benchmarks/tpu_reduce_scatter.py

Each way computes the gradient of one MLP kernel, 4096 x 11008, in a loop, and leaves every chip its 64th of it. Printed
are the collectives of the optimised program.
"""
import os
import re

os.environ.update(TPU_SKIP_MDS_QUERY="1", JAX_PLATFORMS="cpu", TPU_WORKER_HOSTNAMES="localhost",
                  TPU_ACCELERATOR_TYPE="v5litepod-8", ALLOW_MULTIPLE_LIBTPU_LOAD="1")

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

LAYERS, ROWS, LENGTH, D_MODEL, D_FF = 4, 64, 2048, 4096, 11008
_KINDS = re.compile(r" = (\S+) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\(")


def main() -> None:
    """Compiles and prints."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:8x8", chips_per_host_bounds=(2, 2, 1),
                                           num_slices=1).devices
    option = {"xla_tpu_enable_all_reduce_scatter_fusion": True}
    for name, shape, manual, options in [
            ("left to the compiler", (64,), False, None), ("the same, scatter fusion asked for", (64,), False, option),
            ("psum_scatter over 64", (64,), True, None), ("the same, scatter fusion asked for", (64,), True, option),
            ("psum_scatter over 8, then 8", (8, 8), True, None)]:
        axes = ("x", "y")[:len(shape)]
        mesh = jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * len(shape), devices=devices)
        print(f"{name}: {_collectives(_compile(mesh, axes, manual, options))}", flush=True)


def _compile(mesh: jax.sharding.Mesh, axes: tuple[str, ...], manual: bool, options: dict | None) -> str:
    def scattered(x: jax.Array, slope: jax.Array) -> jax.Array:
        kernel = _gradient(x, slope)
        for axis in axes:
            kernel = jax.lax.psum_scatter(kernel, axis, scatter_dimension=0, tiled=True)
        return kernel.astype(jnp.float32)

    def constrained(x: jax.Array, slope: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(_gradient(x, slope).astype(jnp.float32), P(axes))
    one = jax.shard_map(scattered, mesh=mesh, in_specs=(P(axes), P(axes)), out_specs=P(axes), check_vma=False)
    one = one if manual else constrained
    inputs = [jax.ShapeDtypeStruct((LAYERS, ROWS, LENGTH, width), jnp.bfloat16,
                                   sharding=NamedSharding(mesh, P(None, axes))) for width in (D_MODEL, D_FF)]
    step = jax.jit(lambda x, slope: jax.lax.scan(lambda _, layer: (None, one(*layer)), None, (x, slope))[1],
                   compiler_options=options)
    with jax.set_mesh(mesh):
        return step.lower(*inputs).compile().as_text()


def _gradient(x: jax.Array, slope: jax.Array) -> jax.Array:
    return jnp.einsum("btd,btf->df", x, slope)


def _collectives(text: str) -> str:
    found = [f"{kind} {re.sub(r'{.*', '', shape)}" for shape, kind, _ in _KINDS.findall(text)]
    return ", ".join(found) + (" (inside all-reduce-scatter fusions)" if "all-reduce-scatter" in text else "")


if __name__ == "__main__":
    main()
