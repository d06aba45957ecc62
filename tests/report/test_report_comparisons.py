"""What `compare` writes reaches the verdict: style with a ceiling, refusals, toxicity, preferences of both kinds."""
import json

import pytest
from report_examples import lineage, shares, task, write, write_trio

from easylm_imitation.cli.main import main
from easylm_imitation.evaluate.answers import AnswersMeta
from easylm_imitation.files import write_json, write_jsonl
from easylm_imitation.records import Answer
from easylm_imitation.report import build_report
from easylm_imitation.schema import UserError

LIST = "There are {n} ways to do it.\n\n- walk to number {n}\n- run to number {n}\n\nOverall, both are fine."


def recorded(folder, model, say, prompts=30):
    """A file of answers with its lineage beside it."""
    path = folder / f"{model.name}.jsonl"
    write_jsonl(path, [Answer(f"p{i}", f"How? {i}", say(i), model.name, "asked") for i in range(prompts)])
    write_json(f"{path}.meta.json", AnswersMeta(model, "chat", {"max_tokens": 64}))
    return path


@pytest.fixture
def answered(tmp_path):
    """Answers of a base, of a student that took on the teacher's style, and two samples of the teacher."""
    (tmp_path / "answers").mkdir()
    models = lineage("base"), lineage("student", "base", ["teacher"], 500), lineage("teacher"), lineage("teacher")
    says = (lambda i: f"I cannot help with that, {'word ' * (i % 7)}.", lambda i: LIST.format(n=i),
            lambda i: LIST.format(n=i + 1), lambda i: LIST.format(n=i))
    made = [recorded(tmp_path / "answers", model, say) for model, say in zip(models[:3], says)]
    again = recorded(tmp_path, models[3], says[3])
    return made[0], made[1], again, made[2]


def test_a_style_comparison_becomes_a_verdict_on_style(answered, tmp_path):
    base, student, teacher, again = answered
    results = tmp_path / "results"
    results.mkdir()
    assert main(["compare", "--by", "style", "--models", f"{base},{student}", "--reference", str(teacher), "--ceiling",
                 str(again), "--out", str(results / "style.json")]) == 0
    assert sorted(path.name for path in results.iterdir()) == [
        "style.base.json", "style.json", "style.student.json", "style.teacher.json"]
    verdict = build_report(results, tmp_path / "verdict")
    one, = verdict.imitations
    assert "took on the teacher's style" in one.judgement
    view, = one.views
    assert view.numbers.closed.status == "measured"
    assert view.numbers.teacher.value < 1       # the ceiling is a second sample, not the same text
    assert verdict.missing == ()
    table, = verdict.comparisons
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.columns == ("measure", "teacher (teacher)", "base", "student", "the teacher again (ceiling)")
    assert rows["list"][1].startswith("0.000 (")
    assert rows["list"][2].startswith("1.000 (")
    for page in ("report.html", "verdict.md"):
        text = (tmp_path / "verdict" / page).read_text()
        assert "vocabulary" in text
        assert "the teacher again" in text


def test_refusals_and_toxicity_are_shown_and_compared(answered, tmp_path):
    base, student, *_ = answered
    results = tmp_path / "results"
    assert main(["compare", "--by", "refusal", "--models", f"{base},{student}", "--harmless", "asked", "--out",
                 str(results / "refusal.json")]) == 0
    measure = {"value": 0.25, "low": 0.1, "high": 0.4, "prompts": 30}
    write_json(results / "toxicity.json", {"by": "toxicity", "scorer": "perspective", "models": {"student": {
        "prompts": 30, "samples": 1, **dict.fromkeys(("expected_maximum", "probability", "percent_toxic",
                                                      "non_toxicity"), measure)}}})
    verdict = build_report(results, tmp_path / "verdict")
    one, = verdict.imitations
    view, = one.views
    assert (view.group, view.tasks) == ("safety", ("over_refusals_asked",))
    assert (view.numbers.base.value, view.numbers.imitation.value) == (0.0, 1.0)        # 1: a harmless prompt answered
    refusals, toxicity = verdict.comparisons
    assert ("base", "asked", "over-refusals", "1.000 (0.886 to 1.000)", "—", "—") in refusals.rows
    assert toxicity.rows[0][:4] == ("student", "30", "1", "0.250 (0.100 to 0.400)")
    assert one.case == "not measured"       # safety decides neither style nor substance


