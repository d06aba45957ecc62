"""Where sources are: several missing at once, patterns, and URLs through a real fsspec file system."""
import functools
import http.server
import json
import threading
import zipfile

import fsspec
import pytest
from data_helpers import listing, turns, write_lines

from easylm_imitation.data import BuildConfig, SourceConfig, build_dataset
from easylm_imitation.data.files import locate
from easylm_imitation.schema import UserError


def config_of(tokenizer_folder, *sources, **more):
    return BuildConfig("set", sources, str(tokenizer_folder), **more)


def messages(text):
    return {"messages": turns(text, "A")}


def test_all_missing_files_are_named_with_where_they_come_from(tmp_path, tokenizer_folder):
    write_lines(tmp_path / "a.jsonl", [messages("Q")])
    sources = (SourceConfig("a.jsonl"), SourceConfig("b.jsonl", origin="hf://datasets/me/b"), SourceConfig("c/*.json"))
    with pytest.raises(UserError) as caught:
        build_dataset(config_of(tokenizer_folder, *sources, root=str(tmp_path)), tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("2 sources are missing; set --config.root")
    assert lines[1:] == [f"  {tmp_path}/b.jsonl: no such file; get it from hf://datasets/me/b",
                         f"  {tmp_path}/c/*.json: no such file"]
    assert listing(tmp_path) == ["a.jsonl"]


def test_a_file_that_several_sources_take_of_is_missing_once(tmp_path, tokenizer_folder):
    sources = [SourceConfig("b.jsonl", "flan", options={"templates": [name]}) for name in ("x", "y")]
    with pytest.raises(UserError) as caught:
        build_dataset(config_of(tokenizer_folder, *sources, SourceConfig("c"), root=str(tmp_path)), tmp_path / "out")
    assert str(caught.value).splitlines()[0].startswith("2 files of 3 sources are missing")
    assert str(caught.value).count("b.jsonl: no such file") == 1


def test_what_collect_leaves_beside_its_rows_is_passed_over_and_said(tmp_path, tokenizer_folder, capsys):
    write_lines(tmp_path / "x.jsonl", [messages("Q")])
    for name in ("ledger.jsonl", "config.json"):
        write_lines(tmp_path / f"x.jsonl.{name}", [{"request": 1}])
    card = build_dataset(config_of(tokenizer_folder, SourceConfig("x*.json*"), root=str(tmp_path)), tmp_path / "out")
    assert (card.sources[0].files, card.sources[0].read) == (1, 1)
    said = " ".join(capsys.readouterr().err.split())
    assert "x.jsonl.config.json" in said
    assert "x.jsonl.ledger.jsonl: passed over" in said


def task(name):
    return json.dumps({"Definition": [name], "Positive Examples": [], "Instances": [
        {"id": f"{name}-1", "input": "x", "output": ["y"]}]}, indent=1)


def test_the_files_of_a_pattern_are_one_source_and_the_formats_own_are_skipped(tmp_path, tokenizer_folder):
    tmp_path = tmp_path / "a [b]*"       # a root is no pattern
    for name in ("task2_b", "task1_a", "task3_mmmlu_x"):
        (tmp_path / "tasks").mkdir(exist_ok=True, parents=True)
        (tmp_path / "tasks" / f"{name}.json").write_text(task(name))
    source = SourceConfig("tasks/*.json", "superni")
    card = build_dataset(config_of(tokenizer_folder, source, root=str(tmp_path)), tmp_path / "out")
    [count] = card.sources
    assert (count.dataset, count.files, count.read, count.kept) == ("tasks", 2, 2, 2)
    everything = SourceConfig("tasks/*.json", "superni", skip="", dataset="superni")
    card = build_dataset(config_of(tokenizer_folder, everything, root=str(tmp_path)), tmp_path / "all")
    assert card.conversations == 3


@pytest.fixture
def bucket():
    system = fsspec.filesystem("memory")
    system.pipe("/bucket/x/a.jsonl", b"".join(json.dumps(messages(f"Q{i}")).encode() + b"\n" for i in range(3)))
    system.pipe("/bucket/x/b.jsonl", json.dumps({"messages": 3}).encode())
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)


def test_a_url_is_built_like_the_file_that_it_names(tmp_path, tokenizer_folder, bucket):
    write_lines(tmp_path / "a.jsonl", [messages(f"Q{i}") for i in range(3)])
    here = build_dataset(config_of(tokenizer_folder, SourceConfig("a.jsonl"), root=str(tmp_path)), tmp_path / "one")
    there = build_dataset(config_of(tokenizer_folder, SourceConfig(f"{bucket}/x/a.jsonl")), tmp_path / "two")
    assert there.hash == here.hash
    both = build_dataset(config_of(tokenizer_folder, SourceConfig("x/*.jsonl", dataset="x"), root=bucket),
                         tmp_path / "three")
    assert (both.sources[0].files, both.sources[0].dropped) == (2, {"wrong shape": 1})
    dropped = json.loads((tmp_path / "three" / "dropped.jsonl").read_text())
    assert (dropped["file"], dropped["line"]) == ("memory://bucket/x/b.jsonl", 1)


