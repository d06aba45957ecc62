"""Judging by a language model: prompts, verdicts, scores and biases, against a scripted judge over real HTTP."""
import contextlib
import http.server
import json
import math
import os
import pathlib
import threading

import numpy as np
import pytest

from easylm_imitation.cli.main import main
from easylm_imitation.evaluate import judge_prompts as prompts
from easylm_imitation.evaluate.judge import PreferenceConfig, judge
from easylm_imitation.evaluate.judge_scores import bias, head_to_head, length_controlled
from easylm_imitation.evaluate.judging import JudgeConfig
from easylm_imitation.files import read_jsonl, write_jsonl
from easylm_imitation.records import Answer, LedgerEntry
from easylm_imitation.report.pairing import read_results
from easylm_imitation.schema import UserError


@contextlib.contextmanager
def scripted(decide):
    """An endpoint that replies decide(messages) -> text, or (text, {token: log-probability}); yields (url, asked)."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply({"data": [{"id": "scripted"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            text = decide(body["messages"])
            text, tops = text if isinstance(text, tuple) else (text, None)
            content = [{"top_logprobs": [{"token": t, "logprob": p} for t, p in tops.items()]}] if tops else None
            self.reply({"model": "scripted-1", "usage": {"prompt_tokens": 10, "completion_tokens": 3}, "choices": [
                {"message": {"content": text}, "finish_reason": "stop", "logprobs": {"content": content}}]})

        def reply(self, value):
            raw = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def answers(path, name, texts):
    write_jsonl(path, [Answer(f"p{i}", f"question {i}", text, name) for i, text in enumerate(texts)])
    return path


def good_and_bad(tmp_path, n=10, better=7):
    """A model whose first `better` answers are good, and a reference whose others are."""
    mine = answers(tmp_path / "mine.jsonl", "student", ["GOOD" if i < better else "bad" for i in range(n)])
    theirs = answers(tmp_path / "theirs.jsonl", "teacher", ["bad" if i < better else "GOOD" for i in range(n)])
    return mine, theirs


def fair(messages):
    """[[A]] or [[B]], whichever answer says GOOD; reads the user's text as the default prompts lay it out."""
    text = messages[-1]["content"]
    return f"I think so. [[{'A' if text.index('GOOD') < text.index('Answer B') else 'B'}]]"


def test_a_fair_judge_in_both_orders(tmp_path):
    mine, theirs = good_and_bad(tmp_path)
    with scripted(fair) as (url, asked):
        made = judge(url, mine, theirs, tmp_path / "out.json", config=PreferenceConfig(judge=JudgeConfig(price_in=1e6)))
    assert len(asked) == 20
    task, = made.tasks
    assert (task.score, task.form, task.group, len(task.items)) == (0.7, "preference", "preference", 10)
    assert made.meta["head_to_head"]["win_rate"] == pytest.approx(70.0)
    assert made.meta["bias"]["orders_agree"] == 1.0
    assert made.meta["bias"]["first_preferred"] == 0.5
    assert made.meta["cost"] == pytest.approx(200.0)
    ledger = read_jsonl(LedgerEntry, tmp_path / "out.ledger.jsonl")
    assert {entry.model for entry in ledger} == {"scripted-1"}
    assert read_results(tmp_path)[0][0].lineage.name == "student"


def test_a_judge_that_always_takes_the_first_gives_ties_and_is_found_out(tmp_path):
    mine, theirs = good_and_bad(tmp_path)
    with scripted(lambda _: "[[A]]") as (url, _):
        made = judge(url, mine, theirs, tmp_path / "out.json")
    assert made.tasks[0].score == 0.5
    assert made.meta["bias"] == {**made.meta["bias"], "first_preferred": 1.0, "orders_agree": 0.0}


def test_work_that_stopped_goes_on_and_is_not_paid_twice(tmp_path):
    mine, theirs = good_and_bad(tmp_path)
    with scripted(fair) as (url, asked):
        whole = judge(url, mine, theirs, tmp_path / "out.json")
        ledger = tmp_path / "out.ledger.jsonl"
        ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:12]) + '{"torn')
        asked.clear()
        again = judge(url, mine, theirs, tmp_path / "out.json")
        assert len(asked) == 8
        answers(mine, "student", ["GOOD, in other words"] * 10)
        answers(theirs, "teacher", ["bad"] * 10)
        asked.clear()
        changed = judge(url, mine, theirs, tmp_path / "out.json")
    assert again.tasks == whole.tasks
    assert len(asked) == 20
    assert changed.tasks[0].score == 1.0


