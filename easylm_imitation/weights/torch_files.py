"""Torch files (`.bin`, `.pt`, `.pth`) as tensors where they lie, without torch and without running their pickle.

Two layouts: a zip archive since torch 1.6 (PREFIX/data.pkl and one entry a storage, uncompressed), and the older
one: five pickles, then the storages one after the other.
"""
import pathlib
import struct
import zipfile
import zlib
from typing import Any

from easylm_imitation.schema import UserError
from easylm_imitation.weights.stored import DTYPES, Stored
from easylm_imitation.weights.torch_pickle import Storage, View, read_pickle

_OLD_MAGIC = 0x1950A86A20F9469CFC6C


def open_torch(path: pathlib.Path) -> dict[str, Stored]:
    """{name: tensor} of a state dict that torch saved; no number is read.

    Raises UserError for a file that is damaged, holds anything but named tensors, or asks to run something.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        if not is_zip:
            return _from_old(path)
        with zipfile.ZipFile(path) as archive:
            return _from_zip(path, archive)
    except PermissionError as error:
        raise UserError(f"{path}: {error.strerror}; mend its rights") from None
    except (OSError, zipfile.BadZipFile, zlib.error, struct.error, UnicodeDecodeError, NotImplementedError,
            RuntimeError) as error:
        raise UserError(f"{path}: not a whole torch file ({error}); download it again") from None


def _from_zip(path: pathlib.Path, archive: zipfile.ZipFile) -> dict[str, Stored]:
    names = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(names) != 1:
        raise UserError(f"{path}: a zip file without one data.pkl in it; torch did not save this")
    prefix = names[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in archive.namelist() and archive.read(f"{prefix}byteorder") != b"little":
        raise UserError(f"{path}: saved on a big-endian machine; save it again on a usual one")
    with archive.open(names[0]) as file:
        views = _named_views(path, read_pickle(file, str(path)))
    entries = {storage: _entry(archive, f"{prefix}data/{storage.key}", storage, path)
               for storage in {view.storage for view in views.values()}}
    return {name: _stored(path, view, entries[view.storage]) for name, view in views.items()}


def _entry(archive: zipfile.ZipFile, name: str, storage: Storage, path: pathlib.Path) -> int:
    """The byte at which an entry's content starts in the file."""
    if name not in archive.NameToInfo:
        raise UserError(f"{path}: the numbers '{name}' are not in it; the file is not whole, download it again")
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size < _size(storage):
        raise UserError(f"{path}: '{name}' has {info.compress_size} bytes where {_size(storage)} uncompressed ones are "
                        "needed; torch did not save this, or it is not whole")
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)          # after the fixed part of the local header: two lengths
        start = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
    return _inside(path, start, _size(storage))


def _from_old(path: pathlib.Path) -> dict[str, Stored]:
    with path.open("rb") as file:
        if read_pickle(file, str(path)) != _OLD_MAGIC:
            raise UserError(f"{path}: neither of torch's file formats")
        read_pickle(file, str(path))                # version of the format
        read_pickle(file, str(path))                # the machine that wrote it
        views = _named_views(path, read_pickle(file, str(path)))
        keys = read_pickle(file, str(path))
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise UserError(f"{path}: no list of the numbers that it holds; the file is not whole")
        storages = {view.storage.key: view.storage for view in views.values()}
        starts: dict[str, int] = {}
        for key in keys:
            (count,) = struct.unpack("<q", file.read(8))
            if key not in storages:
                raise UserError(f"{path}: numbers '{key}' that no tensor uses; the file is not whole")
            starts[key] = _inside(path, file.tell(), _size(storages[key]))
            if count != storages[key].count:
                raise UserError(f"{path}: {count} numbers in '{key}' instead of {storages[key].count}")
            file.seek(_size(storages[key]), 1)
    if storages.keys() - starts.keys():
        raise UserError(f"{path}: the numbers of some tensors are not in it; the file is not whole")
    return {name: _stored(path, view, starts[view.storage.key]) for name, view in views.items()}


def _named_views(path: pathlib.Path, value: Any) -> dict[str, View]:
    """`value`, when it is a dict of names and tensors."""
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__} instead of named tensors")
    for name, view in value.items():
        if not isinstance(view, View):
            raise UserError(f"{path}: '{name}' is a {type(view).__name__}, not a tensor; save the model's state_dict "
                            "alone")
    return {str(name): view for name, view in value.items()}


def _stored(path: pathlib.Path, view: View, start: int) -> Stored:
    return Stored(path, start + view.start * DTYPES[view.storage.dtype].itemsize, view.storage.dtype, view.shape,
                  view.strides)


def _size(storage: Storage) -> int:
    return storage.count * DTYPES[storage.dtype].itemsize


def _inside(path: pathlib.Path, start: int, size: int) -> int:
    if start + size > path.stat().st_size:
        raise UserError(f"{path}: ends before the numbers that it promises; the download is incomplete")
    return start
