"""A GGUF file opened with distrust: sizes and places are checked against the file before anything is read or taken.

    "GGUF" version counts | key, type, value ... | name, dims, type, place ... | padding | the tensors' numbers

Numbers of few bits are turned into float32 by the `gguf` package, row by row as they are asked for.
"""
import array
import dataclasses
import functools
import math
import os
import pathlib
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from easylm_imitation.schema import UserError, brief
from easylm_imitation.weights.stored import Stored, Tensor

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}     # struct's
_STRING, _ARRAY = 8, 9
_PLAIN = {"F32": "F32", "F16": "F16", "BF16": "BF16"}       # of the format, of DTYPES
_SMALLEST_KEY, _SMALLEST_TENSOR = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8      # bytes
_LARGEST_ALIGNMENT = 2**16
_LONGEST_NAME = 2**16       # bytes


@dataclasses.dataclass(frozen=True)
class GGUFFile:
    """Metadata and tensors by name; no number of a tensor is read yet."""
    path: pathlib.Path
    metadata: Mapping[str, Any]     # a number, a text, a list of texts, or an array.array of numbers
    tensors: Mapping[str, Tensor]
    kinds: Mapping[str, str]        # of each tensor: "F16", "Q4_0", ...


@dataclasses.dataclass(frozen=True)
class FewBits:
    """A tensor [rows, columns] whose rows are blocks of few bits, presented as float32."""
    file: pathlib.Path
    offset: int
    kind: int
    shape: tuple[int, ...]
    row_bytes: int
    dtype: str = "F32"

    def read(self, *index: slice) -> np.ndarray:
        """The part at `index`; whole rows are decoded."""
        wanted = (*index, *[slice(None)] * (2 - len(index)))
        start, stop, _ = wanted[0].indices(self.shape[0])
        mapped = np.memmap(self.file, np.uint8, "r", self.offset + start * self.row_bytes,
                           ((stop - start), self.row_bytes))
        package = gguf_package()
        decoded = package.quants.dequantize(np.asarray(mapped), package.GGMLQuantizationType(self.kind))
        if not np.isfinite(decoded).all():
            raise UserError(f"{self.file}: a tensor of it holds numbers that are not finite; download it again")
        return np.ascontiguousarray(decoded.reshape(stop - start, self.shape[1])[:, wanted[1]])


def gguf_package() -> Any:
    """The `gguf` package. Raises UserError when it is not installed."""
    try:
        import gguf
        import gguf.quants
    except ImportError:
        raise UserError("GGUF files need the `gguf` package: pip install -e '.[gguf]'") from None
    return gguf


@functools.cache
def _decodes(kind: int) -> bool:
    """Whether the package turns blocks of this type into numbers."""
    package = gguf_package()
    known = package.GGMLQuantizationType(kind)
    try:
        package.quants.dequantize(np.zeros((1, package.GGML_QUANT_SIZES[known][1]), np.uint8), known)
    except NotImplementedError:
        return False
    return True


def is_gguf(path: str | os.PathLike) -> bool:
    """Whether a path names a GGUF file, by its name or its first bytes."""
    path = pathlib.Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix == ".gguf" or file.read(4) == b"GGUF"


