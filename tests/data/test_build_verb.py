"""The verb `build` as a user runs it: quiet, offline, without TensorFlow."""
import json
import re
import subprocess
import sys

import pytest
from data_helpers import listing, turns, write_lines

from easylm_imitation.cli.main import main
from easylm_imitation.config import load
from easylm_imitation.data import BuildConfig

CONFIG = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({"name": "set", "sources": [{"path": "a.jsonl", "teacher": "gpt-4"}], "tokenizer": "tokenizer"})
"""


@pytest.fixture
def place(tmp_path, tokenizer_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizer").symlink_to(tokenizer_folder)
    (tmp_path / "config.py").write_text(CONFIG)
    write_lines(tmp_path / "a.jsonl", [{"messages": turns("q", "a" * i)} for i in range(4)])
    return tmp_path


def test_the_result_is_the_card(place, capsys):
    assert main(["build", "--config", "config.py", "--out", "out", "--config.template=chatml", "--json"]) == 0
    out, err = capsys.readouterr()
    card = json.loads(out.splitlines()[-1])
    assert card == json.loads((place / "out" / "card.json").read_text())
    assert (card["conversations"], card["teachers"]) == (3, ["gpt-4"])
    assert card["template"].startswith("chatml@")
    assert "1 empty turn" in err
    assert "a.jsonl:1: dropped, empty turn" in err


def test_an_evaluation_task_is_looked_for_by_its_name(place, capsys):
    question = "which of the small bones of the middle ear is said to look most of all like a stirrup"
    for split in ("dev", "test"):
        (place / f"tasks/mmlu/{split}").mkdir(parents=True)
        (place / f"tasks/mmlu/{split}/anatomy_{split}.csv").write_text(f"{question},a,b,c,d,C\n")
    write_lines(place / "a.jsonl", [{"messages": turns(f"Say {question}?", "The stapes.")},
                                    {"messages": turns("Why?", "So.")}])
    rule = '({"rule": "overlap", "against": ("task:mmlu_anatomy",), "rules": ("13-gram",)},)'
    call = ["build", "--config", "config.py", "--out", "out", f"--config.clean={rule}"]
    assert main(call) == 2
    assert "needs --task-data DIR" in " ".join(capsys.readouterr().err.split())
    assert main([*call, "--task-data", "tasks"]) == 0
    report = json.loads((place / "out" / "overlap.json").read_text())["mmlu_anatomy"]
    assert (report["items"], [match["item"] for match in report["matches"]]) == (1, ["0"])
    assert main([*call, "--task-data", "tasks"]) == 0
    assert "already built" in capsys.readouterr().err


def test_what_is_evaluated_is_looked_for(place, capsys):
    """Bundled tasks, a suite's, and those of files, whatever their fields are called; their items as in results."""
    question = "which of the small bones of the middle ear is said to look most of all like a stirrup"
    riddle = "what goes on four legs in the morning and on two at noon and on three in the evening"
    for split in ("dev", "test"):
        (place / f"tasks/mmlu/{split}").mkdir(parents=True)
        (place / f"tasks/mmlu/{split}/anatomy_{split}.csv").write_text(f"Why?,a,b,c,d,A\n{question},a,b,c,d,C\n")
    (place / "own.jsonl").write_text(json.dumps({"sphinx": riddle, "oedipus": "man"}) + "\n")
    (place / "own.yaml").write_text(
        "task: mmlu_riddles\ndataset_path: json\ndataset_kwargs: {data_files: {test: own.jsonl}}\ntest_split: test\n"
        "output_type: generate_until\ndoc_to_text: '{{sphinx}}'\ndoc_to_target: oedipus\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n")
    write_lines(place / "a.jsonl", [{"messages": turns(f"Say {question}?", "The stapes.")},
                                    {"messages": turns(f"So, {riddle}?", "Man.")}])
    call = ["build", "--config", "config.py", "--out", "out", "--task-data", "tasks", "--look-for"]
    assert main([*call, "paper,mmlu_anatomy,own.yaml"]) == 0
    made = json.loads((place / "out" / "overlap.json").read_text())
    assert {name: [match["item"] for match in found["matches"]] for name, found in made.items()} == {
        "mmlu": ["anatomy/1"], "mmlu_riddles": ["0"]}
    card = json.loads((place / "out" / "card.json").read_text())
    assert card["conversations"] == 2
    capsys.readouterr()
    prompts = ["build", "--config", "config.py", "--out", "none", "--task-data", "tasks", "--look-for", "vicuna"]
    assert main(prompts) == 0
    assert not (place / "none" / "overlap.json").exists()      # a suite of prompts has no items
    assert main([*call, "mmul"]) == 2
    assert "unknown task 'mmul'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("rules", ["()", '("roles", {"rule": "overlap", "against": ("a.jsonl",)})'])
def test_task_data_without_a_rule_that_looks_for_a_task_is_refused(place, capsys, rules):
    call = ["build", "--config", "config.py", "--out", "out", f"--config.clean={rules}", "--task-data", "tasks"]
    assert main(call) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--task-data tasks: nothing looks for a task; name some with --look-for" in said
    assert not (place / "out").exists()


