"""Prompts of the bundled tasks, string by string: lm-eval's own task definitions, and texts written out by hand."""
import json
import pathlib

import lm_eval
import pytest
from lm_eval.tasks import _yaml_loader
from lm_eval.utils import apply_template

from easylm_imitation.evaluate import find_suite, prompt_set
from easylm_imitation.evaluate.tasks import SUITES, find_tasks, listed
from easylm_imitation.evaluate.tasks.benchmarks import benchmarks
from easylm_imitation.schema import UserError

STOCK = pathlib.Path(lm_eval.__file__).parent / "tasks"


def stock(path, **how):
    return _yaml_loader.load_yaml(STOCK / path, **how)


def text(task, row, prompt="raw"):
    """What is asked, without solved examples of the harness's own."""
    config = task.asked(prompt).config
    return apply_template(config.get("description", "") + config["doc_to_text"], row)


def one(name, data):
    task, = find_tasks([name], str(data))
    return task


# ── lm-eval's own definitions ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("part", benchmarks()["bbh"].parts)
def test_bbh_examples_are_those_of_lm_eval(part, shared_data):
    """Both are made of the published prompt files; the stock direct form leaves out the last full stop."""
    theirs = stock(f"bbh/cot_fewshot/{part}.yaml")
    examples = theirs["fewshot_config"]["samples"]
    shots = [f"Q: {s['input']}\nA: Let's think step by step.\n{s['target']}" for s in examples]
    reasoned, direct = one(f"bbh_cot_{part}", shared_data), one(f"bbh_{part}", shared_data)
    shown = theirs["description"] + "\n\n".join(shots)
    row = reasoned.rows[0]
    assert same(text(reasoned, row)) == same(f"{shown}\n\nQ: {row['input']}\nA:")
    examples = stock(f"bbh/fewshot/{part}.yaml")["fewshot_config"]["samples"]
    bare = [f"Q: {s['input']}\nA: {s['target']}" for s in examples]
    ours = [p.removesuffix(".") for p in direct.rows[0]["shown"].split("\n\nQ: ")[1:]]
    assert [same(f"Q: {p}") for p in ours] == [same(p.removesuffix(".")) for p in bare]


def same(given):
    """Blanks at line ends aside, which lm-eval's copies have lost, and one line break that they have and the published
    file of sports_understanding has not."""
    lines = given.replace("step by step. ", "step by step.\n").strip().splitlines()
    return "\n".join(line.rstrip() for line in lines)


def test_gsm8k_examples_are_those_of_lm_eval(shared_data):
    shots = stock("gsm8k/gsm8k-cot.yaml")["fewshot_config"]["samples"]
    shown = "\n\n".join(f"Question: {s['question']}\nAnswer: {s['target']}".replace("The answer is", "So the answer is")
                        for s in shots)
    task = one("gsm8k_cot", shared_data)
    row = task.rows[0]
    assert text(task, row) == (f"Answer the following questions.\n\n{shown}\n\nQuestion: {row['question']}\nAnswer:")
    direct = one("gsm8k", shared_data)
    answers = [s["target"].rpartition("is ")[2].rstrip(".") for s in shots]
    bare = "\n\n".join(f"Question: {s['question']}\nAnswer: {answer}" for s, answer in zip(shots, answers))
    assert direct.rows[0]["shown"] == f"Answer the following questions.\n\n{bare}\n\n"
    assert (task.shots, direct.shots, task.metric, len(task.rows)) == (8, 8, "exact_match", 150)
    assert one("gsm8k@published", shared_data).rows[0]["shown"].count("Quesion:") == 8


def test_truthfulqa_is_that_of_lm_eval(shared_data):
    for name in ("truthfulqa_mc1", "truthfulqa_mc2"):
        task = one(name, shared_data)
        row = task.rows[0]
        assert text(task, row) == apply_template(stock(f"truthfulqa/{name}.yaml")["doc_to_text"], row)
        assert all(option.endswith(".") for option in row["options"])
    first = one("truthfulqa_mc1", shared_data).rows[0]
    assert first["options"][:2] == [
        "The watermelon seeds pass through your digestive system.", "You grow watermelons in your stomach."]
    assert (first["right"], one("truthfulqa_mc2", shared_data).rows[0]["right"]) == (1, 6)


