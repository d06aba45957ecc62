"""Style of whole sets: values computed by hand, agreement of equal sets, a shuffled ceiling, a judge of tone."""
import json
import math
import random

import numpy as np
import pytest
from endpoint import Endpoint, answer, send, serving

from easylm_imitation.cli.main import main
from easylm_imitation.evaluate import style_profile
from easylm_imitation.evaluate.compare import compare_style
from easylm_imitation.evaluate.judging import JudgeConfig, yes_or_no
from easylm_imitation.evaluate.tone import authoritative_tone
from easylm_imitation.files import write_jsonl
from easylm_imitation.records import Answer
from easylm_imitation.schema import UserError

LIST = "Here are two:\n\n1. apples\n2. pears"
TEXTS = [LIST, "Long text about it.\n\nIn summary, it depends.", "Perhaps. I think so, but I'm not sure.",
         "## Title\n\n**Bold** and\n\n```\ncode\n```", "plain and short"]


def answers(texts, model="m"):
    return [Answer(f"p{i}", f"question {i}", text, model) for i, text in enumerate(texts)]


@pytest.mark.parametrize(("text", "hedges"), [
    ("Perhaps it might.", 2), ("I don't know; it depends.", 2), ("As an AI, I cannot verify that.", 2),
    ("It is so.", 0),
    ("It’s not entirely clear, and it seems odd.", 2), ("The mighty seemly think-tank is certain.", 0)])
def test_hedges_in_a_thousand_words(text, hedges):
    from easylm_imitation.evaluate.style import words
    assert style_profile.levels((text,)).hedges == pytest.approx(1000 * hedges / len(words(text)))


@pytest.mark.parametrize(("text", "forms"), [
    (LIST, {"list", "paragraphs"}), ("## Title\ntext", {"heading"}), ("**Steps:**\ntext", {"heading", "bold"}),
    ("a **b** c", {"bold"}), ("```py\nx\n```", {"code"}), ("|a|b|\n|---|---|\n|1|2|", {"table"}), ("a\nb", set()),
    ("#hashtag", set()), ("2 ** 3 ** 4", set())])
def test_forms(text, forms):
    assert {name for name, share in style_profile.levels((text,)).forms.items() if share} == forms


def test_structure_agreement_by_hand():
    assert style_profile.structure_agreement(LIST, "- a\n- b") == 1 / 2
    assert style_profile.structure_agreement("a", "b") == 1.0
    assert style_profile.structure_agreement("a", LIST) == 0.0


def test_variety_is_that_of_every_run_of_fifty():
    said = [str(n % 40) for n in range(60)]         # every run of 50 has all 40
    assert style_profile.variety(said) == pytest.approx(40 / 50)
    said = ["a"] * 50 + [str(n) for n in range(10)]
    runs = [len(set(said[i:i + 50])) / 50 for i in range(11)]
    assert style_profile.variety(said) == pytest.approx(sum(runs) / len(runs))


def test_shared_vocabulary_by_hand():
    """{a: 1} against {a: 1/2, b: 1/2}: JS = 1/2 [log2(4/3)] + 1/2 [1/2 log2(2/3) + 1/2 log2(2)]."""
    divergence = math.log2(4 / 3) / 2 + (math.log2(2 / 3) / 2 + 1 / 2) / 2
    assert style_profile.shared_vocabulary(["a a"], ["a b"]) == pytest.approx(1 - divergence)


def test_equal_sets_agree_in_everything():
    table = style_profile.style_table({"same": answers(TEXTS)}, answers(TEXTS, "teacher"), answers(TEXTS))
    assert [row.name for row in table.rows] == ["same", style_profile.CEILING]
    for row in table.rows:
        assert {name: m.value for name, m in row.measures.items()} == pytest.approx(dict.fromkeys(row.measures, 1.0))
        assert row.levels == table.levels
    assert set(table.rows[0].measures) == {"list", "summary", "overlap", "length_r", "structure", "length_ratio",
                                           "hedging", "variety", "vocabulary"}


