"""The direct path's work as Apache Beam pipelines: the same functions, on as many machines as a runner has.

    measure   file ─► (hash, how many records)                 so that records can be numbered, and the build named
    make      file ─► chunks of records ─► `work.Worker` ─► one file of outcomes a chunk, in `temp_location`

What needs all records stays in this process, which reads the outcomes back in order: comparing and counting (Tally,
the rules of whole.py), mixing, budgets and the shards. So the dataset is the direct path's, byte for byte, and this
process's memory is the direct path's too; what a pipeline spreads is reading, cleaning and tokenizing.
"""
import contextlib
import dataclasses
import io
import json
import pathlib
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

import apache_beam
import numpy as np
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from easylm_imitation.data.clean import Change, Key
from easylm_imitation.data.config import BuildConfig
from easylm_imitation.data.files import SourceFiles, fetch, sha256_of
from easylm_imitation.data.formats import FORMATS
from easylm_imitation.data.pool import Found, Made, chunks, numbered
from easylm_imitation.data.runner import Runner
from easylm_imitation.data.shards import Example
from easylm_imitation.data.sources import RawRecord, iter_records
from easylm_imitation.data.work import Outcome, Worker
from easylm_imitation.files import file_sha256
from easylm_imitation.schema import UserError, nearest
from easylm_imitation.text import Template, Tokenizer, get_template

_CHUNK = 2048       # records in one file of outcomes
_ERROR = "error"    # the file of a worker's UserError


@dataclasses.dataclass(frozen=True)
class _Job:
    """What every worker is told."""
    config: BuildConfig
    names: list[tuple[str, ...]]        # of each source's files
    datasets: tuple[str, ...]
    folder: str                         # where results go
    tokenizer: Tokenizer
    template: str


class BeamPath:
    """The sources of a build, measured by a first pipeline; `outcomes` runs the second."""

    def __init__(self, config: BuildConfig, names: list[tuple[str, ...]], runner: Runner, temp: str):
        """Raises UserError for an unknown runner or option."""
        self._config, self._names, self._runner, self._options = config, names, runner, _options(runner)
        self._folder = FileSystems.join(temp, f"easylm_imitation.{uuid.uuid4().hex}")
        measured = self._measured()
        self._counts = [[count for _, count in files] for files in measured]
        self.files = [SourceFiles(own, sha256_of([sha256 for sha256, _ in files]))
                      for own, files in zip(names, measured, strict=True)]

    @contextlib.contextmanager
    def outcomes(self, config: BuildConfig, files: list[SourceFiles], datasets: list[str], tokenizer: Tokenizer,
                 folder: pathlib.Path, template: Template) -> Iterator[Made]:
        """As `pool.processes`: runs the pipeline to its end, then yields what reads its results."""
        with self._results():
            job = _Job(config, self._names, tuple(datasets), self._folder, tokenizer, template.name)
            with self._pipeline() as pipeline:
                (pipeline | apache_beam.Create(list(self._firsts(datasets))) | "spread files" >> apache_beam.Reshuffle()
                 | apache_beam.FlatMap(_read, job) | "spread records" >> apache_beam.Reshuffle()
                 | apache_beam.Map(_make, job))
            self._raise_told()
            yield _Results(self._names, self._counts, self._folder)

    def _measured(self) -> list[list[tuple[str, int]]]:
        """(hash, records) of each file of each source."""
        files = [(i, j) for i, own in enumerate(self._names) for j in range(len(own))]
        with self._results():
            with self._pipeline() as pipeline:
                (pipeline | apache_beam.Create(files) | apache_beam.Reshuffle()
                 | apache_beam.Map(_measure, self._names, self._config, self._folder))
            self._raise_told()
            return [[tuple(json.loads(_get(self._folder, f"{i}-{j}"))) for j in range(len(own))]
                    for i, own in enumerate(self._names)]

    def _firsts(self, datasets: list[str]) -> Iterator[tuple[int, int, int]]:
        """(source, file, number of its first record): files of one dataset go on counting."""
        numbers = dict.fromkeys(datasets, 0)
        for i, counts in enumerate(self._counts):
            for j, count in enumerate(counts):
                yield i, j, numbers[datasets[i]]
                numbers[datasets[i]] += count

    def _raise_told(self) -> None:
        if FileSystems.exists(FileSystems.join(self._folder, _ERROR)):
            raise UserError(_get(self._folder, _ERROR).decode())

    def _pipeline(self) -> Any:
        return apache_beam.Pipeline(runner=self._runner.name, options=self._options)

    @contextlib.contextmanager
    def _results(self) -> Iterator[None]:
        """The folder of results, which goes when they are read."""
        FileSystems.mkdirs(self._folder)
        try:
            yield
        finally:
            FileSystems.delete([self._folder])