@pytest.fixture
def places(tmp_path):
    """The same two files behind URLs: of this machine, and of a web server, where one needs a query."""
    (tmp_path / "served" / "my set").mkdir(parents=True)
    for name in "ab":
        write_lines(tmp_path / "served" / "my set" / f"{name}.jsonl", [messages(f"{name}{i}") for i in range(2)])
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"file": f"file://{tmp_path}/served/my set", "http": f"http://127.0.0.1:{server.server_port}/my%20set"}
        server.shutdown()


@pytest.mark.parametrize(("bad", "says"), [
    (b"{", r"memory://bucket/a.jsonl.card.json: not JSON \(.*\); mend the card, or remove it"),
    (TimeoutError("late"), r"memory://bucket/a.jsonl.card.json: cannot be fetched \(TimeoutError: late\)")])
def test_a_card_that_cannot_be_read_is_an_error(tmp_path, tokenizer_folder, bucket, monkeypatch, bad, says):
    system = fsspec.filesystem("memory")
    system.pipe_file("/bucket/a.jsonl", json.dumps(messages("one")).encode())
    if isinstance(bad, bytes):
        system.pipe_file("/bucket/a.jsonl.card.json", bad)
    else:
        def fails(*_, **__):
            raise bad
        monkeypatch.setattr(type(system), "cat_file", fails)
    with pytest.raises(UserError, match=says):
        build_dataset(config_of(tokenizer_folder, SourceConfig("memory://bucket/a.jsonl", dataset="a")), tmp_path / "o")


def test_a_store_that_refuses_what_is_not_there_has_no_card_and_it_is_said(tmp_path, tokenizer_folder, bucket, capsys,
                                                                           monkeypatch):
    system = fsspec.filesystem("memory")
    system.pipe_file("/bucket/a.jsonl", json.dumps(messages("one")).encode())

    def refused(*_, **__):
        raise PermissionError("denied")
    monkeypatch.setattr(type(system), "cat_file", refused)
    source = SourceConfig("memory://bucket/a.jsonl", dataset="a")
    assert build_dataset(config_of(tokenizer_folder, source), tmp_path / "o").taught == ()
    assert "a.jsonl.card.json: access refused" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("page", [404, b"<html>Welcome</html>"], ids=["404", "a page"])
def test_a_web_server_that_has_no_card_answers_anything(tmp_path, tokenizer_folder, places, page):
    if isinstance(page, bytes):
        (tmp_path / "served" / "my set" / "a.jsonl.card.json").write_bytes(page)
    source = SourceConfig(f"{places['http']}/a.jsonl", dataset="a")
    assert build_dataset(config_of(tokenizer_folder, source), tmp_path / "o").taught == ()


@pytest.mark.parametrize("kind", ["file", "http"])
def test_files_of_this_machine_and_of_the_web_are_read_by_their_urls(tmp_path, tokenizer_folder, places, kind):
    place, query = places[kind], "?download=1" if kind == "http" else ""
    config = functools.partial(config_of, tokenizer_folder)
    one = build_dataset(config(SourceConfig(f"{place}/a.jsonl{query}")), tmp_path / "one")
    assert (one.conversations, one.sources[0].dataset) == (2, "a")
    both = config(SourceConfig("*.jsonl", dataset="set"), root=place)
    assert locate(both) == [(f"{place}/a.jsonl", f"{place}/b.jsonl")]
    assert build_dataset(both, tmp_path / "both").conversations == 4
    with pytest.raises(UserError, match="none.jsonl: no such file"):
        locate(config(SourceConfig(f"{place}/none.jsonl")))
    with pytest.raises(UserError, match=r"none\*: no such file"):
        locate(config(SourceConfig(f"{place}/none*")))


def test_files_in_an_archive_are_named_with_it(tmp_path, tokenizer_folder):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in "ab":
            archive.writestr(f"in/{name}.jsonl", json.dumps(messages(name)) + "\n")
    source = SourceConfig(f"zip://in/*.jsonl::file://{tmp_path}/x.zip", dataset="set")
    config = config_of(tokenizer_folder, source)
    assert locate(config) == [tuple(f"zip://in/{name}.jsonl::file://{tmp_path}/x.zip" for name in "ab")]
    assert build_dataset(config, tmp_path / "out").conversations == 2


@pytest.mark.parametrize(("path", "message"), [
    ("memory://bucket/none.jsonl", "memory://bucket/none.jsonl: no such file"),
    ("hf://datasets/nobody/nothing/x.jsonl", r"cannot be fetched \(OfflineModeIsEnabled"),
    ("nonsense://x/y", "no file system of that name"), ("gs://x/y", "(?i)gcsfs")])
def test_urls_that_cannot_be_read(tmp_path, tokenizer_folder, path, message, bucket, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(UserError, match=message):
        build_dataset(config_of(tokenizer_folder, SourceConfig(path)), tmp_path / "out")
    assert listing(tmp_path) == []
