"""Raw files as numbered records, broken ones included."""
import datetime
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from easylm_imitation.data import sources
from easylm_imitation.data.formats import FORMATS
from easylm_imitation.data.sources import Drop, count_records, iter_records
from easylm_imitation.files import iter_jsonl
from easylm_imitation.schema import UserError


def records_of(path):
    return [(record.line, record.number, record.parse()) for record in iter_records(path)]


def test_lines_are_numbered_as_an_editor_does(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\r\n\n   \n{"a": 2}\n{"a": 3}')
    assert records_of(path) == [(1, 0, {"a": 1}), (4, 1, {"a": 2}), (5, 2, {"a": 3})]


@pytest.mark.parametrize("packed", [False, True])
def test_a_byte_order_mark_may_open_lines(tmp_path, packed):
    content = b'\xef\xbb\xbf{"a": 1}\n{"a": 2, "a": 3}\n'     # of a key that is there twice the last counts
    (tmp_path / "x.jsonl").write_bytes(gzip.compress(content) if packed else content)
    assert records_of(tmp_path / "x.jsonl") == [(1, 0, {"a": 1}), (2, 1, {"a": 3})]
    (tmp_path / "prompts.jsonl").write_bytes(content)
    assert list(iter_jsonl(tmp_path / "prompts.jsonl")) == [(1, {"a": 1}), (2, {"a": 3})]


def test_a_bad_line_is_only_that_lines_fault(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n\xff\xfe{}\n[1]\n"text"\n' + b"[" * 100_000 + b'\n{"a": 2}\n')
    reasons = {}
    for record in iter_records(path):
        try:
            record.parse()
        except Drop as drop:
            reasons[record.line] = drop.reason
    assert reasons == {2: "bad JSON", 3: "bad UTF-8", 4: "bad JSON", 5: "bad JSON", 6: "bad JSON"}


values = st.lists(st.dictionaries(st.text(max_size=4), st.one_of(st.text(max_size=6), st.integers(), st.none()),
                                  max_size=3), max_size=5)


@settings(max_examples=50, deadline=None)
@given(values=values, indent=st.sampled_from([None, 0, 2]), packed=st.booleans(), mark=st.booleans())
def test_arrays_are_read_like_json_reads_them(tmp_path_factory, values, indent, packed, mark):
    text = json.dumps(values, indent=indent, ensure_ascii=False) + "\n"
    raw = (b"\xef\xbb\xbf" if mark else b"") + text.encode()
    path = tmp_path_factory.getbasetemp() / "array.json"
    path.write_bytes(gzip.compress(raw) if packed else raw)
    records = records_of(path)
    assert [value for _, _, value in records] == values
    assert [number for _, number, _ in records] == list(range(len(values)))
    lines = text.splitlines()
    if indent == 2 and "\x85" not in text and len(lines) == text.count("\n"):
        assert all(lines[line - 1].startswith("  {") for line, _, _ in records)


@pytest.mark.parametrize("content", ['{"a": {"b": ["\\ud800"]}}', '[{"\\udc00 key": 1}]'])
def test_half_a_surrogate_pair_is_no_text(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(Drop, match="bad text: half of a surrogate pair"):
        records_of(tmp_path / "x.json")


def test_what_is_wrong_with_a_line_is_said_once(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a" 2}\n')
    with pytest.raises(Drop, match=r"^bad JSON: not valid JSON \(Expecting ':' delimiter, column 6\)$"):
        records_of(tmp_path / "x.jsonl")


def test_a_record_over_several_lines_and_records_within_an_object_are_told_their_cure(tmp_path):
    (tmp_path / "x.jsonl").write_text('{\n  "instruction": "a"\n}\n')
    with pytest.raises(Drop, match="a record spread over lines: `jq -c . FILE` writes each on one line"):
        next(iter_records(tmp_path / "x.jsonl")).parse()
    with pytest.raises(Drop, match=r"keys are data, n; are the records in 'data'\? `jq -c '.data\[\]'"):
        list(FORMATS["alpaca"].rows({"data": [{"instruction": "a", "output": "b"}], "n": 1}))


def test_elements_that_are_no_objects_are_dropped_alone(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('[\n{"a": 1},\n3,\n{"a": 2}]')
    records = list(iter_records(path))
    assert [record.line for record in records] == [2, 3, 4]
    with pytest.raises(Drop, match="bad JSON: expected an object, got int"):
        records[1].parse()


@pytest.mark.parametrize(("content", "message"), [
    (b'[{"a": 1},\n{"a": }]', r":2: not valid JSON"), (b'[{"a": 1}\n{"a": 2}]', ":2: not valid JSON .*expected ','"),
    (b'[{"a": 1}', "expected ',' or ']'"), (b'[{"a": 1},', ":1: not valid JSON"), (b"[]\n[]", "text after the array"),
    (b'[\n"\xff"]', ":2: not valid UTF-8"),
    (gzip.compress(b'{"a": 1}\n' * 99_999, mtime=0)[:-20], r"beyond line (\d{4,}), record \1 .*: fetch it again"),
    (gzip.compress(b'[{"a": 1}]', mtime=0)[:-9], "cannot be read .*: fetch it again"),
    (gzip.compress(b'{"a": 1}\n', mtime=0)[:10] + b"\xff" * 20, "cannot be read .*: fetch it again"),
    (b"\x1f\x8bnot gzip", "cannot be read .*: fetch it again")])
def test_files_that_cannot_be_read_as_a_whole_are_errors(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        records_of(path)


def test_packing_is_told_by_content_and_not_by_name(tmp_path):
    (tmp_path / "x.jsonl.gz").write_text('{"a": 1}\n')
    (tmp_path / "y.jsonl").write_bytes(gzip.compress(b'{"a": 2}\n'))
    assert records_of(tmp_path / "x.jsonl.gz") == [(1, 0, {"a": 1})]
    assert records_of(tmp_path / "y.jsonl") == [(1, 0, {"a": 2})]
    (tmp_path / "empty.jsonl").write_text("")
    assert records_of(tmp_path / "empty.jsonl") == []


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_a_packed_file_cut_anywhere_is_an_error(tmp_path, pack):
    lines = [json.dumps({"a": i, "b": "xyz" * i}).encode() + b"\n" for i in range(30)]
    whole = pack(b"".join(lines[:20])) + pack(b"".join(lines[20:]))
    first = len(pack(b"".join(lines[:20])))
    for cut in range(1, len(whole)):
        (tmp_path / "x").write_bytes(whole[:cut])
        if cut == first:    # a whole file
            assert len(list(iter_records(tmp_path / "x"))) == 20
            continue
        with pytest.raises(UserError, match="x: cannot be read.*cut short or damaged: fetch it again"):
            list(iter_records(tmp_path / "x"))


def test_a_parquet_file_cut_short_or_packed_again_is_told(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "completion": ["x", "y"]}), tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:300])
    (tmp_path / "again").write_bytes(gzip.compress(whole))
    assert count_records(tmp_path / "whole") == 2
    for asked in (count_records, lambda path: list(iter_records(path))):
        with pytest.raises(UserError, match="cut: cannot be read .*the Parquet file is cut short or damaged"):
            asked(tmp_path / "cut")
        with pytest.raises(UserError, match="again: a Parquet file that was packed once more; unpack it"):
            asked(tmp_path / "again")


def test_zstd_is_read_in_all_its_frames(tmp_path):
    packed = b"".join(zstandard.compress(json.dumps({"a": i}).encode() + b"\n") for i in range(3))
    (tmp_path / "x").write_bytes(packed)
    assert [value for _, _, value in records_of(tmp_path / "x")] == [{"a": 0}, {"a": 1}, {"a": 2}]
    (tmp_path / "x").write_bytes(b"\x28\xb5\x2f\xfd" + b"broken" * 9)
    with pytest.raises(UserError, match="x: cannot be read"):
        records_of(tmp_path / "x")


def test_parquet_rows_are_records_with_their_nested_values(tmp_path):
    rows = [{"a": i, "turns": [{"from": "human", "value": f"Q{i}"}], "when": datetime.date(2026, 1, 2)}
            for i in range(2500)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.jsonl")
    records = records_of(tmp_path / "x.jsonl")
    assert len(records) == 2500
    assert records[2000] == (2001, 2000, {**rows[2000], "when": "2026-01-02"})
    (tmp_path / "x.jsonl").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(UserError, match="cannot be read"):
        records_of(tmp_path / "x.jsonl")


def test_tab_separated_lines_and_whole_objects(tmp_path):
    (tmp_path / "x.tsv").write_text("Q\\nOptions:\tA\tR\nshort\tline\n")
    good, bad = iter_records(tmp_path / "x.tsv")
    names = ("question", "answer", "rationale")
    assert good.parse(names) == {"question": "Q\nOptions:", "answer": "A", "rationale": "R"}
    with pytest.raises(Drop, match="wrong shape: 2 cells, not 3"):
        bad.parse(names)
    (tmp_path / "x.json").write_text('{\n "Definition": ["D"],\n "Instances": []\n}\n')
    [record] = iter_records(tmp_path / "x.json", "object")
    assert record.parse() == {"Definition": ["D"], "Instances": []}


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    (tmp_path / "x").write_bytes(zstandard.compress(b"{}"))
    with pytest.raises(UserError, match=r"x: a zstd file needs the package 'zstandard': pip install .*\[data\]"):
        list(sources.iter_records(tmp_path / "x"))
