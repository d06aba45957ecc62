"""Studies of people without a browser: agreement against published numbers, who is shown what, secrets, results."""
import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import random
import sqlite3

import httpx
import numpy as np
import pytest
from people_helpers import ask, make_study, open_study

from easylm_imitation.cli.main import main
from easylm_imitation.evaluate import people
from easylm_imitation.evaluate.people.agreement import agreement, clustered_mean, fleiss, krippendorff, majority
from easylm_imitation.evaluate.people.config import PeopleConfig
from easylm_imitation.evaluate.people.outcome import study_results, votes_of
from easylm_imitation.evaluate.people.study import Finished, Said
from easylm_imitation.files import read_json
from easylm_imitation.records import Results
from easylm_imitation.schema import UserError

# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011): four observers, twelve units, 0 is missing.
OBSERVERS = ("123321412000", "123322412503", "033323422510", "123324412510")
# Fleiss, Measuring nominal scale agreement (1971) as often reprinted: ten subjects, fourteen raters, five categories.
SUBJECTS = ((0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1), (7, 7, 0, 0, 0),
            (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7))


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_the_published_one(level, published):
    units = [[int(c) - 1 for c in unit if c != "0"] for unit in zip(*OBSERVERS)]
    assert round(krippendorff(units, level), 3) == published


def test_kappa_is_the_published_one():
    units = [[category for category, count in enumerate(row) for _ in range(count)] for row in SUBJECTS]
    assert round(fleiss(units), 3) == 0.210
    with pytest.raises(ValueError, match="equally many"):
        fleiss([[0, 1], [0, 1, 1]])


def test_agreement_without_anything_to_agree_on():
    assert agreement([[0], [2]], 3).items == 0
    same = agreement([[1, 1], [1, 1]], 3)
    assert (same.alpha_verdicts, same.fleiss_verdicts, same.pairs_equal) == (None, None, 1.0)
    made = agreement([[0, 1], [2, 2]], 3)
    assert (made.pairs_equal, made.pairs_relaxed) == (0.5, 0.75)


def test_no_majority_is_a_tie():
    assert majority([0.0, 0.5, 1.0]) == majority([1.0, 1.0, 0.0, 0.0]) == 0.5


def test_intervals_are_of_items_not_of_ratings():
    """Ten raters who say the same of an item know no more than one: the interval is that of the items."""
    draw = np.random.default_rng(1).integers(0, 2, 60).astype(float)
    once, often = clustered_mean([[v] for v in draw]), clustered_mean([[v] * 10 for v in draw])
    assert (often.low, often.high) == (once.low, once.high)
    alone = clustered_mean([[v] for v in np.repeat(draw, 10)])
    assert alone.high - alone.low < 0.5 * (often.high - often.low)


# ── who is shown what ─────────────────────────────────────────────────────────────────────────────────────────────────


def everything(study, token, answer=1):
    """All that one rater is shown, rated with `answer`."""
    rater, shown = study.rater(token), []
    while not isinstance(one := study.next(rater), Finished):
        shown.append(one)
        assert study.rate(rater, one.number, Said(answer))
    return shown


def questions(shown):
    return [one.turns[0]["question"] for one in shown]


def test_each_pair_gets_its_ratings_and_nobody_sees_a_prompt_twice(tmp_path):
    config = PeopleConfig(ratings=2, raters=4, checks=0)
    with open_study(tmp_path, config, models=2, prompts=6) as (study, _):
        for token in study.links():
            seen = questions(everything(study, token))
            assert len(seen) == len(set(seen))
        rated = collections.Counter((r.model, r.prompt) for r in study.ratings())
        assert set(rated.values()) == {2}
        assert len(rated) == 12


def test_order_and_sides_are_each_raters_own(tmp_path):
    with open_study(tmp_path, PeopleConfig(ratings=3, checks=0), prompts=12) as (study, _):
        seen = [everything(study, token) for token in study.links()]
        assert len({tuple(questions(own)) for own in seen}) == 3
        sides = {(r.rater, r.prompt): r.mine_left for r in study.ratings()}
        assert 3 < sum(sides.values()) < 33       # each side is drawn
        assert len({tuple(sides[rater, f"p{i}"] for i in range(12)) for rater in (1, 2, 3)}) > 1


