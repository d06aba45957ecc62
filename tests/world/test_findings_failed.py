"""A stage of the study that fails: it is named, and no page is named that was not written."""
import pathlib

import pytest

from easylm_imitation.config import load_either
from easylm_imitation.study import Dataset, Measure, Study, StudyConfig
from easylm_imitation.study.grid import Stage
from easylm_imitation.world import FindingsConfig, findings

TINY = pathlib.Path(__file__).resolve().parents[2] / "configs/reproduce/tiny.py"


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Carries out a study of four stages, of which those fail that are given."""
    stages = tuple(Stage(name, (name, "x"), f"made/{name}", after) for name, after in (
        ("record", ()), ("train", ("record",)), ("other", ()), ("report", ("train", "other"))))
    config = StudyConfig("findings", {"broad": Dataset("x")}, {"L": "x"}, "x", Measure(tasks="t"))
    study = Study(config, tmp_path / "work/study", {}, (), stages)
    for name in ("write_world", "pretrain", "collect", "rate"):
        monkeypatch.setattr(findings._Flow, name, lambda *_: None)
    monkeypatch.setattr(findings._Flow, "open_study", lambda *_: study)

    def run(*failing):
        def runner(command):
            if command[3] in failing:
                return 1, ""
            (study.work / "made").mkdir(exist_ok=True)
            (study.work / "made" / command[3]).touch()
            return 0, "{}"
        return findings.find(load_either({"grid": FindingsConfig}, str(TINY)), tmp_path / "work", runner=runner)
    return run


@pytest.mark.parametrize("failing", [("record",), ("train", "other"), ("report",)])
def test_what_failed_is_told_and_no_page_named(found, capsys, failing):
    made = found(*failing)
    assert made.failed == dict.fromkeys(failing, 1)
    assert made.page == ""
    findings.show_found(made)
    said = capsys.readouterr().err
    assert f"failed: {failing[0]} (exit 1)" in said
    assert "report: not written" in said
    again = found()
    assert again.failed == {}
    assert again.page.endswith("verdict/report.html")
    assert found("report").page == ""       # one of an earlier run is not of these findings
