import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from easylm_imitation.schema import UserError
from easylm_imitation.sharding import AXES, across_slices, constrain, make_mesh


@pytest.mark.parametrize(("text", "sizes"), [
    ("fsdp:-1", (1, 1, 8, 1, 1)), ("fsdp:-1,tensor:2", (1, 1, 4, 2, 1)),
    ("replica:2, data:-1, sequence:2", (2, 2, 1, 1, 2)), ("", (1, 1, 1, 1, 1)), ("tensor:8", (1, 1, 1, 8, 1)),
    ("fsdp:8,tensor:-1", (1, 1, 8, 1, 1))])
def test_sizes(text, sizes):
    mesh = make_mesh(text)
    assert tuple(mesh.shape[axis] for axis in AXES) == sizes
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_fewer_devices_are_used_and_it_is_said(capsys):
    mesh = make_mesh("fsdp:2,tensor:2")
    assert list(mesh.devices.flat) == jax.devices()[:4]
    assert "uses the first 4 of 8 devices" in capsys.readouterr().err
    assert make_mesh("fsdp:-1", jax.devices()[:2]).size == 2


@dataclasses.dataclass(frozen=True)
class Far:
    """Passes for a device of a slice, or of a machine with GPUs."""
    id: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "any"
    process_index: int = 0


@pytest.mark.parametrize(("text", "across"), [
    ("replica:2,fsdp:-1", {"replica"}), ("data:2,fsdp:-1", {"data"}), ("fsdp:-1", {"fsdp"}),
    ("fsdp:-1,tensor:2", {"fsdp"}), ("replica:4,fsdp:2", {"replica"})])
def test_slices_lie_along_the_outermost_axes(text, across):
    """Two slices of four, their devices named in any order: neighbours along every other axis share a slice."""
    devices = [Far(i, i % 2) for i in range(8)]
    mesh = make_mesh(text, devices)
    assert sorted(device.id for device in mesh.devices.flat) == list(range(8))
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    for place, axis in enumerate(AXES):
        assert (axis in across) == bool((slices.min(axis=place) != slices.max(axis=place)).any())


def test_a_mesh_that_cannot_be_laid_over_the_slices_is_refused():
    with pytest.raises(UserError, match="mesh 'fsdp:8' cannot be laid over 3 slices; begin it with replica:3"):
        across_slices(dict.fromkeys(AXES, 1) | {"fsdp": 8}, 3)
    with pytest.raises(UserError, match="mesh 'fsdp:4': 4 devices of 2 slices"):
        make_mesh("fsdp:4", [Far(i, int(i > 2)) for i in range(8)])


@pytest.mark.parametrize(("text", "message"), [
    ("fsd:2", "unknown axis 'fsd'; did you mean 'fsdp'?"),
    ("fsdp:-1,data:-1", "data and fsdp are both -1; give all but one a size"),
    ("fsdp:0", "the size '0' of 'fsdp' is neither a positive number nor -1"),
    ("fsdp", "the size '' of 'fsdp'"),
    ("fsdp:2,fsdp:4", "the axis 'fsdp' is given twice"),
    ("fsdp:-1,tensor:3", "the sizes multiply to 3, which does not fit 8 devices; choose sizes whose product divides 8"),
    ("fsdp:16", "the sizes multiply to 16, which does not fit 8 devices; choose sizes whose product is at most 8"),
])
def test_a_wrong_mesh_is_one_clear_line(text, message):
    with pytest.raises(UserError) as error:
        make_mesh(text)
    assert message in str(error.value)


def test_constrain_lays_out_on_the_mesh_and_leaves_what_does_not_fit():
    x = jnp.ones((4, 6))
    assert constrain(x, ("data", "fsdp"), "tensor") is x
    with jax.set_mesh(make_mesh("fsdp:4,tensor:2")):
        placed = jax.jit(lambda x: constrain(x * 2, ("data", "fsdp"), "tensor"))(x)
        odd = jax.jit(lambda x: constrain(x * 2, ("data", "fsdp"), "tensor"))(jnp.ones((3, 5)))
    assert placed.sharding.shard_shape(placed.shape) == (1, 3)
    assert odd.shape == (3, 5)
