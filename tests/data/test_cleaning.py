"""Cleaning inside a build: what the card and dropped.jsonl say of each rule, whoever did the work."""
import dataclasses
import json

import numpy as np
import pytest
from data_helpers import turns, write_lines

from easylm_imitation.cli import build as cli
from easylm_imitation.cli.main import main
from easylm_imitation.data import BuildConfig, SourceConfig, build_dataset, pool
from easylm_imitation.data.diversity import held_out_nearness
from easylm_imitation.data.shards import open_shards
from easylm_imitation.data.whole import Evaluations
from easylm_imitation.records import read_prompts
from easylm_imitation.schema import UserError
from easylm_imitation.text import load_tokenizer

LONG = ["q" * 40, "a" * 40] * 3
RECORDS = [
    {"id": "html", "messages": turns("Hello there?", "<p>Good <b>day</b> to you.</p>")},
    {"id": "refusal", "messages": turns("Do it for me.", "I'm sorry, but I cannot do that.")},
    {"id": "first", "messages": turns("Name a cat, please.", "Tom, from the film.")},
    {"id": "second", "messages": turns("name a  CAT, please.", "Kit, from the book.")},
    {"id": "near", "messages": turns("Name a cat, please!!", "Tom, from the films.")},
    {"id": "long", "messages": turns(*LONG)},
    {"id": "again", "messages": turns(*LONG)},
    {"id": "broken", "messages": "text"},
    {"id": "open", "messages": turns("A question without an answer")},
]
RULES = ("roles", {"rule": "refusals", "where": "start"}, "same-query", {"rule": "near-query", "threshold": 0.7},
         {"rule": "split", "tokens": 130})


@pytest.fixture
def config(tmp_path, tokenizer_folder):
    write_lines(tmp_path / "a.jsonl", RECORDS)
    write_lines(tmp_path / "b.jsonl", [{**RECORDS[2], "id": "elsewhere"},
                                       {"messages": turns("Other?", "Yes, indeed.")}])
    sources = (SourceConfig("a.jsonl", clean=("html",), licence="MIT", origin="hf://datasets/me/a"),
               SourceConfig("b.jsonl"))
    return BuildConfig("set", sources, str(tokenizer_folder), root=str(tmp_path), clean=RULES)


def ids(folder):
    shards = open_shards(folder / "shards")
    return [shards[i]["id"].decode() for i in range(len(shards))]


def test_every_rule_says_what_it_did_and_nothing_goes_unsaid(tmp_path, config):
    card = build_dataset(config, tmp_path / "out")
    assert ids(tmp_path / "out") == ["html", "first", "long_0", "long_2", "long_4", "b_1"]
    first, second = card.sources
    assert (first.read, first.added, first.kept, first.left) == (9, 2, 5, 0)
    assert first.dropped == {"wrong shape": 1, "refusals": 1, "roles": 1, "same-query": 2, "near-query": 1}
    assert (second.read, second.kept, second.dropped) == (2, 1, {"same-query": 1})
    assert first.read + first.added == first.kept + first.left + sum(first.dropped.values())
    assert (first.licence, first.origin) == ("MIT", "hf://datasets/me/a")
    assert first.tokens + second.tokens == card.tokens
    assert first.loss_tokens + second.loss_tokens == card.loss_tokens
    counts = {rule.rule: (rule.dataset, rule.seen, rule.changed, rule.dropped, rule.added) for rule in card.rules}
    assert counts == {"html": ("a", 8, 1, 0, 0), "roles": ("", 10, 0, 1, 0), "refusals": ("", 9, 0, 1, 0),
                      "same-query": ("", 8, 0, 3, 0), "near-query": ("", 5, 0, 1, 0), "split": ("", 5, 1, 0, 2)}
    samples = {rule.rule: rule.samples for rule in card.rules}
    assert samples["html"][0].before == "[user] Hello there? [assistant] <p>Good <b>day</b> to you.</p>"
    assert samples["html"][0].after == "[user] Hello there? [assistant] Good **day** to you."
    assert (samples["refusals"][0].id, samples["refusals"][0].detail) == ("refusal", "I'm sorry, but I cannot do that.")
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert {(entry["line"], entry["reason"]) for entry in dropped} == {
        (2, "refusals"), (4, "same-query"), (7, "same-query"), (8, "wrong shape"), (9, "roles"), (1, "same-query"),
        (5, "near-query")}
    near = next(entry for entry in dropped if entry["reason"] == "near-query")
    assert near["detail"] == f"like 'first', {tmp_path}/a.jsonl:3"
    same = [entry["detail"] for entry in dropped if entry["reason"] == "same-query"]
    assert same[0] == f"as 'first', {tmp_path}/a.jsonl:3"