def test_log_probabilities_weigh_the_verdict(tmp_path):
    mine, theirs = good_and_bad(tmp_path, 4, 4)
    with scripted(lambda _: ("M", {"M": math.log(0.6), "m": math.log(0.2), "The": -9.0})) as (url, asked):
        made = judge(url, mine, theirs, tmp_path / "out.json", config=PreferenceConfig("alpaca_eval_2"))
    swapped = [entry.prompt_id.endswith("/swapped") for entry in read_jsonl(LedgerEntry, tmp_path / "out.ledger.jsonl")]
    expected = [0.25 if s else 0.75 for s in swapped]
    assert sorted(item.score for item in made.tasks[0].items) == pytest.approx(sorted(expected))
    assert asked[0]["logprobs"] is True
    assert (asked[0]["max_tokens"], asked[0]["top_logprobs"]) == (1, 5)


def test_single_answers_are_rated(tmp_path):
    mine, theirs = good_and_bad(tmp_path)
    with scripted(lambda m: "[[9]]" if "GOOD" in m[-1]["content"] else "Rating: [[3.5]]") as (url, _):
        made = judge(url, mine, None, tmp_path / "out.json", config=PreferenceConfig("mt-bench-single"))
        with pytest.raises(UserError, match="leave --reference out"):
            judge(url, mine, theirs, tmp_path / "x.json", config=PreferenceConfig("mt-bench-single"))
    assert made.tasks[0].score == pytest.approx((7 * 0.9 + 3 * 0.35) / 10)
    assert made.tasks[0].group == "rating"


def test_verdicts_that_cannot_be_read_are_counted_or_refused(tmp_path):
    mine, theirs = good_and_bad(tmp_path, 20, 20)
    with scripted(lambda m: "no idea" if "question 3\n" in m[-1]["content"] else fair(m)) as (url, _):
        made = judge(url, mine, theirs, tmp_path / "out.json")
    assert (made.meta["unreadable"], len(made.tasks[0].items), made.tasks[0].data) == (1, 19, "sample")
    with scripted(lambda _: "no idea") as (url, _), pytest.raises(UserError, match="cannot be read"):
        judge(url, mine, theirs, tmp_path / "none.json")


@pytest.mark.parametrize(("read", "text", "value"), [
    (prompts.verdict_letter, "say [[A]] or [[B]]. I say [[B]]", 1.0), (prompts.verdict_letter, "[[C]]", 0.5),
    (prompts.verdict_letter, "A", None), (prompts.rating, "Rating: [[7]]", 7.0), (prompts.rating, "[8]", 8.0),
    (prompts.rating, "[[11]]", None), (prompts.rating, "great", None), (prompts.two_scores, "8 9\nbecause", 1.0),
    (prompts.two_scores, "(7.5, 7)", 0.0), (prompts.two_scores, "\n\n8, 8", 0.5),
    (prompts.two_scores, "9 of 10 8", None), (prompts.two_scores, "I give 8", None),
    (prompts.ranking, "[{'model': 'model_2', 'rank': 1}, {'model': 'model_1', 'rank': 2}]", 1.0),
    (prompts.ranking, "Sure:\n[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 1}]", 0.5),
    (prompts.ranking, "[__import__('os')]", None), (prompts.ranking, "[{'model': 'model_1'}]", None),
    (prompts.one_letter, " m\n", 0.0), (prompts.one_letter, "both", None)])
def test_verdicts_are_read(read, text, value):
    assert read(text, None) == value


def test_the_published_prompts_are_filled(shared_data):
    """Every name in the published templates has its value; braces of JSON stay."""
    fastchat = str(shared_data / "fastchat_bench")
    values = {name: f"<{name}>" for name in (
        "question", "answer", "answer_a", "answer_b", "ref_answer_1", "ref_answer_2", "instruction", "output_1",
        "output_2", *(f"{what}_{n}" for what in ("question", "answer", "answer_a", "answer_b") for n in (1, 2)))}
    names = [name for name in prompts.OWN if name.startswith(("pair", "single"))]
    made = prompts.judge_prompts(names, fastchat) | prompts.judge_prompts(
        ["alpaca_eval", "alpaca_eval_2", "vicuna"], str(shared_data / "alpaca_eval" / "evaluators_configs"))
    assert len(made) == len(prompts.OWN)
    for name, prompt in made.items():
        text = prompt.fill(values)[-1].content
        assert "<question>" in text or "<instruction>" in text or "<question_2>" in text
        assert "{question" not in text
        assert "{output" not in text
        assert "{answer" not in text
        assert ("ref_answer" in text) == ("math" in name)
    assert '"model": "model_1"' in made["alpaca_eval"].fill(values)[-1].content


