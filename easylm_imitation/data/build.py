"""Raw files to a dataset of tokenized shards, all or nothing: it is written beside its place and renamed when it is
whole.

    DATA/card.json       what is in it (records.DataCard)
    DATA/build.json      the resolved config, and the identity by which a second build finds its work done
    DATA/dropped.jsonl   file, line, reason and detail of every record and conversation left out
    DATA/overlap.json    which rows hold which evaluation items, where the rule `overlap` looked
    DATA/held_out/       the evaluation prompts that are not too near to a query, where the rule `held-out` looked;
    DATA/held_out.json   and the others
    DATA/lengths.npy     int32 [conversations]: tokens of each, in the shards' order
    DATA/datasets.npz    where each is from: `names` [datasets] and `number` int32 [conversations]; `files` [files] and
                         `file_of` int32, `line` (from 1) and `record` (from 0, in the file) int64 [conversations]
    DATA/shards/         a TFDS dataset in ArrayRecord
    DATA/tokenizer/      the tokenizer, with the template as its chat template
"""
import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from easylm_imitation import console
from easylm_imitation.data.clean import steps_of, whole_steps
from easylm_imitation.data.config import BuildConfig, SourceConfig, tokens_of
from easylm_imitation.data.files import SourceFiles, dataset_of, find, may_have_card, short, taught
from easylm_imitation.data.mixture import Row, mixed
from easylm_imitation.data.pool import Made, chunks, processes
from easylm_imitation.data.runner import Runner, beam_path
from easylm_imitation.data.shards import ShardWriter
from easylm_imitation.data.tally import Tally
from easylm_imitation.data.whole import Evaluations, Findings, evaluation_hashes, look_at, take_out, takes_rows
from easylm_imitation.files import digest, file_sha256, read_json, write_json, write_jsonl
from easylm_imitation.folders import finished_folder
from easylm_imitation.records import DataCard, Taught, code_version
from easylm_imitation.schema import UserError, plain
from easylm_imitation.text import Template, Tokenizer, chat_jinja, get_template, load_tokenizer

_STEP = 256     # records between two steps of the progress bar
_FORMAT = 6     # raised when the same sources and config come to give other records or other files


def build_dataset(config: BuildConfig, out: str | os.PathLike, runner: Runner | None = None,
                  tasks: Callable[[str], list[dict[str, Any]]] | None = None) -> DataCard:
    """Builds `config` into the folder `out` and returns its card; an identical dataset already there is left as it is.
    With a `runner` an Apache Beam pipeline reads, cleans and tokenizes; the dataset is the same. `tasks` gives the
    items of an evaluation task, for rules that name one ("task:mmlu").

    Raises UserError, with nothing left behind, for a missing source, a tokenizer without the template's tokens, an
    `out` that holds something else, and a dataset that comes out empty.
    """
    out, evaluations = pathlib.Path(out), Evaluations(tasks, config.root)
    with tempfile.TemporaryDirectory(prefix="easylm_imitation.") as staging:
        tokenizer = load_tokenizer(config.tokenizer)
        template = get_template(config.template, tokenizer)
        jinja = chat_jinja(template, tokenizer)
        asked = _asked(config, evaluation_hashes(steps_of(config.clean), evaluations), tokenizer, template)
        _check_free(out, "asked", asked)        # before anything is fetched
        files, path = _path(config, pathlib.Path(staging), runner)
        datasets = [dataset_of(source, found) for source, found in zip(config.sources, files)]
        whose = [taught(*given) for given in zip(config.sources, datasets, files)]
        identity = digest([asked, [found.sha256 for found in files], _once(whose)])
        if _check_free(out, "identity", identity):
            console.say(f"{out}: already built from the same sources and config")
            return read_card(out)
        with finished_folder(out) as folder:
            tokenizer.save(folder / "tokenizer", chat_template=jinja)
            said = dataclasses.replace(config, processes=None)      # how many made it leaves no trace
            write_json(folder / "build.json", {"identity": identity, "asked": asked, "config": said})
            card = _write(config, files, datasets, whose, path, folder, tokenizer, template, evaluations)
    return card


def read_card(folder: str | os.PathLike) -> DataCard:
    """The card of a built dataset. Raises UserError when `folder` is none."""
    folder = pathlib.Path(folder)
    if not (folder / "card.json").is_file():
        raise UserError(f"{folder}: not a built dataset (no card.json); make one with `easylm-imitation build`")
    return read_json(DataCard, folder / "card.json")


def _asked(config: BuildConfig, evaluations: list[str], tokenizer: Tokenizer, template: Template) -> str:
    """Equal for builds that give equal datasets of equal sources: contents count, places do not."""
    content = _but_defaults(plain(config), config)
    for key in ("root", "processes", "tokenizer", "template"):
        content.pop(key, None)
    if config.clean:
        content["clean"] = [[step.name, step.said] for step in steps_of(config.clean)]
    content["sources"] = [_but_defaults(plain(source), source) for source in config.sources]
    for source in content["sources"]:
        source["path"] = pathlib.Path(source["path"]).name
    return digest([_FORMAT, content, evaluations, tokenizer.id, template.id])


