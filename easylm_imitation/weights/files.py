"""Folders that appear whole or not at all."""
import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from easylm_imitation.schema import UserError


def demand_absent(path: str | os.PathLike) -> pathlib.Path:
    """The path, when nothing is there but perhaps an empty folder. Raises UserError otherwise."""
    path = pathlib.Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} already exists and is not an empty folder; remove it or choose another place")
    return path


@contextlib.contextmanager
def finished_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary folder beside `path`, which becomes `path` when the block ends well and is removed when not.

    Raises UserError when something is at `path` already.
    """
    path = demand_absent(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    building = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield building
        building.chmod(0o755)
        if path.exists():
            path.rmdir()
        building.rename(path)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
