"""A report says the truth that was planted in its results, and says so when there are not enough data to tell."""
import numpy as np
import pytest
from report_examples import lineage, shares, task, write

from easylm_imitation.records import Item, Lineage, TaskResult
from easylm_imitation.report.pairing import read_results
from easylm_imitation.report.verdict import make_verdict

CASES = {"style only": (0.85, 0.40), "substance only": (0.15, 0.75), "both": (0.85, 0.75), "neither": (0.15, 0.40)}
BASE, TEACHER = (0.15, 0.40), (0.92, 0.92)      # (style, substance) that base and teacher truly have


def plant(folder, style, substance, rng, items=400, seeds=1, prompts=("raw",), spread=0.01):
    """Results of a base, an imitation of `seeds` trainings and a teacher. Answers that do not change are the base's."""
    drawn = {key: rng.random(items) for key in ("style", *prompts)}

    def tasks(truth, who):
        likeness = draw("style", truth[0], BASE[0], who)
        made = [task(likeness, "style_match", "chat", "style", "style")]
        return made + [task(draw(prompt, truth[1], BASE[1], who), prompt=prompt, protocol=prompt) for prompt in prompts]

    def draw(key, share, at_base, who):
        own = (drawn[key] < at_base).astype(float)
        if who == "base":
            return own.tolist()
        flip = abs(share - at_base) / ((1 - at_base) if share > at_base else at_base)
        noise = rng.random(items)
        changed = np.where(noise < flip, float(share > at_base), own)
        swapped = rng.random(items) < 0.06      # answers that change both ways, as after any training
        return np.where(swapped, (rng.random(items) < share).astype(float), changed).tolist()

    write(folder, lineage("base"), *tasks(BASE, "base"))
    write(folder, lineage("teacher"), *tasks(TEACHER, "teacher"))
    for seed in range(seeds):
        own = Lineage(f"STUDENT{seed}", f"student-s{seed}", "BASE", "base", teachers=("teacher",), data_card="card",
                      tokens=1000, seed=seed)
        shift = spread * rng.standard_normal()
        write(folder, own, *tasks((style + shift, substance + shift), "imitation"))


def verdict(folder):
    return make_verdict(*read_results(folder))


@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize("stream", range(2))
@pytest.mark.parametrize("case", CASES)
def test_the_planted_case_is_said(tmp_path, case, stream, seeds):
    plant(tmp_path, *CASES[case], np.random.default_rng([stream, seeds]), seeds=seeds)
    made = verdict(tmp_path)
    one, = made.imitations
    assert one.case == case
    assert made.conclusion[0].startswith(
        {"style only": "It is style, not substance", "substance only": "It is substance, not style",
         "both": "It is both", "neither": "It is neither"}[case])
    assert len(one.runs) == seeds
    noise = "item noise only" if seeds == 1 else "the intervals are of items and seeds"
    assert any(noise in line for line in one.sentences)


@pytest.mark.parametrize("stream", range(2))
@pytest.mark.parametrize("case", ["style only", "substance only", "both"])
def test_the_index_says_which_side_ran_ahead(tmp_path, case, stream):
    plant(tmp_path, *CASES[case], np.random.default_rng(stream), seeds=5)
    index = next(view.index.index for view in verdict(tmp_path).imitations[0].views if view.index)
    style, substance = ((own - base) / (teacher - base) for own, base, teacher in zip(CASES[case], BASE, TEACHER))
    assert index.low - 0.05 <= style - substance <= index.high + 0.05
    assert (index.low > 0, index.high < 0) == {"style only": (True, False), "substance only": (False, True),
                                              "both": (index.low > 0, False)}[case]


@pytest.mark.parametrize("stream", range(3))
def test_too_few_items_are_not_enough_data(tmp_path, stream):
    """Twelve items and a small planted gain: no side may be called gained or absent, whatever the draw."""
    plant(tmp_path, 0.22, 0.46, np.random.default_rng(stream), items=12)
    made = verdict(tmp_path)
    assert made.imitations[0].case == "not enough data"
    assert made.conclusion[0].startswith("Not enough data")
    assert "not enough data" in made.imitations[0].judgement


def test_seeds_that_disagree_are_not_enough_data(tmp_path):
    """What five seeds show alike is a gain; shown by three of them and not by two it may be luck."""
    plant(tmp_path, 0.85, 0.55, np.random.default_rng(0), items=1000, seeds=5, spread=0.0)
    assert verdict(tmp_path).imitations[0].case == "both"
    results = {m.lineage.id: m for m in read_results(tmp_path)[0]}
    for seed in (1, 2):
        write(tmp_path, results[f"STUDENT{seed}"].lineage, *results["BASE"].tasks)
    assert verdict(tmp_path).imitations[0].case == "not enough data"


def test_the_conclusion_changes_with_the_numbers(tmp_path):
    said = set()
    for case, truth in CASES.items():
        plant(tmp_path / case, *truth, np.random.default_rng(9))
        said.add(verdict(tmp_path / case).conclusion[0])
    assert len(said) == 4