def test_workers_and_a_seed_change_nothing_of_the_counts(tmp_path, config, monkeypatch):
    monkeypatch.setattr(pool, "_CHUNK", 2)
    alone = build_dataset(config, tmp_path / "one")
    assert build_dataset(dataclasses.replace(config, processes=2), tmp_path / "two") == alone
    shuffled = build_dataset(dataclasses.replace(config, seed=1), tmp_path / "three")
    assert (shuffled.sources, shuffled.rules) == (alone.sources, alone.rules)


def test_pieces_of_a_split_conversation_fit_and_hold_all_rounds(tmp_path, config, tokenizer_folder):
    build_dataset(config, tmp_path / "out")
    shards, tokenizer = open_shards(tmp_path / "out" / "shards"), load_tokenizer(tokenizer_folder)
    pieces = [tokenizer.decode(shards[i]["tokens"].tolist()) for i in range(2, 5)]
    assert [piece.count("a" * 40) for piece in pieces] == [1, 1, 1]
    assert all(len(shards[i]["tokens"]) <= 130 for i in range(2, 5))


def test_pieces_of_a_conversation_that_is_like_another_go_with_it(tmp_path, config):
    other = ["q" * 39 + "!", *LONG[1:]]
    write_lines(tmp_path / "a.jsonl", [{"id": "one", "messages": turns(*LONG)},
                                       {"id": "two", "messages": turns(*other)}])
    rules = ("same-query", {"rule": "near-dialogue", "threshold": 0.9}, {"rule": "split", "tokens": 130})
    card = build_dataset(dataclasses.replace(config, sources=(SourceConfig("a.jsonl"),), clean=rules), tmp_path / "out")
    assert ids(tmp_path / "out") == ["one_0", "one_2", "one_4"]
    [source] = card.sources
    assert (source.read, source.added, source.kept, source.dropped) == (2, 4, 3, {"near-dialogue": 3})


def test_rules_come_in_their_order(tmp_path, config):
    """A conversation that a later rule drops counts as a first for an earlier comparison, and not the other way."""
    records = [{"id": "a", "messages": turns("Same question?", "I'm sorry, but I cannot do that.")},
               {"id": "b", "messages": turns("Same question?", "Of course, with pleasure.")}]
    write_lines(tmp_path / "a.jsonl", records)
    sources = (SourceConfig("a.jsonl"),)
    for name, rules, kept in (("one", ("refusals", "same-query"), ["b"]), ("two", ("same-query", "refusals"), None)):
        rules = dataclasses.replace(config, sources=sources, clean=rules)
        if kept:
            build_dataset(rules, tmp_path / name)
            assert ids(tmp_path / name) == kept
        else:
            with pytest.raises(Exception, match=r"is empty \(1 refusals, 1 same-query\)"):
                build_dataset(rules, tmp_path / name)


def test_the_hash_does_not_depend_on_the_place_of_the_files(tmp_path, config):
    first = build_dataset(config, tmp_path / "out")
    (tmp_path / "moved").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    there = build_dataset(dataclasses.replace(config, root=str(tmp_path / "moved")), tmp_path / "again")
    assert there.rules != first.rules       # samples name files
    assert there.hash == first.hash


