"""The rule of replay: which requests are asked depends on answers, never on time, crashes, budgets or concurrency."""
import random
import time

import pytest
from collect_helpers import SEED_TASKS, bodies, collect, invents, ledger_of, rows_of, text_of, write_lines
from endpoint import Endpoint, send, serving

from easylm_imitation.schema import UserError


@pytest.fixture
def seeds(tmp_path):
    return write_lines(tmp_path / "seeds.jsonl", SEED_TASKS)


def shuffled(handler, body, n):
    """Answers in an order that has nothing to do with that of the requests."""
    time.sleep(random.random() * 0.03)
    return invents(body)


def calm(handler, body, n):
    return invents(body)


def run(seeds, out, behave=calm, **settings):
    """(result, requests and how often each came) of a self-instruct collection, whose requests build on answers."""
    with serving(Endpoint(behave)) as endpoint:
        result = collect("self-instruct", endpoint, seeds, out, **{"rows": 40, "window": 8, "seed": 3, **settings})
    return result, bodies(endpoint)


def test_concurrency_and_order_of_arrival_change_nothing(seeds, tmp_path):
    alone, asked_alone = run(seeds, tmp_path / "alone.jsonl", concurrency=1)
    many, asked_many = run(seeds, tmp_path / "many.jsonl", shuffled, concurrency=8)
    assert asked_alone == asked_many
    assert max(asked_many.values()) == 1
    assert (alone.kept, many.kept) == (40, 40)
    assert (tmp_path / "alone.jsonl").read_bytes() == (tmp_path / "many.jsonl").read_bytes()


def test_requests_show_what_was_invented_before(seeds, tmp_path):
    with serving(Endpoint(calm)) as endpoint:
        collect("self-instruct", endpoint, seeds, tmp_path / "out.jsonl", rows=40, window=8, seed=3, instructions=1)
    in_order = sorted(endpoint.requests, key=lambda body: body["seed"])
    lists = [text_of(body) for body in in_order if text_of(body).startswith("Go on with")]
    own = {seed["instruction"] for seed in SEED_TASKS}
    invented = [sum(line.partition(". ")[2] not in own for line in text.splitlines()[2:-1]) for text in lists]
    assert (invented[0], invented[-1]) == (0, 2)
    assert invented == sorted(invented)


def test_a_collection_in_parts_asks_what_one_in_one_piece_asks(seeds, tmp_path):
    """Made larger, stopped by budgets, continued: the same rows and the same requests, none of them twice."""
    out, asked = tmp_path / "parts.jsonl", None
    for settings in ({"rows": 3}, {"rows": 12}, {"budget_tokens": 1000}, {"budget_tokens": 1200}, {}):
        result, now = run(seeds, out, shuffled, **({"max_tokens": 64, "rows": 60} | settings))
        asked = asked + now if asked else now
        assert result.stopped == ("budget used up" if "budget_tokens" in settings else "")
    _, whole = run(seeds, tmp_path / "whole.jsonl", max_tokens=64, rows=60)
    assert asked == whole
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_without_a_seed_a_collection_goes_on_too(seeds, tmp_path):
    """The seeds that are shown follow from the settings alone: another process asks what this one would."""
    out = tmp_path / "out.jsonl"
    made, asked = run(seeds, out, rows=10, seed=None)
    assert made.asked > 3
    again, now = run(seeds, out, rows=10, seed=None)
    assert (again.asked, again.reused, sum(now.values())) == (0, made.asked, 0)


def test_a_failed_request_that_others_build_on_stays_failed(seeds, tmp_path):
    out = tmp_path / "out.jsonl"
    first, asked = run(seeds, out, lambda h, body, n: send(h, 400, {}) if body["seed"] == 8 else invents(body))
    assert (first.failed, first.kept) == (1, 40)
    again, now = run(seeds, out)
    assert (again.asked, again.failed, again.kept, now) == (0, 0, 40, {})
    assert max(asked.values()) == 1
    assert [e.status for e in ledger_of(out) if e.prompt_id == "5"] == ["failed"]


@pytest.mark.parametrize(("settings", "says"), [({"seed": 4}, "'seed' was 3 and is 4"), (
    {"window": 9}, "'window' was 8 and is 9"), ({"rouge": 0.5}, "'rouge' was 0.7 and is 0.5")])
def test_what_shapes_requests_cannot_change(seeds, tmp_path, settings, says):
    run(seeds, tmp_path / "out.jsonl", rows=5)
    with pytest.raises(UserError, match=says):
        run(seeds, tmp_path / "out.jsonl", **settings)


def test_other_seed_tasks_are_noticed(seeds, tmp_path):
    run(seeds, tmp_path / "out.jsonl", rows=5)
    write_lines(seeds, [{**seed, "instruction": seed["instruction"] + " Please."} for seed in SEED_TASKS])
    with pytest.raises(UserError, match="the text of prompt '0' has changed"):
        run(seeds, tmp_path / "out.jsonl", rows=5)


def test_rows_lead_to_the_ledger(seeds, tmp_path):
    run(seeds, tmp_path / "out.jsonl")
    answers = {entry.prompt_id: entry.response for entry in ledger_of(tmp_path / "out.jsonl")}
    for row in rows_of(tmp_path / "out.jsonl"):
        assert row.messages[-1].content in answers[row.id.partition("_")[0]]
    assert len({row.id for row in rows_of(tmp_path / "out.jsonl")}) == 40