def test_two_studies_of_the_same_answers_share_no_secret(tmp_path):
    links = []
    for name in "ab":
        with open_study(tmp_path / name, PeopleConfig(crowd=1)) as (study, _):
            links += [*study.links(), study.crowd_key()]
            stored = b"".join(path.read_bytes() for path in (tmp_path / name).glob("*study*"))
            assert not any(link.encode() in stored for link in links)
    assert len(set(links)) == 8
    assert all(len(link) == 24 for link in links)


def test_many_at_once_get_no_more_than_is_wanted(tmp_path):
    """Sixteen people race for eight pairs that need two ratings each: exactly sixteen ratings are made."""
    config = PeopleConfig(ratings=2, raters=16, checks=0)
    with open_study(tmp_path, config, prompts=8) as (study, _):
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda token: everything(study, token), study.links()))
        assert study.progress() == (16, 16)
        assert set(collections.Counter(r.prompt for r in study.ratings()).values()) == {2}


def test_what_was_shown_and_not_rated_goes_to_another_after_a_while(tmp_path):
    config = PeopleConfig(ratings=1, raters=2, checks=0)
    with open_study(tmp_path, config, prompts=1) as (study, _):
        first, second = map(study.rater, study.links())
        shown = study.next(first)
        assert study.next(first) == shown                           # a closed tab: the same again
        assert isinstance(study.next(second), Finished)             # it is the first one's for now
    config = dataclasses.replace(config, lease_minutes=1e-6)
    with open_study(tmp_path, config, prompts=1) as (study, _):
        taken = study.next(second)
        assert taken.turns[0]["question"] == shown.turns[0]["question"]
        assert study.rate(second, taken.number, Said(0))
        assert study.rate(first, shown.number, Said(2))             # late, and not lost
        assert len(study.ratings()) == 2


def test_saying_it_again_doubles_nothing_and_the_last_word_counts(tmp_path):
    with open_study(tmp_path, PeopleConfig(checks=0), prompts=2) as (study, _):
        rater = study.rater(study.links()[0])
        shown = study.next(rater)
        for choice in (0, 0, 0, 2):
            assert study.rate(rater, shown.number, Said(choice))
        assert study.item(rater, shown.number).said == Said(2)
        [rating] = study.ratings()
        assert (rating.revisions, rating.answer) == (1, 0 if rating.mine_left else 2)
        assert not study.rate(rater, 2, Said(0))                    # was never shown
        assert study.item(study.rater(study.links()[1]), 1) is None
        for bad in (Said(3), Said(-1), Said(1, True, False)):
            with pytest.raises(UserError):
                study.rate(rater, 1, bad)


def test_checks_are_spread_and_look_like_the_rest(tmp_path):
    config = PeopleConfig(ratings=8, raters=8, checks=2)
    with open_study(tmp_path, config, prompts=10) as (study, sets):
        known = {pair.turns[0].question for pair in sets.checks}
        places = []
        for token in study.links():
            seen = everything(study, token)
            found = [one.number for one in seen if one.turns[0]["question"] in known]
            assert len(found) == 2
            assert {one.total for one in seen} == {12}      # and the count does not give them away
            places += found
        assert len(set(places)) > 3
        assert 1 not in places


def test_a_quota_ends_with_a_code_of_ones_own(tmp_path):
    config = PeopleConfig(ratings=1, raters=3, items=2, checks=1)
    with open_study(tmp_path, config, prompts=6) as (study, _):
        codes = set()
        for token in study.links():
            assert len(everything(study, token)) == 3
            codes.add(study.next(study.rater(token)).code)
        assert len(codes) == 3
        assert study.progress() == (6, 6)


def test_raters_who_fail_their_checks_are_left_out_and_named(tmp_path):
    config = PeopleConfig(ratings=3, checks=2)
    with open_study(tmp_path, config, prompts=5) as (study, sets):
        good = {pair.turns[0].question: pair.turns[0].mine for pair in sets.checks}
        for rater in (1, 2, 3):
            while not isinstance(one := study.next(rater), Finished):
                left, _ = one.turns[0]["answers"]
                check = good.get(one.turns[0]["question"])
                right_way = (left == check) != (rater == 3) if check else "model 0" in left
                study.rate(rater, one.number, Said(0 if right_way else 2))
        [results] = study_results(sets, study.ratings(), config)
        assert [(one["rater"], one["passed"]) for one in results.meta["left_out"]] == [(3, 0)]
        assert results.meta["ratings"] == 10
        assert results.tasks[0].score == 1.0
        assert results.tasks[0].data == "sample"        # ratings are missing now