def test_the_verb_tells_of_overlap_and_diversity(tmp_path, evaluation, capsys):
    cli._show(build_dataset(evaluation, tmp_path / "out"))
    shown = capsys.readouterr().err
    assert "1 of 2 items of exam stand in 1 conversations, left in; overlap.json names them" in shown
    assert "mean BLEU of a query to its nearest other query: 0." in shown


def test_a_sources_own_comparison_looks_at_that_source_alone(tmp_path, config):
    write_lines(tmp_path / "b.jsonl", [{**RECORDS[2], "id": f"b{i}"} for i in range(2)])
    write_lines(tmp_path / "a.jsonl", [RECORDS[2]])
    own = tuple(SourceConfig(name, clean=("same-query",)) for name in ("a.jsonl", "b.jsonl"))
    build_dataset(dataclasses.replace(config, sources=own, clean=()), tmp_path / "out")
    assert ids(tmp_path / "out") == ["first", "b0"]


def test_the_verb_shows_a_table_of_rules_with_samples(tmp_path, config, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "config.py").write_text(f"""
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({{"name": "set", "tokenizer": {config.tokenizer!r}, "root": {str(tmp_path)!r}, "clean": [
        "roles", {{"rule": "refusals", "where": "start"}}, "same-query"],
        "sources": [{{"path": "a.jsonl", "clean": [{{"rule": "html"}}]}}]}})
""")
    assert main(["build", "--config", str(tmp_path / "config.py"), "--out", str(tmp_path / "out"),
                 "--config.clean.1.where=anywhere"]) == 3      # one record is malformed
    shown = capsys.readouterr().err
    assert "refusals" in shown
    assert "refusals: refusal: [user] Do it for me. [assistant] I'm sorry, but I cannot do that." in shown
    assert "-> [user] Hello there? [assistant] Good **day** to you." in shown
    assert json.loads((tmp_path / "out" / "card.json").read_text())["rules"][2]["options"] == {"where": "anywhere"}


ITEM = "which of the twelve planets beyond the outer ring was first seen by the blind astronomer of Tarsis"


@pytest.fixture
def evaluation(tmp_path, config):
    """A config of four conversations, of which the second, split in two, holds the item `q1` of the set `exam`."""
    write_lines(tmp_path / "exam.jsonl", [{"id": "q0", "text": "nothing that anybody here has ever asked or answered"},
                                          {"id": "q1", "text": ITEM}])
    write_lines(tmp_path / "a.jsonl", [
        {"id": "clean", "messages": turns("Name a cat, please.", "Tom, from the film.")},
        {"id": "leak", "messages": turns(f"Tell me: {ITEM.upper()}?", "The ninth.", "Thank you " * 9, "Welcome.")},
        {"id": "last", "messages": turns("Where is Oslo, and why?", "In Norway.")}])
    rule = {"rule": "overlap", "against": [str(tmp_path / "exam.jsonl")], "rules": ["13-gram"]}
    return dataclasses.replace(config, sources=(SourceConfig("a.jsonl"),), clean=(
        rule, "diversity", {"rule": "split", "tokens": 170}))


def test_overlap_with_an_evaluation_set_is_reported_and_removed_on_request(tmp_path, evaluation):
    told = build_dataset(evaluation, tmp_path / "told")
    assert ids(tmp_path / "told") == ["clean", "leak_0", "leak_2", "last"]
    found = told.overlaps["exam"]
    assert (found["items"], found["items_found"], found["rows_found"], found["removed"]) == (2, 1, 1, False)
    report = json.loads((tmp_path / "told" / "overlap.json").read_text())
    assert report["exam"]["matches"] == [{"row": "a/leak", "item": "q1", "rules": {"13-gram": 1.0}}]
    assert told.diversity["queries"] == 3
    assert 0 <= told.diversity["bleu"] < 1
    rules = ({**evaluation.clean[0], "remove": True}, *evaluation.clean[1:])
    removed = build_dataset(dataclasses.replace(evaluation, clean=rules), tmp_path / "removed")
    assert ids(tmp_path / "removed") == ["clean", "last"]
    assert removed.sources[0].dropped == {"overlap": 2}
    assert removed.rules[0].dropped == 2
    assert removed.rules[0].samples[0].detail == "holds 'q1' of exam"
    assert removed.diversity["queries"] == 2


