"""Writes safetensors files tensor by tensor: the library's own writer wants all tensors of a file in memory at once.

A file is 8 bytes with the header's length, the header (JSON: name, dtype, shape, place), and the tensors one after the
other. Tests read every file back with the library.
"""
import json
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np

from easylm_imitation.files import write_json
from easylm_imitation.weights.stored import DTYPES
from easylm_imitation.weights.tensor_files import INDEX, SINGLE

Plan = Sequence[tuple[str, tuple[int, ...], str]]       # name, shape, dtype (a code of DTYPES) of each tensor


def write_safetensors(folder: pathlib.Path, plan: Plan, tensors: Iterable[np.ndarray], largest: int) -> None:
    """Writes `tensors`, which come in the order of `plan`, as one file, or as numbered ones of at most `largest` bytes
    of numbers (a larger tensor stands alone) with their index. Raises ValueError for a tensor that is not as planned.
    """
    tensors = iter(tensors)
    groups = _groups(plan, largest)
    homes = {}
    for number, group in enumerate(groups, 1):
        name = SINGLE if len(groups) == 1 else f"model-{number:05}-of-{len(groups):05}.safetensors"
        _write_file(folder / name, group, tensors)
        homes.update(dict.fromkeys((tensor for tensor, _, _ in group), name))
    if len(groups) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": sum(map(_size, plan))}, "weight_map": homes})


def _groups(plan: Plan, largest: int) -> list[Plan]:
    groups, room = [], 0
    for tensor in plan:
        if not groups or _size(tensor) > room:
            groups.append([])
            room = largest
        groups[-1].append(tensor)
        room -= _size(tensor)
    return groups


def _write_file(path: pathlib.Path, group: Plan, tensors: Iterator[np.ndarray]) -> None:
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}    # transformers demands it
    place = 0
    for tensor in group:
        name, shape, dtype = tensor
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + _size(tensor)]}
        place += _size(tensor)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)         # numbers start at a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in group:
            _write_tensor(file, tensor, next(tensors))      # held by nobody once it is written


def _write_tensor(file: BinaryIO, tensor: tuple[str, tuple[int, ...], str], value: np.ndarray) -> None:
    name, shape, dtype = tensor
    if (value.shape, value.dtype) != (shape, DTYPES[dtype]):
        raise ValueError(f"{name} was planned as {dtype} {shape}, and is {value.dtype} {value.shape}")
    file.write(np.ascontiguousarray(value).view(np.uint8).data)


def _size(tensor: tuple[str, tuple[int, ...], str]) -> int:
    _, shape, dtype = tensor
    return math.prod(shape) * DTYPES[dtype].itemsize
