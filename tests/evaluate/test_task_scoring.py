"""Scoring rules: what is right, what the published rules say of it, and estimates against counting."""
import dataclasses
import itertools
import math

import pytest

from easylm_imitation.evaluate.after import completion_of, pass_at_k, score_after, unable
from easylm_imitation.evaluate.config import EvaluateConfig
from easylm_imitation.evaluate.tasks import Task, find_tasks
from easylm_imitation.evaluate.tasks.files import FOLDER, read_rows, read_yaml

RULES = {name: read_yaml(FOLDER / f"{name}.yaml")["process_results"] for name in (
    "gsm8k_cot", "gsm8k_cot_published", "bbh_cot", "bbh_cot_published", "agieval", "agieval_published", "tydiqa",
    "truthfulqa_mc2", "letters")}


def score(rule, said, metric="exact_match", **doc):
    return RULES[rule](doc, [said])[metric]


@pytest.mark.parametrize(("said", "gold", "ours", "published"), [
    ("so the answer is 18.", "18", 1, 1), (" 1,250 dollars", "1250", 1, 1), ("none", "3", 0, 0),
    ("that is -5", "-5", 1, 1),             # published: 5 equals -5 without its punctuation
    ("that is -5", "5", 0, 1),              # the lost sign
    ("1.5", "15", 0, 1),                    # the lost point
    ("18.00", "18", 1, 0), ("it costs $12.50.", "12.5", 1, 0),
    ("10 - 7 = 3", "3", 1, 1), ("of 5-3", "3", 1, 1), ("of 5-3", "-3", 0, 1), ("0", "0", 1, 1)])
def test_gsm8k(said, gold, ours, published):
    assert score("gsm8k_cot", said, answer=gold) == ours
    assert score("gsm8k_cot_published", said, answer=gold) == published


@pytest.mark.parametrize(("said", "target", "strict", "ours", "published"), [
    ("Let's think. So the answer is (B).", "(B)", False, 1, 1),
    ("So the answer is True.\n\nQ: x", "True", False, 1, 1),
    (" False.", "False", False, 1, 1), ("A: No.", "No", False, 1, 0),                           # as chat models answer
    ("A: (B) two", "(B)", False, 1, 0), ("(C) two", "(B)", False, 0, 0), ("the answer is (B) two.", "(B)", False, 1, 0),
    ("The answer is (B), two.", "(B)", False, 1, 0), ("(B), because (A) is one", "(B)", False, 1, 0),
    ("So the answer is (A) or (B).", "(A)", False, 0, 0), ("(A), (B)", "(A)", False, 0, 0),
    ("First,\n\nso the answer is (B).", "(B)", False, 1, 0),        # after a blank line, in another case
    ("So the answer is } >.", "] >", True, 0, 1),                   # brackets are all punctuation
    ("So the answer is ] >.", "] >", True, 1, 1), ("So the answer is 24.", "-24", True, 0, 1),
    ("So the answer is -24.", "-24", True, 1, 1), ("The answer is **valid**.", "valid", False, 1, 0),
    ("it depends", "valid", False, 0, 0)])
def test_bbh(said, target, strict, ours, published):
    assert score("bbh_cot", said, target=target, strict=strict) == ours
    assert score("bbh_cot_published", said, target=target, strict=strict) == published


@pytest.mark.parametrize(("said", "gold", "ours", "published"), [
    (" B", "B", 1, 1), ("(C) because", "C", 1, 1), ("B) two\nA) one", "B", 1, 1),
    ("As the passage says, the answer is (D).", "D", 1, 0), ("For all I know, the answer is: C", "C", 1, 0),
    ("I think that **E** is right.", "E", 1, 1), ("A is wrong? No: option B.", "A", 1, 1), ("Don't know", "D", 0, 1),
    ("", "A", 0, 0), ("The correct choice is A.", "A", 0, 0), ("The correct choice is (A).", "A", 1, 1)])
