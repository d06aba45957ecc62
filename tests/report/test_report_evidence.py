"""What stands beside the results: overlaps, ledgers, what lies inside the data; seeds gathered; published scores."""
import dataclasses
import json

import pytest
from report_examples import lineage, shares, task, write, write_trio

from easylm_imitation.files import write_json, write_jsonl
from easylm_imitation.record_examples import EXAMPLES
from easylm_imitation.records import CollectionCard, DataCard, Lineage, TaskResult
from easylm_imitation.report import build_report
from easylm_imitation.report.evidence import read_evidence
from easylm_imitation.report.pairing import make_trios, read_results
from easylm_imitation.report.verdict import make_verdict
from easylm_imitation.schema import UserError


def student(seed=None, name="student", card="CARD", tokens=500):
    return Lineage(f"{name}{seed}{card}{tokens}", name, "BASE", "base", teachers=("teacher",), data_card=card,
                   tokens=tokens, seed=seed)


def card(folder, name="imitation", hash="CARD", seen=(), removed=False, sets=("facts",), dataset="answers", rows=""):
    """A data card and its overlap report among the results."""
    made = json.loads(json.dumps(EXAMPLES[DataCard])) | {"hash": hash, "name": name, "records": rows}
    made["sources"][0]["dataset"] = dataset
    made["overlaps"] = {s: {"items": 100, "items_found": len(seen), "rows_found": 1, "removed": removed} for s in sets}
    write_json(folder / f"{name}.card.json", made)
    write_json(folder / f"{name}.overlap.json", {
        s: {"items": 100, "matches": [{"row": "answers/1", "item": i, "rules": {"near": 0.9}} for i in seen]}
        for s in sets})


def verdict(folder, **how):
    return make_verdict(*read_results(folder), read_evidence(folder, **how))


def trio(folder, imitation, model=None):
    write(folder, lineage("base"), task(shares(50)))
    write(folder, lineage("teacher"), task(shares(95)))
    write(folder, model or student(), imitation)


def test_clean_and_seen_items_are_told_apart(tmp_path):
    """The first 60 items are seen and now right; of the 40 others none changed."""
    trio(tmp_path, task(shares(60)))
    card(tmp_path, seen=[str(i) for i in range(60)])
    one, = verdict(tmp_path).imitations
    made, = one.contamination.tasks
    assert (made.items, made.items_seen) == (100, 60)
    assert made.seen.imitation.value == 1.0
    assert made.seen.change.value == pytest.approx(1 - 50 / 60)
    assert (made.clean.imitation.value, made.clean.change.value) == (0.0, 0.0)
    assert any("60 of the 100 items of facts (raw) stand in the training data (60.0%)" in s for s in one.sentences)
    assert one.contamination.note == ""


@pytest.mark.parametrize(("rows", "seen"), [("R", 1), ("S", None), ("", None)])
def test_a_later_build_of_the_same_rows_says_what_they_hold(tmp_path, rows, seen):
    """Nobody trains again to learn what the data held; the same rows are asked for, and an old card says nothing."""
    trio(tmp_path, task(shares(60)))
    card(tmp_path, sets=(), rows="R" if rows else "")
    card(tmp_path, "later", hash="LATER", seen=["7"], rows=rows)
    made = verdict(tmp_path).imitations[0].contamination
    assert [task.items_seen for task in made.tasks] == ([seen] if seen else [])
    assert ("once more with --look-for and their names" in made.note) == (seen is None)


@pytest.mark.parametrize(("name", "item"), [("mmlu", "anatomy/7"), ("mmlu@published", "anatomy/7"),
                                            ("mmlu_0shot", "anatomy/7"), ("mmlu_anatomy", "7")])
def test_a_part_of_a_task_calls_its_items_as_the_whole_does(tmp_path, name, item):
    trio(tmp_path, task({item: 1, "other": 0}, name=name))
    card(tmp_path, seen=["anatomy/7"], sets=("mmlu",))
    made, = verdict(tmp_path).imitations[0].contamination.tasks
    assert (made.items, made.items_seen) == (2, 1)


def test_items_whose_rows_were_removed_are_not_seen(tmp_path):
    trio(tmp_path, task(shares(60)))
    card(tmp_path, seen=["1"], removed=True)
    made, = verdict(tmp_path).imitations[0].contamination.tasks
    assert (made.items_seen, made.seen) == (0, None)


def test_what_was_not_looked_for_is_said(tmp_path):
    trio(tmp_path, task(shares(60)))
    assert any("student: contamination is unknown" in line and "--data" in line for line in
               verdict(tmp_path).missing)
    card(tmp_path, sets=("nq_open",))
    assert "student: not looked for in the training data: facts." in " ".join(verdict(tmp_path).missing)


def test_a_dataset_folder_is_read_too(tmp_path):
    trio(tmp_path / "results", task(shares(60)))
    card(tmp_path, seen=["3"])
    (tmp_path / "data").mkdir()
    for name in ("card", "overlap"):
        (tmp_path / f"imitation.{name}.json").rename(tmp_path / "data" / f"{name}.json")
    made, = verdict(tmp_path / "results", data=[tmp_path / "data"]).imitations
    assert made.contamination.tasks[0].items_seen == 1
    with pytest.raises(UserError, match="no such file"):
        read_evidence(tmp_path / "results", [tmp_path / "absent"])


