"""Progress where there is no terminal: plain lines with the time that is left."""
import itertools

import pytest

from easylm_imitation import console


@pytest.fixture
def lines(monkeypatch):
    said = []
    monkeypatch.setattr(console, "say", said.append)
    return said


def test_a_line_every_ten_seconds_says_what_is_left_at_the_speed_of_the_last_ones(lines, monkeypatch):
    """100 at once (what a ledger held), then one a second: the first lines are misled, the later ones are not."""
    clock = itertools.count()
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    advance = console._lines("asking", 200)
    advance(100)
    for _ in range(100):
        advance(note="$1")
    assert lines[0] == "asking: 109/200, in 0:00:10, 0:00:08 left, $1"
    assert lines[4] == "asking: 149/200, in 0:00:50, 0:00:51 left, $1"
    assert lines[-1] == "asking: 200/200, in 0:01:41, $1"
    assert len(lines) == 11


def test_without_a_total_nothing_is_foretold(lines, monkeypatch):
    clock = itertools.count(0, 10)
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    console._lines("tokenizing", None)(256, note="d")
    assert lines == ["tokenizing: 256/?, in 0:00:10, d"]
