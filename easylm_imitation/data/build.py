"""Raw files to a dataset of tokenized shards, all or nothing: it is written beside its place and renamed when it is
whole.

    DATA/card.json       what is in it (records.DataCard)
    DATA/build.json      the resolved config, and the identity by which a second build finds its work done
    DATA/dropped.jsonl   file, line, reason and detail of every record left out
    DATA/lengths.npy     int32 [conversations]: tokens of each, in the shards' order
    DATA/datasets.npz    `names` [datasets], and `number` int32 [conversations]: which of them each belongs to
    DATA/shards/         a TFDS dataset in ArrayRecord
    DATA/tokenizer/      the tokenizer, with the template as its chat template
"""
import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from easylm_imitation import console
from easylm_imitation.data.config import BuildConfig
from easylm_imitation.data.pool import Outcomes, chunks, processes, worth_processes
from easylm_imitation.data.shards import Example, ShardWriter
from easylm_imitation.data.sources import RawRecord, iter_records
from easylm_imitation.data.tally import Tally
from easylm_imitation.records import (
    DataCard,
    SourceCount,
    code_version,
    digest,
    file_sha256,
    read_json,
    write_json,
    write_jsonl,
)
from easylm_imitation.schema import UserError, plain
from easylm_imitation.text import Template, Tokenizer, chat_jinja, get_template, load_tokenizer

Sourced = tuple[Example, str]   # with the dataset that it belongs to

_STEP = 256     # records between two steps of the progress bar
_FORMAT = 2     # raised when the same sources and config come to give other records or other files


def build_dataset(config: BuildConfig, out: str | os.PathLike) -> DataCard:
    """Builds `config` into the folder `out` and returns its card; an identical dataset already there is left as it is.

    Raises UserError, with nothing left behind, for a missing source, a tokenizer without the template's tokens, an
    `out` that holds something else, and a dataset that comes out empty.
    """
    out = pathlib.Path(out)
    files = [pathlib.Path(config.root) / source.path for source in config.sources]
    for file in files:
        if not file.is_file():
            raise UserError(f"source {file}: no such file; set --config.root or the source's path")
    tokenizer, template = load_tokenizer(config.tokenizer), get_template(config.template)
    jinja = chat_jinja(template, tokenizer)
    hashes = [file_sha256(file) for file in files]
    identity = _identity(config, hashes, tokenizer, template)
    if _is_done(out, identity):
        console.say(f"{out}: already built from the same sources and config")
        return read_card(out)
    with _beside(out) as folder:
        tokenizer.save(folder / "tokenizer", chat_template=jinja)
        write_json(folder / "build.json", {"identity": identity, "config": config})
        card = _write(config, files, hashes, folder, tokenizer, template)
    return card


def read_card(folder: str | os.PathLike) -> DataCard:
    """The card of a built dataset. Raises UserError when `folder` is none."""
    folder = pathlib.Path(folder)
    if not (folder / "card.json").is_file():
        raise UserError(f"{folder}: not a built dataset (no card.json); make one with `easylm-imitation build`")
    return read_json(DataCard, folder / "card.json")


def _identity(config: BuildConfig, hashes: list[str], tokenizer: Tokenizer, template: Template) -> str:
    """Equal for builds that give equal datasets: contents count, places do not."""
    content = plain(config)
    for key in ("root", "processes", "tokenizer", "template"):
        del content[key]
    for source in content["sources"]:
        source["path"] = pathlib.Path(source["path"]).name
    return digest([_FORMAT, content, hashes, tokenizer.id, template.id])


