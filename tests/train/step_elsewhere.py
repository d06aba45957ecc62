"""Compiles the training step for an absent TPU pod and checks what the program does. A process of its own, because the
tests' has only CPUs. Prints `ok` last."""
import math
import re
import sys

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding

from easylm_imitation.models import create, model_config
from easylm_imitation.sharding import BATCH, make_mesh
from easylm_imitation.train import OptimizerConfig, abstract_state, make_optimizer, make_step

PODS = {"v5e:2x4": {}, "v4:2x2x2": {"chip_config_name": "megacore"}, "v5p:2x2x2": {}}
ROWS, LENGTH, VOCAB = 16, 2048, 32_000
COLLECTIVE = re.compile(r" = (.*?) (?:all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def compiled(pod: str, axes: str):
    """LLaMA-2-7B with two of its layers, as every layer is one of a loop."""
    devices = topologies.get_topology_desc(topology_name=pod, platform="tpu", **PODS[pod]).devices
    mesh, model = make_mesh(axes, devices), create(model_config({"preset": "llama-2-7b", "layers": 2}))
    optimizer, rate = make_optimizer(OptimizerConfig(), 1000)
    abstract = abstract_state(model, optimizer, mesh)
    step = make_step(model, optimizer, rate, mesh, abstract, remat="full")
    kinds = {"tokens": jnp.int32, "segment_ids": jnp.int32, "positions": jnp.int32, "loss_weights": jnp.float32}
    batch = {name: jax.ShapeDtypeStruct((ROWS, LENGTH), kind, sharding=NamedSharding(mesh, BATCH))
             for name, kind in kinds.items()}
    with jax.set_mesh(mesh):
        return step.lower(abstract, batch).compile()


def check(pod: str, axes: str) -> None:
    """It compiles and fits; of a v5e the program can be read, too (jaxlib 0.10.2 cannot read those of the others)."""
    program = compiled(pod, axes)
    memory = program.memory_analysis()
    print(pod, axes, memory.temp_size_in_bytes / 1e9, "GB temporary")
    assert memory.temp_size_in_bytes < 4e9
    if pod.startswith("v5e"):
        check_program(program.as_text())


def check_program(text: str) -> None:
    """The kernel is in it; devices exchange weights and gradients, in the compute dtype where gathered, no logits."""
    assert "tpu_custom_call" in text, "no attention kernel in the program"
    exchanged = [(kind, [int(d) for d in dims.split(",") if d]) for found in COLLECTIVE.findall(text)
                 for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", found)]
    largest = max(math.prod(dims) for _, dims in exchanged)
    assert largest <= VOCAB * 4096, f"{largest} numbers in one collective: more than the embedding"
    widths = {LENGTH, 4096, 11_008}
    logits = [dims for _, dims in exchanged if LENGTH in dims and any(d >= 512 and d not in widths for d in dims)]
    assert not logits, f"logits are exchanged: {logits}"
    wide = [math.prod(map(int, dims.split(","))) for dims in re.findall(r" = f32\[([\d,]+)\]\S* all-gather", text)]
    assert max(wide, default=0) < 2**20, "weights gathered in float32"


if __name__ == "__main__":
    check(*sys.argv[1:])
    print("ok")
