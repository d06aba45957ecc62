"""What the real TPU compiler makes of our training step: LLaMA-2-7B on an absent v5e pod of 64, beside MaxText.

    pip install libtpu==0.0.52
    python benchmarks/tpu_memory.py --row full-1        # one of ROWS; a compilation takes minutes of CPU time
    python benchmarks/tpu_memory.py --hlo FILE          # only sums up the optimised HLO of a former run (--keep FILE)

Printed are HBM a device (arguments + temporary + output - aliased + code), the estimated seconds of arithmetic, the
bytes that collectives make a device hold, and the CPU time of compiling. Seconds are a model for comparing two programs
and no measurement: `estimated_cycles` of every instruction, loop bodies as often as they run, at 1.5 GHz; the attention
kernel carries no estimate and is added at half of the chip's peak. Rows of MaxText 0.2.4 are from the same compiler
(jax 0.10.2, libtpu 0.0.52); it needs an environment of its own, so they are constants here.
"""
import argparse
import collections
import os
import pathlib
import resource

TOPOLOGY, CHIPS, LENGTH = "v5e:8x8", 64, 2048
_CLOCK, _PEAK = 1.5e9, 197e12       # of v5e: Hz, bfloat16 FLOP/s
# name: our policy, rows a device, MaxText's HBM GB, its seconds (XLA + attention), seconds of attention of both
ROWS = {
    "full-1": ("full", 1, 3.47, 0.776 + 0.077, 0.077),
    "dots-1": ("dots", 1, 8.28, 0.627 + 0.077, 0.077),      # MaxText's `minimal`
    "full-2": ("full", 2, 4.27, 1.526 + 0.153, 0.153),
    "save-qkv-4": ("save-qkv", 4, 12.24, 2.820 + 0.307, 0.307),
    "full-8": ("full", 8, 9.33, 6.157 + 0.614, 0.614),
    "full-16": ("full", 16, 15.31, 11.938 + 1.228, 1.228),
}


def main() -> None:
    """Compiles one row, prints, appends to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", choices=ROWS, default="full-1")
    parser.add_argument("--overlap-sums", action="store_true", help="the gradients' sums beside arithmetic")
    parser.add_argument("--keep", help="file for the optimised HLO")
    parser.add_argument("--hlo", help="sum up this file, compile nothing")
    args = parser.parse_args()
    if args.hlo:
        return _print(args.row, pathlib.Path(args.hlo).read_text())
    os.environ.update(TPU_SKIP_MDS_QUERY="1", JAX_PLATFORMS="cpu", TPU_WORKER_HOSTNAMES="localhost",
                      TPU_ACCELERATOR_TYPE="v5litepod-8", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    from importlib.metadata import version

    from measure import report
    compiled, seconds = _compile(args.row, args.overlap_sums)
    text = compiled.as_text()
    if args.keep:
        pathlib.Path(args.keep).write_text(text)
    _print(args.row, text)
    policy, rows, their_hbm, their_seconds, attention = ROWS[args.row]
    hbm, ours = _hbm(compiled.memory_analysis()), _cycles(text) / _CLOCK + attention
    report(f"LLaMA-2-7B on {TOPOLOGY}, fsdp 64: remat {policy}, {rows} rows of {LENGTH} a device"
           + (", sums beside arithmetic" if args.overlap_sums else ""),
           ["HBM GB", "MaxText", "ratio", "compute s", "MaxText", "ratio", "compile CPU-s"],
           [[hbm, their_hbm, hbm / their_hbm, ours, their_seconds, ours / their_seconds, seconds]],
           f"libtpu {version('libtpu')}. {_told(text)}")


def _print(row: str, text: str) -> None:
    attention = ROWS[row][4]
    print(f"{row}: {_cycles(text) / _CLOCK:.3f} s + {attention} s of attention; {_told(text)}")


def _hbm(memory) -> float:
    """GB a device."""
    return (memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
            - memory.alias_size_in_bytes + memory.generated_code_size_in_bytes) / 1e9


def _compile(row: str, overlap_sums: bool):
    """(the compiled step, CPU seconds of compiling)."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import NamedSharding

    from easylm_imitation.models import create, model_config
    from easylm_imitation.sharding import BATCH, make_mesh
    from easylm_imitation.train.optimizer import OptimizerConfig, make_optimizer
    from easylm_imitation.train.state import abstract_state
    from easylm_imitation.train.step import make_step
    policy, rows = ROWS[row][:2]
    devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY, chips_per_host_bounds=(2, 2, 1),
                                           num_slices=1).devices
    mesh, model = make_mesh(f"fsdp:{CHIPS}", devices), create(model_config({"preset": "llama-2-7b"}))
    optimizer, rate = make_optimizer(OptimizerConfig(), 1000)
    abstract = abstract_state(model, optimizer, mesh)
    step = make_step(model, optimizer, rate, mesh, abstract, remat=policy, overlap_sums=overlap_sums)
    kinds = {"tokens": jnp.int32, "segment_ids": jnp.int32, "positions": jnp.int32, "loss_weights": jnp.float32}
    batch = {name: jax.ShapeDtypeStruct((CHIPS * rows, LENGTH), kind, sharding=NamedSharding(mesh, BATCH))
             for name, kind in kinds.items()}
    with jax.set_mesh(mesh):
        lowered = step.lower(abstract, batch)
        before = _cpu_seconds()
        return lowered.compile(), _cpu_seconds() - before


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _cycles(text: str) -> int:
    from easylm_imitation.plan.hlo import Program
    return Program(text).cycles()


def _told(text: str) -> str:
    """Collectives in words: GB of results a step, by kind, and whether they run beside other work."""
    from easylm_imitation.plan.hlo import Program
    totals = collections.Counter()
    for found in Program(text).collectives({"fsdp": CHIPS}):
        totals[found.kind, "async" if found.beside else "sync"] += found.size
    return "Collectives, GB: " + ", ".join(
        f"{kind} {how} {size / 1e9:.2f}" for (kind, how), size in sorted(totals.items()) if size > 1e7)


if __name__ == "__main__":
    main()