def test_a_shuffled_ceiling_keeps_the_set_and_loses_the_pairs():
    texts = [f"{'word ' * (3 * n + 1)}topic{n}" + (f"\n\n- a{n}\n- b{n}" if n % 2 else "") for n in range(40)]
    shuffled = random.Random(1).sample(texts, len(texts))
    table = style_profile.style_table({"shuffled": answers(shuffled)}, answers(texts, "t"), answers(texts))
    mixed, ceiling = (row.measures for row in table.rows)
    for name in ("length_ratio", "hedging", "variety", "vocabulary"):
        assert mixed[name].value == pytest.approx(1.0)
    for name in ("overlap", "length_r", "structure"):
        assert mixed[name].high < ceiling[name].value == pytest.approx(1.0)
    listed = [has_list(s) for s, t in zip(shuffled, texts) if has_list(t)]
    assert mixed["list"].value == sum(listed) / len(listed)
    assert mixed["list"].prompts == 20


def has_list(text):
    return "\n- " in text


def test_intervals_are_those_of_resampled_prompts():
    """Against Wilson by hand (8 of 10), the standard error of a mean, and numpy's own r."""
    share = style_profile.mean([1.0] * 8 + [0.0] * 2)
    assert (share.low, share.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert style_profile.mean([0.0] * 10).high == pytest.approx(3.8416 / 13.8416)
    random_numbers = np.random.default_rng(5)
    scores = random_numbers.random(400)
    made = style_profile.mean(scores)
    half = 1.96 * scores.std() / math.sqrt(400)
    assert (made.value - made.low, made.high - made.value) == pytest.approx((half, half), rel=0.15)
    pairs = random_numbers.integers(1, 50, (200, 2)).astype(float)
    pairs[:, 1] += pairs[:, 0]
    made = style_profile._correlation(pairs)
    assert made.value == pytest.approx(np.corrcoef(pairs.T)[0, 1])
    draws = [np.corrcoef(pairs[random_numbers.integers(0, 200, 200)].T)[0, 1] for _ in range(400)]
    assert (made.low, made.high) == pytest.approx(np.percentile(draws, (2.5, 97.5)), abs=0.03)


def judge(verdicts):
    """A judge with a word for each answer that its question quotes."""
    def behave(handler, body, n):
        asked = body["messages"][-1]["content"]
        said = next(word for text, word in verdicts.items() if asked.endswith(text))
        return send(handler, 400, {"detail": "no"}) if said is None else answer(body, said)
    return Endpoint(behave)


def test_the_tone_as_a_judge_hears_it_resumed_and_paid_once(tmp_path):
    verdicts = {"one": "Yes.", "two": "no", "three": None, "four": "Hard to say"}
    config, book = JudgeConfig(attempts=1, price_in=1e5, price_out=2e5), tmp_path / "j.jsonl"
    with serving(judge(verdicts)) as endpoint:
        config = JudgeConfig(endpoint.url, attempts=1, price_in=1e5, price_out=2e5)
        with pytest.raises(UserError, match=r"1 of 4 questions got no reply, the last 'p2' \(HTTP 400: no\)"):
            authoritative_tone(answers(list(verdicts)), config, book)
        verdicts["three"] = "**Yes**"
        tone = authoritative_tone(answers(list(verdicts)), config, book)
        assert len(endpoint.requests) == 5
        assert "authoritative tone" in endpoint.requests[0]["messages"][0]["content"]
        assert (endpoint.requests[0]["max_tokens"], endpoint.requests[0]["temperature"]) == (16, 0.0)
        again = authoritative_tone(answers(list(verdicts)), config, book)
        assert len(endpoint.requests) == 5
    assert tone == again
    assert (tone.share.value, tone.share.prompts, tone.unclear, tone.judge) == (2 / 3, 3, 1, "teacher")
    assert tone.cost == pytest.approx(4 * (10 * 0.1 + 5 * 0.2))     # the endpoint counts 10 and 5 tokens a request


def test_a_judge_of_no_use_is_told(tmp_path):
    with serving(judge({"x": "I like it"})) as endpoint:
        with pytest.raises(UserError, match="replied neither yes nor no to any of 1 questions"):
            authoritative_tone(answers(["x"]), JudgeConfig(endpoint.url), tmp_path / "j.jsonl")


@pytest.mark.parametrize(("reply", "said"), [
    ("Yes", True), ("no.", False), (" *YES*, because", True), ("'No'", False), ("Nope", None), ("It is, yes", None),
    ("", None), ("yesterday", None)])
def test_replies(reply, said):
    assert yes_or_no(reply) is said


def run(capsys, *argv):
    code = main(["compare", *map(str, argv), "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out.splitlines()[-1]) if said.out else said.err


def test_the_verb_compares_styles_with_a_judge(tmp_path, capsys):
    for name in ("teacher", "again", "student"):
        texts = TEXTS if name != "student" else ["yes"] * 5
        write_jsonl(tmp_path / f"{name}.jsonl", answers(texts, name))
    with serving(judge({"yes": "no", "": "yes"})) as endpoint:
        code, said = run(capsys, "--by", "style", "--models", tmp_path / "student.jsonl", "--reference",
                         tmp_path / "teacher.jsonl", "--ceiling", tmp_path / "again.jsonl", "--judge", endpoint.url,
                         "--config.judge.price_in=1000000", "--out", tmp_path / "c" / "s.json")
    assert code == 0
    rows = {row["name"]: row for row in said["rows"]}
    assert rows["student"]["measures"]["tone"]["value"] == 0.0
    assert rows[style_profile.CEILING]["measures"]["tone"]["value"] == 1.0
    assert rows["student"]["measures"]["list"]["value"] == 0.0
    assert (said["judge"], said["judge_cost"]) == ("teacher", 10 * 10.0)
    assert json.loads((tmp_path / "c" / "s.json").read_text())["rows"] == said["rows"]
    assert len((tmp_path / "c" / "s.json.judge.jsonl").read_text().splitlines()) == 10


def test_a_judge_hears_only_prompts_that_the_teacher_answered(tmp_path):
    with serving(judge({"": "yes"})) as endpoint:
        compare_style({"m": answers(["a", "b", "c"])}, answers(["x"], "t"), None, JudgeConfig(endpoint.url),
                      tmp_path / "j.jsonl")
        assert len(endpoint.requests) == 1


@pytest.mark.parametrize(("flags", "says"), [
    (["--by", "style"], "needs --reference"),
    (["--by", "style", "--reference", "a", "--scorer", "x"], "is for --by tox"),
    (["--by", "toxicity", "--judge", "http://x"], "--judge is for --by judge or style or refusal"),
    (["--by", "refusal", "--ceiling", "a"], "--ceiling is for --by style"),
    (["--by", "style", "--reference", "a", "--config.judge.prise_in=3"], "did you mean 'price_in'")])
def test_flags_that_do_not_add_up(flags, says, tmp_path, capsys):
    code, said = run(capsys, *flags, "--models", "A.jsonl", "--out", tmp_path / "x.json")
    assert code == 2
    assert says in said


def test_models_go_by_their_files_where_names_say_nothing(tmp_path, capsys):
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", answers(["x"], "same"))
    models = f"{tmp_path / 'a.jsonl'},{tmp_path / 'b.jsonl'}"
    code, said = run(capsys, "--by", "refusal", "--models", models, "--out", tmp_path / "r.json")
    assert (code, sorted(said["models"])) == (0, sorted(models.split(",")))
    code, said = run(capsys, "--by", "refusal", "--models", f"{tmp_path / 'a.jsonl'},{tmp_path / 'a.jsonl'}",
                     "--out", tmp_path / "r.json")
    assert (code, "a file comes twice" in said) == (2, True)
