"""From this process's rows of a batch to one global array over the mesh."""
import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from easylm_imitation.schema import UserError
from easylm_imitation.sharding import BATCH


class BatchPlace:
    """Puts batches [B, T] where `sharding.BATCH` wants them. `own_rows`: the rows that this process has to bring.

    Each device is handed its own part, so that any order of devices in the mesh works; the rows of one process are
    taken as one span, which is exactly its own for the usual orders.
    """

    def __init__(self, mesh: Mesh, rows: int, context: int) -> None:
        self._sharding, self._shape = NamedSharding(mesh, BATCH), (rows, context)
        parts = [index[0].indices(rows) for index in
                 self._sharding.addressable_devices_indices_map(self._shape).values()]
        self.own_rows = slice(min(start for start, _, _ in parts), max(stop for _, stop, _ in parts))

    def abstract(self, kinds: dict[str, tuple[tuple[int, ...], type]]) -> dict[str, jax.ShapeDtypeStruct]:
        """The global arrays of a batch without numbers: {name: (dims behind [B, T], dtype)}."""
        return {name: jax.ShapeDtypeStruct((*self._shape, *dims), dtype, sharding=self._sharding)
                for name, (dims, dtype) in kinds.items()}

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Arrays [rows, T, ...] of `own_rows` to global arrays of all rows."""
        return {name: self._place(array) for name, array in batch.items()}

    def _place(self, array: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(self._shape[0])
            return array[start - self.own_rows.start:stop - self.own_rows.start, index[1]]
        return jax.make_array_from_callback((*self._shape, *array.shape[2:]), self._sharding, part)


def check_split(name: str, size: int, axes: tuple[str, ...], sizes: Mapping[str, int]) -> None:
    """Raises UserError unless the devices along these mesh axes, of these sizes, can share `size` evenly."""
    ways = math.prod(sizes[axis] for axis in axes)
    if size % ways:
        raise UserError(f"{name} is {size}, which does not split over the {ways} devices of the mesh axes "
                        f"{', '.join(axes)}; take a multiple of {ways}, or another --mesh")
