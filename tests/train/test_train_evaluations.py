"""A run that is evaluated on its way: which model is asked, what is written, and that no number moves."""
import json

import numpy as np
import pytest
import yaml
from train_helpers import history, tiny_config, write_config

from easylm_imitation.cli.main import main
from easylm_imitation.schema import UserError
from easylm_imitation.train import read_metrics, train
from easylm_imitation.train.config import ValidationConfig
from easylm_imitation.weights import RunDir, open_model

EVERY_SECOND = tiny_config(validation=ValidationConfig(every=2))


def lines(workdir):
    return [json.loads(line) for line in (workdir / "evaluations.jsonl").read_text().splitlines()]


def largest(model):
    """A score that only these very weights have."""
    return {"largest": float(np.abs(np.asarray(model.params["embed"]["embedding"])).max())}


def test_the_model_of_each_look_is_given(data, whole, tmp_path):
    asked = []

    def evaluate(model):
        asked.append((model.lineage.step, model.lineage.id, model.tokenizer.vocab_size, model.template.name))
        return largest(model)
    train(EVERY_SECOND, data_dir=data, workdir=tmp_path / "run", evaluate=evaluate, stop_after=4)
    train(EVERY_SECOND, data_dir=data, workdir=tmp_path / "run", evaluate=evaluate)
    assert [line["step"] for line in lines(tmp_path / "run")] == [step for step, *_ in asked] == [2, 3, 4, 6, 8, 9]
    for step, name, size, template in asked:
        if step in RunDir(tmp_path / "run").steps():
            stored = open_model(f"{tmp_path / 'run'}@{step}")
            assert (name, size, template) == (stored.lineage.id, stored.tokenizer.vocab_size, "plain")
            assert [x["scores"] for x in lines(tmp_path / "run") if x["step"] == step] == [largest(stored)]
    assert history(tmp_path / "run") == history(whole)


@pytest.mark.slow
def test_what_was_said_after_the_checkpoint_is_cut_off(data, tmp_path):
    def fails(model):
        if model.lineage.step == 8:
            raise KeyError("a fault in the evaluation")
        return largest(model)
    with pytest.raises(KeyError):
        train(EVERY_SECOND, data_dir=data, workdir=tmp_path / "run", evaluate=fails)
    assert [line["step"] for line in lines(tmp_path / "run")] == [2, 3, 4, 6]
    train(EVERY_SECOND, data_dir=data, workdir=tmp_path / "run", evaluate=largest)
    assert [line["step"] for line in lines(tmp_path / "run")] == [2, 3, 4, 6, 8, 9]


def test_one_that_cannot_be_made_is_said_and_the_run_goes_on(data, tmp_path, capfd):
    def refused(model):
        raise UserError("the judge is not there")
    assert train(tiny_config(), data_dir=data, workdir=tmp_path / "run", evaluate=refused).step == 9
    assert "update 3: not evaluated (the judge is not there)" in capfd.readouterr().err


def test_nothing_to_look_at_is_refused(data, tmp_path):
    with pytest.raises(UserError, match=r"validation.every is 2, but data.holdout is 0.*or name --tasks"):
        train(EVERY_SECOND, data_dir=data, workdir=tmp_path / "run")


@pytest.fixture
def task(tmp_path):
    """Eight questions with two answers, as the path of a task file."""
    rows = [{"question": "q" * n, "options": ["ab" * n, "zy" * n], "gold": 0} for n in range(1, 9)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pairs.yaml").write_text(yaml.safe_dump({
        "task": "pairs", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "test.jsonl"}},
        "test_split": "test", "num_fewshot": 0, "doc_to_text": "{{question}}", "doc_to_choice": "options",
        "doc_to_target": "gold", "output_type": "multiple_choice", "target_delimiter": " ",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0}}))
    return tmp_path / "pairs.yaml"


@pytest.mark.slow
def test_tasks_are_measured_as_evaluate_measures_the_checkpoint(data, task, tmp_path):
    config = write_config(tmp_path, tiny_config(checkpoint_every=9))
    run = tmp_path / "run"
    assert main(["train", "--config", str(config), "--data", str(data), "--workdir", str(run), "--tasks", str(task),
                 "--prompt", "both"]) == 0
    assert main(["evaluate", "--model", str(run), "--tasks", str(task), "--prompt", "both",
                 "--out", str(tmp_path / "results.json")]) == 0
    [line] = lines(run)
    results = json.loads((tmp_path / "results.json").read_text())["tasks"]
    assert line == {"step": 9, "scores": {f"pairs/{found['prompt']}": found["score"] for found in results}}
    assert line["scores"]["pairs/chat"] == 1.0          # it has learnt which letters answer
    assert main(["evaluate", "--model", str(run), "--tasks", str(task), "--quantize", "int8",
                 "--out", str(tmp_path / "int8.json")]) == 0
    whole, few = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("results", "int8"))
    assert few["model"]["name"] == whole["model"]["name"] + " (int8)"
    assert 0 < few["meta"]["weight_bytes"] < 0.5 * whole["meta"]["weight_bytes"]
    assert len(read_metrics(RunDir(run).metrics)) == 9


def test_flags_without_tasks_are_refused(data, tmp_path, capfd):
    config = write_config(tmp_path, tiny_config())
    assert main(["train", "--config", str(config), "--data", str(data), "--workdir", str(tmp_path / "run"),
                 "--limit", "3"]) == 2
    assert "--limit are for --tasks" in capfd.readouterr().err