_FIRST_KEYS = {"path", "format", "dataset", "teacher", "limit", "name", "sources", "seed"}


def _but_defaults(content: dict[str, Any], config: BuildConfig | SourceConfig) -> dict[str, Any]:
    """Without later keys that say nothing, so that a new one leaves older datasets what they are."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return {key: value for key, value in content.items()
            if key in _FIRST_KEYS or (value not in ([], {}) and value != defaults[key])}


def _check_free(out: pathlib.Path, key: str, value: str) -> bool:
    """Whether a dataset is there whose build.json says `value`. Raises UserError when something else is."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / "card.json").is_file() or not (out / "build.json").is_file():
        raise UserError(f"--out {out}: holds files that are no dataset; choose a new or empty folder")
    if json.loads((out / "build.json").read_text()).get(key) != value:
        raise UserError(f"--out {out}: holds a dataset of other sources or another config, or of another version of "
                        "`build`; take a new folder, or remove it")
    return True


def _path(config: BuildConfig, staging: pathlib.Path, runner: Runner | None) -> tuple[list[SourceFiles], Callable]:
    """(the files of the sources, who makes outcomes of their records: as `pool.processes`)."""
    if runner is None:
        return find(config, staging), processes
    beam = beam_path(config, runner, staging)
    return beam.files, beam.outcomes


def _write(config: BuildConfig, files: list[SourceFiles], datasets: list[str],
           whose: list[tuple[Taught, ...]], path: Callable, folder: pathlib.Path, tokenizer: Tokenizer,
           template: Template, evaluations: Evaluations) -> DataCard:
    tally, findings = Tally(config, datasets), Findings(evaluations)
    with path(config, files, datasets, tokenizer, folder / "tokenizer", template) as made, \
            console.progress("tokenizing", None) as advance:
        whole = [(text, *step) for text, step in enumerate(whole_steps(steps_of(config.clean)))]
        later = any(takes_rows(step) for _, _, step in whole)
        rows = _rows(config, datasets, made, tally, advance, later)
        for text, number, step in whole:
            if takes_rows(step):
                rows = take_out(rows, text, number, step, tally, findings)
        rows = mixed(rows, config)
        for text, number, step in whole:
            if not takes_rows(step):
                rows = list(rows)
                look_at(rows, text, number, step, tally, findings)
        places, contents = _write_shards(folder / "shards", config, rows, tally)
    write_jsonl(folder / "dropped.jsonl", tally.dropped)
    if not places.tokens:
        raise UserError(f"dataset '{config.name}' is empty ({tally.nothing()}); nothing was written")
    sources, datasets = tally.sources(files), tally.datasets()
    whose = [tuple(dataclasses.replace(one, dataset=name) for one in own) for name, own in zip(datasets, whose)]
    places.save(folder)
    teachers, told, unknown = _teachers(config, datasets, whose, tally)
    card = DataCard(
        name=config.name, hash="", sources=sources, conversations=len(places.tokens), tokens=sum(places.tokens),
        loss_tokens=sum(source.loss_tokens for source in sources), longest=max(places.tokens), tokenizer=tokenizer.id,
        template=template.id, teachers=teachers, seed=config.seed, code=code_version(),
        rules=tally.rules(), budget=None if config.budget is None else tokens_of(config.budget),
        overlaps=findings.overlaps, diversity=findings.diversity, held_out=findings.held_out,
        taught=_once([*whose, told]),
        index={name: file_sha256(folder / name) for name in ("lengths.npy", "datasets.npz")}, records=contents)
    # that nothing is known of a teacher does not make it another dataset
    card = dataclasses.replace(card, hash=_card_hash(card), taught=_once([*whose, told, unknown]))
    _write_findings(folder, findings)
    write_json(folder / "card.json", card)
    tally.show()
    return card


def _once(whose: list[tuple[Taught, ...]]) -> tuple[Taught, ...]:
    return tuple(dict.fromkeys(one for own in whose for one in own))


def _teachers(config: BuildConfig, datasets: list[str], whose: list[tuple[Taught, ...]],
              tally: Tally) -> tuple[tuple[str, ...], tuple[Taught, ...], tuple[Taught, ...]]:
    """(all teachers, those that rows name and `terms` of their source tell of, those of whom nothing is known); says
    whose rows the last are, and what would tell of them."""
    teachers, told, unknown = set[str](), [], []
    for i, (source, dataset, own, named) in enumerate(zip(config.sources, datasets, whose, tally.teachers)):
        if source.format == "messages" and not named:   # such rows name nobody; the card beside their file does
            named = {one.teacher for one in own}
        missing = sorted(named - {one.teacher for one in own if one.first or one.terms})
        if missing and not source.terms:
            nothing = "no card beside the file (FILE.card.json)" if may_have_card(source) else (
                f"nothing in files of the format {source.format}")
            console.say(f"{source.path}: rows of {', '.join(missing)}; {nothing} says when that was asked and under "
                        f"which terms: unknown on the data card, unless you set sources.{i}.terms")
        teachers |= named
        (told if source.terms else unknown).extend(Taught(dataset, name, terms=source.terms) for name in missing)
    return tuple(sorted(teachers)), tuple(told), tuple(unknown)


