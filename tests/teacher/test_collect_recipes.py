"""Each recipe over a real local server: what it asks, what it makes of the answers, what it leaves out."""
import functools
import json
import pathlib
import re
from collections import Counter

import pytest
from collect_helpers import MATTERS, PAIRS, SEED_TASKS, collect, invents, ledger_of, rows_of, text_of, write_lines
from endpoint import Endpoint, answer, send, serving

from easylm_imitation.cli.main import main
from easylm_imitation.config import load_one_of
from easylm_imitation.files import read_json
from easylm_imitation.records import CollectionCard
from easylm_imitation.schema import Incomplete, UserError
from easylm_imitation.teacher import RECIPES, collect_from
from easylm_imitation.teacher.alpaca import parse_tasks
from easylm_imitation.teacher.inputs import read_queries
from easylm_imitation.teacher.instructions import NOT_FOR_TEXT, Instructions
from easylm_imitation.teacher.nq_synthetic import Pair, parse_pairs
from easylm_imitation.teacher.recipe import free_settings
from easylm_imitation.teacher.self_chat import parse_turns
from easylm_imitation.teacher.self_instruct import parse_examples, parse_instructions, parse_labelled

CONFIGS = sorted((pathlib.Path(__file__).resolve().parents[2] / "configs/collect").glob("*.py"))


def said(conversation):
    return [(message.role, message.content) for message in conversation.messages]


def saying(text, **settings):
    """A teacher that always says the same."""
    return Endpoint(lambda handler, body, n: answer(body, text=text, **settings))


# ---- nq-synthetic -------------------------------------------------------------------------------------------------

def test_nq_synthetic_shows_five_of_the_seeds_and_keeps_distinct_pairs(tmp_path):
    seeds = write_lines(tmp_path / "seeds.jsonl", PAIRS[:10])
    with serving(Endpoint(lambda handler, body, n: invents(body))) as endpoint:
        result = collect("nq-synthetic", endpoint, seeds, tmp_path / "out.jsonl", rows=100, seed=0)
    made = rows_of(tmp_path / "out.jsonl")
    assert (len(made), result.kept, result.missing) == (100, 100, 0)
    assert len({(row.messages[0].content, row.messages[1].content) for row in made}) == 100
    for body in endpoint.requests:
        assert body["messages"][0]["content"].startswith("I want you to generate a series of questions and answers. I ")
        assert (body["temperature"], len(body["messages"])) == (1.0, 1)
        assert len(set(re.findall(r"^Q: (.*)\nA: Builder", text_of(body), re.MULTILINE))) == 5
    assert len(endpoint.requests) < 100 / 5.4 + 8, "no more is asked than is needed"
    shown = {frozenset(re.findall(r"^Q: (.*)$", text_of(body), re.MULTILINE)) for body in endpoint.requests}
    assert len(shown) > len(endpoint.requests) / 2


def test_duplicates_seeds_and_a_pair_that_is_cut_off_are_no_rows(tmp_path):
    text = "Q: who built the river\nA: Builder river\n\nQ: one\nA: x\nQ: one\nA: x\nQ: one\nA: y\nQ: two\nA: he was bo"
    seeds = write_lines(tmp_path / "seeds.jsonl", PAIRS[:10])
    with serving(saying(text, finish="length")) as endpoint:
        result = collect("nq-synthetic", endpoint, seeds, tmp_path / "out.jsonl", rows=2, concurrency=1)
        assert [said(row)[0][1] + said(row)[1][1] for row in rows_of(tmp_path / "out.jsonl")] == ["onex", "oney"]
        assert result.dropped == {"duplicate": 2}
        other = collect("nq-synthetic", endpoint, seeds, tmp_path / "other.jsonl", rows=2, distinct="question",
                        give_up_after=2, window=1)
    assert (other.kept, other.stopped, other.missing) == (1, "nothing new", 1)


