"""Finding tasks and their data: bundled ones on published files, files of one's own, and what is wrong with either."""
import gzip
import json
import pathlib

import pytest

from easylm_imitation.evaluate.tasks import TASKS, find_tasks, protocol
from easylm_imitation.schema import UserError

HEADER = "question,choice0,choice1,choice2,choice3,answer\n"


def mmlu(folder, rows, subject="anatomy", split="test", header=HEADER):
    path = folder / "mmlu" / split / f"{subject}_{split}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + rows)
    return path


def rendered(task, row):
    """What the harness makes of a row, through its own template engine."""
    from lm_eval.utils import apply_template
    return apply_template(task.config["description"], row) + apply_template(task.config["doc_to_text"], row)


def test_mmlu_rows_and_the_published_prompt(tmp_path):
    mmlu(tmp_path, '"A ""quoted"", question?",1,"two, too",3,4,2\n')
    mmlu(tmp_path, "shown,a,b,c,d,0\n", split="dev")
    task, = find_tasks(["mmlu_anatomy"], str(tmp_path))
    assert task.rows == [{"id": "0", "subject": "anatomy", "question": 'A "quoted", question?',
                          "choices": ["1", "two, too", "3", "4"], "answer": 2}]
    assert rendered(task, task.rows[0]) == (
        "The following are multiple choice questions (with answers) about  anatomy.\n\n"
        'A "quoted", question?\nA. 1\nB. two, too\nC. 3\nD. 4\nAnswer:')
    assert (task.shots, task.form, task.group, task.metric) == (5, "choices", "substance", "acc")
    assert not task.complete
    assert "1 of 135 items" in task.note


def test_mmlu_takes_the_original_files_too(tmp_path):
    """Headerless, letters for answers; the folder may be mmlu itself, the files may be gzipped."""
    path = mmlu(tmp_path, "q,a,b,c,d,C\n", header="")
    with gzip.open(f"{path}.gz", "wt") as file:
        file.write(path.read_text())
    path.unlink()
    mmlu(tmp_path, "q,a,b,c,d,A\n", split="dev", header="")
    task, = find_tasks(["mmlu_anatomy"], str(tmp_path / "mmlu"))
    assert (task.rows[0]["answer"], task.splits["dev"][0]["answer"]) == (2, 0)


@pytest.mark.parametrize("content", [b"caf\xe9,a,b,c,d,1\n", gzip.compress(b"q,a,b,c,d,1\n" * 99, mtime=0)[:-9]])
def test_a_table_that_is_no_text_is_one_line(tmp_path, content):
    mmlu(tmp_path, "q,a,b,c,d,1\n", split="dev")
    path = mmlu(tmp_path, "")
    path.unlink()
    path = path.with_name(path.name + ".gz") if content[:1] == b"\x1f" else path
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path.name}: cannot be read as text \(.*\); fetch the file anew"):
        find_tasks(["mmlu_anatomy"], str(tmp_path))


def test_the_real_mmlu_and_nq_files(shared_data):
    tasks = find_tasks(["mmlu", "nq_open", "nq_open_0shot"], str(shared_data))
    assert {t.name: len(t.rows) for t in tasks} == {
        "mmlu_abstract_algebra": 100, "mmlu_anatomy": 135, "mmlu_astronomy": 152, "mmlu_global_facts": 100,
        "mmlu_high_school_us_history": 204, "mmlu_moral_scenarios": 895, "nq_open": 3610, "nq_open_0shot": 3610}
    assert [t.complete for t in tasks] == [False] * 6 + [True, True]
    assert "6 of 57 parts" in tasks[0].note
    assert find_tasks(["mmlu_anatomy"], str(shared_data))[0].complete
    assert [t.shots for t in tasks[-2:]] == [3, 0]
    assert rendered(tasks[-1], tasks[-1].rows[0]) == (
        "Answer these questions:\n\nQ: when was the last time anyone was on the moon?\nA:")


def test_exact_match_of_natural_questions(shared_data):
    score = find_tasks(["nq_open"], str(shared_data))[0].config["process_results"]
    doc = {"answer": ["14 December 1972 UTC", "The U.S.A."]}
    said = {" 14 december 1972 utc": 1.0, "usa!": 1.0, "An USA": 1.0, "December 1972": 0.0, "": 0.0}
    assert {text: score(doc, [text])["exact_match"] for text in said} == said


@pytest.mark.parametrize(("name", "says"), [
    ("mmlu_anatomi", "unknown task 'mmlu_anatomi'; did you mean 'mmlu_anatomy'"), ("nq_opn", "did you mean 'nq_open'"),
    ("", "unknown task ''")])
