"""Ctrl-C: one line that says what is kept, exit 130; while a model is loading, nothing else on the screen."""
import importlib
import pathlib
import signal
import subprocess
import sys

import pytest
from tiny_models import made
from tiny_tokenizers import byte_tokenizer

from easylm_imitation.cli import main
from easylm_imitation.records import Lineage
from easylm_imitation.text import get_template
from easylm_imitation.weights import save_run_model

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The others do all of their work anew, or none.
CONTINUES = {"collect", "logits", "train", "reproduce", "evaluate", "compare", "study"}


@pytest.mark.parametrize("verb", main.VERBS)
def test_each_verb_says_itself_what_an_interruption_leaves(verb, monkeypatch, capsys):
    module = importlib.import_module(f"easylm_imitation.cli.{verb}")

    def interrupted(args):
        raise KeyboardInterrupt
    monkeypatch.setattr(module, "run", interrupted)
    monkeypatch.setattr(main, "parse", lambda verb, argv: main.parser_for("reproduce").parse_args([]))
    assert main.main([verb]) == 130
    said = capsys.readouterr().err
    assert said == f"error: interrupted; {module.INTERRUPTED}\n"
    assert ("continues" in said) == (verb in CONTINUES)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_serve_can_be_stopped_while_it_loads(tmp_path, number):
    run, (model, params) = tmp_path / "run", made("llama", vocab_size=264)
    lineage = Lineage("i", "tiny", "i", "tiny")
    save_run_model(run, model.config, params, byte_tokenizer(), get_template("plain"), lineage)
    process = subprocess.Popen([sys.executable, "-m", "easylm_imitation", "serve", "--model", str(run), "--port", "0"],
                               cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert "loading and compiling" in process.stderr.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, said) == (128 + number, "error: interrupted; nothing was served yet\n")


def test_sigterm_unwinds_like_ctrl_c(monkeypatch, capsys):
    module = importlib.import_module("easylm_imitation.cli.convert")
    cleared = []

    def terminated(args):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleared.append(True)
    monkeypatch.setattr(module, "run", terminated)
    before = signal.getsignal(signal.SIGTERM)
    assert main.main(["convert", "--from", "a", "--to", "b"]) == 130
    assert cleared == [True]
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == f"error: interrupted; {module.INTERRUPTED}\n"
