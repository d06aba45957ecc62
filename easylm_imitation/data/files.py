"""Where the sources of a build are: files below its root, patterns of names, and URLs, which fsspec brings here."""
import contextlib
import dataclasses
import fnmatch
import functools
import glob
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from easylm_imitation import console
from easylm_imitation.data.config import BuildConfig, SourceConfig
from easylm_imitation.data.formats import FORMATS
from easylm_imitation.data.sources import package
from easylm_imitation.files import digest, file_sha256, read_json
from easylm_imitation.records import CollectionCard, Taught
from easylm_imitation.schema import UserError, build

_BESIDE = ("*.ledger.jsonl*", "*.card.json", "*.config.json")     # what `collect` writes beside its rows
_WEB = ("http://", "https://")      # of which ? opens a query, and no pattern
_COLLECTED = ("conversations", "messages")      # formats that files of `collect` are read as


@dataclasses.dataclass(frozen=True)
class SourceFiles:
    """The files of one source, in the order of their names."""
    names: tuple[str, ...]              # what they are called to people: a path or a URL
    sha256: str
    paths: tuple[pathlib.Path, ...] = ()    # where they can be read here; none where Beam's workers read them

    @property
    def size(self) -> int:
        """Bytes of all files, packed or not."""
        return sum(path.stat().st_size for path in self.paths)


def locate(config: BuildConfig) -> list[tuple[str, ...]]:
    """What the files of each source are called: paths, or URLs. Raises UserError that names all missing ones and where
    they come from."""
    found = [_locate(source, config.root) for source in config.sources]
    missing = [(place, source) for (place, names), source in zip(found, config.sources) if not names]
    if missing:
        raise UserError(_told(missing))
    return [tuple(names) for _, names in found]


def find(config: BuildConfig, staging: pathlib.Path) -> list[SourceFiles]:
    """The files of each source; those behind URLs are brought into `staging`. Raises UserError as `locate` does."""
    found = []
    for i, names in enumerate(locate(config)):
        paths = tuple(fetch(name, staging / str(i) / str(j)) for j, name in enumerate(names))
        found.append(SourceFiles(names, sha256_of([file_sha256(path) for path in paths]), paths))
    return found


def dataset_of(source: SourceConfig, files: SourceFiles) -> str:
    """The name of the dataset that records without one belong to: said, or the file's stem, or the folder's."""
    first = pathlib.PurePosixPath(files.names[0])
    return source.dataset or (first.name.partition(".")[0] if len(files.names) == 1 else first.parent.name)


@functools.cache
def short(name: str, root: str, path: str) -> str:
    """A source's file without the places that differ from machine to machine: below the root, or, where the source
    names a place of its own, alone."""
    begin = root.rstrip("/") + "/"
    if is_url(path) or pathlib.Path(path).is_absolute():
        return pathlib.PurePosixPath(name).name
    if is_url(root):
        return name.removeprefix(begin) if name.startswith(begin) else pathlib.PurePosixPath(name).name
    return pathlib.Path(name).relative_to(root).as_posix()


def may_have_card(source: SourceConfig) -> bool:
    """Whether files of that format may be those of `collect`, so that a card beside them is read."""
    return source.format in _COLLECTED


def taught(source: SourceConfig, dataset: str, files: SourceFiles) -> tuple[Taught, ...]:
    """Who wrote the answers of a source: as the cards say that `collect` left beside its files, else as the source."""
    cards = [card for card in map(_card_beside, files.names) if card] if may_have_card(source) else []
    if cards:
        return tuple(dict.fromkeys(Taught(dataset, teacher, card.first, card.last, card.terms)
                                   for card in cards for teacher in card.teachers))
    return (Taught(dataset, source.teacher, terms=source.terms),) if source.teacher else ()


def _card_beside(name: str) -> CollectionCard | None:
    """Beside a file that was packed since stands the card of the unpacked one."""
    name, mark, query = name.partition("?") if name.startswith(_WEB) else (name, "", "")
    plain = name.removesuffix(".gz").removesuffix(".zst").removesuffix(".zstd")
    found = (_card_at(f"{one}.card.json{mark}{query}") for one in dict.fromkeys((name, plain)))
    return next((card for card in found if card), None)


