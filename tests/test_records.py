"""The files between verbs: golden examples, strict reading, atomic writing."""
import dataclasses
import hashlib
import json

import pytest

from easylm_imitation import files, records
from easylm_imitation.record_examples import EXAMPLES
from easylm_imitation.records import Conversation, Lineage, Message, Prompt
from easylm_imitation.schema import UserError, build, plain

PARTS = {records.Message, records.SourceCount, records.Sample, records.RuleCount, records.Item,
         records.TaskResult, records.Taught}    # live inside other records


def test_every_record_has_a_golden_example():
    made = {value for value in vars(records).values() if isinstance(value, type) and dataclasses.is_dataclass(value)}
    assert made - PARTS == set(EXAMPLES)


@pytest.mark.parametrize("cls", EXAMPLES, ids=lambda cls: cls.__name__)
def test_examples_survive_reading_and_writing_key_by_key(cls, tmp_path):
    record = build(cls, EXAMPLES[cls], "example")
    assert json.loads(json.dumps(plain(record))) == EXAMPLES[cls] | {
        key: value for key, value in plain(record).items() if key not in EXAMPLES[cls]}
    files.write_json(tmp_path / "deep" / "x.json", record)
    assert files.read_json(cls, tmp_path / "deep" / "x.json") == record
    assert files.write_jsonl(tmp_path / "x.jsonl", [record, record]) == 2
    assert files.read_jsonl(cls, tmp_path / "x.jsonl") == [record, record]


@pytest.mark.parametrize("cls", EXAMPLES, ids=lambda cls: cls.__name__)
def test_a_misspelt_key_is_an_error(cls):
    key = next(iter(EXAMPLES[cls]))
    with pytest.raises(UserError, match=f"unknown key '{key}x'; did you mean '{key}'"):
        build(cls, {**EXAMPLES[cls], f"{key}x": 1}, "here")


def test_keys_beyond_the_schema_of_a_conversation_go_to_meta():
    mapping = {"dataset": "d", "id": "i", "messages": [{"role": "user", "content": "q"}], "url": "u",
               "meta": {"old": 1}}
    made = records.conversation_from(mapping, "f:1")
    assert made == Conversation("d", "i", (Message("user", "q"),), meta={"url": "u", "old": 1})
    assert mapping["meta"] == {"old": 1}


def test_prompts_have_a_short_form_and_end_with_the_user():
    assert records.prompt_from({"id": "p", "prompt": "q"}, "f:1") == Prompt("p", (Message("user", "q"),))
    with pytest.raises(UserError, match="f:2: prompt 'p' must end with a user message"):
        records.prompt_from({"id": "p", "messages": [{"role": "assistant", "content": "a"}]}, "f:2")
    with pytest.raises(UserError, match="f:3: prompt 'p' must end"):
        records.prompt_from({"id": "p", "messages": []}, "f:3")


@pytest.mark.parametrize(("line", "message"), [
    (b'{"a": 1', "x.jsonl:3: not valid JSON"), (b'{"a": "\xff"}', "x.jsonl:3: not valid UTF-8"),
    (b'{"a": ["b \\ud800"]}', "x.jsonl:3: holds half of a surrogate pair"),
    (b'{"\\uDC00": 1}', "x.jsonl:3: holds half of a surrogate pair"),
    (b"[1]", "x.jsonl:3: expected a JSON object, got list"), (b"[" * 100_000, "x.jsonl:3: not valid JSON")])
def test_bad_lines_are_named_by_file_and_line(tmp_path, line, message):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"ok": 1}\n\n' + line + b"\n")
    with pytest.raises(UserError, match=message):
        list(files.iter_jsonl(path))


def test_a_whole_surrogate_pair_is_a_character(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": "\\ud83d\\ude00"}\n')
    assert list(files.iter_jsonl(tmp_path / "x.jsonl")) == [(1, {"a": "\U0001f600"})]


def test_a_meta_that_is_no_mapping_is_named():
    line = {"dataset": "d", "id": "i", "messages": [], "extra": 1, "meta": [3]}
    with pytest.raises(UserError, match=r"f:2.meta: expected a mapping, got \[3\] .list."):
        records.conversation_from(line, "f:2")
    with pytest.raises(UserError, match=r"f:2.meta: expected a mapping, got 'x'"):
        records.prompt_from({"id": "p", "prompt": "a", "meta": "x"}, "f:2")


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        files.read_json(Lineage, tmp_path / "absent.json")
    with pytest.raises(UserError, match="cannot be read"):
        list(files.iter_jsonl(tmp_path / "absent.jsonl"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="not a readable JSON file"):
        files.read_json(Lineage, tmp_path / "bad.json")


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})
    for bad in (float("nan"), {1, 2}, "\ud800"):
        with pytest.raises((ValueError, TypeError)):
            files.write_json(path, {"a": bad})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_digests_are_stable_and_blind_to_key_order():
    assert files.digest({"b": [1], "a": "é"}) == files.digest({"a": "é", "b": (1,)})
    expected = hashlib.sha256('{"a": "é", "b": [1]}'.encode()).hexdigest()
    assert files.digest({"b": [1], "a": "é"}) == expected[:16]
    assert files.digest(b"raw", 64) == hashlib.sha256(b"raw").hexdigest()


def test_the_hash_of_a_file(tmp_path):
    (tmp_path / "x").write_bytes(b"content")
    assert files.file_sha256(tmp_path / "x") == hashlib.sha256(b"content").hexdigest()