def test_what_the_data_teach_is_not_substance(tmp_path):
    """Local imitation: the benchmark that its data are made for is shown, and does not decide."""
    trio(tmp_path, task(shares(80), "nq_open"))
    for name in ("base", "teacher"):
        write(tmp_path, lineage(name), task(shares(50 if name == "base" else 95), "nq_open"))
    assert verdict(tmp_path).imitations[0].views[0].group == "substance"
    card(tmp_path, dataset="nq-synthetic")
    assert verdict(tmp_path).imitations[0].views[0].group == "covered"
    card(tmp_path, dataset="answers")
    assert verdict(tmp_path, inside=["answers=mmlu*,nq*"]).imitations[0].views[0].group == "covered"
    assert verdict(tmp_path, inside=["other=nq*"]).imitations[0].views[0].group == "substance"
    with pytest.raises(UserError, match="NAME=TASK"):
        read_evidence(tmp_path, inside=["nq"])


def test_runs_that_differ_in_their_seed_are_one_imitation(tmp_path):
    for seed in range(3):
        write(tmp_path, student(seed, name=f"student-s{seed}"), task(shares(60 + seed)))
    write(tmp_path, student(0, card="OTHER"), task(shares(70)))
    write(tmp_path, student(None), task(shares(70)))
    found = sorted(len(trio.runs) for trio in make_trios(read_results(tmp_path)[0]))
    assert found == [1, 1, 3]


def test_other_seeds_may_take_a_few_more_updates_and_checkpoints_stand_apart(tmp_path):
    """Packing puts the rows of an epoch, in another order, into 320 updates or 328."""
    for seed, steps in enumerate((160, 320, 328, 323)):
        write(tmp_path, dataclasses.replace(student(seed, name=f"student-s{seed}"), step=steps), task(shares(60)))
    for steps in (160, 320):
        write(tmp_path, dataclasses.replace(student(0, name=f"single{steps}"), step=steps), task(shares(60)))
    found = {trio.name: [run.lineage.step for run in trio.runs] for trio in make_trios(read_results(tmp_path)[0])}
    assert found == {"student-s0": [160], "student": [320, 328, 323], "single160": [160], "single320": [320]}


def test_a_seed_that_comes_twice_is_no_replicate(tmp_path):
    """Then the runs differ in something that no lineage tells, such as the learning rate."""
    first = student(1)
    for model in (first, dataclasses.replace(first, id="ANOTHER"), student(2)):
        write(tmp_path, model, task(shares(60)))
    assert [len(trio.runs) for trio in make_trios(read_results(tmp_path)[0])] == [1, 1, 1]


def test_data_of_another_order_are_the_same_data(tmp_path):
    """Cards that differ in their seed and hash alone: the order of the rows belongs to the run."""
    for seed, name in enumerate("ab"):
        card(tmp_path, hash=name, name="imitation")
        (tmp_path / "imitation.card.json").rename(tmp_path / f"{name}.card.json")
        write(tmp_path, student(seed, card=name), task(shares(60)))
    assert [len(t.runs) for t in make_trios(read_results(tmp_path)[0], read_evidence(tmp_path))] == [2]
    assert [len(t.runs) for t in make_trios(read_results(tmp_path)[0])] == [1, 1]


def test_a_run_that_was_measured_otherwise_is_refused(tmp_path):
    write(tmp_path, student(0), task(shares(60)))
    write(tmp_path, student(1), task(shares(60), protocol="other"))
    made = verdict(tmp_path)
    assert any("different protocols" in line for line in made.refusals)
    assert any("is left out" in line for line in made.refusals)
    assert made.imitations[0].tasks == ()


def test_the_bill(tmp_path):
    trio(tmp_path, task(shares(60)))
    write_json(tmp_path / "nq.card.json", EXAMPLES[CollectionCard])
    entry = {"prompt_id": "p", "sample": 0, "status": "ok", "model": "judge", "prompt_tokens": 5,
             "completion_tokens": 2, "cost": 0.25}
    write_jsonl(tmp_path / "judged.ledger.jsonl", [entry, entry | {"status": "failed"}])
    write_jsonl(tmp_path / "nq.ledger.jsonl", [entry])      # the card counts it
    collected, judged = verdict(tmp_path).spent
    assert (collected.dollars, collected.requests) == (0.02, 6)
    assert (judged.dollars, judged.requests, judged.prompt_tokens) == (0.5, 1, 10)
    build_report(tmp_path, tmp_path / "out")
    assert "0.5200" in (tmp_path / "out" / "report.html").read_text()