def _is_done(out: pathlib.Path, identity: str) -> bool:
    """Whether the dataset is there. Raises UserError when something else is."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / "card.json").is_file() or not (out / "build.json").is_file():
        raise UserError(f"--out {out}: holds files that are no dataset; choose a new or empty folder")
    if json.loads((out / "build.json").read_text())["identity"] != identity:
        raise UserError(f"--out {out}: holds a dataset of other sources or another config, or of another version of "
                        "`build`; take a new folder, or remove it")
    return True


@contextlib.contextmanager
def _beside(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary folder that takes the place of `out` at the end, or vanishes when anything is raised."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield folder
        folder.chmod(0o755)
        os.rename(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write(config: BuildConfig, files: list[pathlib.Path], hashes: list[str], folder: pathlib.Path,
           tokenizer: Tokenizer, template: Template) -> DataCard:
    tally = Tally()
    count = config.processes or worth_processes(files)
    with processes(count, tokenizer, folder / "tokenizer", template) as outcomes, \
            console.progress("tokenizing", None) as advance:
        examples = _examples(config, zip(files, hashes, strict=True), outcomes, tally, advance)
        lengths, origins, contents = _write_shards(folder / "shards", config.name, _shuffled(examples, config.seed),
                                                   tally)
    write_jsonl(folder / "dropped.jsonl", tally.dropped)
    if not lengths:
        reasons = ", ".join(f"{n} {reason}" for reason, n in tally.reasons().items()) or "no records"
        raise UserError(f"dataset '{config.name}' is empty ({reasons}); nothing was written")
    np.save(folder / "lengths.npy", np.asarray(lengths, np.int32))
    names, number = np.unique(origins, return_inverse=True)
    np.savez(folder / "datasets.npz", names=names, number=number.astype(np.int32))
    card = DataCard(
        name=config.name, hash="", sources=tuple(tally.sources), conversations=len(lengths), tokens=sum(lengths),
        loss_tokens=tally.loss_tokens, longest=max(lengths), tokenizer=tokenizer.id, template=template.id,
        teachers=tuple(sorted(tally.teachers)), seed=config.seed, code=code_version())
    card = dataclasses.replace(card, hash=_card_hash(card, contents))
    write_json(folder / "card.json", card)
    tally.show()
    return card


def _card_hash(card: DataCard, contents: str) -> str:
    """Over what the dataset holds: the hash of its records, and the card but for its places and the code's version."""
    content = {key: value for key, value in plain(card).items() if key not in ("hash", "code")}
    content["sources"] = [{k: v for k, v in source.items() if k != "path"} for source in content["sources"]]
    return digest([content, contents])


def _write_shards(folder: pathlib.Path, name: str, examples: Iterable[Sourced],
                  tally: Tally) -> tuple[list[int], list[str], str]:
    """Writes all examples; returns their lengths in tokens, their datasets, and a hash of the records.

    Not of the files: a record's fields stand in an order that differs from process to process.
    """
    writer, lengths, origins, contents = ShardWriter(folder, description=name), [], [], hashlib.sha256()
    for sourced in chunks(examples, 1000):
        chunk = [example for example, _ in sourced]
        writer.write(chunk)
        lengths += [len(example.tokens) for example in chunk]
        origins += [dataset for _, dataset in sourced]
        for example in chunk:
            name_bytes = example.id.encode("utf-8", "surrogatepass")
            contents.update(np.asarray([len(name_bytes), len(example.tokens)], "<i8").tobytes() + name_bytes)
            contents.update(np.asarray(example.tokens, "<i4").tobytes())
            contents.update(np.asarray(example.loss_weights, "<f4").tobytes())
        tally.loss_tokens += sum(int(np.count_nonzero(example.loss_weights)) for example in chunk)
    writer.close()
    return lengths, origins, contents.hexdigest()


def _shuffled(examples: Iterator[Sourced], seed: int | None) -> Iterable[Sourced]:
    """In an order that `seed` decides (which needs all of them in memory, 8 bytes a token), or as they come."""
    if seed is None:
        return examples
    held = list(examples)
    return (held[i] for i in np.random.default_rng(seed).permutation(len(held)))


def _examples(config: BuildConfig, files: Iterable[tuple[pathlib.Path, str]], outcomes: Outcomes, tally: Tally,
              advance: Callable[..., None]) -> Iterator[Sourced]:
    """The examples of all sources with their datasets, in order; the tally fills as they pass."""
    numbers = collections.Counter()     # records read of each dataset: files of one dataset go on counting
    for source, (file, sha256) in zip(config.sources, files, strict=True):
        dataset = source.dataset or file.name.partition(".")[0]
        read, kept, dropped = 0, 0, collections.Counter()
        for outcome in outcomes(_numbered(iter_records(file), numbers[dataset]), source, dataset):
            read += 1
            outcome = tally.unlike_others(file, outcome)
            if outcome.example is None:
                dropped[outcome.reason] += 1
                tally.drop(file, outcome)
            else:
                kept += 1
                tally.teachers |= {outcome.teacher} - {""}
                yield outcome.example, outcome.dataset
            if read % _STEP == 0:
                advance(_STEP, note=dataset)
            if kept == source.limit:
                break
        numbers[dataset] += read
        tally.sources.append(SourceCount(source.path, dataset, sha256, read, kept, dict(sorted(dropped.items()))))


def _numbered(records: Iterator[RawRecord], first: int) -> Iterator[RawRecord]:
    """The records, counted from `first`: the number is what names a record that has no id."""
    return (dataclasses.replace(record, number=record.number + first) for record in records)
