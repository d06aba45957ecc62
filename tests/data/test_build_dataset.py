"""Raw files to shards: contents, counts, reasons, all or nothing."""
import dataclasses
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from data_helpers import listing, turns, write_lines
from tiny_tokenizers import byte_tokenizer

from easylm_imitation.data import BuildConfig, SourceConfig, build, build_dataset, pool, read_card
from easylm_imitation.data.shards import open_shards
from easylm_imitation.files import digest, file_sha256, write_json
from easylm_imitation.records import CollectionCard, Conversation, Message
from easylm_imitation.schema import UserError, plain
from easylm_imitation.schema import build as make
from easylm_imitation.text import TEMPLATES, load_tokenizer, tokenize

ROOT = pathlib.Path(__file__).resolve().parents[2]


def conversations(count, dataset="d"):
    return [{"dataset": dataset, "id": f"{dataset}{i}", "messages": turns(f"question {i}?", "answer " * (i % 5 + 1)),
             "teacher": "gpt-4" if i % 2 else ""} for i in range(count)]


def config_of(tokenizer_folder, *sources, **other):
    return BuildConfig("set", tuple(sources), str(tokenizer_folder), **other)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    write_lines(folder / "a.jsonl", conversations(9))
    return folder


def test_shards_hold_the_rows_of_tokenize_in_order(tmp_path, raw, tokenizer_folder):
    config = config_of(tokenizer_folder, SourceConfig(str(raw / "a.jsonl")), template="chatml")
    card = build_dataset(config, tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out" / "tokenizer")
    shards = open_shards(tmp_path / "out" / "shards")
    rows = []
    for i, record in enumerate(conversations(9)):
        row = tokenize(TEMPLATES["chatml"], tokenizer, make(Conversation, record, "test"))
        assert shards[i]["id"].decode() == record["id"]
        np.testing.assert_array_equal(shards[i]["tokens"], row.tokens)
        np.testing.assert_array_equal(shards[i]["loss_weights"], row.loss_weights)
        assert shards[i]["loss_weights"][0] == 0
        rows.append(row)
    assert card.conversations == len(shards) == 9
    assert card.tokens == sum(len(row.tokens) for row in rows)
    assert card.loss_tokens == sum(row.loss_weights.sum() for row in rows)
    assert card.longest == max(len(row.tokens) for row in rows)
    assert card.tokenizer == byte_tokenizer().id == tokenizer.id
    assert card.template == TEMPLATES["chatml"].id
    assert card.teachers == ("gpt-4",)
    assert np.load(tmp_path / "out" / "lengths.npy").tolist() == [len(row.tokens) for row in rows]
    assert read_card(tmp_path / "out") == card


def test_bad_records_are_counted_named_and_left_out(tmp_path, raw, tokenizer_folder, capsys):
    lines = (raw / "a.jsonl").read_bytes().splitlines()
    empty = {"dataset": "d", "id": "e", "messages": turns("", "a")}
    lines[3:3] = [b"{broken", b"\xff", json.dumps(empty).encode(), b"", b'{"messages": []}'] + [b"[]"] * 12
    (raw / "a.jsonl").write_bytes(b"\n".join(lines))
    card = build_dataset(config_of(tokenizer_folder, SourceConfig(str(raw / "a.jsonl"))), tmp_path / "out")
    source = card.sources[0]
    assert (source.read, source.kept) == (25, 9)
    assert source.dropped == {"bad JSON": 13, "bad UTF-8": 1, "empty turn": 1, "no messages": 1}
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert [(entry["line"], entry["reason"]) for entry in dropped[:4]] == [
        (4, "bad JSON"), (5, "bad UTF-8"), (6, "empty turn"), (8, "no messages")]
    assert len(dropped) == 16
    assert {entry["file"] for entry in dropped} == {str(raw / "a.jsonl")}
    shown = capsys.readouterr().err
    assert f"{raw / 'a.jsonl'}:4: dropped, bad JSON" in shown
    assert shown.count(": dropped, ") == 10
    assert "6 more dropped" in shown


def test_sources_follow_each_other_and_limits_count_what_is_kept(tmp_path, raw, tokenizer_folder):
    (raw / "b.json").write_text(json.dumps([{"instruction": "Q", "output": text} for text in ("", "A", "B", "C")]))
    config = config_of(tokenizer_folder, SourceConfig("b.json", "alpaca", teacher="t", limit=2),
                       SourceConfig("a.jsonl", limit=3), root=str(raw))
    card = build_dataset(config, tmp_path / "out")
    shards = open_shards(tmp_path / "out" / "shards")
    assert [shards[i]["id"].decode() for i in range(5)] == ["b_1", "b_2", "d0", "d1", "d2"]
    counts = [(source.path, source.dataset, source.read, source.kept) for source in card.sources]
    assert counts == [("b.json", "b", 3, 2), ("a.jsonl", "d", 3, 3)]
    assert card.teachers == ("gpt-4", "t")


def test_a_repeated_conversation_is_dropped_and_said(tmp_path, raw, tokenizer_folder):
    """Within a file and between files of one dataset; the same id in another dataset is another conversation."""
    lines = conversations(3)
    write_lines(raw / "b.jsonl", [*conversations(2), {**lines[1], "messages": turns("other", "text")},
                                  {**lines[1], "dataset": "other"}])
    config = config_of(tokenizer_folder, SourceConfig("a.jsonl"), SourceConfig("b.jsonl"), root=str(raw))
    card = build_dataset(config, tmp_path / "out")
    assert [(source.kept, source.dropped) for source in card.sources] == [(9, {}), (2, {"duplicate id": 2})]
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert dropped[1] == {"file": str(raw / "b.jsonl"), "line": 2, "reason": "duplicate id",
                          "detail": f"'d1' was there before, {raw / 'a.jsonl'}:2"}


def test_files_that_each_count_from_0_keep_all_of_theirs(tmp_path, raw, tokenizer_folder):
    for name in ("one", "two"):
        records = [{"id": str(i % 2), "messages": turns("Q", f"{name} {i}")} for i in range(3)]
        write_lines(raw / f"{name}.jsonl", [*records, records[0], records[2]])
    sources = [SourceConfig(f"{name}.jsonl", dataset="x") for name in ("one", "two")]
    card = build_dataset(config_of(tokenizer_folder, *sources, root=str(raw)), tmp_path / "out")
    shards = open_shards(tmp_path / "out" / "shards")
    assert [shards[i]["id"].decode() for i in range(card.conversations)] == [
        "0", "1", "one/0", "two/0", "two/1", "two/0/2"]
    assert [(source.kept, source.dropped) for source in card.sources] == [(3, {"duplicate id": 2})] * 2


def test_one_bad_part_leaves_its_records_other_conversations_in(tmp_path, raw, tokenizer_folder):
    (raw / "task.json").write_text(json.dumps({"Definition": ["Do."], "Positive Examples": [], "Instances": [
        {"id": f"i{i}", "input": "X", "output": [None if i == 3 else "Y"]} for i in range(20)]}))
    write_lines(raw / "hc3.jsonl", [{"question": "Q", "chatgpt_answers": ["A", None, "C"], "human_answers": []}])
    replies = [{"message_id": f"m{i}", "role": "assistant", "text": text} for i, text in enumerate(["A", None, "C"])]
    write_lines(raw / "tree.jsonl", [{"prompt": {"role": "prompter", "text": "Q", "replies": replies}}])
    files = SourceConfig("task.json", "superni"), SourceConfig("hc3.jsonl", "hc3"), SourceConfig("tree.jsonl", "oasst1")
    card = build_dataset(config_of(tokenizer_folder, *files, root=str(raw)), tmp_path / "out")
    assert [(source.read, source.kept, source.dropped) for source in card.sources] == [
        (20, 19, {"wrong shape": 1}), (3, 2, {"wrong shape": 1}), (3, 2, {"wrong shape": 1})]


def test_records_without_ids_in_files_of_one_dataset_are_counted_through(tmp_path, raw, tokenizer_folder):
    for name in ("one", "two"):
        write_lines(raw / f"{name}.jsonl", [{"instruction": "Q", "output": f"{name} {i}"} for i in range(3)])
    sources = [SourceConfig(f"{name}.jsonl", "alpaca", dataset="x") for name in ("one", "two")]
    card = build_dataset(config_of(tokenizer_folder, *sources, root=str(raw)), tmp_path / "out")
    shards = open_shards(tmp_path / "out" / "shards")
    assert [shards[i]["id"].decode() for i in range(card.conversations)] == [f"x_{i}" for i in range(6)]


_BUILD = """import json, sys
from easylm_imitation.data import BuildConfig, build_dataset
from easylm_imitation.schema import build
print(build_dataset(build(BuildConfig, json.loads(sys.argv[1]), "test"), sys.argv[2]).hash)"""


def test_two_processes_of_other_hash_seeds_give_the_same_bytes(tmp_path, raw, tokenizer_folder):
    """The order of a set differs between processes, and of a record's fields if it is left to protobuf."""
    config = config_of(tokenizer_folder, SourceConfig(str(raw / "a.jsonl")))
    started = [subprocess.Popen([sys.executable, "-c", _BUILD, json.dumps(plain(config)), str(tmp_path / seed)],
                                env={**os.environ, "PYTHONHASHSEED": seed}, cwd=ROOT, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for seed in ("1", "2")]
    made = [process.communicate(timeout=120)[0].strip() for process in started]
    assert made[0] == made[1] == build_dataset(config, tmp_path / "here").hash
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2") == files_of(tmp_path / "here")


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_seed_shuffles_and_one_seed_gives_one_order(tmp_path, raw, tokenizer_folder):
    source = SourceConfig(str(raw / "a.jsonl"))
    orders = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        card = build_dataset(config_of(tokenizer_folder, source, seed=seed), tmp_path / name)
        shards = open_shards(tmp_path / name / "shards")
        orders.append(([shards[i]["id"].decode() for i in range(9)], card.hash))
    assert sorted(orders[0][0]) == [f"d{i}" for i in range(9)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0][0] != sorted(orders[0][0])


def test_processes_change_nothing(tmp_path, tokenizer_folder, monkeypatch):
    monkeypatch.setattr(pool, "_CHUNK", 16)     # more chunks than are under way at once
    write_lines(tmp_path / "a.jsonl", [*conversations(300), {"messages": 3}, *conversations(300, "e")])
    config = config_of(tokenizer_folder, SourceConfig(str(tmp_path / "a.jsonl"), limit=500))
    alone = build_dataset(config, tmp_path / "one")
    assert build_dataset(dataclasses.replace(config, processes=2), tmp_path / "two") == alone
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
    assert alone.conversations == 500


def test_the_hash_depends_on_contents_and_not_on_places(tmp_path, raw, tokenizer_folder):
    card = build_dataset(config_of(tokenizer_folder, SourceConfig(str(raw / "a.jsonl"))), tmp_path / "one")
    moved = raw.rename(tmp_path / "elsewhere")
    again = build_dataset(config_of(tokenizer_folder, SourceConfig("a.jsonl"), root=str(moved)), tmp_path / "two")
    assert again.hash == card.hash
    write_lines(moved / "a.jsonl", conversations(8))
    other = build_dataset(config_of(tokenizer_folder, SourceConfig("a.jsonl"), root=str(moved)), tmp_path / "three")
    assert other.hash != card.hash


def test_what_comes_later_leaves_older_datasets_what_they_are(tmp_path, raw, tokenizer_folder):
    """The identity and the hash of a build without rules or a mixture, from the keys of the format 4 alone."""
    config = config_of(tokenizer_folder, SourceConfig(str(raw / "a.jsonl"), teacher="t", limit=7), seed=3)
    card = build_dataset(config, tmp_path / "out")
    source = {"path": "a.jsonl", "format": "conversations", "dataset": "", "teacher": "t", "limit": 7}
    asked = digest([6, {"name": "set", "sources": [source], "seed": 3}, [], card.tokenizer, card.template])
    taught = {"dataset": "a", "teacher": "t", "first": "", "last": "", "terms": ""}
    identity = digest([asked, [file_sha256(raw / "a.jsonl")], [taught]])
    assert json.loads((tmp_path / "out" / "build.json").read_text())["identity"] == identity
    contents, shards = hashlib.sha256(), open_shards(tmp_path / "out" / "shards")
    for i in range(len(shards)):
        record = shards[i]
        contents.update(np.asarray([len(record["id"]), len(record["tokens"])], "<i8").tobytes() + record["id"])
        contents.update(record["tokens"].astype("<i4").tobytes() + record["loss_weights"].astype("<f4").tobytes())
    said = {key: plain(getattr(card, key)) for key in (
        "name", "conversations", "tokens", "loss_tokens", "longest", "tokenizer", "template", "teachers", "seed")}
    counts = {key: plain(getattr(card.sources[0], key)) for key in ("dataset", "sha256", "read", "kept", "dropped")}
    index = {name: file_sha256(tmp_path / "out" / name) for name in ("lengths.npy", "datasets.npz")}
    assert card.hash == digest([{**said, "sources": [counts], "taught": [{**taught, "dataset": "d"}], "index": index},
                                contents.hexdigest()])
    assert card.records == contents.hexdigest()


def test_a_build_that_only_looks_for_items_has_the_same_rows_and_another_hash(tmp_path, raw, tokenizer_folder):
    """So what it finds speaks for models of the first."""
    write_lines(tmp_path / "items.jsonl", [{"id": "1", "text": "some words that nobody said in any of these rows"}])
    look = {"rule": "overlap", "against": [str(tmp_path / "items.jsonl")], "remove": False}
    plainly, looked = (build_dataset(config_of(tokenizer_folder, SourceConfig(str(raw / "a.jsonl")), clean=clean), out)
                       for clean, out in (((), tmp_path / "one"), ((look,), tmp_path / "two")))
    assert plainly.records == looked.records
    assert plainly.hash != looked.hash
    assert looked.overlaps


def test_every_row_says_which_record_it_is_from(tmp_path, tokenizer_folder):
    (tmp_path / "raw").mkdir()
    tasks = [{"instruction": f"do {i}", "instances": [{"input": "", "output": f"{name}{i}"} for name in "ab"]}
             for i in range(3)]
    (tmp_path / "raw/tasks.jsonl").write_text("\n\n".join(map(json.dumps, tasks)))
    source = SourceConfig("tasks.jsonl", "self-instruct", weight=2)
    build_dataset(config_of(tokenizer_folder, source, root=str(tmp_path / "raw"), seed=0), tmp_path / "out")
    shards = open_shards(tmp_path / "out" / "shards")
    with np.load(tmp_path / "out" / "datasets.npz") as stored:
        assert stored["files"].tolist() == ["tasks.jsonl"]
        for i in range(len(shards)):
            assert stored["files"][stored["file_of"][i]] == "tasks.jsonl"
            number = int(shards[i]["id"].decode().split("_")[1])
            assert (stored["record"][i], stored["line"][i]) == (number, 1 + 2 * number)


def test_a_url_is_not_fetched_for_a_folder_that_holds_something_else(tmp_path, raw, tokenizer_folder, monkeypatch):
    config = config_of(tokenizer_folder, SourceConfig(str(raw / "a.jsonl")))
    build_dataset(config, tmp_path / "out")
    monkeypatch.setattr(build, "find", lambda *_: pytest.fail("looked for the sources"))
    with pytest.raises(UserError, match="holds a dataset of other sources or another config"):
        build_dataset(dataclasses.replace(config, template="tulu"), tmp_path / "out")


def test_turns_that_no_row_holds_and_records_without_conversations_are_counted(tmp_path, tokenizer_folder):
    talk = [{"from": who, "value": f"{who} {i}"} for i, who in enumerate(["gpt", "human", "gpt", "human"])]
    write_lines(tmp_path / "raw.jsonl", [{"id": "x", "conversations": talk}])
    write_lines(tmp_path / "hc3.jsonl", [{"question": "q", "chatgpt_answers": [], "human_answers": ["h"]},
                                         {"question": "q", "chatgpt_answers": ["a"], "human_answers": []}])
    rows = [{"id": "y", "messages": turns("q" * 50, "a" * 50, "r" * 20, "b" * 20)}]
    write_lines(tmp_path / "long.jsonl", rows)
    split = {"rule": "split", "tokens": 80, "long_round": "drop"}
    config = config_of(tokenizer_folder, SourceConfig(str(tmp_path / "raw.jsonl"), "sharegpt"),
                       SourceConfig(str(tmp_path / "hc3.jsonl"), "hc3"),
                       SourceConfig(str(tmp_path / "long.jsonl"), clean=(split,)))
    card = build_dataset(config, tmp_path / "out")
    assert [source.cut_turns for source in card.sources] == [2, 0, 2]
    assert (card.sources[1].read, card.sources[1].dropped) == (2, {"nothing in it": 1})
    assert card.rules[0].cut_turns == 2


def test_the_card_says_who_was_asked_when_and_under_which_terms(tmp_path, tokenizer_folder):
    write_lines(tmp_path / "got.jsonl", conversations(4))
    card = CollectionCard("answers", "answers", ("gpt-4",), "for research", "2026-01-02T03:04:05Z",
                          "2026-01-03T03:04:05Z", 4, 4, {}, 4, 0, 1, 1, 0.0, {}, "c")
    write_json(tmp_path / "got.jsonl.card.json", card)
    write_lines(tmp_path / "public.jsonl", conversations(3))
    config = config_of(tokenizer_folder, SourceConfig(str(tmp_path / "got.jsonl"), dataset="g"),
                       SourceConfig(str(tmp_path / "public.jsonl"), dataset="p", teacher="t", terms="none known"))
    made = build_dataset(config, tmp_path / "out")
    assert [plain(one) for one in made.taught] == [
        {"dataset": "g", "teacher": "gpt-4", "first": "2026-01-02T03:04:05Z", "last": "2026-01-03T03:04:05Z",
         "terms": "for research"},
        {"dataset": "p", "teacher": "t", "first": "", "last": "", "terms": "none known"}]


@pytest.mark.parametrize(("names", "said"), [(["nq-synthetic"], "nq-synthetic"), (["nq", "tldr"], "got")])
def test_the_card_calls_a_dataset_what_its_rows_call_it(tmp_path, tokenizer_folder, names, said):
    """By that name `report` knows which tasks ask for what it teaches, whatever the file is called."""
    write_lines(tmp_path / "got.jsonl", [{**one, "dataset": names[i % len(names)]}
                                         for i, one in enumerate(conversations(4))])
    write_json(tmp_path / "got.jsonl.card.json", CollectionCard(
        "nq-synthetic", "nq-synthetic", ("gpt-4",), "", "2026-01-02T03:04:05Z", "", 4, 4, {}, 4, 0, 1, 1, 0.0, {}, "c"))
    made = build_dataset(config_of(tokenizer_folder, SourceConfig(str(tmp_path / "got.jsonl"))), tmp_path / "out")
    assert [source.dataset for source in made.sources] == [one.dataset for one in made.taught] == [said]


@pytest.mark.parametrize(("file", "form", "card"), [
    ("got.jsonl.gz", "conversations", "got.jsonl.card.json"), ("got.jsonl.zst", "conversations", "got.jsonl.card.json"),
    ("got.jsonl.gz", "conversations", "got.jsonl.gz.card.json"), ("got.jsonl", "messages", "got.jsonl.card.json")])
def test_a_collections_card_is_found_beside_packed_files_and_for_messages(tmp_path, tokenizer_folder, file, form, card,
                                                                          capsys):
    """The name is what is looked at here; what is packed is told by content."""
    write_lines(tmp_path / file, conversations(4))
    write_json(tmp_path / card, CollectionCard("answers", "answers", ("gpt-4",), "for research", "2026-01-02T03:04:05Z",
                                               "2026-01-03T03:04:05Z", 4, 4, {}, 4, 0, 1, 1, 0.0, {}, "c"))
    made = build_dataset(config_of(tokenizer_folder, SourceConfig(str(tmp_path / file), form, dataset="g")),
                         tmp_path / "out")
    assert [(one.teacher, one.first[:10], one.terms) for one in made.taught] == [
        ("gpt-4", "2026-01-02", "for research")]
    assert made.teachers == ("gpt-4",)
    assert "no card beside the file" not in capsys.readouterr().err


def test_a_teacher_of_whom_no_card_tells_is_said_once_and_unknown_on_the_card(tmp_path, tokenizer_folder, capsys):
    write_lines(tmp_path / "a.jsonl", [{**one, "teacher": "gpt-4"} for one in conversations(4)])
    config = config_of(tokenizer_folder, SourceConfig(str(tmp_path / "a.jsonl"), dataset="a"))
    made = build_dataset(config, tmp_path / "out")
    assert [plain(one) for one in made.taught] == [
        {"dataset": "a", "teacher": "gpt-4", "first": "", "last": "", "terms": ""}]
    assert " ".join(capsys.readouterr().err.split()).count("rows of gpt-4; no card beside the file") == 1
    config = config_of(tokenizer_folder, SourceConfig(str(tmp_path / "a.jsonl"), dataset="a", terms="asked"))
    assert [one.terms for one in build_dataset(config, tmp_path / "told").taught] == ["asked"]
    assert "no card beside" not in capsys.readouterr().err


def test_a_format_beside_which_no_card_is_read_is_not_told_of_one(tmp_path, tokenizer_folder, capsys):
    write_lines(tmp_path / "a.jsonl", [{"instruction": "Name a cat.", "output": "Tom", "teacher": "gpt-4"}] * 2)
    source = SourceConfig(str(tmp_path / "a.jsonl"), "alpaca", dataset="a", teacher="gpt-4")
    assert [one.terms for one in build_dataset(config_of(tokenizer_folder, source), tmp_path / "out").taught] == [""]
    said = " ".join(capsys.readouterr().err.split())
    assert "rows of gpt-4; nothing in files of the format alpaca says when that was asked" in said
    assert "unless you set sources.0.terms" in said
    assert "FILE.card.json" not in said


def test_the_same_build_again_is_done_and_another_is_refused(tmp_path, raw, tokenizer_folder, capsys, monkeypatch):
    config = config_of(tokenizer_folder, SourceConfig(str(raw / "a.jsonl")))
    card = build_dataset(config, tmp_path / "out")
    before = listing(tmp_path / "out")
    assert build_dataset(config, tmp_path / "out") == card
    assert "already built" in capsys.readouterr().err
    monkeypatch.setattr(build, "_FORMAT", build._FORMAT + 1)
    with pytest.raises(UserError, match="or of another version of `build`"):
        build_dataset(config, tmp_path / "out")
    monkeypatch.undo()
    with pytest.raises(UserError, match="holds a dataset of other sources or another config"):
        build_dataset(dataclasses.replace(config, template="tulu"), tmp_path / "out")
    write_lines(raw / "a.jsonl", conversations(3))
    with pytest.raises(UserError, match="holds a dataset of other sources"):
        build_dataset(config, tmp_path / "out")
    assert listing(tmp_path / "out") == before


def test_a_folder_of_something_else_is_refused_and_an_empty_one_is_taken(tmp_path, raw, tokenizer_folder):
    config = config_of(tokenizer_folder, SourceConfig(str(raw / "a.jsonl")))
    with pytest.raises(UserError, match="holds files that are no dataset"):
        build_dataset(config, raw)
    (tmp_path / "out").mkdir()
    assert build_dataset(config, tmp_path / "out").conversations == 9


@pytest.mark.parametrize(("change", "message"), [
    ({"sources": (SourceConfig("absent.jsonl"),)}, r"absent.jsonl: no such file; set --config.root"),
    ({"sources": (SourceConfig("empty.jsonl"),)}, "dataset 'set' is empty .no records."),
    ({"sources": (SourceConfig("bad.jsonl"),)}, "dataset 'set' is empty .2 bad JSON, 1 wrong shape."),
    ({"sources": (SourceConfig("a.jsonl"), SourceConfig("broken.json"))}, "broken.json:1: not valid JSON"),
    ({"seed": 0, "budget": "1"}, "of 9 conversations sample, weight and budget take none"),
    ({"tokenizer": "absent"}, "tokenizer absent: no such file"), ({"template": "chatmal"}, "did you mean 'chatml'"),
    ({"template": "chatml", "tokenizer": "bare"}, "the tokenizer has no <|im_end|>")])
def test_what_cannot_be_built_leaves_nothing_behind(tmp_path, raw, tokenizer_folder, monkeypatch, change, message):
    monkeypatch.chdir(raw)
    pathlib.Path("empty.jsonl").write_text("\n")
    pathlib.Path("bad.jsonl").write_text('{\n[]\n{"messages": 3}\n')
    pathlib.Path("broken.json").write_text("[{}")
    byte_tokenizer(specials=("<|endoftext|>",)).save("bare")
    config = dataclasses.replace(config_of(tokenizer_folder, SourceConfig("a.jsonl")), **change)
    with pytest.raises(UserError) as caught:
        build_dataset(config, tmp_path / "new" / "out")
    assert message.replace(".no records.", "(no records)").replace(".2 bad JSON, 1 wrong shape.",
                                                                   "(2 bad JSON, 1 wrong shape)") in str(caught.value)
    assert not (tmp_path / "new").exists() or not listing(tmp_path / "new")


def test_an_interrupted_build_leaves_nothing_behind(tmp_path, raw, tokenizer_folder, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(build, "write_jsonl", interrupt)      # after the shards are written
    with pytest.raises(KeyboardInterrupt):
        build_dataset(config_of(tokenizer_folder, SourceConfig(str(raw / "a.jsonl"))), tmp_path / "out")
    assert listing(tmp_path) == ["raw", "raw/a.jsonl"]


def test_documents_are_built_too(tmp_path, tokenizer_folder):
    write_lines(tmp_path / "a.jsonl", [{"messages": [{"role": "document", "content": "some text"}]}])
    card = build_dataset(config_of(tokenizer_folder, SourceConfig(str(tmp_path / "a.jsonl"))), tmp_path / "out")
    document = Conversation("a", "a_0", (Message("document", "some text"),))
    row = tokenize(TEMPLATES["plain"], byte_tokenizer(), document)
    assert (card.tokens, card.loss_tokens) == (10, 9) == (len(row.tokens), row.loss_weights.sum())


def test_a_folder_without_a_card_is_no_dataset(tmp_path):
    with pytest.raises(UserError, match=r"no card.json\); make one with `easylm-imitation build`"):
        read_card(tmp_path)


def test_the_tokenizers_own_template_reaches_every_process(tmp_path):
    jinja = ("{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.role == 'assistant' %}"
             "{% generation %}{{ m.content + eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
             "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}")
    byte_tokenizer().save(tmp_path / "tokenizer", chat_template=jinja)
    write_lines(tmp_path / "c.jsonl", [{"dataset": "d", "id": f"c{i}", "messages": turns("q", "a" * i)}
                                       for i in range(1, 9)])
    config = BuildConfig("d", (SourceConfig("c.jsonl"),), str(tmp_path / "tokenizer"), "tokenizer", str(tmp_path))
    card = build_dataset(config, tmp_path / "one")
    assert card.template.startswith("tokenizer@")
    assert card.loss_tokens == sum(range(1, 9)) + 8     # the answers and their end tokens
    assert build_dataset(dataclasses.replace(config, processes=2), tmp_path / "two") == card