@dataclasses.dataclass(frozen=True)
class _Results:
    """What workers made of the records, read back in order: `pool.Made`."""
    names: list[tuple[str, ...]]
    counts: list[list[int]]
    folder: str

    def records(self, i: int) -> int:
        """Of a source."""
        return sum(self.counts[i])

    def __call__(self, i: int, chosen: np.ndarray | None = None) -> Iterator[Found]:
        """Each record, or each of those chosen; a pipeline made them all."""
        first = 0       # of the file's records, among the source's
        for j, name in enumerate(self.names[i]):
            for chunk in range(-(-self.counts[i][j] // _CHUNK)):
                made = _unpacked(_get(self.folder, f"{i}-{j}-{chunk}"))
                for number, outcomes in enumerate(made, chunk * _CHUNK):
                    if chosen is None or chosen[first + number]:
                        yield name, number, outcomes
            first += self.counts[i][j]


def _options(runner: Runner) -> PipelineOptions:
    known = PipelineOptions([]).get_all_options()
    for option in runner.options:
        name = option.partition("=")[0]
        if "=" not in option or name not in known:
            close = nearest(name, known)
            raise UserError(f"--runner-option {option}: Beam has no option '{name}'"
                            f"{close if 'did you mean' in close else ''}; write NAME=VALUE")
    try:
        apache_beam.runners.create_runner(runner.name)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--runner {runner.name}: {error}") from None
    return PipelineOptions([f"--{option}" for option in runner.options])


def _measure(file: tuple[int, int], names: list[tuple[str, ...]], config: BuildConfig, folder: str) -> None:
    i, j = file
    with _telling(folder), _here(names[i][j]) as path:
        count = sum(1 for _ in iter_records(path, FORMATS[config.sources[i].format].shape))
        _put(folder, f"{i}-{j}", json.dumps([file_sha256(path), count]).encode())


def _read(file: tuple[int, int, int], job: _Job) -> Iterator[tuple[int, int, int, list[RawRecord]]]:
    """(source, file, chunk, its records)."""
    i, j, first = file
    with _telling(job.folder), _here(job.names[i][j]) as path:
        records = numbered(iter_records(path, FORMATS[job.config.sources[i].format].shape), first)
        for number, chunk in enumerate(chunks(records, _CHUNK)):
            yield i, j, number, chunk


def _make(chunk: tuple[int, int, int, list[RawRecord]], job: _Job) -> None:
    i, j, number, records = chunk
    worker = Worker(job.tokenizer, get_template(job.template, job.tokenizer), job.config.clean)
    with _telling(job.folder):
        made = worker.outcomes(records, job.config.sources[i], job.datasets[i])
        _put(job.folder, f"{i}-{j}-{number}", _packed(made))


@contextlib.contextmanager
def _telling(folder: str) -> Iterator[None]:
    """Leaves a UserError as a file to the process that asked; Beam would tell it as a fault of the pipeline."""
    try:
        yield
    except UserError as error:
        _put(folder, _ERROR, str(error).encode())


@contextlib.contextmanager
def _here(name: str) -> Iterator[pathlib.Path]:
    """A file of a source, brought to this worker where it is a URL."""
    with tempfile.TemporaryDirectory() as folder:
        yield fetch(name, pathlib.Path(folder))


def _put(folder: str, name: str, content: bytes) -> None:
    with FileSystems.create(FileSystems.join(folder, name)) as file:
        file.write(content)


def _get(folder: str, name: str) -> bytes:
    with FileSystems.open(FileSystems.join(folder, name)) as file:
        return file.read()


def _packed(made: list[list[Outcome]]) -> bytes:
    """Outcomes of each record as an .npz: their tokens and weights one behind the other, all else as JSON."""
    examples = [outcome.example for outcomes in made for outcome in outcomes if outcome.example is not None]
    said = json.dumps([[_said(outcome) for outcome in outcomes] for outcomes in made])
    buffer = io.BytesIO()
    np.savez(buffer, said=np.frombuffer(said.encode(), np.uint8),
             ends=np.cumsum([len(example.tokens) for example in examples], dtype=np.int64),
             tokens=np.concatenate([np.zeros(0, np.int32), *(example.tokens for example in examples)]),
             loss_weights=np.concatenate([np.zeros(0, np.float32), *(example.loss_weights for example in examples)]))
    return buffer.getvalue()


def _said(outcome: Outcome) -> dict[str, Any]:
    example = None if outcome.example is None else outcome.example.id
    keys = [key._replace(value=key.value.hex()) for key in outcome.keys]
    return outcome._asdict() | {"example": example, "keys": keys}


def _unpacked(content: bytes) -> Iterator[list[Outcome]]:
    with np.load(io.BytesIO(content)) as stored:
        arrays = {name: stored[name] for name in stored}
    ends = arrays["ends"][:-1]
    rows = zip(np.split(arrays["tokens"], ends), np.split(arrays["loss_weights"], ends))
    for outcomes in json.loads(arrays["said"].tobytes()):
        yield [Outcome(**said | {
            "example": None if said["example"] is None else Example(said["example"], *next(rows)),
            "changes": tuple(Change(*change) for change in said["changes"]),
            "keys": tuple(Key(step, bytes.fromhex(value), holder) for step, value, holder in said["keys"])})
            for said in outcomes]