def test_models_compare_on_what_is_rated_of_all_of_them(tmp_path):
    config = PeopleConfig(ratings=1, raters=2, checks=0, items=3)
    with open_study(tmp_path, dataclasses.replace(config, items=0), models=2, prompts=4) as (study, sets):
        rater = study.rater(study.links()[0])
        for _ in range(3):
            study.rate(rater, study.next(rater).number, Said(0))
        rated = [{r.prompt for r in study.ratings() if r.model == model} for model in (0, 1)]
        if not set.intersection(*rated):
            with pytest.raises(UserError, match="no prompt is rated for every model yet"):
                study_results(sets, study.ratings(), config)
        everything(study, study.links()[1])
        made = study_results(sets, study.ratings(), config)
        items = [{item.id for item in results.tasks[0].items} for results in made]
        assert items[0] == items[1]
        assert made[0].tasks[0].protocol == made[1].tasks[0].protocol
        assert made[0].meta["prompts_not_rated"] == 4 - len(items[0])


@pytest.mark.parametrize(("changes", "message"), [
    ({"raters": 2}, "set --config.raters=3"), ({"ratings": 1, "items": 1, "raters": 2}, "pairs need 1 each"),
    ({"checks": 13}, "the file has 12")])
def test_a_study_that_cannot_be_completed_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        make_study(tmp_path, PeopleConfig(**changes))


def test_another_study_under_the_same_name_is_refused(tmp_path):
    with open_study(tmp_path, PeopleConfig()):
        pass
    with open_study(tmp_path, PeopleConfig(raters=5, title="New")) as (study, _):      # this may change
        assert len(study.links()) == 5
    with pytest.raises(UserError, match="holds another study"):
        make_study(tmp_path, PeopleConfig(question="tulu"))
    (tmp_path / "people.study.sqlite").write_text("no database, but long enough to be none" * 9)
    with pytest.raises(UserError, match="is no study"):
        make_study(tmp_path, PeopleConfig())


def test_a_study_that_was_cut_off_while_it_was_made_is_made(tmp_path):
    path = tmp_path / "people.study.sqlite"
    sqlite3.connect(path).close()
    path.touch()
    with open_study(tmp_path, PeopleConfig()) as (study, _):
        assert len(study.links()) == 3
        assert study._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# ── over HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def served(tmp_path):
    with contextlib.ExitStack() as stack:
        def serve(config, **sizes):
            study, sets = stack.enter_context(open_study(tmp_path, config, **sizes))
            server = stack.enter_context(people.StudyServer(study))
            return study, sets, stack.enter_context(httpx.Client(base_url=server.url))
        yield serve


def test_nothing_that_a_rater_gets_tells_who_wrote_what(served, tmp_path):
    """Every byte of every response, headers included, over a whole study: no name, no prompt id, no side, no check."""
    own = tmp_path / "own.jsonl"
    own.write_text('{"id": "c0", "prompt": "Question 9", "good": "text 9", "bad": "text 8"}\n')
    study, _, client = served(PeopleConfig(ratings=1, raters=1, checks=1), prompts=4, checks=str(own),
                              say=lambda who, i: f"text {i}")
    [token] = study.links()
    said, shapes = [ask(client, token, "study")], set()
    while not (got := ask(client, token, "next", {})).json()["finished"]:
        number = got.json()["number"]
        said += [got, ask(client, token, f"items/{number}"), ask(client, token, f"items/{number}", {"choice": 1})]
        body = got.json()
        shapes.add((tuple(got.headers), tuple(body), tuple(body["turns"][0])))
    said.append(got)
    told = "".join(str(sorted(r.headers.items())) + r.text for r in said)
    for word in ("model 0", "the teacher", "a0.jsonl", "p0", "p1", "c0", "check", "mine", "other", "reference",
                 "uvicorn"):
        assert word not in told, word
    assert len(shapes) == 1
    assert not any("etag" in r.headers or "set-cookie" in r.headers for r in said)


