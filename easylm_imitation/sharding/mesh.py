"""The device mesh: five named axes, sized by a string such as `fsdp:-1,tensor:2`, and constraints inside a program.

`replica` and `data` hold whole copies of the weights (`replica` is meant for the slow network between slices), `fsdp`
splits weights and batch, `tensor` splits heads, feed-forward and vocabulary, `sequence` splits the positions of a row.
"""
import math
from collections.abc import Mapping, Sequence

import jax
from jax.experimental.mesh_utils import create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh, PartitionSpec

from easylm_imitation.console import say
from easylm_imitation.schema import UserError, nearest

AXES = ("replica", "data", "fsdp", "tensor", "sequence")
BATCH = PartitionSpec(("replica", "data", "fsdp"), "sequence")  # of tokens [B, T]


def make_mesh(text: str, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with all of AXES from `axis:size` pairs; unnamed axes have size 1, one size may be -1 ("the rest").

    Axis types are Auto: the compiler propagates shardings. Without a -1, a product below the device count uses the
    first devices and says so. Raises UserError for an unknown axis, a bad size, or sizes that the devices cannot fill.

    >>> dict(make_mesh("fsdp:-1,tensor:2").shape)       # on 8 devices
    {'replica': 1, 'data': 1, 'fsdp': 4, 'tensor': 2, 'sequence': 1}
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = mesh_sizes(text, len(devices))
    used = math.prod(sizes.values())
    if used < len(devices):
        say(f"mesh '{text}' uses the first {used} of {len(devices)} devices")
    shape, types = tuple(sizes[a] for a in AXES), (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices[:used]})
    if slices == 1:
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices[:used])
    outer = across_slices(sizes, slices)
    try:
        placed = create_hybrid_device_mesh([size // outer[axis] for axis, size in sizes.items()],
                                           [outer[axis] for axis in sizes], devices[:used],
                                           allow_split_physical_axes=True)
    except ValueError as error:     # slices of which only a part is used
        raise UserError(f"mesh '{text}': {used} devices of {slices} slices: {error}") from None
    return Mesh(placed, AXES, axis_types=types)


def across_slices(sizes: Mapping[str, int], slices: int) -> dict[str, int]:
    """By how much each axis goes across slices (parts of a machine that only a slow network joins), outermost first.

    Raises UserError where the sizes cannot be laid over so many slices.

    >>> across_slices({"replica": 2, "data": 1, "fsdp": 8, "tensor": 1, "sequence": 1}, 4)
    {'replica': 2, 'data': 1, 'fsdp': 2, 'tensor': 1, 'sequence': 1}
    """
    outer, left = dict.fromkeys(AXES, 1), slices
    for axis in AXES:
        outer[axis] = math.gcd(sizes.get(axis, 1), left)
        left //= outer[axis]
    if left > 1:
        mesh = ",".join(f"{axis}:{size}" for axis, size in sizes.items() if size > 1)
        raise UserError(f"mesh '{mesh}' cannot be laid over {slices} slices; begin it with replica:{slices}")
    return outer


def mesh_sizes(text: str, count: int) -> dict[str, int]:
    """Size of every axis on `count` devices, in the order of AXES. Raises as `make_mesh`."""
    return _fill(text, _parse(text), count)


def constrain(x: jax.Array, *spec: str | tuple[str, ...] | None) -> jax.Array:
    """Asks the compiler to lay `x` out as `PartitionSpec(*spec)` on the mesh of `jax.set_mesh`, if any.

    The layout is advice about speed, never about values: axes that do not divide their dim are left to the compiler, so
    that one row can be served on a mesh made for batches.
    """
    if one_device():
        return x
    mesh = jax.sharding.get_abstract_mesh()
    fitting = [axes if axes is not None and size % axis_size(mesh, axes) == 0 else None
               for size, axes in zip(x.shape, spec, strict=False)]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*fitting))


def one_device() -> bool:
    """Whether the program being traced is for one device: `jax.set_mesh` names no more, so nothing is split."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or mesh.size == 1


def platform() -> str:
    """Where the program will run: on the devices of `jax.set_mesh`, which may be absent ones, else on the host's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else jax.default_backend()


def axis_size(mesh: Mesh | jax.sharding.AbstractMesh, axes: str | tuple[str, ...] | None) -> int:
    """Devices along one entry of a PartitionSpec: an axis, several axes, or None (1)."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)


def _parse(text: str) -> dict[str, int]:
    """Sizes of all axes as written, -1 kept."""
    sizes: dict[str, int] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        name, _, size = part.partition(":")
        if name not in AXES:
            raise UserError(f"mesh '{text}': unknown axis '{name}'{nearest(name, AXES)}")
        if name in sizes:
            raise UserError(f"mesh '{text}': the axis '{name}' is given twice; name each axis once")
        if not (size.isdigit() and int(size) > 0 or size == "-1"):
            raise UserError(f"mesh '{text}': the size '{size}' of '{name}' is neither a positive number nor -1; "
                            "write it as in 'fsdp:-1,tensor:2'")
        sizes[name] = int(size)
    return {axis: sizes.get(axis, 1) for axis in AXES}


def _fill(text: str, sizes: dict[str, int], count: int) -> dict[str, int]:
    """Puts the remaining devices where the -1 is."""
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise UserError(f"mesh '{text}': {' and '.join(open_axes)} are both -1; give all but one a size")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if open_axes and count % fixed == 0:
        return {**sizes, open_axes[0]: count // fixed}
    if open_axes or fixed > count:
        raise UserError(f"mesh '{text}': the sizes multiply to {fixed}, which does not fit {count} devices; "
                        f"choose sizes whose product {'divides' if open_axes else 'is at most'} {count}")
    return sizes
