"""Which results are compared with which, and which are refused."""
import pytest
from report_examples import lineage, shares, task, write, write_trio

from easylm_imitation.report.compare import compare
from easylm_imitation.report.markdown import as_markdown
from easylm_imitation.report.pairing import make_trios, read_results
from easylm_imitation.report.verdict import make_verdict
from easylm_imitation.schema import UserError


def trios(folder):
    return make_trios(read_results(folder)[0])


def compared(folder):
    made = compare(trios(folder)[0])
    return made.tasks, made.refusals


def test_each_imitation_gets_its_own_base_and_teacher(tmp_path):
    for name in ("small", "large"):
        write(tmp_path, lineage(name), task(shares(50)))
        write(tmp_path, lineage(f"{name}-student", name, [f"{name}-teacher"]), task(shares(60)))
        write(tmp_path, lineage(f"{name}-teacher"), task(shares(90)))
    found = {t.imitation.lineage.name: (t.base.lineage.name, t.teacher.lineage.name) for t in trios(tmp_path)}
    assert found == {"small-student": ("small", "small-teacher"), "large-student": ("large", "large-teacher")}
    assert {m.lineage.name: m.role for m in read_results(tmp_path)[0]}["small-teacher"] == "teacher"


def test_a_teacher_is_found_by_id_too_and_the_one_measured_alike_is_taken(tmp_path):
    write(tmp_path, lineage("student", "base", ["TEACHER", "other"]), task(shares(60)))
    write(tmp_path, lineage("other"), task(shares(80), protocol="another"))
    write(tmp_path, lineage("teacher"), task(shares(90)))
    assert trios(tmp_path)[0].teacher.lineage.name == "teacher"


def test_what_is_missing_is_said_with_its_cure(tmp_path):
    write(tmp_path, lineage("student", "base", ["gpt-9"]), task(shares(60)))
    trio = trios(tmp_path)[0]
    assert (trio.base, trio.teacher) == (None, None)
    assert "base of 'student' 'base' (id BASE)" in trio.missing[0]
    assert "gpt-9" in trio.missing[1]
    assert all("--out" in line for line in trio.missing)


def test_tasks_that_could_not_be_measured_stand_on_the_page(tmp_path):
    """A suite leaves out what has no data; what another file of the same model has is not missing."""
    lacks = {"missing": {"tydiqa": "no tydiqa/dev.json under DATA", "more": "no data"}}
    write(tmp_path, lineage("base"), task(shares(50)), meta=lacks)
    write(tmp_path, lineage("student", "base", ["gpt-9"]), task(shares(60)), meta=lacks)
    write(tmp_path, lineage("base"), task(shares(5), "more"), file="later")
    made = make_verdict(read_results(tmp_path)[0])
    assert "tydiqa was not measured of base, student: no tydiqa/dev.json under DATA." in made.missing
    assert "more was not measured of student: no data." in made.missing
    assert "tydiqa was not measured of base, student" in as_markdown(made)


def test_stated_roles_pair_recorded_outputs_without_lineage(tmp_path):
    for name, role in (("b", "base"), ("s", "imitation"), ("t", "teacher")):
        nameless = lineage(name)
        write(tmp_path, type(nameless)("", name, "", ""), task(shares(50)), role=role, file=name)
    trio, = trios(tmp_path)
    assert (trio.imitation.lineage.name, trio.base.lineage.name, trio.teacher.lineage.name) == ("s", "b", "t")


def test_files_of_one_model_are_one_and_the_newer_measurement_holds(tmp_path):
    write(tmp_path, lineage("m"), task(shares(10)), file="a", date="2026-01-02", command="first")
    tasks = task(shares(20)), task(shares(5), "more")
    write(tmp_path, lineage("m"), *tasks, file="b", date="2026-01-01", command="second")
    (model,), remarks = read_results(tmp_path)
    assert {t.task: t.score for t in model.tasks} == {"facts": 0.1, "more": 0.05}
    assert model.commands == ("second", "first")
    assert remarks == ["m was measured twice on facts (raw): a.json is used, not b.json."]