def overlaps_of(config, out, *rules):
    """(what the card says of overlaps, matches of each set as (row, item, whether it was removed))."""
    card = build_dataset(dataclasses.replace(config, clean=rules), out)
    report = json.loads((out / "overlap.json").read_text())
    return card.overlaps, {name: [(m["row"], m["item"], m.get("removed", False)) for m in found["matches"]]
                           for name, found in report.items()}


def test_a_second_rule_adds_to_what_the_first_found_of_a_set(tmp_path, evaluation):
    words = {"rule": "overlap", "against": [str(tmp_path / "exam.jsonl")], "rules": ["13-gram"]}
    near = {**words, "rules": ["8-gram"]}
    card, matches = overlaps_of(evaluation, tmp_path / "gone", {**words, "remove": True}, near)
    assert (card["exam"]["items_found"], card["exam"]["rows_found"], card["exam"]["removed"]) == (1, 1, True)
    assert {rule: found["items_found"] for rule, found in card["exam"]["rules"].items()} == {"13-gram": 1, "8-gram": 0}
    assert matches == {"exam": [("a/leak", "q1", True)]}
    card, matches = overlaps_of(evaluation, tmp_path / "told", words, {**near, "remove": True})
    assert (card["exam"]["removed"], matches) == (True, {"exam": [("a/leak", "q1", True)]})
    assert {rule: found["rows_found"] for rule, found in card["exam"]["rules"].items()} == {"13-gram": 0, "8-gram": 1}


@pytest.mark.parametrize("what", ["budget", "near-query after it", "weight"])
def test_the_card_tells_of_the_rows_that_the_dataset_holds(tmp_path, tokenizer_folder, what):
    """400 questions, 100 of them items of an exam; every one twice, for what leaves repetitions out."""
    words = [f"{a}{b}{c}" for a in "bdgklmnprstvz" for b in "aeiou" for c in ("la", "ro", "nik", "stem")]
    draw = np.random.default_rng(0)
    questions = [" ".join(["Which", *draw.choice(words, 12)]) + "?" for _ in range(400)]
    write_lines(tmp_path / "q.jsonl", [{"id": f"{i}-{copy}", "messages": turns(q, f"the {words[i % 200]}, {copy}")}
                                       for i, q in enumerate(questions) for copy in range(2)])
    write_lines(tmp_path / "exam.jsonl", [{"id": f"e{i}", "text": q} for i, q in enumerate(questions[:100])])
    source = SourceConfig(str(tmp_path / "q.jsonl"), dataset="q", weight=0.25 if what == "weight" else 1.0)
    looks = ({"rule": "overlap", "against": [str(tmp_path / "exam.jsonl")], "rules": ["substring"]}, "diversity",
             {"rule": "held-out", "against": [str(tmp_path / "exam.jsonl")], "most": 0.99})
    rules = (*looks, {"rule": "near-query", "threshold": 0.99}) if what.startswith("near") else looks
    config = BuildConfig("set", (source,), str(tokenizer_folder), seed=1, clean=rules,
                         budget=3000 if what == "budget" else None)
    card = build_dataset(config, tmp_path / "out")
    held = [questions[int(name.split("-")[0])] for name in ids(tmp_path / "out")]
    assert 20 < len(held) < 800
    exam = set(questions[:100]) & set(held)
    assert card.diversity["queries"] == len(held)
    assert card.overlaps["exam"]["rows_found"] == sum(q in exam for q in held)
    assert card.overlaps["exam"]["items_found"] == len(exam)
    assert card.held_out["exam"]["too_near"] == len(exam)
    report = json.loads((tmp_path / "out" / "overlap.json").read_text())["exam"]["matches"]
    assert {match["row"].removeprefix("q/") for match in report} <= set(ids(tmp_path / "out"))
    assert all(rule.seen == len(held) for rule in card.rules[:3])


