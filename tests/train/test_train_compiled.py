"""The plan of memory, its comparison, and traces on request."""
import dataclasses
import types

import jax
import numpy as np
import pytest
from train_helpers import history, tiny_config

from easylm_imitation.schema import UserError
from easylm_imitation.train import train
from easylm_imitation.train.compiled import CompiledStep
from easylm_imitation.train.profile import parse_profile


def test_the_plan_is_said_and_a_trace_is_written(data, tmp_path, whole, capsys):
    train(tiny_config(), data_dir=data, workdir=tmp_path / "run", profile="3:2", stop_after=6)
    said = " ".join(capsys.readouterr().err.split())
    assert "memory a device: weights 0.0 MB, optimizer 0.0 MB, all else (gradients, activations, batch)" in said
    assert "a trace of updates 3 to 4; look at it with tensorboard" in said
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert history(tmp_path / "run") == history(whole)[:6]


@pytest.mark.parametrize("request_", ["3", "0:2", "2:0", "a:b", ":", "-1:2"])
def test_a_trace_of_nothing_is_refused(data, tmp_path, request_):
    with pytest.raises(UserError, match=f"--profile {request_}: expected FIRST:COUNT, as in 10:3"):
        train(tiny_config(), data_dir=data, workdir=tmp_path / "run", profile=request_)
    assert not (tmp_path / "run").exists()


def test_no_request_traces_nothing():
    assert parse_profile(None) == (0, 0)
    assert parse_profile("10:3") == (10, 3)


def test_sums_beside_arithmetic_are_refused_elsewhere_than_on_their_tpu(data, tmp_path):
    with pytest.raises(UserError, match="overlap_sums=true is for TPU v5e: the compiler of a cpu refuses it .*leave"):
        train(dataclasses.replace(tiny_config(), overlap_sums=True), data_dir=data, workdir=tmp_path / "run")


class Step:
    """A step whose compiler has no room, or whose device has memory statistics."""

    def __init__(self, error=None):
        self._error = error

    def lower(self, *arguments):
        return self

    def compile(self):
        if self._error:
            raise jax.errors.JaxRuntimeError(self._error)
        return jax.jit(lambda x: x + 1).lower(np.float32(1)).compile()


def test_a_step_without_room_names_the_cures():
    mesh, state = jax.make_mesh((1,), ("x",)), types.SimpleNamespace(params={}, optimizer={})
    with pytest.raises(UserError, match=r"does not fit into .* a cpu \(RESOURCE_EXHAUSTED: 16.89G .*accumulate"):
        CompiledStep(Step("RESOURCE_EXHAUSTED: 16.89G exceeds 15.75G\nmore"), state, {}, (), mesh)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        CompiledStep(Step("INTERNAL: our fault"), state, {}, (), mesh)
    assert CompiledStep(Step(), state, {}, (), mesh).planned > 0
