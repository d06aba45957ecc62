"""--quiet holds for the verb that it was given to, and for all of it."""
import dataclasses

import pytest

from easylm_imitation import console
from easylm_imitation.cli.main import main
from easylm_imitation.world import findings


@dataclasses.dataclass
class Found:
    """What `find` returns, as far as the verb looks."""
    failed: tuple[str, ...] = ()


@pytest.mark.parametrize("flags", [[], ["--quiet"]])
def test_stages_within_a_verb_leave_it_as_quiet_as_it_was_told_to_be(flags, tmp_path, monkeypatch, capsys):
    def find(config, workdir, runner):
        for _ in range(2):
            assert runner(["python", "-m", "easylm_imitation", "runs", str(tmp_path)])[0] == 0
            console.say("between stages")
        return Found()
    monkeypatch.setattr(findings, "find", find)
    monkeypatch.setattr(findings, "show_found", lambda found: None)
    assert main(["reproduce", "--workdir", str(tmp_path / "work"), *flags]) == 0
    assert capsys.readouterr().err.splitlines() == ([] if flags else ["between stages"] * 2)
    console.say("after the verb")
    assert capsys.readouterr().err == "after the verb\n"
