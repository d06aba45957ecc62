"""The real training step, compiled by the real TPU compiler for a pod that is not there.

The compiler is libtpu (`pip install libtpu==0.0.52`; no TPU is needed). It wants its environment set before jax is
imported, and a fault in it ends the process, so each compilation has a process of its own: `python -m
easylm_imitation.plan.compiler` reads one request from stdin and answers with one line of JSON.
"""
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from easylm_imitation.plan.estimate import Work
from easylm_imitation.plan.pods import Pod
from easylm_imitation.schema import UserError, build, plain

_ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu", "TPU_WORKER_HOSTNAMES": "localhost",
                "TPU_ACCELERATOR_TYPE": "v5litepod-8", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
_UNWANTED = ("XLA_FLAGS",)      # of this machine's own backend; the TPU compiler ends where it does not know one
_TEXT = "program.txt"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a step: bytes of a device. `peak` is None where it does not fit."""
    arguments: float            # weights, optimizer, batch
    temporary: float            # gradients, activations, gathered weights
    code: float
    peak: float | None
    needed: str                 # the compiler's own words when it does not fit
    text: str                   # the optimised HLO; "" where it could not be had
    seconds: float              # that compiling took


def available() -> bool:
    """Whether libtpu is installed."""
    import importlib.util
    return importlib.util.find_spec("libtpu") is not None


def compile_step(work: Work, pod: Pod) -> Compiled:
    """Compiles one setting for one pod; minutes for a large model. Raises UserError when the compiler cannot be run,
    or refuses the program for another reason than its size."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="easylm-plan-") as folder:
        request = {"config": plain(work.config), "model": _model(work), "axes": dict(work.axes),
                   "topology": pod.topology, "slices": pod.slices, "options": dict(pod.chip.options), "text": folder}
        environment = {name: value for name, value in os.environ.items() if name not in _UNWANTED} | _ENVIRONMENT
        done = subprocess.run([sys.executable, "-m", __name__], input=json.dumps(request), capture_output=True,
                              text=True, env=environment)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or not lines:
            raise UserError(f"--topology {pod.name}: the TPU compiler failed ({_last_words(done.stderr)}); try another "
                            "--mesh, or --analytic for an estimate without it")
        program = pathlib.Path(folder) / _TEXT
        text = program.read_text() if program.exists() else ""
    found = json.loads(lines[-1])
    return Compiled(**found, text=text, seconds=time.monotonic() - started)


def compile_all(works: Sequence[Work], pod: Pod, beside: int) -> list[Compiled | UserError]:
    """Several settings, `beside` of them at a time; what failed is in its place."""
    def one(work: Work) -> Compiled | UserError:
        try:
            return compile_step(work, pod)
        except UserError as error:
            return error
    with concurrent.futures.ThreadPoolExecutor(beside) as pool:
        return list(pool.map(one, works))


def _model(work: Work) -> dict[str, Any]:
    from easylm_imitation.models import config_mapping
    return config_mapping(work.model)


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


# ── in the process of its own ─────────────────────────────────────────────────────────────────────────────────────────


def _main() -> None:
    request = json.loads(sys.stdin.read())
    import jax
    try:
        compiled = _lower(request).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        words = next((line.strip() for line in str(error).splitlines() if "exceed" in line.lower()), str(error)[:300])
        print(json.dumps({"arguments": 0, "temporary": 0, "code": 0, "peak": None, "needed": words}))
        return
    memory = compiled.memory_analysis()
    try:
        (pathlib.Path(request["text"]) / _TEXT).write_text(compiled.as_text() or "")
    except jax.errors.JaxRuntimeError:
        pass        # the compiler is newer than jax's own reader of programs: what is exchanged comes from the formula
    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    rest = memory.output_size_in_bytes - memory.alias_size_in_bytes
    code = memory.generated_code_size_in_bytes
    print(json.dumps({"arguments": arguments, "temporary": temporary, "code": code,
                      "peak": arguments + temporary + rest + code, "needed": ""}))


def _lower(request: dict[str, Any]) -> Any:
    """The step that `train` would run, with shapes in place of arrays."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import NamedSharding

    from easylm_imitation.models import Adapters, create, model_config
    from easylm_imitation.sharding import BATCH, make_mesh
    from easylm_imitation.train import TrainConfig, abstract_state, make_optimizer, make_step
    from easylm_imitation.train.loop import step_keys
    from easylm_imitation.train.state import frozen_base
    config = build(TrainConfig, request["config"], "config")
    described = topologies.get_topology_desc(platform="tpu", topology_name=request["topology"],
                                             num_slices=request["slices"], **request["options"])
    mesh = make_mesh(",".join(f"{axis}:{size}" for axis, size in request["axes"].items()), described.devices)
    model = create(model_config(request["model"]))
    optimizer, rate = make_optimizer(config.optimizer, 1000)
    adapters = Adapters(model, config.lora, config.seed) if config.lora else None
    abstract = abstract_state(adapters or model, optimizer, mesh)
    step = make_step(model, optimizer, rate, mesh, abstract, adapters=adapters, **step_keys(config))
    beside = (None, frozen_base(model, jnp.dtype(config.compute_dtype), mesh)) if adapters else ()
    kinds = {"tokens": jnp.int32, "segment_ids": jnp.int32, "positions": jnp.int32, "loss_weights": jnp.float32}
    batch = {name: jax.ShapeDtypeStruct((config.data.batch, config.data.context), kind,
                                        sharding=NamedSharding(mesh, BATCH)) for name, kind in kinds.items()}
    with jax.set_mesh(mesh):
        return step.lower(abstract, batch, *beside)


if __name__ == "__main__":
    _main()
