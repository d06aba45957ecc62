"""Attention kernels where they really run: `aot` compiles splash for absent TPUs, `gpu` runs cuDNN's. A process each,
because the tests' own has only CPUs. Prints `ok` last."""
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from easylm_imitation.models import attention
from easylm_imitation.sharding import AXES, BATCH

SHAPES = [(8, 2, 128, 0), (8, 8, 64, 700), (4, 1, 80, 0)]      # heads, KV heads, head dim, window
LENGTH, LONG = 1024, 8192    # of rows that run, and of rows that are only compiled: so long that the scores stand out
TOPOLOGIES = {"v5e:2x4": {}, "v4:2x2x2": {"chip_config_name": "megacore"}, "v5p:2x2x2": {}}


def loss(q, k, v, segments, backend, window):
    out = attention(q, k, v, segments, backend=backend, window=window).astype(jnp.float32)
    real = jnp.float32(segments > 0)[:, :, None, None]
    return jnp.sum(out * real * jnp.cos(jnp.arange(out.size).reshape(out.shape))), out * real


def value_and_grads(backend, window):
    bound = functools.partial(loss, backend=backend, window=window)
    return jax.jit(jax.value_and_grad(bound, argnums=(0, 1, 2), has_aux=True))


def compile_splash(topology):
    """Compiles forward and backward on 8 chips: rows over fsdp, heads over tensor, as `auto` chooses it there."""
    from jax.experimental import topologies
    devices = topologies.get_topology_desc(topology_name=topology, platform="tpu", **TOPOLOGIES[topology]).devices
    mesh = Mesh(np.array(devices).reshape(1, 1, 4, 2, 1), AXES, axis_types=(AxisType.Auto,) * 5)
    for heads, kv_heads, head_dim, window in SHAPES:
        row = jax.ShapeDtypeStruct((8, LONG), jnp.int32, sharding=NamedSharding(mesh, BATCH))
        q, k = (jax.ShapeDtypeStruct((8, LONG, n, head_dim), jnp.bfloat16, sharding=NamedSharding(mesh, BATCH))
                for n in (heads, kv_heads))
        with jax.set_mesh(mesh):
            compiled = value_and_grads("auto", window).lower(q, k, k, row).compile()
        assert "tpu_custom_call" in compiled.as_text(), "no Pallas kernel in the program"
        held = compiled.memory_analysis().temp_size_in_bytes
        scores = 2 * heads * LONG**2      # a device's, in bfloat16: two rows, half of the heads
        print(topology, heads, kv_heads, head_dim, window, held, scores)
        assert held < scores / 4, "as much as scores would take"


def packed_rows(rows):
    segments = np.repeat([1, 2, 3, 0], [300, 1, 600, LENGTH - 901])
    return np.stack([segments] * rows).astype(np.int32)


def run_cudnn():
    """Forward and gradients of packed rows, against the reference in float32 on the same device."""
    rng = np.random.default_rng(0)
    for heads, kv_heads, head_dim, window in SHAPES:
        q, k, v = (jnp.asarray(rng.standard_normal((2, LENGTH, n, head_dim)), jnp.bfloat16)
                   for n in (heads, kv_heads, kv_heads))
        segments = packed_rows(2)
        (_, got), grads = value_and_grads("cudnn", window)(q, k, v, segments)
        wide = [x.astype(jnp.float32) for x in (q, k, v)]
        (_, wanted), wanted_grads = value_and_grads("reference", window)(*wide, segments)
        for a, b in zip((got, *grads), (wanted, *wanted_grads), strict=True):
            error = float(jnp.linalg.norm((a.astype(jnp.float32) - b).ravel()) / jnp.linalg.norm(b.ravel()))
            print("cudnn", heads, kv_heads, head_dim, window, error)
            assert error < 0.02


if __name__ == "__main__":
    compile_splash(sys.argv[1]) if len(sys.argv) > 1 else run_cudnn()
    print("ok")
