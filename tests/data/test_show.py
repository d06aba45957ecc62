"""The mask viewer: every token is shown once, what carries loss stands out, nothing steers the terminal."""
import io

import numpy as np
import pytest
import rich.console
from data_helpers import turns, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import KINDS, byte_tokenizer

from easylm_imitation import console
from easylm_imitation.cli.main import main
from easylm_imitation.data.show import chosen, show_rows, stretches
from easylm_imitation.records import Conversation, Message
from easylm_imitation.schema import UserError
from easylm_imitation.text import TEMPLATES, tokenize


@pytest.fixture(params=["dumb", "colours"])
def screen(request, monkeypatch):
    """(what is printed, what stands before a marked part, and what after)."""
    colours = request.param == "colours"
    file = io.StringIO()
    monkeypatch.setattr(console, "_console", rich.console.Console(
        file=file, highlight=False, force_terminal=colours, color_system="standard" if colours else None, width=40))
    return (file, "\x1b[30;42m", "\x1b[0m") if colours else (file, ">>", "<<")


def test_rows_of_a_dataset_are_shown_with_their_masks(built, screen):
    folder, card = built
    file, before, after = screen
    show_rows(folder, 3)
    shown = file.getvalue()
    assert shown.count("row ") == 3
    assert shown.count(before) == 3
    assert f"row 0, c0 of raw.jsonl:1: 21 tokens, 3 with loss\nUser: q\nAssistant:{before} a<eos>{after}\n" in shown
    assert f"row {card.conversations - 1}, c56 of raw.jsonl:57: " in shown


def test_a_text_cannot_steer_the_terminal(screen):
    file, before, after = screen
    console.marked([("\x1b[31mred\x07\n", False), ("[bold]x\u202e", True)])
    assert file.getvalue() == f"\\x1b[31mred\\x07\n{before}[bold]x\\u202e{after}\n"


def test_places_are_spread_evenly():
    assert chosen(57, 3) == [0, 28, 56]
    assert chosen(2, 5) == [0, 1]
    assert chosen(9, 1) == [0]
    assert chosen(0, 3) == chosen(9, 0) == []


@pytest.mark.parametrize("kind", ["bytes", "trained", "llama"])
@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(list(TEMPLATES)), question=st.text(min_size=1, max_size=9), answer=st.text(max_size=9))
def test_stretches_are_the_row(kind, name, question, answer):
    tokenizer = KINDS[kind]()
    row = tokenize(TEMPLATES[name], tokenizer, Conversation("d", "x", (Message("user", question),
                                                                       Message("assistant", answer))))
    parts = list(stretches(tokenizer, row.tokens, row.loss_weights))
    assert "".join(part.text for part in parts) == tokenizer.decode(row.tokens, skip_special=False)
    assert [part.learned for part in parts] == [False, True]
    assert [part.tokens for part in parts] == [int((row.loss_weights == weight).sum()) for weight in (0, 1)]


def test_the_verb_shows_rows(tmp_path, tokenizer_folder, capsys):
    write_lines(tmp_path / "raw.jsonl", [{"dataset": "d", "id": "c", "messages": turns("why", "because")}])
    (tmp_path / "config.py").write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict(dict(name='d', "
        f"sources=[dict(path='raw.jsonl')], root={str(tmp_path)!r}, tokenizer={str(tokenizer_folder)!r}))\n")
    command = ["build", "--config", str(tmp_path / "config.py"), "--out", str(tmp_path / "data"), "--show"]
    assert main([*command, "3"]) == 0
    assert "User: why\nAssistant:>> because<eos><<" in capsys.readouterr().err
    assert main([*command, "-1"]) == 2
    assert "--show -1" in capsys.readouterr().err


def test_what_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a built dataset"):
        show_rows(tmp_path, 1)
    assert list(stretches(byte_tokenizer(), np.zeros(0, np.int32), np.zeros(0, np.float32))) == []