def _card_at(name: str) -> CollectionCard | None:
    if not is_url(name):
        return read_json(CollectionCard, name) if pathlib.Path(name).is_file() else None
    try:
        system, remote = _system(name)
        raw = system.cat_file(remote)
    except FileNotFoundError:
        return None
    except UserError:
        raise
    except Exception as error:  # each file system has errors of its own
        if not isinstance(error, PermissionError) and getattr(error, "status", None) not in (401, 403):
            raise _unfetched(name, error) from None
        console.say(f"{name}: access refused, as some stores say of what is not there: read as no card; if there is "
                    "one, its dates and terms are lost")
        return None
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        if name.startswith(_WEB):   # many answer any address with a page
            return None
        raise UserError(f"{name}: not JSON ({error}); mend the card, or remove it") from None
    return build(CollectionCard, content, name)


def is_url(path: str) -> bool:
    """Whether fsspec is to read it: "gs://bucket/file", "hf://datasets/owner/name/file"."""
    return "://" in path


def fetch(name: str, folder: pathlib.Path) -> pathlib.Path:
    """Where the file of that name can be read: itself, or a copy in `folder` of what a URL names. Raises UserError."""
    if not is_url(name):
        return pathlib.Path(name)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / pathlib.PurePosixPath(name).name
    with _fetching(name):
        system, remote = _system(name)
        system.get_file(remote, str(path))
    return path


def sha256_of(hashes: list[str]) -> str:
    """Of a source whose files have these."""
    return hashes[0] if len(hashes) == 1 else digest(hashes, 64)


def _locate(source: SourceConfig, root: str) -> tuple[str, list[str]]:
    """(the place as people know it, names of the files there)."""
    place = source.path if is_url(source.path) or not is_url(root) else f"{root.rstrip('/')}/{source.path}"
    if is_url(place):
        return place, _listed(place, source)
    file = pathlib.Path(root) / source.path
    if file.is_file():
        return str(file), [str(file)]
    found = [pathlib.Path(root) / name for name in glob.glob(source.path, root_dir=root, recursive=True)]
    return str(file), _wanted([str(path) for path in found if path.is_file()], source)


def _wanted(names: list[str], source: SourceConfig) -> list[str]:
    """Of what a pattern matches; what `collect` leaves beside its rows is read where `skip` is ""."""
    skip = FORMATS[source.format].skip if source.skip is None else source.skip
    beside = [] if source.skip == "" else [n for n in names if any(fnmatch.fnmatchcase(n, one) for one in _BESIDE)]
    if beside:
        console.say(f"{source.path}: {', '.join(sorted(beside))}: passed over, the ledger, card or settings of "
                    '`collect` and no conversations (skip="" reads them)')
    return sorted(n for n in names if n not in beside
                  and not (skip and fnmatch.fnmatchcase(pathlib.PurePosixPath(n).name, skip)))


def _listed(url: str, source: SourceConfig) -> list[str]:
    """The files behind `url`, which may be a pattern."""
    try:
        with _fetching(url):
            system, path = _system(url)
            if "*" in path or ("?" in path and not url.startswith(_WEB)):
                return [_url_of(name, url, path, system) for name in
                        _wanted([str(name) for name in system.glob(path)], source)]
            system.info(path)       # unlike `isfile`, tells a file that is not there from a network that is not
            return [url]
    except FileNotFoundError:
        return []


def _url_of(name: str, pattern: str, path: str, system: Any) -> str:
    """The URL of a file that `pattern` matches, which the file system knows as `path`: written as the pattern is."""
    pattern, chain, rest = pattern.partition("::")      # "zip://*.json::gs://bucket/file.zip"
    begin = pattern.removesuffix(path)      # nothing, where names of the file system are URLs
    url = begin + name if pattern.endswith(path) else system.unstrip_protocol(name)
    return url + chain + rest


@contextlib.contextmanager
def _fetching(url: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:
        raise _unfetched(url, error) from None


def _unfetched(url: str, error: Exception) -> UserError:
    return UserError(f"source {url}: cannot be fetched ({type(error).__name__}: {error})")


def _system(url: str) -> tuple[Any, str]:
    fsspec = package("fsspec", f"source {url}: a URL")
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(f"source {url}: {error}") from None
    except ValueError as error:
        raise UserError(f"source {url}: no file system of that name ({error}); a URL begins with gs://, s3://, hf:// "
                        "or another that fsspec knows") from None


def _told(missing: list[tuple[str, SourceConfig]]) -> str:
    lines = list(dict.fromkeys(      # a mixture may take of one file several times
        f"{place}: no such file" + (f"; get it from {source.origin}" if source.origin else "")
        for place, source in missing))
    cure = "set --config.root or the source's path"
    if len(lines) == 1:
        return f"source {lines[0]}; {cure}"
    what = f"{len(missing)} sources" if len(lines) == len(missing) else f"{len(lines)} files of {len(missing)} sources"
    return "\n  ".join([f"{what} are missing; {cure}:", *lines])