def test_pages_come_under_a_strict_policy(served):
    _, _, client = served(PeopleConfig())
    for path in ("/", "/app.js", "/style.css", "/markdown.js", "/marked.js", "/icon.svg"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in headers["content-security-policy"]
        assert (headers["referrer-policy"], headers["x-frame-options"]) == ("no-referrer", "DENY")


def test_without_a_link_nothing_is_told(served):
    study, _, client = served(PeopleConfig())
    [token, *_] = study.links()
    for bad in ("", "x", token[:-1], token + "x", token.lower(), "é", "x" * 5000):
        for path, body in (("study", None), ("next", {}), ("items/1", None), ("items/1", {"choice": 0})):
            assert ask(client, bad, path, body).status_code == 401
    assert client.post("/api/join", json={"key": "", "worker": ""}).status_code == 403
    assert client.post("/api/join", json={"key": token}).status_code == 403
    assert study.ratings() == []


def test_bad_requests_change_nothing(served):
    study, _, client = served(PeopleConfig())
    [token, *_] = study.links()
    assert ask(client, token, "next", {}).json()["number"] == 1
    for body in ({}, {"choice": "0"}, {"choice": 9}, {"choice": 0, "mine": 1}, {"choice": True}, {"choice": 0.5},
                 {"choice": 0, "left_ok": True}, [], "x", {"choice": 10**30}):
        assert ask(client, token, "items/1", body).status_code == 400, body
    for path in ("items/2", f"items/{10**30}"):
        assert ask(client, token, path, {"choice": 0}).status_code == 404
        assert ask(client, token, path).status_code == 404
    long = {"choice": 0, "x": "y" * 5000}
    assert ask(client, token, "items/1", long).status_code == 413
    pieces = client.post("/api/items/1", headers={"Authorization": f"Bearer {token}"},
                         content=(b"y" * 1000 for _ in range(9)))
    assert pieces.status_code == 413
    deep = client.post("/api/items/1", content=b"[" * 4000, headers={"Authorization": f"Bearer {token}"})
    assert deep.status_code == 400
    assert study.ratings() == []


def test_the_crowds_link_lets_in_so_many_and_the_same_person_once(served):
    study, _, client = served(PeopleConfig(crowd=2, ratings=1))
    key = study.crowd_key()

    def join(worker, key=key):
        return client.post("/api/join", json={"key": key, "worker": worker})
    first = join("w1").json()["token"]
    assert join("w1").json()["token"] == first
    second = join("").json()["token"]
    assert second != first
    assert join("w3").status_code == join("").status_code == join("w4", key[:-1]).status_code == 403
    assert join("w1").json()["token"] == first          # who is in stays in
    assert ask(client, second, "next", {}).json()["number"] == 1
    ask(client, first, "items/1", {"choice": 1})
    assert join("w" * 201).status_code == join(5).status_code == 400


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_results_ratings_and_links_of_the_command(tmp_path, capsys):
    sets, study = make_study(tmp_path, PeopleConfig(ratings=1, raters=2, checks=0), models=2, prompts=3)
    for token in study.links():
        everything(study, token, answer=0)
    study.close()
    out = tmp_path / "people.json"
    command = ["compare", "--by", "people", "--models", f"{tmp_path}/a0.jsonl,{tmp_path}/a1.jsonl", "--reference",
               f"{tmp_path}/teacher.jsonl", "--out", str(out), "--config.ratings=1", "--config.raters=2",
               "--config.checks=0"]
    assert main([*command, "--export"]) == 0
    made = [read_json(Results, tmp_path / f"people.a{i}.json") for i in (0, 1)]
    assert [r.model.name for r in made] == ["model 0", "model 1"]
    assert [len(r.tasks[0].items) for r in made] == [3, 3]
    rows = [json.loads(line) for line in (tmp_path / "people.ratings.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["said"] == "A is better"
        assert row["vote"] == (1.0 if row["left"] == row["model"] else 0.0)
    scores = {(r.model.name, item.id): item.score for r in made for item in r.tasks[0].items}
    assert scores == {(row["model"], row["prompt_id"]): row["vote"] for row in rows}
    assert main([*command[:-1], "--config.checks=1", "--config.wording=Other?", "--export"]) == 2
    assert main([*command, "--export", "--out", str(tmp_path / "none.json")]) == 2
    assert "there is no study" in capsys.readouterr().err


def test_links_are_for_the_owner(tmp_path):
    with open_study(tmp_path, PeopleConfig(crowd=1)) as (study, _):
        made = people.write_links(tmp_path / "people.json", study, "https://study.example.org/")
    path = tmp_path / "people.links.txt"
    assert path.read_text().split() == made
    assert len(made) == 4
    assert all(link.startswith("https://study.example.org/#") for link in made[:3])
    assert made[3].startswith("https://study.example.org/?study=")
    assert path.stat().st_mode & 0o077 == (tmp_path / "people.study.sqlite").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("flags", [["--judge", "http://x"], ["--ceiling", "x"]])
def test_flags_of_other_ways_are_refused(tmp_path, flags, capsys):
    assert main(["compare", "--by", "people", "--models", "a", "--reference", "b", "--out", str(tmp_path / "x.json"),
                 *flags]) == 2
    assert f"{flags[0]} is for --by" in capsys.readouterr().err


def test_port_is_for_people(tmp_path, capsys):
    assert main(["compare", "--by", "style", "--models", "a", "--reference", "b", "--out", str(tmp_path / "x.json"),
                 "--port", "0"]) == 2
    assert "--port is for --by people" in capsys.readouterr().err


def test_numbers_are_those_of_the_ratings(tmp_path):
    """Scripted answers of three raters with five ways and acceptability, against sums done here by hand."""
    config = PeopleConfig(question="tulu", checks=0)
    random.seed(5)
    script = {(rater, f"p{i}"): (random.randrange(5), random.random() < 0.7, random.random() < 0.8)
              for rater in (1, 2, 3) for i in range(8)}
    with open_study(tmp_path, config, prompts=8) as (study, sets):
        for rater in (1, 2, 3):
            while not isinstance(one := study.next(rater), Finished):
                answer, mine_ok, other_ok = script[rater, f"p{one.turns[0]['question'].split()[-1]}"]
                left = "model 0" in one.turns[0]["answers"][0]
                said = Said(4 - answer, mine_ok, other_ok) if left else Said(answer, other_ok, mine_ok)
                study.rate(rater, one.number, said)
        ratings = study.ratings()
        results, reference = study_results(sets, ratings, config)
    assert {(r.rater, r.prompt): (r.answer, r.mine_ok, r.other_ok) for r in ratings} == script
    votes = {i: [(0.0, 0.0, 0.5, 1.0, 1.0)[script[r, f"p{i}"][0]] for r in (1, 2, 3)] for i in range(8)}
    most = [max((0.0, 0.5, 1.0), key=own.count) if max(map(own.count, own)) > 1 else 0.5 for own in votes.values()]
    assert {item.id: item.score for item in results.tasks[0].items} == {f"p{i}": most[i] for i in range(8)}
    accepted = [sum(script[r, f"p{i}"][1] for r in (1, 2, 3)) > 1 for i in range(8)]
    assert [item.score for item in results.tasks[1].items] == accepted
    theirs = [sum(script[r, f"p{i}"][2] for r in (1, 2, 3)) > 1 for i in range(8)]
    assert ([item.score for item in reference.tasks[0].items], reference.model.name) == (theirs, "the teacher")
    assert reference.tasks[0].protocol == results.tasks[1].protocol
    made = votes_of(ratings, config)
    assert made.win_rate.value == pytest.approx(np.mean(most))
    assert made.mean_vote.value == pytest.approx(np.mean(list(votes.values())))
    assert made.equal_or_better.value == np.mean([one > 0 for one in most])
    pairs = [(a, b) for own in votes.values() for a, b in itertools.combinations(own, 2)]
    assert made.agreement.pairs_equal == pytest.approx(np.mean([a == b for a, b in pairs]))
    relaxed = [1.0 if a == b else 0.5 if 0.5 in (a, b) else 0.0 for a, b in pairs]
    assert made.agreement.pairs_relaxed == pytest.approx(np.mean(relaxed))
