"""Finding published files under the folder of `--task-data`, and saying what is missing and where it is to be had."""
import dataclasses
import pathlib
from collections.abc import Callable, Mapping

from easylm_imitation.evaluate.tasks.task import Task
from easylm_imitation.schema import UserError


@dataclasses.dataclass(frozen=True)
class Ask:
    """What a loader is asked for: a task by its full name, or one part of it, from `folder`, scored as `published`."""
    folder: pathlib.Path
    name: str
    part: str = ""
    published: bool = False


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A bundled task. `parts` maps each of its parts to the items of its published test split; {"": n} without parts.
    """
    what: str
    cure: str                                   # which files are expected where, and who has them
    load: Callable[[Ask, "Benchmark"], Task]
    parts: Mapping[str, int]
    file: str                                   # that must be there, with {part}; others may stand in for it
    macro: bool = False                         # parts count alike
    sample: str = ""                            # a file of fewer items that may stand in for it
    published: str = ""                         # what NAME@published means; "" where there is no such variant

    @property
    def items(self) -> int:
        """Items of the published test split."""
        return sum(self.parts.values())


def locate(folder: pathlib.Path, path: str) -> pathlib.Path | None:
    """`folder/path`, plain or gzipped; the part before the first slash may be `folder` itself. None when absent."""
    for candidate in (folder / path, folder / path.partition("/")[2]):
        for file in (candidate, candidate.with_name(candidate.name + ".gz")):
            if file.is_file():
                return file
    return None


def data_file(folder: pathlib.Path, benchmark: Benchmark, part: str) -> pathlib.Path | None:
    """The file of a part's items, or its sample; None when neither is there."""
    paths = (benchmark.file, benchmark.sample) if benchmark.sample else (benchmark.file,)
    return next((file for path in paths if (file := locate(folder, path.format(part=part)))), None)


def located(ask: Ask, benchmark: Benchmark, path: str = "") -> pathlib.Path:
    """The file `path`, or that of the items. Raises UserError naming it and the cure when it is not there."""
    found = locate(ask.folder, path) if path else data_file(ask.folder, benchmark, ask.part)
    if found is None:
        gone = path or benchmark.file.format(part=ask.part)
        raise UserError(f"task '{ask.name}': its data are missing, no {gone} under {ask.folder}; {benchmark.cure}")
    return found


def short_of(benchmark: Benchmark, part: str, have: int) -> str:
    """What is missing of a part with `have` items; "" when it is whole."""
    there = benchmark.parts[part]
    return "" if have == there else f"{have} of {there} items; {benchmark.cure}"
