"""Folders that appear whole or not at all."""
import contextlib
import fcntl
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator

from easylm_imitation.schema import UserError

_TRIES = 50
_LONGEST_NAME = 200     # bytes; the temporary name beside it is a little longer, and file systems take 255
_UNFINISHED = ".unfinished"


def demand_absent(path: str | os.PathLike) -> pathlib.Path:
    """The path, without links, when a folder can be made there: nothing is there but perhaps an empty one.

    Raises UserError otherwise.
    """
    given, path = path, pathlib.Path(os.path.realpath(path))
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        raise UserError(f"{given}: the name is longer than {_LONGEST_NAME} bytes; choose a shorter one")
    above = next(parent for parent in path.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{given}: {above} is no folder that can be written to; choose another place")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{given} already exists and is not an empty folder; remove it or choose another place")
    return path


@contextlib.contextmanager
def refusing_disk(message: Callable[[str], str]) -> Iterator[None]:
    """Turns what a disk refuses inside the block, to Python or to tensorstore, into a UserError; `message(cause)`."""
    try:
        yield
    except (OSError, ValueError) as error:
        cause = _os_cause(error)
        if cause is None:
            raise
        raise UserError(message(cause)) from None


def _os_cause(error: Exception) -> str | None:
    """What the operating system said, in its words; None for an error that is not its."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    found = re.search(r"os_error_code='(\d+)'", str(error))      # tensorstore's, which come as a ValueError
    return found and os.strerror(int(found[1]))


def _remove(folder: pathlib.Path) -> None:
    """Removes a folder into which threads that cannot be stopped may still be writing."""
    for _ in range(_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


@contextlib.contextmanager
def finished_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary folder beside `path`, which becomes `path` when the block ends well and is removed when not;
    those that earlier attempts at `path` left when they were killed go first.

    Raises UserError when something is at `path` already, and when the disk refuses.
    """
    path = demand_absent(path)
    made = [parent for parent in path.parents if not parent.exists()]       # the innermost first
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    building, lock = _begin(path)
    try:
        with refusing_disk(lambda cause: f"{path}: cannot be written ({cause}); nothing is left there. Make room, or "
                                         "choose another place"):
            yield building
            building.chmod(0o755)
            if path.exists():
                path.rmdir()
            building.rename(path)
    except BaseException:
        _remove(building)
        with contextlib.suppress(OSError):      # another may have found use for them
            for parent in made:
                parent.rmdir()
        raise
    finally:
        os.close(lock)


@contextlib.contextmanager
def finished_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a path for a file that becomes `path` when the block ends well, and is removed when not.

    Raises UserError when something is at `path` already, and when the disk refuses.
    """
    path = demand_absent(path)
    with tempfile.TemporaryDirectory(dir=_made(path.parent), prefix=f".{path.name}.", suffix=_UNFINISHED) as folder:
        with refusing_disk(lambda cause: f"{path}: cannot be written ({cause}); nothing is left there. Make room, or "
                                         "choose another place"):
            yield pathlib.Path(folder) / path.name
            if path.is_dir():
                path.rmdir()
            os.rename(pathlib.Path(folder) / path.name, path)


def _made(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _begin(path: pathlib.Path) -> tuple[pathlib.Path, int]:
    """A new folder beside `path`, and its lock, which lasts as long as this process or until it is closed."""
    while True:
        folder = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED))
        lock = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):      # a file system without locks: then nobody sweeps there either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)      # another process swept it away before it had its lock


def _sweep(path: pathlib.Path) -> None:
    """Removes the unfinished folders of `path` whose makers are dead: nobody holds their locks."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}{re.escape(_UNFINISHED)}")
    for folder in path.parent.iterdir():
        if not name.fullmatch(folder.name):
            continue
        with contextlib.suppress(OSError):      # in use, somebody else's, or gone meanwhile
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)
            finally:
                os.close(lock)