@pytest.mark.parametrize(("text", "pairs"), [
    ("Q: a b\nA: c", [("a b", "c")]),
    ("1. Q: a\n   A: b\n2. Q: c\n   A: d", [("a", "b"), ("c", "d")]),
    ("**Q1:** a\n**A1:** b", [("a", "b")]),
    ("**Question:** who?\n\n**Answer:** him.", [("who?", "him.")]),
    ("- Q: a\n- A: b\nThat was all.", [("a", "b")]),
    ("Q: a\nQ: b\nA: c", [("b", "c")]),
    ("Here are more:\nQ: a\n(thinking)\nA: b", []),
    ("A: b", []), ("", []), ("Quebec: a\nAlberta: b", [])])
def test_pairs_are_read_however_they_are_written(text, pairs):
    assert parse_pairs(text) == [Pair(*pair) for pair in pairs]


def test_the_shipped_seeds_are_ten_and_a_file_takes_their_place(tmp_path):
    config = load_one_of(RECIPES, "recipe", str(CONFIGS[0].parent / "nq_synthetic.py"), ["--config.rows=5"])
    assert (len(config.seeds), config.shots, config.temperature) == (10, 5, 1.0)
    with serving(Endpoint(lambda handler, body, n: invents(body))) as endpoint:
        collect_from(config, [endpoint.url], None, tmp_path / "own.jsonl")
        with pytest.raises(UserError, match="3 seed pairs, but shots=5"):
            collect_from(config, [endpoint.url], write_lines(tmp_path / "few.jsonl", PAIRS[:3]), tmp_path / "few")
    assert any(seed.question in text_of(body) for body in endpoint.requests for seed in config.seeds)


def test_nq_opens_own_file_serves_as_seeds(shared_data, tmp_path):
    with serving(Endpoint(lambda handler, body, n: invents(body))) as endpoint:
        collect("nq-synthetic", endpoint, shared_data / "nq_open/NQ-open.dev.jsonl.gz", tmp_path / "o.jsonl", rows=3)
    assert endpoint.requests


# ---- tldr-synthetic -----------------------------------------------------------------------------------------------

def test_tldr_synthetic_puts_each_passage_into_a_question(tmp_path):
    config = load_one_of(RECIPES, "recipe", str(CONFIGS[0].parent / "tldr_synthetic.py"))
    passages = write_lines(tmp_path / "p.jsonl", [{"id": "t0", "prompt": "I lost {prompt} keys."}])
    with serving(saying("Keys lost.")) as endpoint:
        collect_from(config, [endpoint.url], passages, tmp_path / "out.jsonl")
    question = text_of(endpoint.requests[0])
    assert "\n\nI lost {prompt} keys.\n\n" in question
    row = rows_of(tmp_path / "out.jsonl")[0]
    assert said(row) == [("user", question), ("assistant", "Keys lost.")]
    assert (row.dataset, row.id) == ("tldr-synthetic", "t0")


# ---- alpaca -------------------------------------------------------------------------------------------------------

TASKS = """ Name three rivers that flow into the sea.
4. Input:
<noinput>
4. Output:
The Rhine, the Elbe and the Oder.
###
5. Instruction: Name three long rivers that flow into the sea.
5. Input:

5. Output:
A copy, nearly.
###
6. Instruction: Translate the sentence into German.
6. Input:
The cat sleeps.
6. Output:
Die Katze schläft.
###
7. Instruction: Draw what you see in the garden.
7. Input:
<noinput>
7. Output:
A garden.
###
8. Instruction: Say hello.
###
9. Instruction: Shorten the letter below to one line.
9. Input:
Dear all, ..."""


