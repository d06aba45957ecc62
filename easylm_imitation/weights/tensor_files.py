"""The tensors of a Hugging Face dir, found by name over one or several files: safetensors, or torch's where there are
none."""
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors

from easylm_imitation.schema import UserError
from easylm_imitation.weights.stored import DTYPES, Stored, Tensor
from easylm_imitation.weights.torch_files import open_torch

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_LONGEST_NAME = 255     # bytes, on the usual file systems
_KINDS = ((SINGLE, INDEX), ("pytorch_model.bin", "pytorch_model.bin.index.json"))


class TensorFiles:
    """Tensors by name; `shapes` and `dtypes` (codes such as "BF16") are known at once, numbers are read when asked for.

    `folder` stands in messages; `dropped` names what the files hold beside these tensors, and is no weight.
    """

    def __init__(self, folder: str | os.PathLike, tensors: Mapping[str, Tensor], dropped: tuple[str, ...] = ()):
        self.folder = pathlib.Path(folder)
        self.dropped = dropped
        self._tensors = tensors
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in tensors.items()}

    def read(self, name: str, *index: slice) -> np.ndarray:
        """The tensor, or the part of it at `index`, in the file's dtype."""
        return self._tensors[name].read(*index)

    def sample(self, name: str) -> bytes:
        """A few numbers from the start, the middle and the end of a tensor, as bytes: enough to tell weights apart."""
        if not self.shapes[name]:
            return self.read(name).tobytes()
        rows = self.shapes[name][0]
        picked = [self.read(name, slice(row, row + 1)).ravel()[:16] for row in sorted({0, rows // 2, max(rows - 1, 0)})]
        return b"".join(part.tobytes() for part in picked)

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors of at least one dim hold the same bytes; read some rows at a time."""
        if (self.shapes[one], self.dtypes[one]) != (self.shapes[other], self.dtypes[other]):
            return False
        blocks = (slice(row, row + 4096) for row in range(0, self.shapes[one][0], 4096))
        return all(self.read(one, rows).tobytes() == self.read(other, rows).tobytes() for rows in blocks)


def open_tensors(folder: str | os.PathLike) -> TensorFiles:
    """Opens the weight files of a Hugging Face dir: safetensors, else torch's `pytorch_model.bin`, one or many.

    Raises UserError for a folder without weights, a missing or damaged file, and an index that disagrees.
    """
    folder = pathlib.Path(folder)
    for single, index in _KINDS:
        if (folder / index).is_file():
            return TensorFiles(folder, _indexed(folder, single, index))
        if (folder / single).is_file():
            return TensorFiles(folder, open_file(folder / single))
    raise UserError(f"{folder}: there are no weights: no {SINGLE} and no {INDEX}, and no pytorch_model.bin either")


def _indexed(folder: pathlib.Path, single: str, index: str) -> dict[str, Stored]:
    homes = _read_index(folder / index)
    if (folder / single).is_file() and single not in homes.values():
        raise UserError(f"{folder}: holds {single}, and {index} for other files; remove those of one of them")
    files = {}
    for name in sorted(set(homes.values())):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file, but {index} names it; the download is incomplete")
        files[name] = open_file(folder / name)
    for tensor, file in homes.items():
        if tensor not in files[file]:
            raise UserError(f"{folder / index}: says that '{tensor}' is in {file}, but it is not; "
                            "the download is incomplete or the files do not belong together")
    for file, tensors in files.items():
        twice = [name for name in tensors if homes.get(name, file) != file]
        if twice:
            raise UserError(f"{folder / index}: says that '{twice[0]}' is in {homes[twice[0]]}, but {file} has "
                            "one too; the files do not belong together")
    return {name: tensor for tensors in files.values() for name, tensor in tensors.items()}


def open_file(path: pathlib.Path) -> dict[str, Stored]:
    """The tensors of one file. Raises UserError for one that is not whole."""
    return _open_safetensors(path) if path.suffix == ".safetensors" else open_torch(path)


def _open_safetensors(path: pathlib.Path) -> dict[str, Stored]:
    """The library checks that the file is whole and its header sound. Numbers are read by `Stored`, since the library
    keeps the whole file mapped: every page read would count as this process's memory until the end."""
    try:
        with safetensors.safe_open(str(path), framework="np"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
    except PermissionError as error:
        raise UserError(f"{path}: {error.strerror}; mend its rights") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); download it again") from None
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise UserError(f"{path}: the tensor '{name}' is {entry['dtype']}, which is not read; take the checkpoint "
                            "that was not quantised")
    return {name: Stored(path, 8 + length + entry["data_offsets"][0], entry["dtype"], tuple(entry["shape"]))
            for name, entry in header.items()}


def _read_index(path: pathlib.Path) -> Mapping[str, str]:
    """{tensor: file}, of files in the same folder."""
    try:
        homes: dict[str, str] = json.loads(path.read_text())["weight_map"]
        kind = pathlib.PurePath(path.name.partition(".index.json")[0]).suffix
        for file in homes.values():
            if pathlib.PurePath(file).name != file or not file.endswith(kind) or len(os.fsencode(file)) > _LONGEST_NAME:
                raise ValueError(f"{file[:40]!r} is no {kind} file of this folder")
        return homes
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not a readable index of weight files ({error!r})") from None
