"""A set of answers with gaps is never trained on: the run says so and ends, the same command asks for the rest."""
import contextlib
import pathlib
import types

import pytest
from endpoint import Endpoint, answer, send, serving

from easylm_imitation.config import load_either
from easylm_imitation.files import read_jsonl
from easylm_imitation.records import Conversation
from easylm_imitation.schema import Incomplete
from easylm_imitation.teacher import CollectConfig
from easylm_imitation.world import FindingsConfig, ReproduceConfig, WorldConfig, findings, reproduce

ROOT = pathlib.Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def teacher(failing):
    """Refuses what `failing` holds, a set of numbers of requests, and cuts one answer in eight short."""
    seen = []

    def behave(handler, body, n):
        seen.append(body)
        if len(seen) in failing:
            return send(handler, 400, {"error": {"message": "no"}})
        return answer(body, text="Yes.\nSo it is north.", finish="length" if len(seen) % 8 == 7 else "stop")
    with serving(Endpoint(behave)) as endpoint:
        yield endpoint


def test_the_findings_stop_at_a_gap_and_go_on_by_the_ledger(tmp_path, monkeypatch, capsys):
    config = load_either({"grid": FindingsConfig}, str(ROOT / "configs/reproduce/tiny.py"),
                         ["--config.collect.truncated=drop", "--config.slots=1"])
    flow = findings._Flow(config, tmp_path)
    flow.write_world()
    monkeypatch.setattr(findings, "open_model", lambda path: None)
    with teacher({3, 50}) as endpoint:
        monkeypatch.setattr(findings, "open_server", lambda *_: contextlib.nullcontext(
            types.SimpleNamespace(url=endpoint.url)))
        with pytest.raises(Incomplete, match=r"broad.jsonl: .*1 requests failed in this run.*; .*local.jsonl: "):
            flow.collect()
        said = capsys.readouterr().err
        assert "broad: 36 of 42 answers kept; dropped: 5 truncated" in said
        assert not (tmp_path / "collected/bare.jsonl").exists()
        before = len(endpoint.requests)
        flow.collect()
        assert len(endpoint.requests) == before + 2
        flow.collect()
        assert len(endpoint.requests) == before + 2
    assert len(read_jsonl(Conversation, tmp_path / "collected/broad.jsonl")) >= 36


def test_the_quick_run_does_not_train_on_a_part(tmp_path, monkeypatch):
    config = ReproduceConfig(WorldConfig(entities=6, attributes=2, values=4, passes=2, chats=12, vocabulary=400,
                                         prompts=5), collect=CollectConfig(dataset="collected", attempts=1))
    study = reproduce._Study(config, tmp_path)
    study.write_world()
    measured = []
    monkeypatch.setattr(study, "_measure", lambda name, *_: measured.append(name))
    monkeypatch.setattr(study, "_is_measured", lambda name: name in measured)
    with teacher({2}) as endpoint:
        monkeypatch.setattr(study, "_served", lambda name: contextlib.nullcontext((None, endpoint)))
        with pytest.raises(Incomplete, match="the same command goes on"):
            study.teach(())
        measured.append("teacher")      # as a run that was stopped later, before this was checked, left it
        study.teach(())
        assert len(endpoint.requests) == 6
    assert len(read_jsonl(Conversation, tmp_path / "collected.jsonl")) == 5