def test_an_unknown_name_gets_the_nearest(name, says):
    with pytest.raises(UserError, match=says):
        find_tasks([name], "anywhere")


@pytest.mark.parametrize(("name", "says"), [
    ("mmlu_anatomy", "missing, no mmlu/test/anatomy_test.csv|no mmlu/dev/anatomy_dev.csv"),
    ("mmlu", "no mmlu/test/.*hendrycks/test"), ("nq_open", "no nq_open/NQ-open.dev.jsonl under .*natural-questions")])
def test_missing_data_name_their_cure(name, says, tmp_path):
    with pytest.raises(UserError, match=says):
        find_tasks([name], str(tmp_path))
    with pytest.raises(UserError, match=f"'{name}' needs --task-data"):
        find_tasks([name])


def test_a_broken_row_is_named(tmp_path):
    mmlu(tmp_path, "fine,a,b,c,d,1\nbad,a,b,c,4\n")
    mmlu(tmp_path, "fine,a,b,c,d,1\n", split="dev")
    with pytest.raises(UserError, match=r"anatomy_test.csv:3: expected question, four choices and an answer"):
        find_tasks(["mmlu_anatomy"], str(tmp_path))


def test_a_name_that_comes_twice(task_files):
    with pytest.raises(UserError, match="'colours' comes twice"):
        find_tasks([task_files[0], task_files[0]])


@pytest.mark.parametrize(("old", "new", "says"), [
    ("test_split: test", "x: y", "the key 'test_split' is missing"),
    ("dataset_path: json", "dataset_path: hails/mmlu", "only local files run here"),
    ("output_type: multiple_choice", "output_type: loglikelihood_rolling", "no score for each item"),
    ("higher_is_better: true", "higher_is_better: false", "for which higher is better"),
    ("test: test.jsonl", "test: gone.jsonl", "gone.jsonl: the data of a task are missing"),
    ("test: test.jsonl", "tset: test.jsonl", "the split 'test' has no file in data_files; did you mean 'tset'"),
    ("task: colours", "task: [", "not a task file of the harness"),
    ("task: colours", "task: colours\nprocess_docs: !function absent.f", "not a task file of the harness"),
])
def test_what_is_wrong_with_a_task_file(task_files, old, new, says):
    path = pathlib.Path(task_files[0])
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=says):
        find_tasks([str(path)])


def test_a_bad_line_of_a_tasks_data(task_files):
    data = pathlib.Path(task_files[0]).with_name("test.jsonl")
    data.write_text(data.read_text() + "{\n")
    with pytest.raises(UserError, match=r"test.jsonl:11: bad JSON"):
        find_tasks(task_files[:1])


def test_rows_go_by_their_ids_where_each_has_its_own(task_files):
    assert find_tasks(task_files[:1])[0].has_ids
    data = pathlib.Path(task_files[0]).with_name("test.jsonl")
    data.write_text(data.read_text() + data.read_text())
    assert not find_tasks(task_files[:1])[0].has_ids


def test_protocols_differ_where_the_measurement_does(task_files):
    """The same for the same; another for each of: prompt form, rows, shown examples, a key of the task, its code."""
    def now(prompt="raw", rows=None):
        task, = find_tasks(task_files[:1])
        return protocol(task, prompt, task.rows[:rows])
    path = pathlib.Path(task_files[0])
    seen = [now(), now("chat"), now(rows=4)]
    assert now() == seen[0]
    shots = path.with_name("shots.jsonl")
    changed = [json.loads(line) | {"gold": 1} for line in shots.read_text().splitlines()]
    shots.write_text("".join(json.dumps(row) + "\n" for row in changed))
    seen.append(now())
    path.write_text(path.read_text().replace("num_fewshot: 2", "num_fewshot: 1"))
    seen.append(now())
    for body in ("return doc", "return doc.select([0])"):
        path.with_name("code.py").write_text(f"def f(doc):\n    {body}\n")
        if "code.f" not in path.read_text():
            path.write_text(path.read_text() + "process_docs: !function code.f\n")
        seen.append(now())
    path.write_text(path.read_text().replace("version: 1.0", "version: 2.0"))
    assert len(set(seen)) == len(seen) == 7
    assert now() == seen[-1], "metadata say nothing about the measurement"


def test_every_bundled_name_says_what_it_is():
    """MMLU and BBH twice and thrice, TyDiQA twice, AGIEval, ToxiGen with their parts; nine without parts."""
    assert len(TASKS) == 2 * 58 + 3 * 28 + 2 * 10 + 9 + 15 + 10
    assert all(TASKS.values())