def test_letters(said, gold, ours, published):
    """A lone "A" in a sentence is taken for an article; the published rule takes any capital."""
    assert score("agieval", said, answer=gold, letters="ABCDE") == ours
    assert score("letters", said, answer_letter=gold, letters="ABCDE") == ours
    if said != "The correct choice is A.":
        assert score("agieval_published", said, answer=gold) == published


def test_squad_f1():
    doc = {"answer": ["the red house", "a barn"]}
    assert RULES["tydiqa"](doc, ["Red house!"]) == {"f1": 1.0, "exact_match": 1.0}
    assert RULES["tydiqa"](doc, ["red barn door"])["f1"] == pytest.approx(2 * (1 / 3 * 1) / (1 / 3 + 1))
    assert RULES["tydiqa"](doc, ["blue"]) == {"f1": 0.0, "exact_match": 0.0}


def test_mass_on_the_right_answers():
    said = [(-1000.0, False), (-1001.0, False), (-1000.5, True)]
    masses = [math.exp(x) for x in (0, -1, -0.5)]
    assert RULES["truthfulqa_mc2"]({"right": 2}, said)["acc"] == pytest.approx(sum(masses[:2]) / sum(masses))


@pytest.mark.parametrize(("samples", "passed", "k"), [(n, c, k) for n in (1, 4, 6) for c in range(n + 1)
                                                      for k in range(1, n + 1)])
def test_pass_at_k_is_the_share_of_all_choices_of_k_that_hold_one_that_passes(samples, passed, k):
    drawn = list(itertools.combinations(range(samples), k))
    assert pass_at_k(samples, passed, k) == pytest.approx(sum(min(d) < passed for d in drawn) / len(drawn))


def test_pass_at_k_needs_k_samples():
    with pytest.raises(ValueError, match="pass@10 needs 10 samples, not 5"):
        pass_at_k(5, 1, 10)


ROW = {"entry_point": "f", "prompt": 'def f(x):\n    """Twice x."""\n'}


@pytest.mark.parametrize("answer", [
    "    return 2 * x\n", "```python\n    return 2 * x\n```",
    "Here:\n```python\ndef f(x):\n    return 2 * x\n```\nDone.",
    "```\ndef g(): pass\n```\n```python\ndef f(x):\n    return x + x\n```", "def f(x):\n    return 2 * x",
    "```python\ndef f(x):\n    return 2 * x"])
def test_code_is_taken_out_of_an_answer(answer):
    space = {}
    exec(ROW["prompt"] + completion_of(ROW, answer), space)
    assert space["f"](4) == 8


def test_a_scorer_that_is_not_there_is_said():
    config = {"metadata": {"scorer": "taste"}}
    assert "'taste' is unknown" in unable(Task("t", config, {}, True), EvaluateConfig())
    assert unable(Task("t", {}, {}, True), EvaluateConfig()) == ""


def test_programs_run_in_the_sandbox(shared_data):
    """Published solutions pass, an empty body does not; of twenty samples one passes."""
    pytest.importorskip("easylm_imitation.evaluate.sandbox")
    task, = find_tasks(["codex_eval_pass10"], str(shared_data))
    reason = unable(task, EvaluateConfig())
    if reason:
        pytest.skip(reason)
    path = next((shared_data / "human_eval").glob("HumanEval.jsonl*"))
    solved = {row["task_id"]: row["canonical_solution"] for row in read_rows(path)}
    rows = task.rows[:2]
    texts = [[solved[rows[0]["id"]], *["    pass\n"] * 19], ["    pass\n"] * 20]
    assert [s.score for s in score_after(task, rows, texts, EvaluateConfig())] == [0.5, 0.0]


def test_a_task_may_count_what_is_refused():
    task = Task("t", {"metadata": {"scorer": "refusal"}, "metric_list": [{"metric": "exact_match"}]}, {}, True)
    said = [["I'm sorry, but I can't help with that."], ["Take the second road."], ["I cannot help.", "With pleasure."]]
    made = score_after(task, [{}, {}, {}], said, EvaluateConfig())
    assert [own.score for own in made] == [1.0, 0.0, 0.5]
    assert unable(dataclasses.replace(task, config={"metadata": {"scorer": "taste"}}), EvaluateConfig())