def test_alpaca_reads_tasks_and_counts_what_it_drops(tmp_path):
    seeds = write_lines(tmp_path / "seeds.jsonl", SEED_TASKS)
    with serving(saying(TASKS, finish="length")) as endpoint:
        result = collect("alpaca", endpoint, seeds, tmp_path / "out.jsonl", rows=2, concurrency=1, tasks=9)
    assert [said(row) for row in rows_of(tmp_path / "out.jsonl")] == [
        [("user", "Name three rivers that flow into the sea."), ("assistant", "The Rhine, the Elbe and the Oder.")],
        [("user", "Translate the sentence into German.\n\nThe cat sleeps."), ("assistant", "Die Katze schläft.")]]
    assert result.dropped == {"too similar": 1, "not for text": 1, "not of the form": 1}
    assert rows_of(tmp_path / "out.jsonl")[1].meta == {
        "instruction": "Translate the sentence into German.", "input": "The cat sleeps."}
    request = text_of(endpoint.requests[0])
    assert re.findall(r"^(\d)\. Instruction:", request, re.MULTILINE) == list("1234")
    assert request.endswith("###\n4. Instruction:")


def test_alpaca_collects_many(tmp_path):
    seeds = write_lines(tmp_path / "seeds.jsonl", SEED_TASKS)
    with serving(Endpoint(lambda handler, body, n: invents(body))) as endpoint:
        result = collect("alpaca", endpoint, seeds, tmp_path / "out.jsonl", rows=60, seed=0)
    made = [row.meta["instruction"] for row in rows_of(tmp_path / "out.jsonl")]
    assert (result.kept, len(set(made))) == (60, 60)
    assert {row.messages[1].content for row in rows_of(tmp_path / "out.jsonl")} <= set(MATTERS)


@pytest.mark.parametrize("text", [
    "4. Instruction: A b\n4. Input:\nc\n4. Output:\nd", "###\n4. Instruction: A b\n4. Input: c\n4. Output: d\n###",
    " A b\nInput: c\nOutput: d", "**4. Instruction:** A b\n**Input:** c\n**Output:**\nd", "### 4. Instruction: A\n b\n"
    "4. Input:\nc\n4. Output:\nd"])
def test_tasks_are_read_however_they_are_written(text):
    assert parse_tasks(text, cut_off=False) == [("A b", "c", "d")]


@pytest.mark.parametrize(("instruction", "reason"), [
    ("Say it again", "too short"), ("word " * 151, "too long"), ("Describe the Picture on the wall", "not for text"),
    ("Explain how to go to the moon", "not for text"), ("Write a program that sorts numbers", "write a program"),
    ("- list all rivers of Asia", "opens with punctuation"), ("Über allen Gipfeln ist Ruh", "opens outside ASCII"),
    ("Describe a river in 2 words for a friend", "too similar"), ("Explain profiles and mapping of data", "")])
def test_the_published_filters(instruction, reason):
    seeds = [type("Seed", (), {"instruction": "Describe the river in 2 words for a friend."})]
    assert Instructions(seeds, 0.7, NOT_FOR_TEXT).offer(instruction) == reason


# ---- self-instruct ------------------------------------------------------------------------------------------------

def test_self_instruct_goes_from_instruction_to_kind_to_instances(tmp_path):
    def teacher(handler, body, n):
        text = text_of(body)
        if text.startswith("Go on with"):
            return answer(body, text=" Judge whether the review is kind.\n10. Name fruits that grow on old trees.")
        if text.startswith("Does a task"):
            return answer(body, text="Yes." if "review" in text.splitlines()[-2] else "No")
        if text.startswith("Each task"):
            return answer(body, text=" kind\nInput: Lovely!\nLabel: unkind\nInput: Bad!\nLabel: kind\nInput: Bad!")
        return answer(body, text="Output: Apples.\nExample 2\nOutput: \nExample 3\nInput: red\nOutput: Cher",
                      finish="length")
    seeds = write_lines(tmp_path / "seeds.jsonl", SEED_TASKS)
    with serving(Endpoint(teacher)) as endpoint:
        result = collect("self-instruct", endpoint, seeds, tmp_path / "out.jsonl", rows=2, window=1)
    assert [said(row) for row in rows_of(tmp_path / "out.jsonl")] == [
        [("user", "Judge whether the review is kind.\n\nLovely!"), ("assistant", "kind")],
        [("user", "Name fruits that grow on old trees."), ("assistant", "Apples.")]]
    steps = [text_of(body).split()[0] for body in endpoint.requests]
    assert steps == ["Go", "Does", "Each", "Does", "Write"]
    assert result.dropped == {"instance is empty, repeats its input, or contradicts another": 3}
    demos = text_of(endpoint.requests[2])
    assert all(seed["instruction"] not in demos for seed in SEED_TASKS if not seed["is_classification"])
    kinds = [text_of(endpoint.requests[i]).rpartition("Task:") for i in (1, 3)]
    assert kinds[0][0] == kinds[1][0]       # a server computes the beginning once
    assert kinds[0][2] != kinds[1][2]