def test_a_set_of_which_one_rule_removed_some_rows_tells_how_many(tmp_path, evaluation):
    reversed_item = " ".join(reversed(ITEM.split()))
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write(json.dumps({"id": "near", "messages": turns(reversed_item, "The tenth.")}) + "\n")
    rule = {"rule": "overlap", "against": [str(tmp_path / "exam.jsonl")]}
    card, matches = overlaps_of(evaluation, tmp_path / "out", {**rule, "rules": ["13-gram"], "remove": True},
                                {**rule, "rules": ["near"]})
    assert (card["exam"]["rows_found"], card["exam"]["rows_removed"], card["exam"]["removed"]) == (2, 1, False)
    assert matches["exam"] == [("a/leak", "q1", True), ("a/near", "q1", False)]


@pytest.mark.parametrize("together", [True, False], ids=["one rule", "two rules"])
def test_sets_in_files_of_one_name_are_told_by_their_folders(tmp_path, evaluation, together):
    for folder, text in (("x/dev", ITEM), ("y/dev", "nothing that anybody here has ever asked or answered")):
        (tmp_path / folder).mkdir(parents=True)
        write_lines(tmp_path / folder / "test.jsonl", [{"id": "1", "text": text}])
    files = [str(tmp_path / folder / "dev" / "test.jsonl") for folder in "xy"]
    rule = {"rule": "overlap", "rules": ["13-gram"]}
    rules = [{**rule, "against": files}] if together else [{**rule, "against": [file]} for file in files]
    held = {"rule": "held-out", "against": files, "most": 0.9}
    card, matches = overlaps_of(evaluation, tmp_path / "out", *rules, held)
    assert {name: found["items_found"] for name, found in card.items()} == {"x/dev/test": 1, "y/dev/test": 0}
    assert matches["x/dev/test"] == [("a/leak", "1", False)]
    for folder in "xy":
        assert (tmp_path / "out" / "held_out" / folder / "dev" / "test.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize("rules", [1, 2])
def test_a_file_of_prompts_is_named_once(tmp_path, evaluation, rules):
    file = str(tmp_path / "exam.jsonl")
    other = file.replace("exam", "./exam")
    clean = [{"rule": "held-out", "against": one} for one in ([[file, other]] if rules == 1 else [[file], [other]])]
    with pytest.raises(UserError, match=r"rule 'held-out': against names '.*/./exam.jsonl' twice; name it once"):
        build_dataset(dataclasses.replace(evaluation, clean=clean), tmp_path / "out")


def test_names_grow_only_as_far_as_they_must():
    evaluations = Evaluations()
    asked = ["a/t.json", "b/t.jsonl", "./b/u.json", "b/u.json.gz", "task:mmlu", "mmlu.json", "b/../a/t.json", "../w.gz"]
    evaluations.tell_apart(asked)
    names = [evaluations.name(one) for one in asked]
    assert names[:4] == ["a/t", "b/t", "u.json", "u.json.gz"]
    assert names[4] == "mmlu"
    assert names[5].endswith("/mmlu")
    assert names[6:] == ["a/t", "w"]


def test_a_file_without_an_ending_is_called_by_its_name_alone():
    evaluations = Evaluations()
    evaluations.tell_apart(["a/exam", "b/test", "c/test"])
    assert [evaluations.name(one) for one in ("a/exam", "b/test", "c/test")] == ["exam", "b/test", "c/test"]


def test_a_set_below_the_root_is_named_and_told_by_its_own_place(tmp_path, monkeypatch, evaluation):
    for folder in ("here", "root/own", "root/other"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    for folder in ("own", "other"):
        write_lines(tmp_path / "root" / folder / "t.jsonl", [{"id": "1", "text": ITEM}])
    root, asked = str(tmp_path / "root"), ["own/t.jsonl", str(tmp_path / "root/other/t.jsonl")]
    evaluations = Evaluations(root=root)
    evaluations.tell_apart(asked)
    assert [evaluations.name(one) for one in asked] == ["own/t", "other/t"]
    same = [{"rule": "overlap", "against": ["own/t.jsonl", f"{root}/own/t.jsonl"]}]
    with pytest.raises(UserError, match="own/t.jsonl' twice; name it once"):
        build_dataset(dataclasses.replace(evaluation, root=root, clean=same), tmp_path / "out")


@pytest.mark.parametrize(("root", "says"), [
    ("", "no such file: {here}/cat nor dog$"), ("root", "no such file, neither {here}/cat nor dog nor {here}/root/")])
def test_a_set_that_is_not_there_names_where_it_was_looked_for(tmp_path, monkeypatch, root, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says.format(here=tmp_path)):
        Evaluations(root=root).rows("cat nor dog")


def test_prompts_that_are_near_to_a_query_are_left_out_and_reported(tmp_path, evaluation, capsys):
    """The library is asked the same with the queries as they stand in the files."""
    prompts = [{"id": "p0", "prompt": "Where is Oslo, and who built it?"}, {"prompt": "Prove Fermat's theorem."},
               {"id": "p2", "prompt": f"Tell me now: {ITEM}?", "source": "kept"}]
    write_lines(tmp_path / "broad.jsonl", prompts)
    rules = (*evaluation.clean, {"rule": "held-out", "against": [str(tmp_path / "broad.jsonl")]})
    card = build_dataset(dataclasses.replace(evaluation, clean=rules), tmp_path / "out")
    queries = ["Name a cat, please.", f"Tell me: {ITEM.upper()}?", "Where is Oslo, and why?"]
    scores, nearest = held_out_nearness([prompt["prompt"] for prompt in prompts], queries)
    assert (scores > 0.2).tolist() == [True, False, False]
    assert nearest[0] == 2
    assert card.held_out == {"broad": {"prompts": 3, "too_near": 1, "most": 0.2,
                                       "mean_bleu": round(float(scores.mean()), 4)}}
    assert ids(tmp_path / "out") == ["clean", "leak_0", "leak_2", "last"]      # rows stay
    lines = (tmp_path / "out" / "held_out" / "broad.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"id": "1", **prompts[1]}, prompts[2]]
    assert [prompt.id for prompt in read_prompts(tmp_path / "out" / "held_out" / "broad.jsonl")] == ["1", "p2"]
    [near] = json.loads((tmp_path / "out" / "held_out.json").read_text())["broad"]
    assert (near["prompt"], near["query"], near["bleu"]) == ("p0", "a/last", round(float(scores[0]), 4))
    cli._show(card)
    assert "1 of 3 prompts of broad have a BLEU above 0.2" in capsys.readouterr().err
    strict = ({**rules[-1], "most": 0.0},)
    card = build_dataset(dataclasses.replace(evaluation, clean=strict), tmp_path / "strict")
    assert card.held_out["broad"]["too_near"] == int((scores > 0).sum())


def test_evaluation_sets_count_by_their_contents_and_not_their_places(tmp_path, evaluation, capsys):
    first = build_dataset(evaluation, tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "exam.jsonl").rename(tmp_path / "elsewhere" / "exam.jsonl")
    with pytest.raises(UserError, match="exam.jsonl"):      # before anything is read
        build_dataset(evaluation, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    rules = ({**evaluation.clean[0], "against": [str(moved)]}, *evaluation.clean[1:])
    assert build_dataset(dataclasses.replace(evaluation, clean=rules), tmp_path / "out") == first
    assert "already built" in capsys.readouterr().err
    write_lines(moved, [{"id": "q1", "text": "another text"}])
    with pytest.raises(UserError, match="another config|other sources"):
        build_dataset(dataclasses.replace(evaluation, clean=rules), tmp_path / "out")
