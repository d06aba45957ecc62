"""A build through Apache Beam is the direct path's dataset; what a pipeline cannot do is refused by name.

Beam is an extra with versions of its own; without it the comparison is skipped. To run it:
    python3.11 -m venv BEAM && BEAM/bin/pip install -c constraints-beam.txt -e '.[beam]' pytest hypothesis
    BEAM/bin/python -m pytest tests/data/test_beam.py -m 'not gpu'
"""
import dataclasses
import importlib.util
import json

import pytest
from data_helpers import turns, write_lines

from easylm_imitation.cli.main import main
from easylm_imitation.data import BuildConfig, Runner, SourceConfig, build_dataset
from easylm_imitation.schema import UserError

HAS_BEAM = importlib.util.find_spec("apache_beam") is not None
NEEDS_BEAM = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"),
              pytest.mark.skipif(not HAS_BEAM, reason="apache_beam is not installed; it has an environment of its own")]


def beam_path(test):
    """Marks a test that runs Beam's local runner."""
    for mark in NEEDS_BEAM:
        test = mark(test)
    return test


@pytest.fixture
def config(tmp_path, tokenizer_folder):
    """Three files of two datasets, records without ids, repetitions within and across files, splits and faults."""
    tmp_path = tmp_path / "raw"
    tmp_path.mkdir()
    for name, start in (("a1", 0), ("a2", 40)):
        write_lines(tmp_path / f"{name}.jsonl", [
            {"messages": turns(f"question {i % 23}?", f"answer {i}", *(["more?", "yes " * 30] if i % 5 == 0 else []))}
            for i in range(start, start + 40)])
    with (tmp_path / "a2.jsonl").open("a") as file:
        file.write('{"messages": \n')
    answers = ["I'm sorry, but I can't", *(f"done {i}" for i in range(8))]
    (tmp_path / "b.json").write_text(json.dumps([{"instruction": f"do {i}", "input": "", "output": answer}
                                                 for i, answer in enumerate(answers)]))
    sources = (SourceConfig("a*.jsonl", dataset="a", clean=("same-query",)),
               SourceConfig("b.json", "alpaca", teacher="t", weight=1.5),
               SourceConfig("a1.jsonl", dataset="a", clean=("same-dialogue",), sample=20))
    rules = ("roles", "refusals", {"rule": "near-query", "threshold": 0.9}, "diversity",
             {"rule": "split", "tokens": 120})
    return BuildConfig("mix", sources, str(tokenizer_folder), root=str(tmp_path), seed=3, clean=rules)


def contents(folder):
    """All that a dataset holds."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@beam_path
@pytest.mark.parametrize("change", [{}, {"seed": None, "sources": 1}, {"budget": 900}],
                         ids=["mixed", "in order", "budget"])
@pytest.mark.usefixtures("small_chunks")
def test_the_dataset_is_the_direct_paths(tmp_path, config, change):
    if "sources" in change:
        change = change | {"sources": config.sources[:change["sources"]]}
    config = dataclasses.replace(config, **change)
    direct = build_dataset(config, tmp_path / "direct")
    beamed = build_dataset(config, tmp_path / "beamed", Runner("DirectRunner"))
    assert beamed == direct
    assert sum(sum(source.dropped.values()) for source in direct.sources) > 20
    assert contents(tmp_path / "beamed") == contents(tmp_path / "direct")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.fixture
def small_chunks(monkeypatch):
    """Several files of outcomes for each file of records, the last one not full."""
    from easylm_imitation.data import beam
    monkeypatch.setattr(beam, "_CHUNK", 7)


@beam_path
def test_the_verb_takes_a_runner_and_its_options(tmp_path, config, capsys):
    folder = tmp_path / "temp"
    folder.mkdir()
    (tmp_path / "config.py").write_text(f"""
def get_config():
    return {{"name": "set", "tokenizer": {config.tokenizer!r}, "root": {config.root!r},
             "sources": [{{"path": "a1.jsonl"}}]}}
""")
    command = ["build", "--config", str(tmp_path / "config.py"), "--out", str(tmp_path / "out")]
    command += ["--runner", "DirectRunner", "--runner-option"]
    assert main([*command, f"temp_location={folder}"]) == 0
    assert not list(folder.iterdir())
    assert main([*command, "temp_locaton=x"]) == 2
    assert "Beam has no option 'temp_locaton'; did you mean 'temp_location'?" in capsys.readouterr().err


@beam_path
def test_a_bad_file_is_one_line(tmp_path, config):
    (tmp_path / "raw" / "b.json").write_text('[{"instruction": "x"')
    with pytest.raises(UserError, match="b.json:1: not valid JSON"):
        build_dataset(config, tmp_path / "out", Runner("DirectRunner"))
    rules = ({"rule": "language", "keep": ["xx"], "least": 1},)
    config = dataclasses.replace(config, sources=config.sources[:1], clean=rules)
    with pytest.raises(UserError, match="no language 'xx'"):
        build_dataset(config, tmp_path / "out", Runner("DirectRunner"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("change", "runner", "message"), [
    ({"processes": 2}, Runner("DirectRunner"), "processes=2 is of the direct path"),
    ({"limit": 3}, Runner("DirectRunner"), "'a1.jsonl': limit=3 takes a file's first conversations"),
    ({}, Runner("DataflowRunner", ("temp_location=gs://x/y",)), "a1.jsonl is a file of this machine"),
    ({}, Runner("FlinkRunner"), "name it with --runner-option temp_location="),
    pytest.param({}, Runner("DirectRunner"), "pip install 'easylm_imitation.beam.'",
                 marks=pytest.mark.skipif(HAS_BEAM, reason="apache_beam is installed"))],
    ids=["processes", "limit", "local files", "no shared place", "not installed"])
def test_what_a_pipeline_cannot_do_is_refused(tmp_path, config, change, runner, message):
    limit = {"limit": change.pop("limit")} if "limit" in change else {}
    config = dataclasses.replace(config, sources=(SourceConfig("a1.jsonl", **limit),), **change)
    with pytest.raises(UserError, match=message):
        build_dataset(config, tmp_path / "out", runner)
    assert not (tmp_path / "out").exists()


def test_options_need_a_runner(tmp_path, capsys):
    assert main(["build", "--config", "x.py", "--out", str(tmp_path / "out"), "--runner-option", "a=b"]) == 2
    assert "--runner-option a=b: belongs to a --runner" in capsys.readouterr().err
