"""The measures of Table 2, against values computed by hand."""
import pytest

from easylm_imitation.evaluate import style
from easylm_imitation.records import Answer
from easylm_imitation.schema import UserError

LIST = "Here are two:\n\n1. apples\n2. pears"
SUMMARY = "Long text about it.\n\nIn summary, it depends."


@pytest.mark.parametrize(("text", "expected"), [
    ("- a\n- b", True), ("* a\n\n* b", True), ("1) a\ntext\n  2) b", True), ("• a\n• b", True), (LIST, True),
    ("- only one", False), ("1.5 litres\n2.5 litres", False), ("a - b\nc - d", False), ("---\n***", False),
    ("-5 degrees\n-6 degrees", False), ("1984 was\n1985 is", False), ("", False)])
def test_lists(text, expected):
    assert style.has_list(text) is expected


@pytest.mark.parametrize(("text", "expected"), [
    (SUMMARY, True), ("One.\n\nTwo.\n \nOverall, three.", True), ("a\n\nBy following these steps you win.", True),
    ("In summary, one paragraph is no summary of another.", False), ("One.\n\nIn summertime it is warm.", False),
    ("In summary, first.\n\nThen more.", False), ("One.\n\n1. In conclusion\n2. b", False), ("", False)])
def test_summary_paragraphs(text, expected):
    assert style.has_summary(text) is expected


def test_words():
    assert style.words("It’s a re-run: snake_case, 3.5 ÉCOLE!") == "it’s a re run snake case 3 5 école".split()


@pytest.mark.parametrize(("ours", "theirs", "expected"), [
    ("the cat sat", "the cat and the dog", 2 * 2 / 8), ("a a a", "a", 2 * 1 / 4), ("x", "y", 0.0),
    ("Same, same!", "same same", 1.0), ("", "", 1.0), ("", "word", 0.0)])
def test_unigram_overlap(ours, theirs, expected):
    assert style.unigram_overlap(ours, theirs) == pytest.approx(expected)


@pytest.mark.parametrize(("ours", "theirs", "expected"), [
    ("a b", "a b c d", (4 / 6 + 2 / 4) / 2),            # no list, no summary on either side
    ("- a\n- b", "a b", (1 + 1 + 0) / 3),               # a list that the teacher does not make
    ("- a\n- b", "1. a\n2. b", (2 * 2 / 6 + 2 / 4 + 1) / 3),
    ("x", SUMMARY, (0 + 1 / 8 + 0) / 3),
    ("", "", 1.0)])
def test_match(ours, theirs, expected):
    assert style.match(ours, theirs) == pytest.approx(expected)


def answers(texts, model="m"):
    return [Answer(f"p{i}", f"prompt {i}", text, model) for i, text in enumerate(texts)]


def results(ours, theirs):
    return {t.task: t for t in style.style_task(answers(ours), answers(theirs, "teacher"))}


def test_table_2_of_three_prompts():
    made = results(["- a\n- b", "one two", "a b c d"], [LIST, LIST, "a b"])
    assert [(i.id, i.score) for i in made["style_list"].items] == [("p0", 1.0), ("p1", 0.0)]
    assert (made["style_list"].score, made["style_list"].metric) == (0.5, "list_agreement")
    assert "style_summary" not in made, "the teacher never makes one"
    overlaps = [0.0, 2 * 1 / 9, 2 * 2 / 6]      # LIST has seven words: here are two 1 apples 2 pears
    assert made["style_overlap"].score == pytest.approx(sum(overlaps) / 3)
    # lengths 2, 2, 4 against 7, 7, 2: the third prompt pulls them apart completely
    assert made["style_length"].score == pytest.approx(-1.0)
    assert {(t.form, t.group, t.data, t.prompt) for t in made.values()} == {("style", "style", "full", "chat")}


def test_the_items_of_length_average_to_pearsons_r():
    ours, theirs = ["a", "a b", "a b c d", "a b c"], ["x", "x y z", "x y", "x y z w"]
    x, y = [1, 2, 4, 3], [1, 3, 2, 4]
    covariance = sum((a - 2.5) * (b - 2.5) for a, b in zip(x, y))
    made = results(ours, theirs)["style_length"]
    assert made.score == pytest.approx(covariance / 5.0) == pytest.approx(0.4)
    assert sum(i.score for i in made.items) / 4 == pytest.approx(0.4)


def test_lengths_that_never_vary_correlate_with_nothing():
    assert results(["a b", "c d"], ["x", "x y"])["style_length"].score == 0.0


def test_a_teacher_matches_itself():
    made = results([LIST, SUMMARY, "short"], [LIST, SUMMARY, "short"])
    assert {name: t.score for name, t in made.items()} == pytest.approx(dict.fromkeys(made, 1.0))
    assert len(made) == 5


def test_protocols_tell_measures_and_references_apart():
    first, second = results(["a"], ["b"]), results(["a"], ["c"])
    assert len({t.protocol for t in first.values()}) == len(first)
    assert first["style_match"].protocol != second["style_match"].protocol
    assert first["style_match"].protocol == results(["other"], ["b"])["style_match"].protocol
    asked = [style.style_task(answers(["a"]), answers(["b"], "teacher"), options=options)[0].protocol
             for options in (None, {"temperature": 0.0}, {"temperature": 1.0})]
    assert len(set(asked)) == 3
    assert asked[0] == first["style_match"].protocol


def test_prompts_that_one_side_left_out_make_a_sample():
    made = style.style_task(answers(["a", "b"]), answers(["a", "b", "c"], "teacher"))
    assert {(t.data, len(t.items)) for t in made} == {("sample", 2)}


def test_nothing_in_common_and_double_answers_are_errors():
    with pytest.raises(UserError, match="share no prompt id"):
        style.style_task([Answer("a", "", "x", "m")], [Answer("b", "", "x", "t")])
    with pytest.raises(UserError, match="--answers: prompt 'p0' is answered twice"):
        style.style_task(answers(["a"]) + answers(["b"]), answers(["a"]))