def test_a_gain_in_one_prompt_form_only_is_named(tmp_path):
    plant(tmp_path, 0.85, 0.75, np.random.default_rng(1), prompts=("raw", "chat"))
    before = verdict(tmp_path)
    assert before.imitations[0].flips == ()
    results = {m.lineage.id: m for m in read_results(tmp_path)[0]}
    chat = [t for t in results["BASE"].tasks if t.prompt == "chat" and t.form != "style"]
    rest = [t for t in results["STUDENT0"].tasks if t.prompt == "raw" or t.form == "style"]
    write(tmp_path, results["STUDENT0"].lineage, *rest, *chat)
    made = verdict(tmp_path)
    assert made.imitations[0].case == "depends on the form of asking"
    assert any("hang on the form of asking" in line for line in made.conclusion)


def test_more_data_and_a_better_base_are_told_apart(tmp_path):
    """Two bases, two budgets: style is there at once, substance comes with the base alone."""
    rng = np.random.default_rng(2)
    level = {"small": 0.3, "large": 0.6}
    draws = rng.random((2, 600))
    write(tmp_path, lineage("teacher"), task((draws[0] < 0.95).astype(float).tolist()),
          task((draws[1] < 0.9).astype(float).tolist(), "style_match", "chat", "style", "style"))
    for base, know in level.items():
        for name, tokens, likeness in ((base, 0, 0.1), (f"{base}-1k", 1000, 0.8), (f"{base}-9k", 9000, 0.8)):
            own = lineage(name, base, ["teacher"] if tokens else (), tokens)
            facts = np.where(rng.random(600) < 0.05, rng.random(600) < know, draws[0] < know)
            style = np.where(rng.random(600) < 0.05, rng.random(600) < likeness, draws[1] < likeness)
            write(tmp_path, own, task(facts.astype(float).tolist()),
                  task(style.astype(float).tolist(), "style_match", "chat", "style", "style"))
    found = {(ladder.axis, ladder.group, ladder.bottom): ladder.finding for ladder in verdict(tmp_path).ladders}
    assert found == {("data", "style", "small-1k"): "unchanged", ("data", "substance", "small-1k"): "unchanged",
                     ("data", "style", "large-1k"): "unchanged", ("data", "substance", "large-1k"): "unchanged",
                     ("base", "style", "small-9k"): "unchanged", ("base", "substance", "small-9k"): "gained"}


@pytest.mark.parametrize("apart", [0.02, 0.3])
def test_bases_that_are_not_apart_are_not_called_better_and_worse(tmp_path, apart):
    """By chance the one that knows less may score a little more; imitations of it would be told as those of a better
    base."""
    rng = np.random.default_rng(3)
    draws = rng.random(300)
    write(tmp_path, lineage("teacher"), task((draws < 0.95).astype(float).tolist()))
    for base, know in (("small", 0.3), ("large", 0.3 + apart)):
        for name, tokens in ((base, 0), (f"{base}-1k", 1000)):
            facts = rng.random(300) < know if apart < 0.1 else draws < know
            own = lineage(name, base, ["teacher"] if tokens else (), tokens)
            write(tmp_path, own, task(facts.astype(float).tolist()))
    made = verdict(tmp_path)
    assert [ladder.axis for ladder in made.ladders] == ([] if apart < 0.1 else ["base"])
    assert any("cannot be told apart in substance" in line for line in made.missing) == (apart < 0.1)


def test_a_task_that_the_teacher_was_not_asked_is_in_no_mean_and_that_is_said(tmp_path):
    for model in (lineage("base"), lineage("student", "base", ["teacher"], 500)):
        write(tmp_path, model, task(shares(40)), task(shares(10), name="code"))
    write(tmp_path, lineage("teacher"), task(shares(90)))
    made = verdict(tmp_path)
    assert made.imitations[0].views[0].tasks == ("facts",)
    assert any(line.endswith("no score of it: code.") for line in made.remarks)


@pytest.mark.parametrize("habit", [0.7, 0.9])
def test_one_answer_whatever_is_asked_is_told(tmp_path, habit):
    """Its score is how often that letter is right; so is a gain of one who has taken up another letter."""
    def answers(letter, share):
        items = tuple(Item(str(i), float(i % 4 == "ABCD".index(said)), said, "ABCD"[i % 4]) for i in range(100)
                      for said in [letter if i < share * 100 else "ABCD"[i % 4]])
        return [TaskResult(f"mmlu_{part}", "chat", "choices", "acc", sum(i.score for i in items) / 100, items,
                           protocol=part, group="substance") for part in ("anatomy", "virology")]
    write(tmp_path, lineage("base"), *answers("A", habit))
    write(tmp_path, lineage("student", "base", ["teacher"], 500), *answers("B", 1.0))
    write(tmp_path, lineage("teacher"), *answers("A", 0.0))
    told = [line for line in verdict(tmp_path).remarks if line.startswith("mmlu (chat): ")]
    assert len(told) == 1
    assert ("base answers A to 184 of 200" in told[0]) == (habit == 0.9)
    assert "student answers B to 200 of 200" in told[0]
    assert "teacher" not in told[0]