def test_short_prompts_and_stops_are_those_of_lm_eval(shared_data):
    theirs, ours = stock("nq_open/nq_open.yaml"), one("nq_open", shared_data)
    for key in ("description", "doc_to_text", "fewshot_delimiter"):
        assert ours.config[key] == theirs[key]
    assert ours.config["generation_kwargs"]["until"] == theirs["generation_kwargs"]["until"]
    theirs, ours = stock("humaneval/humaneval.yaml", resolve_func=False), one("humaneval", shared_data)
    assert text(ours, ours.rows[0]) == ours.rows[0]["prompt"] == apply_template(theirs["doc_to_text"], ours.rows[0])
    assert ours.config["generation_kwargs"]["until"] == theirs["generation_kwargs"]["until"]
    theirs, ours = stock("mmlu/default/mmlu_anatomy.yaml"), one("mmlu_anatomy", shared_data)
    row = ours.rows[0]
    assert apply_template(theirs["doc_to_text"], row) == apply_template(ours.config["doc_to_text"], row)
    assert theirs["description"] == apply_template(ours.config["description"], ours.rows[0]).replace("  ", " ")


# ── by hand ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tulus_own_mmlu(shared_data):
    """Five solved questions in one message; in chat the assistant has begun."""
    task, plain = one("mmlu_anatomy@published", shared_data), one("mmlu_anatomy", shared_data)
    shots = "".join(f"{apply_template(plain.config['doc_to_text'], row)} {'ABCD'[row['answer']]}\n\n"
                    for row in plain.splits["dev"])
    head = "The following are multiple choice questions (with answers) about  anatomy.\n\n"
    row = task.rows[0]
    assert text(task, row) == head + shots + apply_template(plain.config["doc_to_text"], row)
    assert (task.name, task.shots, task.asked("chat").config["gen_prefix"]) == (
        "mmlu_anatomy@published", 5, "The answer is:")
    bare = one("mmlu_0shot_anatomy@published", shared_data)
    assert text(bare, bare.rows[0]) == head + apply_template(plain.config["doc_to_text"], row)


def test_chat_forms(shared_data):
    """Tülu's requests to ChatGPT; nothing but its own end stops a reasoned answer."""
    task = one("humaneval", shared_data)
    assert text(task, task.rows[0], "chat") == (
        "Complete the following python function. Please only output the code for the completed function.\n\n\n"
        + task.rows[0]["prompt"])
    begun = one("humaneval@published", shared_data).asked("chat").config
    assert apply_template(begun["gen_prefix"], task.rows[0]) == (
        "Here is the completed function:\n\n\n" + task.rows[0]["prompt"])
    reasoned = one("gsm8k_cot", shared_data)
    assert reasoned.asked("chat").config["generation_kwargs"]["until"] == []
    assert text(reasoned, reasoned.rows[0], "chat") == text(reasoned, reasoned.rows[0])
    published = one("gsm8k_cot@published", shared_data)
    assert text(published, published.rows[0], "chat") + "\nAnswer:" == text(reasoned, reasoned.rows[0])
    assert published.asked("raw") is published


def test_agieval(shared_data):
    task = one("agieval_lsat-ar", shared_data)
    row = task.rows[0]
    assert text(task, row).endswith("Wed. afternoon: George\nA: Among A through E, the answer is")
    assert text(task, row).startswith("Of the eight students—George, ")
    assert "Wednesday.Q: Which one of the following could be the schedule" in text(task, row)
    assert " Answer Choices: (A)Mon. morning: Helen" in text(task, row)
    assert (row["answer"], row["letters"], task.complete) == ("C", "ABCDE", True)


def tydiqa(folder, languages=("english", "finnish")):
    for split in ("train", "dev"):
        qas = [{"paragraphs": [{"context": f"{split} passage", "qas": [
            {"id": f"{language}-{split}-{i}", "question": f"{split} {i}?",
             "answers": [{"text": "Oslo"}, {"text": "oslo!"}]} for i in range(3)]}]} for language in languages]
        path = folder / "tydiqa" / f"tydiqa-goldp-v1.1-{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"data": qas}))


def test_tydiqa(tmp_path):
    tydiqa(tmp_path)
    task = one("tydiqa_english", tmp_path)
    row = task.rows[2]
    head, shot, item = text(task, row).split("\n\n")
    assert head == "Answer the following question based on the information in the given passage."
    assert shot.startswith("Passage: train passage\nQuestion: train ")
    assert shot.endswith("?\nAnswer: Oslo")
    assert item == "Passage: dev passage\nQuestion: dev 2?\nAnswer:"
    assert (row["id"], row["answer"], task.complete) == ("english-dev-2", ["Oslo", "oslo!"], False)
    closed = one("tydiqa_closed_finnish", tmp_path)
    assert text(closed, closed.rows[0]).startswith("Vastaa seuraavaan kysymykseen.\n\nKysymys: train ")
    assert text(closed, closed.rows[0]).endswith("\nVastaus: Oslo\n\nKysymys: dev 0?\nVastaus:")


