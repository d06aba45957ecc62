"""What is asked in which form: prompts by lineage, choices in words, parts as one task, published scores."""
import json
import pathlib

import pytest
import yaml
from endpoint import Endpoint, answer, serving

from easylm_imitation.cli import train as train_verb
from easylm_imitation.cli.main import main
from easylm_imitation.client import ServedModel
from easylm_imitation.evaluate import evaluate_tasks, find_tasks, planned, published_results
from easylm_imitation.evaluate.endpoint import Endpoint as Found
from easylm_imitation.evaluate.generation import in_words
from easylm_imitation.evaluate.outcome import made_whole
from easylm_imitation.evaluate.plan import suited
from easylm_imitation.evaluate.style import style_task
from easylm_imitation.evaluate.tasks import Task
from easylm_imitation.files import read_json, write_json
from easylm_imitation.records import Answer, Item, Lineage, Results, TaskResult
from easylm_imitation.schema import UserError


def only(path, prompt):
    file = pathlib.Path(path)
    file.write_text(file.read_text().replace("version: 1.0", f"prompts: [{prompt}]"))
    return str(file)


def test_the_plan(task_files):
    tasks = find_tasks([only(task_files[0], "chat"), task_files[1]])
    assert [(form, task.name) for form, task in planned(tasks, "both")] == [
        ("raw", "answers"), ("chat", "colours"), ("chat", "answers")]
    assert planned(tasks, "auto") == planned(tasks, "both")
    with pytest.raises(UserError, match="colours makes sense with --prompt raw"):
        planned(tasks[:1], "raw")
    with pytest.raises(UserError, match="--limit 0: it must be at least 1"):
        planned(tasks, "both", 0)
    with pytest.raises(UserError, match="'answers' comes twice"):
        planned([tasks[1], tasks[1]])


@pytest.mark.parametrize(("flags", "says"), [
    (["--limit", "0"], "--limit 0: it must be at least 1"), (["--prompt", "raw"], "makes sense with --prompt raw")])
def test_train_refuses_senseless_tasks_before_it_starts(flags, says, task_files, tmp_path, capsys, monkeypatch):
    """Before data or model are opened: a run that fails at each look has nothing to show for hours."""
    monkeypatch.setattr("easylm_imitation.train.train", lambda *_, **__: pytest.fail("training began"))
    config = pathlib.Path(train_verb.__file__).parents[2] / "configs/train/llama_10m.py"
    given = ["train", "--config", str(config), "--data", str(tmp_path), "--workdir", str(tmp_path / "run"), "--tasks",
             only(task_files[0], "chat"), *flags]
    assert main(given) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(("lineage", "tokenizer", "form"), [
    (Lineage("a", "a", "a", "a"), {"chat_template": "x"}, "raw"),
    (Lineage("a", "a", "b", "b"), {"chat_template": "x"}, "both"),
    (Lineage("a", "a", "a", "a", teachers=("t",)), {"chat_template": "x"}, "both"),
    (Lineage("a", "a", "b", "b"), {}, "raw"), (None, None, "chat")])
def test_prompt_forms_by_lineage(lineage, tokenizer, form):
    assert suited(Found("http://h/v1", ServedModel("m", lineage), tokenizer, "")) == form


# ── choices in words ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_choices_are_asked_for_in_words_where_there_are_no_likelihoods(task_files):
    """The same form for whoever is asked so: a teacher behind a plain API and a model of ours share a protocol."""
    def behave(handler, body, n):
        last = body["messages"][-1]["content"]
        return answer(body, text=f"The answer is ({letter_of(last, 'green')}).")
    with serving(Endpoint(behave)) as endpoint:
        made = evaluate_tasks(endpoint.url, task_files[:1], prompt="auto").tasks[0]
    assert (made.form, made.metric, made.prompt) == ("generation", "exact_match", "chat")
    assert [i.score for i in made.items] == [float(i % 2 == 1) for i in range(10)]     # "green" is right for odd ones
    [asked] = [r["messages"] for r in endpoint.requests if "thing 0?" in r["messages"][-1]["content"]]
    assert [m["role"] for m in asked] == ["user", "assistant"] * 2 + ["user"]
    assert asked[-1]["content"].startswith("Q: Which colour is thing 0?\nA. ")
    assert asked[-1]["content"].endswith("\nAnswer:")
    assert asked[1]["content"] in "ABCD"


def letter_of(text, option):
    return next(line[0] for line in text.splitlines() if line[1:] == f". {option}")


def test_the_form_is_part_of_the_protocol(server, task_files):
    words = evaluate_tasks(server.url, task_files[:1], form="generation", prompt="raw", limit=3).tasks[0]
    choices = evaluate_tasks(server.url, task_files[:1], prompt="raw", limit=3).tasks[0]
    with serving(Endpoint(lambda h, b, n: answer(b, text="A"))) as endpoint:
        teacher = evaluate_tasks(endpoint.url, task_files[:1], prompt="raw", limit=3).tasks[0]
    assert words.protocol == teacher.protocol != choices.protocol
    assert {i.target for i in words.items} <= set("ABCD")