def test_a_published_teacher_closes_a_gap_without_items(tmp_path):
    write(tmp_path, lineage("base"), task(shares(40)))
    write(tmp_path, student(), task(shares(60)))
    told = TaskResult("facts", "raw", "choices", "acc", 0.8, (), data="published", group="substance")
    write(tmp_path, lineage("teacher"), told)
    view, = verdict(tmp_path).imitations[0].views
    assert view.numbers.published
    assert view.numbers.closed.value == pytest.approx(0.5)
    build_report(tmp_path, tmp_path / "out")
    assert "published, not paired" in (tmp_path / "out" / "report.html").read_text()
    assert "(published, not paired)" in (tmp_path / "out" / "verdict.md").read_text()


def test_a_published_score_of_another_metric_is_said_to_be_left_out(tmp_path):
    write(tmp_path, lineage("base"), task(shares(40)))
    write(tmp_path, student(), task(shares(60)))
    write(tmp_path, lineage("teacher"), *(
        TaskResult(name, "raw", "choices", "acc_norm", 0.8, (), data="published", group="substance")
        for name in ("facts", "never_measured")))
    made = verdict(tmp_path)
    assert not made.imitations[0].views[0].numbers.published
    remark, = [line for line in made.remarks if "published" in line]
    assert "score of facts is not used: it is of the metric 'acc_norm', what was measured is 'acc'" in remark


def test_parts_of_a_benchmark_count_as_one(tmp_path):
    """Two subjects of MMLU by their questions, beside another benchmark: half of the weight each."""
    def tasks(a, b, c):
        return [task(shares(a, 100), "mmlu_a"), task(shares(b, 300), "mmlu_b"), task(shares(c, 50), "nq_open")]
    write_trio(tmp_path, tasks(30, 90, 10), tasks(50, 210, 20), tasks(90, 270, 45))
    made, = verdict(tmp_path).imitations
    view, = made.views
    assert view.numbers.imitation.value == pytest.approx((260 / 400 + 20 / 50) / 2)
    assert made.tasks[0].task == "mmlu"
    assert made.tasks[0].parts == 2
    assert made.tasks[0].numbers.imitation.value == pytest.approx(260 / 400)


def test_many_comparisons_are_adjusted(tmp_path):
    """A change that is measurable alone is not among forty."""
    def tasks(changed):
        made = [task(shares(50), "one" if n == 0 else f"other{n}", group="substance" if n == 0 else f"g{n}")
                for n in range(40)]
        return [task(shares(changed), "one"), *made[1:]]
    write_trio(tmp_path / "few", tasks(57)[:1], tasks(50)[:1], tasks(95)[:1])
    write_trio(tmp_path / "many", tasks(57), tasks(50), tasks(95))
    alone = verdict(tmp_path / "few").imitations[0].views[0].numbers
    among = next(v for v in verdict(tmp_path / "many").imitations[0].views if v.group == "substance").numbers
    assert (alone.finding, alone.change.high < 0) == ("lost", True)
    assert among.change == alone.change
    assert among.finding != "lost"
    assert among.p_holm == pytest.approx(40 * alone.p_holm, rel=0.01)


def test_what_is_said_of_an_imitation_hangs_on_no_other(tmp_path):
    tasks = [task(shares(62), name) for name in ("one", "two")]
    write_trio(tmp_path, *[[task(shares(n), name) for name in ("one", "two")] for n in (57, 50, 95)])
    alone = verdict(tmp_path).imitations[0]
    for n in range(30):
        write(tmp_path, student(1, f"other{n}", f"CARD{n}"), *tasks)
    among = next(made for made in verdict(tmp_path).imitations if made.imitation.name == alone.imitation.name)
    assert (among.views, among.tasks, among.headline) == (alone.views, alone.tasks, alone.headline)


def test_published_numbers_of_the_measured_benchmarks_are_laid_beside(tmp_path):
    trio(tmp_path, task(shares(60), "nq_open_0shot"))
    systems = {row.system for row in verdict(tmp_path).published}
    assert "ChatGPT (teacher)" in systems
    assert not any("Tülu" in system for system in systems)


def test_preference_is_shown_and_does_not_decide(tmp_path):
    def rated(share):
        return task([1.0] * share + [0.0] * (100 - share), "preference_judge", "chat", "preference", "preference")
    write(tmp_path, lineage("base"), rated(5), task(shares(50)))
    write(tmp_path, student(), rated(70), task(shares(50)))
    made, = verdict(tmp_path).imitations
    assert "judged against the teacher's answers, the imitation wins 70.0%" in " ".join(made.sentences)
    assert made.judgement == "gained no measurable substance"


def test_a_ladder_stays_with_its_data(tmp_path):
    """Two budgets of one dataset are a ladder; another dataset's imitation is no step of it, however many tokens."""
    trio(tmp_path, task(shares(60)), student(1, "broad-1k", "FEW", 1000))
    write(tmp_path, student(1, "broad-9k", "MANY", 9000), task(shares(62)))
    write(tmp_path, student(1, "local-20k", "OTHER", 20000), task(shares(90)))
    for name, dataset in (("FEW", "broad"), ("MANY", "broad"), ("OTHER", "local")):
        card(tmp_path, name.lower(), name, dataset=dataset)
    ladder, = verdict(tmp_path).ladders
    assert ladder.names == ("broad-1k", "broad-9k")