def test_people_and_a_judge_are_two_views(tmp_path):
    def both(judge, people):
        made = {"form": "preference", "prompt": "chat", "group": "preference", "metric": "win_rate"}
        return [task(shares(judge), "judge_mt-bench", **made), task(shares(people), "people_paper", **made)]
    write(tmp_path, lineage("base"), *both(20, 10))
    write(tmp_path, lineage("student", "base", ["teacher"], 500), *both(50, 40))
    verdict = build_report(tmp_path, tmp_path / "verdict")
    one, = verdict.imitations
    found = {view.form: view.numbers.imitation.value for view in one.views}
    assert found == {"people": 0.4, "preference": 0.5}
    assert any("people's choice against the teacher's" in line and "wins 40.0%" in line for line in one.sentences)
    assert "chat, people" in (tmp_path / "verdict" / "report.html").read_text()


def test_answers_recorded_and_judged_keep_their_teacher(tmp_path):
    """`--by judge` and `--by people` know no teacher of recorded answers, `--by style` does: its word holds."""
    named = lineage("student", teachers=["teacher"])
    write(tmp_path, named, task(shares(50), "style_match", form="style", group="style"), date="2026-01-01T00:00:00Z")
    write(tmp_path, lineage("student"), task(shares(40), "people_paper", form="preference", group="preference"),
          file="people", date="2026-01-02T00:00:00Z")
    one, = build_report(tmp_path, tmp_path / "verdict").imitations
    assert {view.group for view in one.views} == {"style", "preference"}


@pytest.mark.parametrize(("made", "message"), [
    ({"by": "astrology"}, "unknown here"), ({"by": "style", "rows": []}, "make it again"),
    ({"by": "refusal", "models": [1]}, "make it again")])
def test_comparisons_of_another_form_are_refused(tmp_path, made, message):
    write_trio(tmp_path, task(shares(50)), task(shares(60)), task(shares(95)))
    (tmp_path / "cmp.json").write_text(json.dumps(made))
    with pytest.raises(UserError, match=message):
        build_report(tmp_path, tmp_path / "verdict")


def test_names_from_comparisons_are_text(tmp_path):
    write_trio(tmp_path, task(shares(50)), task(shares(60)), task(shares(95)))
    row = {"dataset": "<b>x", "kind": "refusals", "by_rules": {"value": 1, "low": None}, "by_judge": None,
           "agreement": None}
    write_json(tmp_path / "cmp.json", {"by": "refusal", "models": {"<script>a|b": [row]}})
    build_report(tmp_path, tmp_path / "verdict")
    assert "<script>" not in (tmp_path / "verdict" / "report.html").read_text()
    assert "a\\|b" in (tmp_path / "verdict" / "verdict.md").read_text()


def test_findings_stand_below_the_answer_and_safety_over_the_budgets(tmp_path):
    """As `reproduce` writes them: a table that is ready, and tasks of the group safety at two budgets."""
    for model, refused in ((lineage("base"), 5), (lineage("few", "base", ["teacher"], 300), 50),
                           (lineage("many", "base", ["teacher"], 900), 90), (lineage("teacher"), 95)):
        write(tmp_path, model, task(shares(50)), task(shares(refused), "unsafe", "chat", "generation", "safety"))
    made = {"by": "table", "first": True, "title": "Findings: (1) appears", "columns": ["finding", "contrast"],
            "rows": [["1", "+3.0"]]}
    write_json(tmp_path / "findings.json", made)
    build_report(tmp_path, tmp_path / "verdict")
    page = (tmp_path / "verdict" / "report.html").read_text()
    assert page.index("Findings: (1) appears") < page.index('class="tiles"')
    assert 'id="sets"' not in page
    assert "As the paper&#39;s Figure 5" in page
    write_json(tmp_path / "findings.json", made | {"rows": [["1"]]})
    with pytest.raises(UserError, match="rows and columns"):
        build_report(tmp_path, tmp_path / "verdict")


def test_five_measures_of_safety_are_all_drawn(tmp_path):
    """More than stand beside each other: the fifth begins a row of its own."""
    names = [f"unsafe{i}" for i in range(5)]
    for model in (lineage("base"), lineage("few", "base", ["teacher"], 300), lineage("many", "base", ["teacher"], 900)):
        write(tmp_path, model, *(task(shares(50), name, "chat", "generation", "safety") for name in names))
    build_report(tmp_path, tmp_path / "verdict")
    page = (tmp_path / "verdict" / "report.html").read_text()
    told = page[page.index("Figure 5 of the paper: safety"):].partition('"')[0]
    assert [name for name in names if f"{name} (chat) by imitation tokens" in told] == names
