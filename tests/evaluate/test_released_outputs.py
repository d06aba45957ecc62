"""Our rules on answers that others released with their labels: every label, every published accuracy.

They are not part of this repository. GSM8K_SOLUTIONS names example_model_solutions.jsonl of openai/grade-school-math,
BBH_OUTPUTS the folder code-davinci-002-outputs of suzgunmirac/BIG-Bench-Hard.
"""
import json
import os
import pathlib

import pytest

from easylm_imitation.evaluate.tasks.benchmarks import _STRICT
from easylm_imitation.evaluate.tasks.files import FOLDER, read_yaml

SYSTEMS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def rule(name):
    score = read_yaml(FOLDER / f"{name}.yaml")["process_results"]
    return lambda said, **doc: score(doc, [said])["exact_match"]


def given(name):
    path = pathlib.Path(os.environ.get(name, "/nonexistent"))
    if not path.exists():
        pytest.skip(f"no released outputs; name them in {name}")
    return path


def test_gsm8k_agrees_with_every_published_label():
    rows = [json.loads(line) for line in given("GSM8K_SOLUTIONS").read_text().splitlines()]
    right, published = rule("gsm8k_cot"), rule("gsm8k_cot_published")
    differ = []
    for row in rows:
        gold = row["ground_truth"].rpartition("A: ")[2].strip().replace(",", "")
        for system in SYSTEMS:
            said, label = row[system]["solution"], row[system]["is_correct"]
            assert right(said, answer=gold) == label, (row["question"], system)
            differ.append(published(said, answer=gold) != label)
    assert (len(differ), sum(differ)) == (5276, 11)


@pytest.mark.parametrize(("way", "mean"), [("direct", 52.76), ("cot", 73.71)])
def test_bbh_gives_each_published_accuracy(way, mean):
    folder, found = given("BBH_OUTPUTS") / f"code-davinci-002-{way}", {}
    right, published = rule("bbh_cot"), rule("bbh_cot_published")
    for path in sorted(folder.glob("*_eval_metrics.jsonl")):
        task = path.name.partition("_few_shot_template")[0]
        rows = json.loads(path.with_name(path.name.replace("_eval_metrics.jsonl", ".json")).read_text())["outputs"]
        accuracy = json.loads(path.read_text())["accuracy"]
        docs = [(row["prediction"], {"target": row["target"], "strict": task in _STRICT})
                for row in rows]
        found[task] = 100 * sum(right(said, **doc) for said, doc in docs) / len(docs)
        assert found[task] == pytest.approx(accuracy), task
        if (task, way) == ("dyck_languages", "direct"):
            theirs = 100 * sum(published(said, target=d["target"], strict=d["strict"]) for said, d in docs) / len(docs)
            assert (theirs, accuracy) == (pytest.approx(58.0), pytest.approx(46.8))
    assert len(found) == 27
    assert round(sum(found.values()) / 27, 2) == mean