@pytest.mark.parametrize(("text", "found"), [
    ("9. Sort the words.\n10. Name a tree.", ["Sort the words.", "Name a tree."]),
    ("Sort the words.\n10) Name a tree.", ["Sort the words.", "Name a tree."]),
    ("Here are more tasks:\n1. **Sort the words.**", ["Sort the words."]), ("", []), ("\n\n", [])])
def test_instructions_are_read_however_they_are_written(text, found):
    assert parse_instructions(text) == found


@pytest.mark.parametrize("parse", [
    parse_pairs, parse_instructions, *(functools.partial(parse, cut_off=False) for parse in (
        parse_examples, parse_labelled, parse_tasks, parse_turns))], ids=range(6))
@pytest.mark.parametrize("text", [
    "\n" * 20_000, "Q: " + " " * 20_000 + "x", "Input:" + "\n*" * 20_000, "1." + "*" * 20_000, "Output: a\n" * 5_000,
    "[Human] a\n" * 5_000, "Instruction: a\nInput:\n" * 3_000, "###\n" * 5_000,
    "Label: a\n\n" * 5_000], ids=range(9))
def test_an_endless_answer_is_read_in_one_pass(parse, text):
    """It would take hours to go back and forth over it."""
    assert len(parse(text)) <= 5_000


@pytest.mark.parametrize(("text", "found"), [
    ("Input: a\nOutput:\n* one\n* two", [("a", "* one\n* two")]), ("**Input:** a\n\n**Output:** b", [("a", "b")]),
    ("Input: None\nOutput: b\n\n**Example 2**\nInput:\nc\nd\nOutput: e", [("", "b"), ("c\nd", "e")])])
def test_examples_are_read_however_they_are_written(text, found):
    assert parse_examples(text, False) == found


def test_examples_stop_where_the_teacher_begins_a_task_of_its_own():
    assert parse_examples("Output: one\n\nTask: another\nExample 1\nOutput: two", False) == [("", "one")]


def test_the_real_seed_tasks_are_read(shared_data, tmp_path):
    seeds = shared_data / "self_instruct/data/seed_tasks.jsonl"
    with serving(Endpoint(lambda handler, body, n: invents(body))) as endpoint:
        assert collect("self-instruct", endpoint, seeds, tmp_path / "s.jsonl", rows=10, window=4, seed=0).kept == 10
        assert collect("alpaca", endpoint, seeds, tmp_path / "a.jsonl", rows=10, seed=0).kept == 10


# ---- explanations -------------------------------------------------------------------------------------------------

SYSTEMS = [{"text": "Think step by step.", "kinds": []}, {"text": "Say why the others are wrong.", "kinds": ["choice"]},
           {"text": "", "kinds": []}]


def explanations(**settings):
    overrides = {"systems": SYSTEMS, "seed": 0, **settings}
    return load_one_of(RECIPES, "recipe", None, ["--config.recipe=explanations"] + [
        f"--config.{name}={value}" for name, value in overrides.items()])


