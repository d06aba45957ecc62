"""Where the sources of a build are: files below its root, patterns of names, and URLs, which fsspec brings here."""
import dataclasses
import fnmatch
import glob
import pathlib
from typing import Any

from easylm_imitation.data.config import BuildConfig, SourceConfig
from easylm_imitation.data.formats import FORMATS
from easylm_imitation.data.sources import package
from easylm_imitation.records import digest, file_sha256
from easylm_imitation.schema import UserError


@dataclasses.dataclass(frozen=True)
class SourceFiles:
    """The files of one source, in the order of their names."""
    paths: tuple[pathlib.Path, ...]     # readable here
    names: tuple[str, ...]              # what they are called to people: a path or a URL
    sha256: str

    @property
    def size(self) -> int:
        """Bytes of all files, packed or not."""
        return sum(path.stat().st_size for path in self.paths)


def find(config: BuildConfig, staging: pathlib.Path) -> list[SourceFiles]:
    """The files of each source; those behind URLs are brought into `staging`. Raises UserError that names all missing
    ones and where they come from."""
    found = [_find(source, config.root, staging / str(i)) for i, source in enumerate(config.sources)]
    missing = [(place, source) for (place, files), source in zip(found, config.sources) if not files]
    if missing:
        raise UserError(_told(missing))
    return [SourceFiles(tuple(paths), tuple(names), _sha256(paths)) for _, (paths, names) in found]


def dataset_of(source: SourceConfig, files: SourceFiles) -> str:
    """The name of the dataset that records without one belong to: said, or the file's stem, or the folder's."""
    first = pathlib.PurePosixPath(files.names[0])
    return source.dataset or (first.name.partition(".")[0] if len(files.paths) == 1 else first.parent.name)


def is_url(path: str) -> bool:
    """Whether fsspec is to read it: "gs://bucket/file", "hf://datasets/owner/name/file"."""
    return "://" in path


def _find(source: SourceConfig, root: str, staging: pathlib.Path) -> tuple[str, tuple[list, list] | None]:
    """(the place as people know it, (paths, names) or None when nothing is there)."""
    place = source.path if is_url(source.path) or not is_url(root) else f"{root.rstrip('/')}/{source.path}"
    if is_url(place):
        return place, _staged(place, source, staging)
    file = pathlib.Path(root) / source.path
    if file.is_file():
        return str(file), ([file], [str(file)])
    found = [pathlib.Path(root) / name for name in glob.glob(source.path, root_dir=root, recursive=True)]
    wanted = _wanted([str(path) for path in found if path.is_file()], source)
    return str(file), ([pathlib.Path(name) for name in wanted], wanted) if wanted else None


def _wanted(names: list[str], source: SourceConfig) -> list[str]:
    skip = FORMATS[source.format].skip if source.skip is None else source.skip
    return sorted(n for n in names if not (skip and fnmatch.fnmatchcase(pathlib.PurePosixPath(n).name, skip)))


def _staged(url: str, source: SourceConfig, staging: pathlib.Path) -> tuple[list, list] | None:
    """Copies what `url` names into `staging`."""
    system, path = _system(url)
    scheme = url.partition("://")[0]
    try:
        if "*" in path or "?" in path:
            names = _wanted([str(name) for name in system.glob(path)], source)
        else:
            system.info(path)       # unlike `isfile`, tells a file that is not there from a network that is not
            names = [path]
        paths = []
        for number, name in enumerate(names):
            paths.append(staging / str(number) / pathlib.PurePosixPath(name).name)
            paths[-1].parent.mkdir(parents=True)
            system.get_file(name, str(paths[-1]))
    except FileNotFoundError:
        return None
    except Exception as error:  # each file system has errors of its own
        raise UserError(f"source {url}: cannot be fetched ({type(error).__name__}: {error})") from None
    return (paths, [f"{scheme}://{name.lstrip('/')}" for name in names]) if names else None


def _system(url: str) -> tuple[Any, str]:
    fsspec = package("fsspec", f"source {url}: a URL")
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(f"source {url}: {error}") from None
    except ValueError as error:
        raise UserError(f"source {url}: no file system of that name ({error}); a URL begins with gs://, s3://, hf:// "
                        "or another that fsspec knows") from None


def _sha256(paths: list[pathlib.Path]) -> str:
    hashes = [file_sha256(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else digest(hashes, 64)


def _told(missing: list[tuple[str, SourceConfig]]) -> str:
    lines = [f"{place}: no such file" + (f"; get it from {source.origin}" if source.origin else "")
             for place, source in missing]
    cure = "set --config.root or the source's path"
    if len(lines) == 1:
        return f"source {lines[0]}; {cure}"
    return "\n  ".join([f"{len(lines)} sources are missing; {cure}:", *lines])