def test_toxicity_prompts(tmp_path):
    (tmp_path / "toxigen").mkdir()
    (tmp_path / "toxigen" / "hate_women_1k.txt").write_text("- a line\\n- another\\n-\n" * 3)
    task = one("toxigen_women", tmp_path)
    assert text(task, task.rows[0]) == "- a line\n- another\n-"
    assert text(task, task.rows[0], "chat") == "Complete the following: - a line\n- another\n-"
    assert (len(task.rows), task.scorer, task.note[:12]) == (3, "toxicity", "3 of 500 ite")
    (tmp_path / "realtoxicityprompts").mkdir()
    (tmp_path / "realtoxicityprompts" / "prompts.jsonl").write_text('{"prompt": {"text": "So I"}}\n')
    assert text(one("realtoxicityprompts", tmp_path), {"text": "So I"}) == "So I"


# ── suites, lists, prompt sets ────────────────────────────────────────────────────────────────────────────────────────


def test_suites_say_what_is_missing(shared_data):
    suite = find_suite("paper", str(shared_data))
    assert {task.whole or task.name for task in suite.tasks} == {"mmlu", "nq_open", "nq_open_0shot", "humaneval"}
    assert list(suite.missing) == ["realtoxicityprompts"]
    assert "allenai/real-toxicity-prompts" in suite.missing["realtoxicityprompts"]
    assert all(name in benchmarks() for names in SUITES.values() for name in names.tasks)
    with pytest.raises(UserError, match="no such suite; did you mean 'paper'"):
        find_suite("papers", str(shared_data))


def test_a_suite_without_any_data(tmp_path):
    with pytest.raises(UserError, match="--suite orca: none of its data are under .*BIG-Bench-Hard"):
        find_suite("orca", str(tmp_path))


def test_the_list_counts_items(shared_data, tmp_path):
    rows = {row[0]: row[2:4] for row in listed(str(shared_data))}
    assert rows["humaneval"] == ["164 of 164", "full"]
    assert rows["bbh_cot"] == ["540 of 6511", "SAMPLE"]
    assert rows["tydiqa"] == ["0 of 5077", "MISSING"]
    assert [row[0] for row in listed(None, "orca")] == ["bbh_0shot", "agieval"]
    (tmp_path / "truthfulqa").mkdir()
    (tmp_path / "truthfulqa" / "TruthfulQA.csv").write_text("Question\nWhy?\n")
    assert next(row for row in listed(str(tmp_path)) if row[0] == "truthfulqa_mc1")[3] == "BROKEN"


@pytest.mark.parametrize(("name", "count", "begins"), [
    ("koala", 180, "Can you list the top 20 films"), ("vicuna", 80, "How can I improve my time management"),
    ("self-instruct", 252, "The sentence you are given might be too wordy"),
    ("alpaca_eval", 805, "What are the names of")])
def test_prompt_sets(name, count, begins, shared_data):
    prompts, data = prompt_set(name, str(shared_data))
    assert (len(prompts), data, len({p.id for p in prompts})) == (count, "full", count)
    assert prompts[0].messages[0].content.startswith(begins)


def test_a_prompt_set_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="prompts 'koala': no koala_test_set/.*arnav-gudibande/koala-test-set"):
        prompt_set("koala", str(tmp_path))


def test_a_name_without_a_published_variant(shared_data):
    with pytest.raises(UserError, match="'nq_open' has no other published rule than its own"):
        find_tasks(["nq_open@published"], str(shared_data))


def test_tulus_two_hundred(tmp_path):
    """The published figure is of 200 items that Python's random.sample drew with seed 42."""
    import random
    rows = [{"question": f" q{i} ", "answer": f"so #### {i:,}"} for i in range(1319)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = one("gsm8k_cot@published", tmp_path)
    random.seed(42)
    assert [row["id"] for row in task.rows] == [str(i) for i in random.sample(range(1319), 200)]
    assert task.complete
    assert one("gsm8k_cot", tmp_path).rows[-1]["answer"] == "1318"
    assert one("gsm8k_cot", tmp_path).rows[7]["question"] == "q7"
