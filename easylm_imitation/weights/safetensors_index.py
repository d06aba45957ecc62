"""The tensors of a Hugging Face dir, found by name over one or several safetensors files, read slice by slice."""
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors

from easylm_imitation.schema import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class TensorFiles:
    """Opens the weight files of `folder`; `shapes` and `dtypes` are known at once, numbers are read when asked for.

    Raises UserError for a folder without safetensors, a missing or damaged file, and an index that disagrees.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        self._files = {name: _open(self.folder / name) for name in self._file_names()}
        self._home = {tensor: file for file in self._files.values() for tensor in file.keys()}
        headers = {name: file.get_slice(name) for name, file in self._home.items()}
        self.shapes = {name: tuple(header.get_shape()) for name, header in headers.items()}
        self.dtypes = {name: str(header.get_dtype()) for name, header in headers.items()}
        self._check_index()

    def read(self, name: str, *index: slice) -> np.ndarray:
        """The tensor, or the part of it at `index`, in the file's dtype."""
        return self._home[name].get_slice(name)[index or (slice(None),)]

    def sample(self, name: str) -> bytes:
        """A few numbers from the start, the middle and the end of a tensor, as bytes: enough to tell weights apart."""
        rows = self.shapes[name][0] if self.shapes[name] else 0
        picked = [self.read(name, slice(row, row + 1)).ravel()[:16] for row in sorted({0, rows // 2, max(rows - 1, 0)})]
        return b"".join(part.tobytes() for part in picked)

    def _file_names(self) -> list[str]:
        self._index: Mapping[str, str] = {}
        if (self.folder / INDEX).is_file():
            self._index = _read_index(self.folder / INDEX)
            return sorted(set(self._index.values()))
        if (self.folder / SINGLE).is_file():
            return [SINGLE]
        if any(self.folder.glob("pytorch_model*.bin")):
            raise UserError(f"{self.folder}: weights are in pytorch_model.bin, a pickle, which is not read; save "
                            "the model as safetensors first (transformers: save_pretrained)")
        raise UserError(f"{self.folder}: there is no {SINGLE} and no {INDEX}")

    def _check_index(self) -> None:
        for tensor, file in self._index.items():
            if tensor not in self._home:
                raise UserError(f"{self.folder / INDEX}: says that '{tensor}' is in {file}, but it is not; "
                                "the download is incomplete or the files do not belong together")


def _open(path: pathlib.Path) -> Any:
    try:
        return safetensors.safe_open(str(path), framework="np")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, but {INDEX} names it; the download is incomplete") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); download it again") from None


def _read_index(path: pathlib.Path) -> Mapping[str, str]:
    try:
        return dict(json.loads(path.read_text())["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a readable index of safetensors files ({error!r})") from None
