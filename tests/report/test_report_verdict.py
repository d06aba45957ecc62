"""The words follow from the numbers, and only from them."""
import re

import pytest
from report_examples import lineage, shares, task, write, write_trio

from easylm_imitation.report.pairing import read_results
from easylm_imitation.report.verdict import make_verdict


def verdict(folder):
    return make_verdict(*read_results(folder))


def style(right):
    return task(shares(right), "style_match", "chat", "style", "style")


@pytest.mark.parametrize(("substance", "likeness", "words"), [
    (50, 85, "took on the teacher's style but gained no measurable substance"),
    (20, 85, "took on the teacher's style but lost substance"),
    (80, 85, "took on the teacher's style and gained substance"),
    (80, 10, "did not measurably change its style but gained substance"),
    (50, 10, "did not measurably change its style and gained no measurable substance")])
def test_style_against_substance_in_words(tmp_path, substance, likeness, words):
    write_trio(tmp_path, [task(shares(50)), style(10)], [task(shares(substance)), style(likeness)],
               [task(shares(95)), style(90)])
    made, = verdict(tmp_path).imitations
    assert made.judgement == words
    assert made.headline.startswith(f"student: {words} (style ")
    assert "of the gap closed" in made.headline


def test_sentences_carry_the_numbers(tmp_path):
    write_trio(tmp_path, task(shares(50)), task(shares(20)), task(shares(90)))
    made, = verdict(tmp_path).imitations
    sentence, noise = made.sentences
    assert "item noise only" in noise
    for part in ("facts; 100 items", "the imitation scores 20.0% (13.3 to 28.9)", "its base 50.0%", "its teacher 90.0%",
                 "a measurable loss against the base (−30.0 points", "Gap closed: −75%"):
        assert part in sentence
    assert made.views[0].numbers.closed.value == pytest.approx(-0.75)


def test_no_gap_is_said_and_not_divided_by(tmp_path):
    write_trio(tmp_path, task(shares(50)), task(shares(70)), task(shares(51)))
    made, = verdict(tmp_path).imitations
    assert "there is no gap to close" in made.sentences[0]
    assert made.tasks[0].numbers.closed.status == "no gap"
    assert "+20.0 points" in made.headline


def test_a_finding_that_flips_between_prompt_forms_is_called_so(tmp_path):
    def forms(raw, chat):
        return [task(shares(raw)), task(shares(chat), prompt="chat", protocol="c")]
    write_trio(tmp_path, forms(50, 20), forms(20, 60), forms(95, 90))
    made, = verdict(tmp_path).imitations
    assert made.judgement == "gained or lost substance depending on the form of asking"
    assert any(line.startswith("Substance: the finding flips with the form of asking") for line in made.flips)
    assert any(line.startswith("Task facts: the finding flips") for line in made.flips)
    assert "a loss in raw prompts, multiple choice (−30.0" in made.flips[0]


def test_a_finding_of_one_form_only_depends_and_an_equal_one_says_nothing(tmp_path):
    def forms(raw, chat):
        return [task(shares(raw)), task(shares(chat), prompt="chat", protocol="c")]
    write_trio(tmp_path, forms(50, 50), forms(80, 50), forms(95, 95))
    assert "depends on the form" in verdict(tmp_path).imitations[0].flips[0]
    write_trio(tmp_path, forms(50, 50), forms(80, 80), forms(95, 95))
    assert verdict(tmp_path).imitations[0].flips == ()


def test_other_groups_are_shown_but_do_not_decide(tmp_path):
    def both(substance, covered):
        return [task(shares(substance)), task(shares(covered), "asked", group="covered")]
    write_trio(tmp_path, both(50, 40), both(50, 90), both(95, 95))
    made, = verdict(tmp_path).imitations
    assert made.judgement == "gained no measurable substance"
    assert [view.group for view in made.views] == ["substance", "covered"]
    assert any(line.startswith("Covered, raw prompts") for line in made.sentences)


def test_tasks_of_one_view_count_alike_and_only_shared_ones_count(tmp_path):
    write_trio(tmp_path, [task(shares(50)), task(shares(5, 10), "more")],
               [task(shares(60)), task(shares(9, 10), "more"), task(shares(0), "only-mine")],
               [task(shares(90)), task(shares(10, 10), "more")])
    view, = verdict(tmp_path).imitations[0].views
    assert view.tasks == ("facts", "more")
    assert view.numbers.imitation.value == pytest.approx((0.6 + 0.9) / 2)
    assert view.numbers.closed.value == pytest.approx(((0.6 + 0.9) - (0.5 + 0.5)) / ((0.9 + 1.0) - (0.5 + 0.5)))


def test_one_style_number_speaks_where_there_is_one(tmp_path):
    parts = task(shares(99), "style_list", "chat", "style", "style", metric="list_agreement")
    write_trio(tmp_path, [style(10), parts], [style(50), parts], [style(90), parts])
    view, = verdict(tmp_path).imitations[0].views
    assert view.tasks == ("style_match",)
    assert len(verdict(tmp_path).imitations[0].tasks) == 2


def test_recorded_students_of_a_teacher_have_a_verdict_without_a_base(tmp_path):
    for name, likeness in (("alpaca-7b", 40), ("vicuna-7b", 70)):
        model = type(lineage("x"))(name, name, "", "", teachers=("gpt4",))
        write(tmp_path, model, style(likeness), file=name)
    made = verdict(tmp_path)
    assert [v.imitation.name for v in made.imitations] == ["alpaca-7b", "vicuna-7b"]
    assert "no change can be measured without its base (style 40.0% (30.9 to 49.8))" in made.headline
    assert any("gpt4" in line for line in made.missing)


def test_nothing_to_compare(tmp_path):
    write(tmp_path, lineage("alone"), task(shares(50)))
    made = verdict(tmp_path)
    assert made.imitations == ()
    assert "Nothing to compare" in made.headline
    assert made.scores[0].score == 0.5


def test_samples_are_marked(tmp_path):
    write_trio(tmp_path, *(task(shares(n), data="sample") for n in (50, 60, 90)))
    assert "Measured on a sample, not on all items: facts." in verdict(tmp_path).remarks


def test_no_word_of_praise_or_number_that_is_not_measured(tmp_path):
    write_trio(tmp_path, task(shares(50)), task(shares(61)), task(shares(90)))
    made, = verdict(tmp_path).imitations
    numbers = made.views[0].numbers
    estimates = (numbers.base, numbers.imitation, numbers.teacher, numbers.change, numbers.closed,
                 numbers.share)
    values = [value for e in estimates for value in vars(e).values() if isinstance(value, float)]
    measured = {f"{100 * abs(value):.{digits}f}" for digits in (0, 1) for value in values}
    told = re.findall(r"\d+(?:\.\d+)?(?=%| to |\)| points)", made.sentences[0])
    assert told
    assert set(told) <= measured