def open_gguf_file(path: str | os.PathLike) -> GGUFFile:
    """Reads all but the tensors' numbers. Raises UserError for a file that is damaged, hostile or of a kind that is not
    read: counts, lengths and places must lie within the file, and no two tensors share a byte."""
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            return _Reader(path, file, os.fstat(file.fileno()).st_size).read()
    except _Damaged as error:
        raise UserError(f"{path}: not a whole GGUF file ({error}); download it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


class _Damaged(Exception):
    """What is wrong, in a few words."""


class _Reader:
    """Reads a header from its start to its end."""

    def __init__(self, path: pathlib.Path, file: BinaryIO, size: int) -> None:
        self._path, self._file, self._size = path, file, size

    def read(self) -> GGUFFile:
        if self._bytes(4) != b"GGUF":
            raise _Damaged("it does not begin with GGUF")
        version = self._one("I")
        if version not in (2, 3):
            raise UserError(f"{self._path}: GGUF version {version if version < 2**16 else 'of other byte order'}; "
                            "versions 2 and 3 are read, in the usual byte order")
        count, keys = self._count(_SMALLEST_TENSOR, "tensors"), self._count(_SMALLEST_KEY, "keys")
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self._name()
            if key in metadata:
                raise _Damaged(f"the key '{key[:60]}' comes twice")
            metadata[key] = self._value(self._one("I"), key)
        return self._with_tensors(metadata, count)

    def _with_tensors(self, metadata: dict[str, Any], count: int) -> GGUFFile:
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= _LARGEST_ALIGNMENT or alignment & (alignment - 1):
            raise _Damaged(f"general.alignment is {brief(alignment)}")
        infos: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(count):
            name = self._name()
            if name in infos:
                raise _Damaged(f"the tensor '{name[:60]}' comes twice")
            dims = self._one("I")
            if not 1 <= dims <= 4:
                raise _Damaged(f"the tensor '{name[:60]}' has {dims} dims")
            shape = tuple(self._one("Q") for _ in range(dims))[::-1]
            infos[name] = shape, self._one("I"), self._one("Q")
        start = -(-self._file.tell() // alignment) * alignment
        tensors, kinds, spans = {}, {}, []
        for name, (shape, kind, offset) in infos.items():
            tensors[name], kinds[name], size = self._tensor(name, shape, kind, start + offset)
            if offset % alignment:
                raise _Damaged(f"the tensor '{name[:60]}' starts at {offset}, no multiple of {alignment}")
            spans.append((offset, offset + size, name))
        _check_apart(spans)
        return GGUFFile(self._path, metadata, tensors, kinds)

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> tuple[Tensor, str, int]:
        """(the tensor, what it is made of, its bytes)."""
        package = gguf_package()
        try:
            known = package.GGMLQuantizationType(kind)
            block, bytes_each = package.GGML_QUANT_SIZES[known]
        except (ValueError, KeyError):
            raise UserError(f"{self._path}: the tensor '{name[:60]}' is of type {kind}, which is not known") from None
        if 0 in shape or shape[-1] % block:
            raise _Damaged(f"the tensor '{name[:60]}' of {list(shape)} is not made of blocks of {block}")
        size = math.prod(shape) // block * bytes_each
        if offset + size > self._size:
            beyond = offset + size - self._size
            raise _Damaged(f"the tensor '{name[:60]}' of {list(shape)} {known.name} ends {beyond:,} bytes behind the "
                           "end of the file")
        if known.name in _PLAIN:
            return Stored(self._path, offset, _PLAIN[known.name], shape), known.name, size
        if len(shape) != 2 or not _decodes(kind):
            raise UserError(f"{self._path}: the tensor '{name[:60]}' of {list(shape)} is {known.name}, which is not "
                            "read")
        return FewBits(self._path, offset, kind, shape, shape[1] // block * bytes_each), known.name, size

    def _value(self, kind: int, key: str) -> Any:
        if kind in _SCALARS:
            return self._one(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise _Damaged(f"the key '{key[:60]}' is of type {kind}, which is not known")
        inner = self._one("I")
        if inner in _SCALARS:
            size = struct.calcsize(f"<{_SCALARS[inner]}")
            count = self._count(size, f"entries of '{key[:60]}'")
            return array.array(_SCALARS[inner].replace("?", "B"), self._bytes(count * size))
        if inner != _STRING:
            raise _Damaged(f"the key '{key[:60]}' is a list of type {inner}, which is not known")
        return [self._string() for _ in range(self._count(8, f"entries of '{key[:60]}'"))]

    def _count(self, smallest: int, what: str) -> int:
        """A number of things of at least `smallest` bytes each, for all of which the file has room."""
        count = self._one("Q")
        if count * smallest > self._size - self._file.tell():
            raise _Damaged(f"it says that it has {count:,} {what}, more than fit into its {self._size:,} bytes")
        return count

    def _name(self) -> str:
        """A text that may stand in a line of ours."""
        name = self._string()
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise _Damaged(f"a name of {len(name):,} characters that is none: {brief(name)}")
        return name

    def _string(self) -> str:
        size = self._one("Q")
        if size > self._size - self._file.tell():
            raise _Damaged(f"a text of {size:,} bytes does not fit into its {self._size:,}")
        return self._bytes(size).decode("utf-8", "replace")

    def _one(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._bytes(struct.calcsize(f"<{code}")))[0]

    def _bytes(self, size: int) -> bytes:
        found = self._file.read(size)
        if len(found) != size:
            raise _Damaged(f"it ends after {self._size:,} bytes, within its header")
        return found


def _check_apart(spans: list[tuple[int, int, str]]) -> None:
    """Raises _Damaged when two tensors overlap."""
    spans.sort()
    for (_, end, one), (start, _, other) in zip(spans, spans[1:]):
        if start < end:
            raise _Damaged(f"the tensors '{one[:60]}' and '{other[:60]}' overlap")
