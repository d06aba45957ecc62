"""Task files: the right answers, only held-out facts where promised, and the stock harness reads them."""
import json
import re

import pytest
import yaml

from easylm_imitation.evaluate.tasks import find_tasks
from easylm_imitation.world import WorldConfig, make_world

SMALL = WorldConfig(entities=20, values=8, passes=2, chats=60, prompts=60)


@pytest.fixture(scope="module")
def world():
    return make_world(SMALL)


@pytest.fixture(scope="module")
def written(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    return folder, world.write_tasks(folder)


def rows(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("side", ["heldout", "asked"])
def test_items_are_the_facts_of_their_side_with_right_answers(world, written, side):
    facts, items = world.facts, rows(written[0], side)
    truth = {f.id: f for row in facts.table.values() for f in row}
    names = facts.untouched if side == "heldout" else facts.asked
    shown = {shot["id"] for shot in rows(written[0], "shots")}
    assert [i["id"] for i in items] == [f.id for name in names for f in facts.table[name] if f.id not in shown]
    for item in items:
        fact = truth[item["id"]]
        assert item["answer"] == fact.value == item["options"][item["gold"]]
        assert len(set(item["options"])) == SMALL.options
        assert set(item["options"]) <= set(facts.attribute(fact.attribute).values)
        assert fact.entity in item["question"]
        assert item["known"] is (fact.id in facts.known)


def test_no_item_of_the_heldout_side_is_in_the_imitation_prompts(world, written):
    asked = "\n".join(p.messages[-1].content for p in world.collection_prompts())
    assert not [i for i in rows(written[0], "heldout") if i["id"].split(".")[0] in asked]


def test_shots_are_true_known_and_not_held_out(world, written):
    shots = rows(written[0], "shots")
    assert len({s["id"].split(".")[0] for s in shots}) == len(shots) == SMALL.shots
    assert {s["attribute"] for s in shots} == {a.name for a in world.facts.attributes}
    assert all(s["known"] and s["id"].split(".")[0] in world.facts.asked for s in shots)


def test_items_stay_the_same_when_other_sizes_change(world, tmp_path):
    other = make_world(WorldConfig(**{**vars(SMALL), "passes": 1, "chats": 5, "prompts": 5, "shots": 2}))
    other.write_tasks(tmp_path)
    world.write_tasks(tmp_path / "same")
    assert (tmp_path / "heldout.jsonl").read_bytes() == (tmp_path / "same/heldout.jsonl").read_bytes()


def test_gold_is_not_betrayed_by_place_or_frequency():
    items = [json.loads(json.dumps(i)) for i in _items(WorldConfig(zipf=1.0))]
    places = [sum(i["gold"] == place for i in items) / len(items) for place in range(4)]
    assert all(0.15 < share < 0.35 for share in places)
    counts = {}
    for item in items:
        counts[item["answer"]] = counts.get(item["answer"], 0) + 1
    guesses = [max(i["options"], key=lambda o: counts.get(o, 0)) == i["answer"] for i in items]
    assert sum(guesses) / len(guesses) < 0.4        # chance is 0.25


def _items(config):
    from easylm_imitation.world.tasks import write_items
    return write_items(config, make_world(config).facts, "heldout")


def test_our_evaluate_loads_each_task_with_its_side_and_forms(written):
    folder, tasks = written
    for task in tasks:
        loaded, = find_tasks([str(task.path)])
        assert (loaded.name, loaded.group, tuple(loaded.prompts)) == (task.name, task.group, task.prompts)
        assert loaded.form == ("choices" if "choices" in task.name else "generation")
        assert loaded.shots == (0 if "chat" in task.name else SMALL.shots)
        assert len(loaded.rows) == len(rows(folder, task.name.split("_")[1]))
    assert [t.name for t in tasks if t.group == "substance"] == [
        "world_heldout_choices", "world_heldout_answers", "world_heldout_chat"]


def test_task_files_hold_no_path_of_the_machine(written):
    for task in written[1]:
        assert str(written[0]) not in task.path.read_text()


@pytest.mark.parametrize(("said", "found"), [
    (" Great question! You want to know where Barwyn lives. Barwyn lives in Arden.", "Arden"),
    (" Barwyn keeps a pet cat. In summary, the answer is dog.", "cat"), (" catalogue of doggerel", "")])
def test_the_chat_task_takes_the_first_value_named(written, said, found):
    config = yaml.safe_load((written[0] / "world_heldout_chat.yaml").read_text())
    pattern = config["filter_list"][0]["filter"][0]["regex_pattern"]
    assert (re.findall(pattern, said) or [""])[0] == found


def test_the_answers_task_takes_one_line(written):
    config = yaml.safe_load((written[0] / "world_heldout_answers.yaml").read_text())
    pattern = config["filter_list"][0]["filter"][0]["regex_pattern"]
    assert re.findall(pattern, " Arden\nQuestion: more") == ["Arden"]
    assert re.findall(pattern, " Arden and more") == ["Arden and more"]


def test_the_stock_harness_builds_the_prompt_that_the_documents_teach(world, written, monkeypatch):
    """Its TaskManager alone, from the folder of the files: the few-shot prompt is the pre-training text's form."""
    from lm_eval.tasks import TaskManager
    monkeypatch.chdir(written[0])
    monkeypatch.setenv("HF_DATASETS_CACHE", str(written[0] / "cache"))
    manager = TaskManager(include_defaults=False, include_path=str(written[0]))
    task = manager.load(["world_heldout_choices"])["tasks"]["world_heldout_choices"]
    item = task.eval_docs[0]
    prompt = task.fewshot_context(item, task.config.num_fewshot)
    pairs = [(s["question"], s["answer"]) for s in rows(written[0], "shots")]
    expected = "\n\n".join(f"Question: {q}\nAnswer: {a}" for q, a in pairs)
    assert prompt == f"{expected}\n\nQuestion: {item['question']}\nAnswer:"
    assert task.doc_to_choice(item)[task.doc_to_target(item)] == item["answer"]
    form = re.compile(r"Question: [^\n]+\nAnswer: \w+(\n\nQuestion: [^\n]+\nAnswer: \w+)*")
    documents = [c.messages[0].content for c in world.base_documents() if c.messages[0].content.startswith("Question:")]
    assert documents
    assert all(form.fullmatch(text) for text in [*documents, prompt + " x"])
