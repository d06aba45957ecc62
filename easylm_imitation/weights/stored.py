"""Tensors where they lie: a place in a file, read as a whole or slice by slice, never more than was asked for.

`Stored` is one tensor of one file. `Joined` and `HeadsTurned` present several, or a differently ordered one, as if the
file held what is wanted; all three have `shape`, `dtype` (a code of DTYPES) and `read(*index)`.
"""
import dataclasses
import math
import pathlib
from typing import Protocol

import ml_dtypes
import numpy as np

DTYPES = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16), "I64": np.dtype(np.int64), "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16), "I8": np.dtype(np.int8), "U8": np.dtype(np.uint8), "BOOL": np.dtype(np.bool_),
}


class Tensor(Protocol):
    """What can be asked of a tensor on disk."""
    shape: tuple[int, ...]
    dtype: str

    def read(self, *index: slice) -> np.ndarray:
        """The numbers, or the part of them at `index` (one slice a dim, without steps), as an array of its own."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor of `shape` that starts at byte `offset` of a file; `strides` in elements, None when it is contiguous."""
    file: pathlib.Path
    offset: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None

    def read(self, *index: slice) -> np.ndarray:
        """The part at `index`. The file is mapped for this call alone, so its pages do not stay in memory."""
        kind = DTYPES[self.dtype]
        if 0 in self.shape:
            return np.empty(self.shape, kind)[index]
        mapped = np.memmap(self.file, np.uint8, "r", self.offset, (self.span * kind.itemsize,))
        steps = None if self.strides is None else [step * kind.itemsize for step in self.strides]
        return np.array(np.ndarray(self.shape, kind, np.asarray(mapped).data, strides=steps)[index])

    @property
    def span(self) -> int:
        """Elements from the first to the last, both included."""
        if self.strides is None:
            return math.prod(self.shape)
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))


@dataclasses.dataclass(frozen=True)
class Joined:
    """Parts of one tensor, cut along `dim`; they agree in all else."""
    parts: tuple[Stored, ...]
    dim: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole."""
        shape = list(self.parts[0].shape)
        shape[self.dim] = sum(part.shape[self.dim] for part in self.parts)
        return tuple(shape)

    @property
    def dtype(self) -> str:
        """The dtype of the parts."""
        return self.parts[0].dtype

    def read(self, *index: slice) -> np.ndarray:
        """The part at `index`, which is not empty; files that hold none of it are not touched."""
        wanted = [*index, *[slice(None)] * (len(self.shape) - len(index))]
        start, stop, _ = wanted[self.dim].indices(self.shape[self.dim])
        found, begin = [], 0
        for part in self.parts:
            size = part.shape[self.dim]
            wanted[self.dim] = slice(max(start - begin, 0), min(stop - begin, size))
            if wanted[self.dim].start < wanted[self.dim].stop:
                found.append(part.read(*wanted))
            begin += size
        return np.concatenate(found, self.dim)


@dataclasses.dataclass(frozen=True)
class HeadsTurned:
    """A q or k projection [N * H, D] whose rows pair up for rotary positions as (0, 1), (2, 3), ... in every head,
    presented with the pairs (0, H/2), (1, H/2 + 1), ... that Hugging Face files have."""
    inner: Tensor
    heads: int

    @property
    def shape(self) -> tuple[int, ...]:
        """[N * H, D]."""
        return self.inner.shape

    @property
    def dtype(self) -> str:
        """The dtype of the projection."""
        return self.inner.dtype

    def read(self, *index: slice) -> np.ndarray:
        """The part at `index`; whole heads are read, because a head's rows change places."""
        start, stop, _ = (*index, slice(None))[0].indices(self.shape[0])
        size = self.shape[0] // self.heads
        first, last = start // size, -(-stop // size)
        rows = self.inner.read(slice(first * size, last * size), *index[1:])
        turned = rows.reshape(last - first, size // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)
        return turned[start - first * size:stop - first * size]