def test_one_model_measured_under_two_protocols_meets_the_fitting_one(tmp_path):
    both = [task(shares(50), protocol="old"), task(shares(40), protocol="new")]
    write_trio(tmp_path, both, task(shares(60), protocol="new"), task(shares(90), protocol="new"))
    (made,), refusals = compared(tmp_path)
    assert made.numbers.base.value == 0.4
    assert refusals == []


def test_different_protocols_are_refused_in_one_clear_line(tmp_path):
    write_trio(tmp_path, task(shares(50), protocol="p5", shots=5), task(shares(60), protocol="p3", shots=3),
               task(shares(90), protocol="p3", shots=3))
    (made,), refusals = compared(tmp_path)
    assert made.numbers.base is None
    assert made.numbers.teacher.value == 0.9
    assert (made.numbers.finding, made.numbers.closed.status) == ("unknown", "missing")
    line, = refusals
    assert line.startswith("facts (raw): 'student' is not compared with 'base'")
    assert "p3" in line
    assert "p5" in line
    assert "3 and 5 shots" in line


def test_different_items_are_refused(tmp_path):
    write_trio(tmp_path, task(shares(50)), task(shares(30, 50), data="sample"), task(shares(90)))
    (made,), refusals = compared(tmp_path)
    assert made.numbers.base is made.numbers.teacher is None
    assert len(refusals) == 2
    assert "different items (50 and 100)" in refusals[0]


def test_items_pair_by_id_not_by_order(tmp_path):
    base = dict(enumerate(shares(50)))
    write_trio(tmp_path, task(base), task(dict(reversed(base.items()))), task(dict.fromkeys(base, 1)))
    (made,), _ = compared(tmp_path)
    assert made.numbers.change.value == 0
    assert made.numbers.change.high < 0.05      # equal item by item, and not only on average


def test_an_imitation_of_an_imitation_is_paired_with_the_first_base(tmp_path):
    write(tmp_path, lineage("base"), task(shares(50)))
    write(tmp_path, lineage("first", "base", ["t"]), task(shares(60)))
    second = lineage("second", "base", ["t"])
    write(tmp_path, second, task(shares(70)))
    assert [t.base.lineage.name for t in trios(tmp_path)] == ["base", "base"]


@pytest.mark.parametrize(("text", "message"), [
    ("{}", "'model' is missing"), ("not json", "not a readable JSON file"), ('{"model": 3, "tasks": []}', "Lineage")])
def test_a_file_that_is_no_results_file_is_named(tmp_path, text, message):
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_results(tmp_path)
    assert "broken.json" in str(caught.value)


@pytest.mark.parametrize(("items", "message"), [("", "no items"), ('{"id": "a", "score": NaN}', "finite")])
def test_unusable_items_are_refused(tmp_path, items, message):
    one = f'{{"task": "t", "prompt": "raw", "form": "choices", "metric": "acc", "score": 0, "items": [{items}]}}'
    text = f'{{"model": {{"id": "M", "name": "m", "base": "", "base_name": ""}}, "tasks": [{one}]}}'
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_results(tmp_path)


def test_items_of_the_same_id_are_refused(tmp_path):
    made = task([1.0, 0.0])
    doubled = type(made)(**{**vars(made), "items": (made.items[0], made.items[0])})
    write(tmp_path, lineage("m"), doubled)
    with pytest.raises(UserError, match="same id"):
        read_results(tmp_path)


def test_a_model_with_two_roles_is_refused(tmp_path):
    for role in ("base", "teacher"):
        write(tmp_path, lineage("m"), task(shares(1)), role=role, file=role)
    with pytest.raises(UserError, match="base and teacher"):
        read_results(tmp_path)


def test_empty_and_absent_folders(tmp_path):
    with pytest.raises(UserError, match="holds no .json"):
        read_results(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        read_results(tmp_path / "absent")