def _write_findings(folder: pathlib.Path, findings: Findings) -> None:
    if findings.report:
        write_json(folder / "overlap.json", findings.report)
    if findings.held_out:
        write_json(folder / "held_out.json", findings.too_near)
    for name, prompts in findings.prompts.items():
        path = folder / "held_out" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(path, prompts)


_UNHASHED = ("hash", "code", "records"), ("path", "origin", "added", "left", "copies", "tokens", "loss_tokens", "files",
                                "cut_turns", "undrawn")


def _card_hash(card: DataCard) -> str:
    """Over what the dataset holds: the hash of its records, and the card but for places, the code's version and numbers
    that the records tell. Keys that came later count where they say something."""
    content = _said({key: value for key, value in plain(card).items() if key not in _UNHASHED[0]},
                    "rules", "budget", "overlaps", "diversity", "held_out", "taught")
    if card.rules:      # samples name files
        content["rules"] = [{k: v for k, v in rule.items() if k != "samples"} for rule in content["rules"]]
    content["sources"] = [_said({k: v for k, v in source.items() if k not in _UNHASHED[1]}, "licence")
                          for source in content["sources"]]
    return digest([content, card.records])


def _said(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys or value not in (None, "", [], {})}


@dataclasses.dataclass
class _Places:
    """Of each row of the dataset, in order: its length, and where it is from."""
    tokens: list[int] = dataclasses.field(default_factory=list)
    dataset: list[str] = dataclasses.field(default_factory=list)
    file: list[str] = dataclasses.field(default_factory=list)
    line: list[int] = dataclasses.field(default_factory=list)
    record: list[int] = dataclasses.field(default_factory=list)

    def add(self, row: Row, config: BuildConfig) -> None:
        for name in ("tokens", "dataset", "line", "record"):
            getattr(self, name).append(getattr(row, name))
        self.file.append(short(row.file, config.root, config.sources[row.source].path))

    def save(self, folder: pathlib.Path) -> None:
        np.save(folder / "lengths.npy", np.asarray(self.tokens, np.int32))
        names, number = np.unique(self.dataset, return_inverse=True)
        files, file = np.unique(self.file, return_inverse=True)
        np.savez(folder / "datasets.npz", names=names, number=number.astype(np.int32), files=files,
                 file_of=file.astype(np.int32), line=np.asarray(self.line, np.int64),
                 record=np.asarray(self.record, np.int64))


def _write_shards(folder: pathlib.Path, config: BuildConfig, rows: Iterable[Row],
                  tally: Tally) -> tuple[_Places, str]:
    """Writes all rows; returns where they are from, and a hash of the records, which says nothing of the container."""
    writer, places, contents = ShardWriter(folder, description=config.name), _Places(), hashlib.sha256()
    for chunk in chunks(rows, 1000):
        writer.write([row.example for row in chunk])
        for row in chunk:
            places.add(row, config)
            example = row.example
            name_bytes = example.id.encode("utf-8", "surrogatepass")
            contents.update(np.asarray([len(name_bytes), len(example.tokens)], "<i8").tobytes() + name_bytes)
            contents.update(np.asarray(example.tokens, "<i4").tobytes())
            contents.update(np.asarray(example.loss_weights, "<f4").tobytes())
            tally.write(row, int(np.count_nonzero(example.loss_weights)))
    writer.close()
    return places, contents.hexdigest()


def _rows(config: BuildConfig, datasets: list[str], made: Made, tally: Tally, advance: Callable[..., None],
          later: bool) -> Iterator[Row]:
    """The rows of all sources, in order; the tally fills as they pass. `later`: a rule is to leave some of them out, so
    that nobody knows yet how many a sample needs."""
    read = 0
    for i, (source, dataset) in enumerate(zip(config.sources, datasets)):
        passed = 0
        drawn = iter([None]) if later else _drawn(source, i, config.seed, made, tally)
        for chosen in drawn:
            for file, record, outcomes in made(i, chosen):
                read += 1
                if read % _STEP == 0:
                    advance(_STEP, note=dataset)
                for outcome in outcomes:
                    row = tally.judged(i, file, record, outcome)
                    if row is not None and passed != source.limit:
                        passed += 1
                        yield row
                if passed == source.limit:
                    break
            if source.sample is not None and passed >= source.sample:
                break


def _drawn(source: SourceConfig, i: int, seed: int | None, made: Made, tally: Tally) -> Iterator[np.ndarray | None]:
    """Which records to read, bool [records], part after part until enough conversations have passed; None for all.

    A part holds more records than are wanted, as some are dropped. (Not so with a `limit`: the first records count.)
    """
    if source.sample is None or source.limit is not None:
        yield None
        return
    order = np.random.default_rng((seed, i, 1)).permutation(made.records(i))
    start, size = 0, source.sample + source.sample // 4 + 100
    while start < len(order):
        chosen = np.zeros(len(order), bool)
        chosen[order[start:start + size]] = True
        start, size = start + size, 2 * size
        tally.undrawn(i, max(0, len(order) - start))
        yield chosen