def test_explanations_draw_a_system_message_for_each_query(tmp_path):
    queries = write_lines(tmp_path / "q.jsonl", [
        {"inputs": f"question {i}", "targets": "yes", "kind": "choice" if i % 2 else "plain"} for i in range(60)])
    with serving(Endpoint()) as endpoint:
        collect_from(explanations(), [endpoint.url], queries, tmp_path / "out.jsonl")
    made = rows_of(tmp_path / "out.jsonl")
    assert [row.id for row in made] == [f"q_{i}_1" for i in range(60)]
    assert made[0].meta == {"target": "yes", "kind": "plain", "stage": 1}
    by_kind = {kind: Counter(said(row)[0][1] if said(row)[0][0] == "system" else "" for row in made
                             if row.meta["kind"] == kind) for kind in ("plain", "choice")}
    assert by_kind["plain"].keys() == {"Think step by step.", ""}
    assert by_kind["choice"].keys() == {system["text"] for system in SYSTEMS}
    assert {said(row)[-1] for row in made} == {("assistant", f"answer to question {i}") for i in range(60)}


def test_two_teachers_make_a_curriculum_whose_order_is_kept(tmp_path):
    queries = write_lines(tmp_path / "q.jsonl", [{"id": f"q{i}", "prompt": f"question {i}"} for i in range(12)])
    config = explanations(**{"model": "cheap", "better.model": "good", "better.queries": 4, "price_in": 1.0,
                             "price_out": 1.0, "better.price_in": 100.0, "better.price_out": 100.0})
    with serving(Endpoint(models=[{"id": "cheap"}, {"id": "good"}])) as endpoint:
        result = collect_from(config, [endpoint.url], queries, tmp_path / "out.jsonl")
        with serving(Endpoint(models=[{"id": "good"}])) as other:
            apart = collect_from(config, [endpoint.url, other.url], queries, tmp_path / "apart.jsonl")
    made = rows_of(tmp_path / "out.jsonl")
    assert [row.teacher for row in made] == ["cheap"] * 12 + ["good"] * 4
    assert [row.id for row in made[:12]] == [f"q{i}_1" for i in range(12)]
    numbers = [int(row.id[1:-2]) for row in made[12:]]
    assert numbers == sorted(set(numbers))
    for row in made[12:]:       # the better teacher is asked the same
        assert said(row)[:-1] == said(made[int(row.id[1:-2])])[:-1]
    assert result.cost == pytest.approx((12 + 4 * 100) * 15 / 1e6)
    assert result.teacher == "cheap + good"
    assert (tmp_path / "apart.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert [body["model"] for body in other.requests] == ["good"] * 4
    assert apart.cost == result.cost
    assert read_json(CollectionCard, tmp_path / "out.jsonl.card.json").teachers == ("cheap", "good")


def test_the_verb_takes_a_recipe_and_two_teachers(tmp_path, capsys):
    queries = write_lines(tmp_path / "q.jsonl", [{"id": f"q{i}", "prompt": f"question {i}"} for i in range(4)])
    with serving(Endpoint(models=[{"id": "cheap"}])) as one, serving(Endpoint(models=[{"id": "good"}])) as other:
        status = main(["collect", "--config", str(CONFIGS[0].parent / "explanations.py"), "--prompts", str(queries),
                       "--teacher", f"{one.url},{other.url}", "--config.better.queries=2", "--json",
                       "--out", str(tmp_path / "out.jsonl")])
    assert status == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["teacher"] == "cheap + good"
    assert (len(one.requests), len(other.requests)) == (4, 2)


def test_the_verb_ends_with_3_and_says_how_to_go_on_when_rows_are_missing(tmp_path, capsys):
    prompts = write_lines(tmp_path / "p.jsonl", [{"id": f"p{i}", "prompt": f"question {i}"} for i in range(3)])
    broken = {"question 1"}
    call = ["collect", "--config", str(CONFIGS[0].parent / "answers.py"), "--prompts", str(prompts), "--json"]
    one, other = ([*call, "--out", str(tmp_path / name), "--teacher"] for name in ("one.jsonl", "other.jsonl"))
    with serving(Endpoint(lambda h, body, n: send(h, 400, {}) if broken & {text_of(body)} else answer(body))) as api:
        assert main([*one, api.url]) == 3
        shown = capsys.readouterr()
        assert json.loads(shown.out.splitlines()[-1])["missing"] == 1
        assert "1 of 3 rows are missing: 1 requests failed in this run; the same command goes on" in (
            " ".join(shown.err.split()))
        broken.clear()
        assert main([*one, api.url]) == 0
        assert main([*other, api.url, "--config.max_tokens=100", "--config.budget_tokens=120"]) == 3
        assert "with a larger budget_tokens or budget_cost" in " ".join(capsys.readouterr().err.split())


def test_settings_that_shape_no_request_are_free_in_every_recipe():
    shared = {"dataset", "price_in", "budget_tokens", "timeout", "longest_retry_after", "terms", "api_key_env"}
    for recipe, config in RECIPES.items():
        free = free_settings(config())
        assert shared <= free
        assert not free & {"model", "temperature", "max_tokens", "seed", "stop", "api", "recipe"}
        assert ("window" in free) == (recipe != "self-instruct")


def test_another_second_teacher_is_named_as_what_changed(tmp_path):
    """How much it is asked may change, and whether at all."""
    queries = write_lines(tmp_path / "q.jsonl", [{"id": "q0", "prompt": "question"}, {"id": "q1", "prompt": "other"}])
    with serving(Endpoint(models=[{"id": "cheap"}, {"id": "good"}, {"id": "best"}])) as endpoint:
        def ask(**settings):
            return collect_from(explanations(model="cheap", **settings), [endpoint.url], queries, tmp_path / "o.jsonl")
        assert ask().asked == 2
        assert ask(**{"better.model": "good", "better.queries": 1}).asked == 1
        with pytest.raises(UserError, match=r"'better\.model' was 'good' and is 'best'; choose another --out"):
            ask(**{"better.model": "best", "better.queries": 2})
        assert ask(**{"better.model": "good", "better.queries": 2}).asked == 1
    assert len(endpoint.requests) == 4


@pytest.mark.parametrize(("recipe", "text", "says"), [
    ("alpaca", "Sorry?", "not of the form"), ("self-instruct", "", "no list in the answer")])
def test_why_nothing_new_came_is_told(tmp_path, recipe, text, says):
    seeds = write_lines(tmp_path / "seeds.jsonl", SEED_TASKS)
    with serving(saying(text)) as endpoint:
        with pytest.raises(Incomplete, match=rf"brought nothing new.* \(dropped so far: \d+ {says}\)$"):
            collect(recipe, endpoint, seeds, tmp_path / "out.jsonl", rows=2, give_up_after=2, window=1)


def test_the_better_teachers_subset_grows_with_its_number(tmp_path):
    queries = write_lines(tmp_path / "q.jsonl", [{"id": f"q{i}", "prompt": f"question {i}"} for i in range(30)])
    with serving(Endpoint(models=[{"id": "cheap"}, {"id": "good"}])) as endpoint:
        for count in (3, 9):
            config = explanations(**{"model": "cheap", "better.model": "good", "better.queries": count})
            result = collect_from(config, [endpoint.url], queries, tmp_path / "out.jsonl")
    assert (result.kept, result.asked, result.reused, len(endpoint.requests)) == (39, 6, 33, 39)


def test_a_teacher_is_not_better_than_itself(tmp_path):
    queries = write_lines(tmp_path / "q.jsonl", [{"id": "q", "prompt": "question"}])
    with serving(Endpoint()) as endpoint, pytest.raises(UserError, match="both teachers are 'teacher'"):
        collect_from(explanations(**{"better.queries": 1}), [endpoint.url], queries, tmp_path / "out.jsonl")
    assert not endpoint.requests


def test_more_teachers_than_the_recipe_asks_are_too_many(tmp_path):
    queries = write_lines(tmp_path / "q.jsonl", [{"id": "q", "prompt": "question"}])
    with pytest.raises(UserError, match="2 teachers for a recipe that asks 1"):
        collect_from(explanations(), ["http://a", "http://b"], queries, tmp_path / "out.jsonl")


def test_a_better_teacher_without_queries_is_an_error_that_names_the_setting(tmp_path):
    queries = write_lines(tmp_path / "q.jsonl", [{"id": "q", "prompt": "question"}])
    with pytest.raises(UserError, match="better.model='good' would never be asked.*set better.queries"):
        explanations(**{"better.model": "good"})
    with pytest.raises(UserError, match="2 teachers for a recipe that asks 1.*set better.queries"):
        collect_from(explanations(), ["http://a", "http://b"], queries, tmp_path / "out.jsonl")


def test_flans_own_files_are_queries(shared_data):
    queries = read_queries(shared_data / "flan_cot/strategyqa_train.tsv.gz")
    assert len(queries) == 2061
    assert queries[0].id == "strategyqa_train_0"
    assert queries[0].meta["target"] == "yes"
    assert queries[0].messages[0].content.endswith("?")


# ---- self-chat ----------------------------------------------------------------------------------------------------

def test_self_chat_reads_the_turns_of_a_transcript(tmp_path):
    topics = write_lines(tmp_path / "t.jsonl", [{"id": "t0", "prompt": "How do bees {navigate}?"}])
    text = ("[Human] Hello!\n[AI] Hi! How can I help you?\n[Human] How do bees navigate?\n[AI] By the sun.\n\nAnd by "
            "landmarks.\n[Human] At night?\n[AI] They sl")
    with serving(saying(text, finish="length")) as endpoint:
        collect("self-chat", endpoint, topics, tmp_path / "out.jsonl")
    row = rows_of(tmp_path / "out.jsonl")[0]
    assert said(row) == [("user", "How do bees navigate?"), ("assistant", "By the sun.\n\nAnd by landmarks.")]
    assert row.meta == {"topic": "How do bees {navigate}?"}
    assert '"How do bees {navigate}?"' in text_of(endpoint.requests[0])


@pytest.mark.parametrize(("text", "turns"), [
    ("[|Human|] a\n[|AI|] b", ["a", "b"]), ("[Human]: a\n[AI]: b\n[Human] c", ["a", "b"]),
    ("[AI] Hi! How can I help you?\n[Human] a\n[AI] b", ["a", "b"]), ("[AI] a\n[Human] b", []),
    ("[Human] a\n[Human] b\n[AI] c", []), ("[Human] a\n[AI] b\n[Human]\n[AI] d", ["a", "b"]), ("Sure!", []), ("", []),
    ("**[Human]** a\n**[AI]** b [AI] c", ["a", "b [AI] c"])])
def test_turns_are_in_order_or_left_out(text, turns):
    assert [turn.content for turn in parse_turns(text, False)] == turns


def test_a_transcript_of_no_use_is_asked_for_again(tmp_path):
    topics = write_lines(tmp_path / "t.jsonl", [{"id": f"t{i}", "prompt": f"topic {i}"} for i in range(3)])
    with serving(Endpoint(lambda handler, body, n: answer(
            body, text="no" if n < 3 and "topic 1" in text_of(body) else "[Human] a\n[AI] b"))) as endpoint:
        result = collect("self-chat", endpoint, topics, tmp_path / "o.jsonl", tries=3)
        assert (result.kept, result.dropped) == (3, {})
        with pytest.raises(Incomplete, match="3 of 3 rows are missing: .*3 fewer than 2 rounds"):
            collect("self-chat", endpoint, topics, tmp_path / "other.jsonl", tries=2, rounds=2, window=2)
    assert [row.id for row in rows_of(tmp_path / "o.jsonl")] == ["t0", "t1", "t2"]
    assert [(e.prompt_id, e.attempt) for e in ledger_of(tmp_path / "o.jsonl") if e.prompt_id == "t1"] == [
        ("t1", 0), ("t1", 1), ("t1", 2)]
    assert len(ledger_of(tmp_path / "other.jsonl")) == 6


# ---- all of them --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_read_and_says_its_command(path):
    config = load_one_of(RECIPES, "recipe", str(path), ["--config.max_tokens=9"])
    assert config.max_tokens == 9
    assert f"collect --config configs/collect/{path.name}" in path.read_text()


def test_every_recipe_has_a_config():
    assert {load_one_of(RECIPES, "recipe", str(path)).recipe for path in CONFIGS} == set(RECIPES)


def test_an_unknown_recipe_is_an_error_that_names_the_nearest():
    with pytest.raises(UserError, match="'alpacca' is none of them; did you mean 'alpaca'"):
        load_one_of(RECIPES, "recipe", None, ["--config.recipe=alpacca"])


@pytest.mark.parametrize(("recipe", "line", "says"), [
    ("nq-synthetic", {"question": "who"}, r"in.jsonl:1.*answer: expected str"),
    ("alpaca", {"instruction": "Say hello to us"}, r"in.jsonl:1: not a seed task \(KeyError: 'instances'\)"),
    ("self-instruct", {"instruction": "Say hello", "instances": [{"output": "x"}]}, "1 seed tasks, but 8"),
    ("explanations", {"targets": "yes"}, "in.jsonl:1: the key 'prompt' is missing"),
    ("self-chat", {"id": "a", "prompt": " "}, "in.jsonl:1: prompt 'a' has an empty message"),
    ("self-chat", {"id": "a", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "cats"}]},
     "topic 'a' has 2 messages, of which self-chat would ask about one")])
