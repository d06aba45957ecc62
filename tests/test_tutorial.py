"""docs/tutorial.md, command by command, the README's Python and the notebook: as a new user would, with tiny models."""
import json
import os
import pathlib
import re
import shlex
import subprocess

import pytest
from tiny_models import made
from tiny_tokenizers import CONTROL, byte_tokenizer

from easylm_imitation.cli import main
from easylm_imitation.records import Lineage
from easylm_imitation.text import get_template
from easylm_imitation.weights import export_hf, save_run_model

ROOT = pathlib.Path(__file__).resolve().parents[1]
# the installation, and what one brings
NOT_HERE = ("git clone", "python3 -m venv", "pip install", "BASE=", "ANSWERS=")


def blocks(page, language):
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(block):
    """Commands of a shell block: a line each, with the lines of its here-document."""
    lines = iter(block.splitlines())
    for line in lines:
        end = re.search(r"<<'(\w+)'", line)
        if end:
            text = [line]
            while text[-1] != end.group(1):
                text.append(next(lines))
            yield "\n".join(text)
        elif line.strip():
            yield line


def conversations(count):
    return [{"dataset": "mine", "id": f"q{i}", "teacher": "gpt-4",
             "messages": [{"role": "user", "content": f"Question {i}?"},
                          {"role": "assistant", "content": f"Great question! It is {i}.\n\nIn summary, {i}."}]}
            for i in range(count)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder like a checkout, with a base as Hugging Face stores it and a teacher's answers."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    tokenizer = byte_tokenizer(("<eos>", *CONTROL))
    model, params = made("llama", vocab_size=tokenizer.vocab_size, context=512, d_model=32, head_dim=8, d_ff=64)
    export_hf(tmp_path / "hf", model.config, params, tokenizer, None, Lineage("base", "base", "base", "base"))
    lines = (json.dumps(line) + "\n" for line in conversations(36))
    (tmp_path / "given.jsonl").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_tutorial_asks_for_nothing_that_is_skipped():
    """What the test below leaves out is the installation alone."""
    page = ROOT / "docs" / "tutorial.md"
    left_out = [c for block in blocks(page, "bash") for c in commands(block) if c.startswith(NOT_HERE)]
    assert len(left_out) == 5
    assert {verb for verb in re.findall(r"^easylm-imitation (\w+)", page.read_text(), re.MULTILINE)} == {
        "convert", "build", "train", "runs", "plan", "evaluate", "report"}


@pytest.mark.slow
def test_the_tutorial_ends_with_a_verdict(place):
    given = {"$BASE": "hf", "$ANSWERS": "given.jsonl"}
    for block in blocks(ROOT / "docs" / "tutorial.md", "bash"):
        for command in commands(block):
            if command.startswith(NOT_HERE):
                continue
            for name, value in given.items():
                command = command.replace(name, value)
            if command.startswith("easylm-imitation "):
                assert main.main(shlex.split(command)[1:]) == 0, command
            else:
                subprocess.run(["bash", "-ec", command], check=True)
    verdict = json.loads((place / "verdict" / "verdict.json").read_text())
    imitation, = verdict["imitations"]
    assert imitation["imitation"]["name"] == "mine"
    assert imitation["base"]["name"] == imitation["imitation"]["base_name"]
    assert {view["group"] for view in imitation["views"]} >= {"style", "substance"}
    assert (place / "mine.gguf").is_file()


@pytest.mark.slow
def test_the_readmes_python_runs(place, monkeypatch):
    program, = blocks(ROOT / "README.md", "python")
    assert len([line for line in program.splitlines() if line.strip()]) <= 24
    tokenizer = byte_tokenizer(("<eos>", *CONTROL))
    for seed, name in enumerate(("BASE", "TEACHER")):
        model, params = made("llama", seed=seed, vocab_size=tokenizer.vocab_size, context=1024)
        save_run_model(place / name, model.config, params, tokenizer, get_template("chatml"),
                       Lineage(name, name.lower(), name, name.lower()))
    for name in ("prompts", "style"):
        rows = [{"id": f"{name}{i}", "prompt": f"Say {i}"} for i in range(4)]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "tasks").mkdir()
    for block in blocks(ROOT / "docs" / "tutorial.md", "bash"):
        for command in commands(block):
            if "tasks/capitals" in command and command.startswith("cat"):
                subprocess.run(["bash", "-ec", command], check=True)
    exec(compile(program, "README.md", "exec"), {})
    verdict = json.loads((place / "verdict" / "verdict.json").read_text())
    assert [made["imitation"]["name"] for made in verdict["imitations"]] == ["mine"]


def test_the_notebook_is_kept_without_outputs():
    book = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text())
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 4
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    for cell in code:
        compile("".join(cell["source"]), "tutorial.ipynb", "exec")


@pytest.mark.slow
def test_the_notebook_runs_offline(tmp_path, monkeypatch):
    """In a kernel of its own, whose sockets reach this machine alone."""
    import nbclient
    import nbformat
    book = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    book.cells.insert(0, nbformat.v4.new_code_cell(OFFLINE))
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    nbclient.NotebookClient(book, timeout=3000, kernel_name="python3",
                            resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(out.get("text", "") for cell in book.cells for out in cell.get("outputs", []))
    assert "imitation" in said
    assert list(tmp_path.rglob("report.html"))


OFFLINE = """import socket
_connect = socket.socket.connect
def connect(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"the notebook reaches out to {address}")
    return _connect(self, address)
socket.socket.connect = connect
"""