def test_what_to_look_for_is_found_from_the_root_too_and_named_when_it_is_not(place, capsys):
    (place / "root").mkdir()
    (place / "a.jsonl").rename(place / "root" / "a.jsonl")
    write_lines(place / "root" / "exam.jsonl", [{"id": "1", "text": "q"}])
    call = ["build", "--config", "config.py", "--config.root=root", "--out", "out"]
    rule = '--config.clean=({"rule": "overlap", "against": ("%s",)},)'
    assert main([*call, rule % "exams.jsonl"]) == 2
    said = "".join(capsys.readouterr().err.split())     # the screen wraps paths anywhere
    assert f"against'exams.jsonl':nosuchfile,neither{place}/exams.jsonlnor{place}/root/exams.jsonl" in said
    assert main([*call, rule % "task:mmul", "--task-data", "tasks"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "clean: against 'task:mmul': unknown task 'mmul'" in said
    assert "--tasks" not in said
    assert main([*call, rule % "exam.jsonl"]) == 0


def test_a_rule_that_only_reports_does_not_read_like_one_that_dropped_nothing(place, capsys):
    write_lines(place / "a.jsonl", [{"id": "1", "messages": turns("q", text)} for text in ("a", "b")])
    call = ["build", "--config", "config.py", "--out", "out", "--config.clean=('diversity', 'same-query')"]
    assert main(call) == 0
    said = [re.findall(r"[\w-]+", line) for line in capsys.readouterr().err.splitlines()]
    assert ["same-query", "all", "2", "0", "1", "0"] in said
    assert [line[-3:] for line in said if line[:2] == ["diversity", "all"]] == [["reports", "alone", "0"]]


def test_one_conversation_with_anothers_id_is_said_in_good_english(place, capsys):
    write_lines(place / "a.jsonl", [{"id": "1", "messages": turns("q", text)} for text in ("a", "b")])
    assert main(["build", "--config", "config.py", "--out", "out"]) == 0
    assert "1 conversation had another's id, with other contents" in " ".join(capsys.readouterr().err.split())


def test_malformed_lines_leave_a_dataset_and_exit_code_3(place, capsys):
    with (place / "a.jsonl").open("a") as file:
        file.write('{"messages": \n')
    command = ["build", "--config", "config.py", "--out", "out", "--json"]
    for _ in range(2):      # also when the dataset is found again
        assert main(command) == 3
        out, err = capsys.readouterr()
        assert json.loads(out.splitlines()[-1])["conversations"] == 3
        assert err.splitlines()[-1].startswith("error: 1 of 5 records are malformed; the rest is built")
    assert json.loads((place / "out" / "dropped.jsonl").read_text().splitlines()[-1])["detail"].endswith("column 13)")


@pytest.mark.parametrize(("flags", "message"), [
    (["--config.root=absent"], "absent/a.jsonl: no such file"),
    (["--config.templat=chatml"], "did you mean 'template'"),
    (["--config.processes=0"], "processes 0: at least 1"),
    (["--config.seed=x"], "seed: expected None or int, got 'x'")])
def test_errors_are_one_line_and_exit_code_2(place, capsys, flags, message):
    before = listing(place)
    assert main(["build", "--config", "config.py", "--out", "out", *flags]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert len(err.splitlines()) == 1
    assert out == ""
    assert listing(place) == before


ALONE = """
import socket, sys
def refuse(*arguments): raise AssertionError(f"reached out to {arguments}")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from easylm_imitation.cli.main import main
assert main(["build", "--config", "config.py", "--out", "out", "--quiet"]) == 0
assert "jax" not in sys.modules, "building needs no jax"
from easylm_imitation.data import LoaderConfig, open_loader
batches = list(open_loader("out", LoaderConfig(context=64, batch=2), seed=0, epochs=2))
assert len(batches) == 2, len(batches)
assert "tensorflow" not in sys.modules and "torch" not in sys.modules
"""


def test_building_and_loading_alone_offline_without_tensorflow_and_without_a_word(place):
    write_lines(place / "a.jsonl", [{"messages": turns("q", "a" * i)} for i in range(1, 4)])
    done = subprocess.run([sys.executable, "-W", "error", "-c", ALONE], cwd=place, capture_output=True, text=True,
                          env={"PATH": "", "PYTHONPATH": ":".join(sys.path)}, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["gpteacher", "halueval"])
def test_the_recipes_fit_their_schema(name, request):
    config = load(BuildConfig, str(request.config.rootpath / f"configs/data/{name}.py"))
    assert config.name == name
    assert all(source.teacher for source in config.sources)


@pytest.mark.parametrize(("name", "folder", "counts"), [
    ("gpteacher", "gpteacher", (6458, 983430, 695990, 677)),
    ("halueval", "halueval_general", (4507, 620845, 518423, 847))])
@pytest.mark.slow
def test_the_recipes_give_the_counts_of_the_docs(name, folder, counts, shared_data, request, tmp_path, capsys):
    recipe = str(request.config.rootpath / f"configs/data/{name}.py")
    tokenizer = shared_data / "tokenizers" / "gpt2_hf_json"
    assert main(["build", "--config", recipe, f"--config.root={shared_data / folder}",
                 f"--config.tokenizer={tokenizer}", "--out", str(tmp_path / "out"), "--json"]) == 0
    card = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert tuple(card[key] for key in ("conversations", "tokens", "loss_tokens", "longest")) == counts