def test_a_bad_input_is_named_before_any_request(tmp_path, recipe, line, says):
    with serving(Endpoint()) as endpoint, pytest.raises(UserError, match=says):
        collect(recipe, endpoint, write_lines(tmp_path / "in.jsonl", [line]), tmp_path / "out.jsonl")
    assert not endpoint.requests
    assert not (tmp_path / "out.jsonl.ledger.jsonl").exists()


def test_a_completions_endpoint_gets_the_text_alone(tmp_path):
    seeds = write_lines(tmp_path / "seeds.jsonl", SEED_TASKS)
    with serving(saying(TASKS)) as endpoint:
        collect("alpaca", endpoint, seeds, tmp_path / "out.jsonl", rows=2, api="completions")
        prompts = write_lines(tmp_path / "p.jsonl", [{"id": "a", "prompt": "x"}])
        with pytest.raises(UserError, match="prompt 'a' has 2 messages, of which api='completions' can send one"):
            collect("answers", endpoint, prompts, tmp_path / "other.jsonl", api="completions", system="Be brief.")
    assert "messages" not in endpoint.requests[0]
    assert endpoint.requests[0]["prompt"].endswith("4. Instruction:")


def test_the_card_says_who_when_what_and_on_which_terms(tmp_path):
    seeds = write_lines(tmp_path / "seeds.jsonl", PAIRS)
    out = tmp_path / "out.jsonl"
    with serving(Endpoint(lambda handler, body, n: invents(body))) as endpoint:
        collect("nq-synthetic", endpoint, seeds, out, rows=20, terms="ask before you sell", price_out=1e6, price_in=0.0)
        card = read_json(CollectionCard, f"{out}.card.json")
        collect("nq-synthetic", endpoint, seeds, out, rows=20, terms="ask before you sell", price_out=1e6, price_in=0.0)
    assert read_json(CollectionCard, f"{out}.card.json") == card
    assert (card.recipe, card.teachers, card.terms) == ("nq-synthetic", ("teacher",), "ask before you sell")
    assert (card.rows, card.requests, card.failures) == (20, len(endpoint.requests), 0)
    assert card.cost == 5 * len(endpoint.requests)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", card.first)
    assert card.first <= card.last
    assert set(card.others.values()) == {600.0, 300.0, 5000.0}