def test_mt_bench_has_two_turns_and_references(tmp_path, shared_data):
    """Question 101 is of reasoning: judged with the reference; 81 is of writing: without."""
    for name, text in (("mine", "GOOD"), ("theirs", "bad")):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"question_id": q, "model_id": name, "choices": [
            {"turns": [f"{text} {q} 1", f"{text} {q} 2"]}]} for q in (81, 101)])
    with scripted(lambda _: "[[C]]") as (url, asked):
        made = judge(url, tmp_path / "mine.jsonl", tmp_path / "theirs.jsonl", tmp_path / "out.json",
                     prompts_from=str(shared_data / "fastchat_bench"))
    assert [item.id for item in made.tasks[0].items] == ["81", "81.2", "101", "101.2"]
    texts = [request["messages"][-1]["content"] for request in asked]
    assert sum("Reference" in text for text in texts) == 4
    assert sum("GOOD 101 1" in text and "GOOD 101 2" in text for text in texts) == 2


def test_a_copy_that_lacks_the_prompts_is_refused(tmp_path):
    with pytest.raises(UserError, match="leave the flag out"):
        prompts.judge_prompts(["pair-v2"], str(tmp_path))
    with pytest.raises(UserError, match="did you mean"):
        prompts.judge_prompts(["pair-v3"], None)


def test_length_control_takes_length_out():
    """Preferences that hang on length alone come to 50; with a true advantage of log-odds 1, to 73.1."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(300, 900, 4000), rng.integers(100, 700, 4000)
    away = (theirs - ours) / (theirs - ours).std(ddof=1)
    for advantage, expected in ((0.0, 50.0), (1.0, 100 / (1 + math.exp(-1)))):
        preferences = 1 / (1 + np.exp(2.5 * np.tanh(away) - advantage))
        assert preferences.mean() > 0.6
        assert length_controlled(preferences, ours, theirs) == pytest.approx(expected, abs=0.05)


def test_biases_are_measured():
    made = bias([0.0, 0.0, 1.0, 0.5], [(1.0, 1.0), (1.0, 0.0)], [1.0, 0.0, 0.5], [10, -5, 3])
    assert (made.first_preferred, made.orders_agree, made.longer_preferred) == (pytest.approx(2 / 3), 0.5, 1.0)
    assert bias([], [], [0.5], [0]).length_correlation is None


@pytest.mark.parametrize(("model", "annotator", "published"), [
    ("alpaca-7b", "alpaca_eval_gpt4", (26.459627329192543, 1.535711469748, 205, 584, 16, 805, 26.459627329192543)),
    ("gpt4", "alpaca_eval_gpt4", (95.27950310559004, 0.716281440286153, 761, 32, 12, 805, 95.27950310559004)),
    ("vicuna-7b", "weighted_alpaca_eval_gpt4_turbo",
     (4.16261116226087, 0.6135107768217068, 28, 775, 2, 805, 3.602484472049689))])
def test_published_win_rates_come_from_the_released_annotations(model, annotator, published, shared_data):
    """The leaderboard's own columns, to the last digit but rounding; the annotations are not ours to ship."""
    root = pathlib.Path(os.environ.get("ALPACA_EVAL_RESULTS", shared_data / "alpaca_eval" / "results"))
    path = root / model / annotator / "annotations.json"
    if not path.is_file():
        pytest.skip(f"no {model}/{annotator}/annotations.json; name alpaca_eval's results in ALPACA_EVAL_RESULTS")
    rows = json.loads(path.read_text())
    made = head_to_head([row["preference"] for row in rows])
    assert tuple(vars(made).values()) == pytest.approx(published, rel=1e-12)
    for row in rows:
        if isinstance(row.get("raw_completion"), dict):
            said = row["raw_completion"]["logprobs"]["content"][0]["top_logprobs"]
            second = prompts.one_letter("", {t["token"]: t["logprob"] for t in said})
            assert min(abs(1 + second - row["preference"]), abs(2 - second - row["preference"])) < 1e-9    # any order


def test_the_verb(tmp_path, capsys):
    mine, theirs = good_and_bad(tmp_path)
    second = answers(tmp_path / "second.jsonl", "second", ["GOOD"] * 10)
    with scripted(fair) as (url, _):
        assert main(["compare", "--by", "judge", "--judge", url, "--models", f"{mine},{second}", "--reference",
                     str(theirs), "--out", str(tmp_path / "judged.json"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert made["results"] == [str(tmp_path / f"judged.{name}.json") for name in ("mine", "second")]
    assert [meta["head_to_head"]["n_wins"] for meta in made["meta"]][0] == 7
    assert main(["compare", "--by", "judge", "--judge", url, "--models", str(tmp_path / "absent"), "--reference",
                 str(theirs), "--out", str(tmp_path / "x.json")]) == 2
    assert "no such file of answers" in capsys.readouterr().err
