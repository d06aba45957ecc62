"""Runs over several processes: their start-up, with JAX's own distributed runtime, and what CPUs need on top."""
import os
from collections.abc import Callable
from typing import Any

import jax
from jax._src import clusters, distributed

from easylm_imitation.schema import UserError
from easylm_imitation.sharding.company import meet

_NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_CLUSTER_MARKS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
_POOL_THREADS = 32
_START, _HEARTBEAT, _END = 50, 50, 50      # seconds: until all have come, of silence, until all have gone
_POD = "EASYLM_POD"     # set by launch/tpu_pod.sh: a TPU host's environment does not say that it is one of several
_PATIENCE = "EASYLM_START_TIMEOUT"      # seconds, for hosts that take longer than _START to come


def start_processes(watched: bool = False) -> None:
    """Joins the processes of one run; call it before anything touches a device. One process alone: nothing happens.

    The three variables JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID say it explicitly;
    else jax detects a TPU pod, Slurm or Open MPI. `watched`: the processes meet first, and the caller runs
    `together`; who has not come within 50 seconds is named, and the others end. Raises UserError when only some of the
    three are set or one is no number.
    """
    given = {name: os.environ[name] for name in _NAMES if os.environ.get(name)}
    if given:
        _start_explicitly(given, watched)
    elif _several_workers():
        _initialize(watched)


def coordinator_host() -> str:
    """The host of process 0, as the others reach it: of the address at which all have met."""
    address = distributed.global_state.coordinator_address      # jax says it nowhere in public
    return address.rpartition(":")[0].strip("[]")


def scan(body: Callable, carry: Any, xs: Any, unroll: bool = False) -> tuple[Any, Any]:
    """`jax.lax.scan`, unrolled where that is asked for, and where CPUs of several processes run it.

    There XLA lets a collective that follows a loop overtake those inside it, on one device and not on another: all of
    them then wait for each other for ever. Without loops the collectives keep their order.
    """
    several_cpus = jax.process_count() > 1 and jax.default_backend() == "cpu"
    return jax.lax.scan(body, carry, xs, unroll=unroll or several_cpus)


def cond(condition: jax.Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """`jax.lax.cond`; where CPUs of several processes run it, both are computed and one is chosen (see `scan`)."""
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        return jax.tree.map(lambda a, b: jax.numpy.where(condition, a, b), yes(), no())
    return jax.lax.cond(condition, yes, no)


def _start_explicitly(given: dict[str, str], watched: bool) -> None:
    missing = [name for name in _NAMES if name not in given]
    if missing:
        raise UserError(f"{' and '.join(given)} set without {' and '.join(missing)}; set all three, or none")
    address, count, index = (given[name] for name in _NAMES)
    if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
        raise UserError(f"JAX_NUM_PROCESSES={count}, JAX_PROCESS_ID={index}: expected a count and a number below it")
    if int(count) > 1:
        _initialize(watched, address, int(count), int(index))


def _initialize(watched: bool, *arguments) -> None:
    # On CPUs a collective over processes blocks a thread of XLA's pool while it waits for the others. A pool of as many
    # threads as cores (or virtual devices, the default) can be blocked whole, on both sides: the run stands still.
    os.environ.setdefault("NPROC", str(max(os.cpu_count() or 1, _POOL_THREADS)))
    patience = os.environ.get(_PATIENCE, str(_START))
    if not patience.isdigit() or int(patience) < 1:
        raise UserError(f"{_PATIENCE}={patience}: expected a number of seconds")
    if watched:
        if not arguments:
            arguments = clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None,
                                                                                 int(patience))
        address, count, index = arguments[:3]
        if count > 1:
            meet(address, count, index, int(patience))
    jax.distributed.initialize(*arguments, initialization_timeout=int(patience), heartbeat_timeout_seconds=_HEARTBEAT,
                               shutdown_timeout_seconds=_END)


def _several_workers() -> bool:
    """Whether the surroundings speak of several processes: a TPU pod's worker list, a batch system's task count."""
    if os.environ.get(_POD) or len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1:
        return True
    return any(os.environ.get(name, "1").isdigit() and int(os.environ.get(name, "1")) > 1 for name in _CLUSTER_MARKS)