def test_letters_keep_their_prompt():
    config = {"task": "t", "output_type": "multiple_choice", "doc_to_text": "{{q}}\nAnswer:", "test_split": "test",
              "doc_to_choice": ["A", "B"], "doc_to_target": "gold", "metric_list": [{"metric": "acc"}]}
    made = in_words(Task("t", config, {"test": [{"q": "x", "gold": 1}]}, True))
    assert (made.config["doc_to_text"], made.rows[0]["answer_letter"]) == ("{{q}}\nAnswer:", "B")
    assert in_words(made) is made


def test_the_right_option_does_not_come_first_by_habit():
    config = {"task": "t", "output_type": "multiple_choice", "doc_to_text": "Q: {{q}}\nA:", "doc_to_choice": "options",
              "doc_to_target": 0, "test_split": "test", "metric_list": [{"metric": "acc"}]}
    rows = [{"q": str(i), "options": [f"right {i}", f"wrong {i}", f"other {i}"]} for i in range(60)]
    made = in_words(Task("t", config, {"test": rows}, True)).rows
    assert {row["answer_letter"] for row in made} == set("ABC")
    assert all(f"{row['answer_letter']}. right" in row["lettered_options"] for row in made)


def test_masses_have_no_generation_form(shared_data):
    task, = find_tasks(["truthfulqa_mc2"], str(shared_data))
    with pytest.raises(UserError, match="'truthfulqa_mc2' has no generation form"):
        in_words(task)


# ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def result(name, scores):
    items = tuple(Item(str(i), float(s)) for i, s in enumerate(scores))
    return TaskResult(name, "raw", "generation", "exact_match", sum(scores) / len(scores), items, protocol=name)


@pytest.mark.parametrize(("macro", "score"), [(False, 2 / 6), (True, (1 / 2 + 1 / 4) / 2)])
def test_parts_are_one_result(macro, score):
    """Over items, or over parts; the mean of the items is the score either way."""
    parts = [Task(f"bbh_{part}", {}, {}, True, whole="bbh", macro=macro) for part in ("a", "b")]
    tasks = [*parts, Task("x", {}, {}, True)]
    whole, alone = made_whole(tasks, [result("bbh_a", [1, 0]), result("bbh_b", [1, 0, 0, 0]), result("x", [1])])
    assert (whole.task, alone.task, len(whole.items)) == ("bbh", "x", 6)
    assert whole.score == pytest.approx(score)
    assert sum(item.score for item in whole.items) / 6 == pytest.approx(score)
    assert [item.id for item in whole.items][1:3] == ["a/1", "b/0"]


def test_parts_of_the_real_mmlu(server, shared_data):
    """Six subjects of one item each, as one task."""
    made = evaluate_tasks(server.url, ["mmlu_0shot"], task_data=str(shared_data), limit=1).tasks
    assert [(t.task, len(t.items), t.data, t.shots) for t in made] == [("mmlu_0shot", 6, "sample", 0)]
    assert made[0].items[0].id == "abstract_algebra/0"


# ── published scores ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_published_scores_are_labelled_and_pair_with_nothing(tmp_path, capsys):
    assert main(["evaluate", "--published", "chatgpt", "--out", str(tmp_path / "r.json")]) == 0
    made = read_json(Results, tmp_path / "r.json")
    assert {(t.data, t.items, t.protocol) for t in made.tasks} == {("published", (), "")}
    assert (made.model.name, made.role, made.meta["source"][:16]) == ("ChatGPT", "teacher", "arXiv 2306.04751")
    assert {(t.task, t.prompt): t.score for t in made.tasks}["gsm8k_cot", "raw"] == 0.76
    capsys.readouterr()


@pytest.mark.parametrize(("change", "says"), [
    ({"scores": []}, "no scores in it"),
    ({"scores": [{"task": "t", "metric": "m", "score": 76}]}, "'t' is 76.0; write shares"),
    ({"scors": []}, "unknown key 'scors'; did you mean 'scores'")])
def test_bad_published_scores(change, says, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({"model": "m", "source": "s", "scores": [], **change}))
    with pytest.raises(UserError, match=says):
        published_results(str(path))
    with pytest.raises(UserError, match="nor a bundled one; did you mean 'chatgpt'"):
        published_results("chatgtp")


def test_results_with_published_scores_survive_their_file(tmp_path):
    write_json(tmp_path / "r.json", published_results("gpt4"))
    assert json.loads((tmp_path / "r.json").read_text())["tasks"][0]["data"] == "published"


def test_a_studys_file_of_published_scores_is_read():
    """The style of one's own teacher is there by definition, beside what is printed."""
    made = published_results("configs/study/real_small_teacher.yaml")
    style = next(task for task in made.tasks if task.task == "style_match")
    assert (style.form, style.group, style.score, made.role) == ("style", "style", 1.0, "teacher")
    said = [Answer("1", "Why?", "So.", "m")]
    assert style.metric == next(task.metric for task in style_task(said, said) if task.task == style.task)
    assert {task.group for task in made.tasks} == {"substance", "style"}
