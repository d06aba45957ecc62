import os

import jax
import jax.numpy as jnp
import pytest

from easylm_imitation.schema import UserError
from easylm_imitation.sharding import scan, start_processes

NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "TPU_WORKER_HOSTNAMES", "SLURM_NTASKS",
         "OMPI_COMM_WORLD_SIZE", "EASYLM_POD")


@pytest.fixture
def started(monkeypatch):
    """The arguments that jax.distributed.initialize was called with; the environment speaks of one process."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **timeouts: calls.append(args))
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NPROC", "1")        # a user's own choice, put back at the end
    return calls


def test_one_process_starts_nothing(started, monkeypatch):
    start_processes()
    for name, value in zip(NAMES, ("localhost:1", "1", "0", "localhost", "1", "1", ""), strict=True):
        monkeypatch.setenv(name, value)
    start_processes()
    assert started == []


def test_three_variables_say_it_and_a_pod_or_batch_system_is_detected(started, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    start_processes()
    for name, value in zip(NAMES, ("host:1234", "4", "3"), strict=False):
        monkeypatch.setenv(name, value)
    start_processes()
    assert started == [(), ("host:1234", 4, 3)]


def test_a_pool_that_collectives_cannot_block_whole(started, monkeypatch):
    for name, value in zip(NAMES, ("host:1234", "4", "3"), strict=False):
        monkeypatch.setenv(name, value)
    start_processes()
    assert os.environ["NPROC"] == "1"
    del os.environ["NPROC"]
    start_processes()
    assert int(os.environ["NPROC"]) >= 32


@pytest.mark.parametrize(("processes", "backend", "loops"), [(1, "cpu", True), (2, "tpu", True), (2, "cpu", False)])
def test_cpus_of_several_processes_run_no_loops(monkeypatch, processes, backend, loops):
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    program = jax.jit(lambda xs: scan(lambda total, x: (total + x, total), jnp.float32(0), xs))
    assert ("stablehlo.while" in program.lower(jnp.ones(3)).as_text()) == loops
    assert program(jnp.ones(3))[0] == 3


@pytest.mark.parametrize(("values", "message"), [
    (("host:1",), "JAX_COORDINATOR_ADDRESS set without JAX_NUM_PROCESSES and JAX_PROCESS_ID"),
    (("host:1", "2", "2"), "JAX_NUM_PROCESSES=2, JAX_PROCESS_ID=2"), (("host:1", "two", "0"), "JAX_NUM_PROCESSES=two")])
def test_half_a_description_is_refused(started, monkeypatch, values, message):
    for name, value in zip(NAMES, values, strict=False):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        start_processes()
    assert message in str(error.value)
    assert started == []
