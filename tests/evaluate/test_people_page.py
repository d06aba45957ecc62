"""Whole studies in a real Chromium: scripted raters, at once, on desks and phones, and everything that goes wrong."""
import collections
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from browser import PHONE, SECONDS, chromium, visit  # noqa: F401
from people_helpers import open_study, write_answers

from easylm_imitation.evaluate import people
from easylm_imitation.evaluate.people.config import PeopleConfig
from easylm_imitation.evaluate.people.outcome import study_results

NASTY = """<script>window.hit = 1</script><img src=x onerror="window.hit = 2"> **bold** [x](javascript:window.hit=3)
&lt;b&gt; <style>body { display: none }</style> <iframe src="//127.0.0.1:9/"></iframe>"""


@contextlib.contextmanager
def study_at(folder, config, **sizes):
    with open_study(folder, config, **sizes) as (study, sets), people.StudyServer(study) as server:
        yield study, sets, server.url


def at(page, number):
    """Waits until the page shows `number`."""
    page.get_by_text(re.compile(rf"^{number} of \d+$")).wait_for()


def done(page):
    """Waits for the end; the completion code."""
    page.get_by_role("heading", name="Thank you").wait_for()
    return page.locator("#code").inner_text()


def next_button(page):
    return page.get_by_role("button", name="Next", exact=True)


def texts(page):
    """(the question, A, B) as a person reads them."""
    return [page.locator(".request .text").inner_text(), *page.locator(".answer .text").all_inner_texts()]


def finished(page):
    return page.locator("#thanks").is_visible()


def rate(page, answer, keyboard):
    """Gives one of three answers, and waits for what comes next."""
    before = page.locator("#place").inner_text()
    if keyboard:
        page.keyboard.press(str(answer + 1))
        page.keyboard.press("Enter")
    else:
        page.locator("#choices label").nth(answer).click()
        next_button(page).click()
    page.wait_for_function("before => document.getElementById('place').textContent !== before", arg=before)


def alpha_by_definition(ratings):
    """Krippendorff's nominal alpha from all pairs, as its definition reads: ratings of an item are a list."""
    ratings = [own for own in ratings if len(own) > 1]
    everyone = [r for own in ratings for r in own]
    observed = sum((a != b) / (len(own) - 1) for own in ratings for a, b in itertools.permutations(own, 2))
    expected = sum(a != b for a, b in itertools.permutations(everyone, 2)) / (len(everyone) - 1)
    return 1 - observed / expected


def test_five_raters_at_once_make_exactly_the_scripted_statistics(chromium, tmp_path):  # noqa: F811
    prompts, config = 5, PeopleConfig(ratings=5, raters=5, checks=1)
    draw = np.random.default_rng(7).integers(0, 3, (5, prompts))        # 2: the model is better, 1: a tie
    with study_at(tmp_path, config, prompts=prompts) as (study, sets, url), contextlib.ExitStack() as stack:
        good = {pair.turns[0].question: pair.turns[0].mine for pair in sets.checks}
        pages = [stack.enter_context(visit(chromium, f"{url}/#{token}", **({"viewport": PHONE} if n == 4 else {})))
                 for n, token in enumerate(study.links())]
        for page in pages:
            at(page, 1)
        while working := [n for n, page in enumerate(pages) if not finished(page)]:
            for n in working:       # in turn: all five studies are open at once
                question, left, _ = texts(pages[n])
                if question in good:
                    answer = 0 if left.strip() == good[question] else 2
                else:
                    model = draw[n, int(question.split()[-1])]
                    answer = 2 - model if "model 0" in left else model
                rate(pages[n], int(answer), keyboard=n % 2 == 0)
        assert len({done(page) for page in pages}) == 5
        ratings = study.ratings()
    [results] = study_results(sets, ratings, config)
    assert {(r.rater, r.prompt): r.answer for r in ratings if r.model == 0} == {
        (n + 1, f"p{i}"): draw[n, i] for n in range(5) for i in range(prompts)}
    assert [r.answer for r in ratings if r.model == -1] == [2] * 5      # each had one check, and passed it
    most = {f"p{i}": next((v / 2 for v, count in collections.Counter(draw[:, i]).items() if count > 2), 0.5)
            for i in range(prompts)}
    assert {item.id: item.score for item in results.tasks[0].items} == most
    assert results.meta["win_rate"]["value"] == pytest.approx(np.mean(list(most.values())))
    assert results.meta["mean_vote"]["value"] == pytest.approx(draw.mean() / 2)
    assert results.meta["equal_or_better"]["value"] == pytest.approx(np.mean([v > 0 for v in most.values()]))
    assert results.meta["agreement"]["alpha_verdicts"]["value"] == pytest.approx(alpha_by_definition(draw.T.tolist()))
    counts = np.array([[(draw[:, i] == v).sum() for v in range(3)] for i in range(prompts)])
    agree, chance = ((counts ** 2).sum(1) - 5).mean() / 20, ((counts.sum(0) / counts.sum()) ** 2).sum()
    assert results.meta["agreement"]["fleiss_verdicts"] == pytest.approx((agree - chance) / (1 - chance))
    assert (results.meta["ratings"], results.meta["left_out"], results.tasks[0].data) == (25, [], "full")


def test_a_double_click_the_back_button_and_a_closed_tab_lose_and_double_nothing(chromium, tmp_path):  # noqa: F811
    with study_at(tmp_path, PeopleConfig(ratings=1, raters=2, checks=0), prompts=4) as (study, _, url):
        link, other = (f"{url}/#{token}" for token in study.links())
        with visit(chromium, link) as page:
            at(page, 1)
            page.locator("#choices label").first.dblclick()
            next_button(page).dblclick()
            at(page, 2)
            assert next_button(page).is_disabled()          # the second click rated nothing
            assert [r.number for r in study.ratings()] == [1]
            page.keyboard.press("2")
            for _ in range(3):
                page.keyboard.press("Enter")
            at(page, 3)
            page.wait_for_timeout(100)
            assert [r.number for r in study.ratings()] == [1, 2]
            page.go_back()
            at(page, 2)
            assert page.locator("#choices input:checked").input_value() == "1"
            page.go_back()
            at(page, 1)
            page.keyboard.press("3")
            page.keyboard.press("Enter")
            at(page, 2)
            next_button(page).click()
            at(page, 3)
            page.reload()
            at(page, 3)
            waiting = texts(page)
        assert [(r.number, r.revisions) for r in study.ratings()] == [(1, 1), (2, 0)]
        with visit(chromium, other) as page:                # a second person gets another pair
            at(page, 1)
            assert texts(page) != waiting
        with visit(chromium, link) as page:                 # a tab that was closed goes on where it stood
            at(page, 3)
            assert texts(page) == waiting
            rate(page, 0, keyboard=True)                    # the last: the other person holds the fourth
            code = done(page)
            page.go_back()
            at(page, 3)
            page.go_forward()
            assert done(page) == code
            page.get_by_role("button", name="Look at my last answer again").click()
            at(page, 3)
        assert len(study.ratings()) == 3


def test_five_ways_on_a_phone_with_multiple_turns_of_nasty_text(chromium, tmp_path):  # noqa: F811
    config = PeopleConfig(question="tulu", ratings=1, raters=1, checks=0)
    with study_at(tmp_path, config, prompts=2, say=lambda who, i: f"{who} {NASTY}") as (study, _, url):
        with visit(chromium, f"{url}/#{study.links()[0]}", viewport=PHONE, has_touch=True, color_scheme="dark") as page:
            at(page, 1)
            assert NASTY.split("\n")[0] in texts(page)[1]                   # as it was written
            assert page.evaluate("window.hit") is None
            assert page.locator(".answer img, .answer iframe, .answer a, .answer script").count() == 0
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            for label in page.locator("#form label").all():
                box = label.bounding_box()
                assert box["height"] >= 44                                 # a finger's width
            lefts = page.locator(".answer").evaluate_all("nodes => nodes.map(n => n.getBoundingClientRect().left)")
            assert lefts[0] == lefts[1]                                    # one above the other
            page.locator("#choices label").nth(3).tap()
            assert next_button(page).is_disabled()                         # acceptability is missing
            page.locator(".answer").first.get_by_text("Yes").tap()
            page.locator(".answer").last.get_by_text("No", exact=True).tap()
            next_button(page).tap()
            at(page, 2)
            for key in ("1", "w", "o", "Enter"):                           # the same with a keyboard
                page.keyboard.press(key)
            done(page)
        first, second = study.ratings()
    assert first.answer == (1 if first.mine_left else 3)
    assert (first.mine_ok, first.other_ok) == ((True, False) if first.mine_left else (False, True))
    assert second.answer == (4 if second.mine_left else 0)
    assert (second.mine_ok, second.other_ok) == ((False, True) if second.mine_left else (True, False))


@pytest.mark.slow
def test_markdown_is_shown_where_the_study_says_so(chromium, tmp_path):  # noqa: F811
    config = PeopleConfig(ratings=1, raters=1, checks=0, markdown=True)
    text = "**bold**\n\n- one\n- two\n\n```\ncode\n```\n" + NASTY
    with study_at(tmp_path, config, prompts=1, say=lambda who, i: text) as (study, _, url):
        with visit(chromium, f"{url}/#{study.links()[0]}") as page:
            at(page, 1)
            assert page.locator(".answer strong").first.inner_text() == "bold"
            assert page.locator(".answer li").count() == 4
            assert page.locator(".answer button, .answer img, .answer iframe, .answer style").count() == 0
            assert page.evaluate("window.hit") is None


@pytest.mark.slow
def test_a_crowd_platform_sends_people(chromium, tmp_path):  # noqa: F811
    config = PeopleConfig(ratings=1, raters=0, crowd=2, items=1, checks=0, completion="DONE-7")
    with study_at(tmp_path, config, prompts=2) as (study, _, url):
        link = f"{url}/?study={study.crowd_key()}"
        with visit(chromium, f"{link}&PROLIFIC_PID=ann") as page:
            at(page, 1)
            seen = texts(page)
            assert "study" not in page.url
            assert "ann" not in page.url
        with visit(chromium, f"{link}&PROLIFIC_PID=ann") as page:      # on another machine
            at(page, 1)
            assert texts(page) == seen
            rate(page, 1, keyboard=False)
            assert done(page) == "DONE-7"
        with visit(chromium, link) as page:                             # nobody says who this is; a reload does not
            at(page, 1)
            page.goto(link)
            at(page, 1)
        with visit(chromium, f"{link}&workerId=eve", expected=["403"]) as page:
            page.get_by_text("all places of the study are taken").wait_for()
        with visit(chromium, f"{link}&assignmentId=ASSIGNMENT_ID_NOT_AVAILABLE") as page:
            page.get_by_text("Accept the task first").wait_for()
        assert [r.worker for r in study.ratings()] == ["ann"]


@pytest.mark.slow
def test_links_that_are_none(chromium, tmp_path):  # noqa: F811
    with study_at(tmp_path, PeopleConfig()) as (_, _, url):
        with visit(chromium, url) as page:
            page.get_by_text("needs the link that you were sent").wait_for()
        with visit(chromium, f"{url}/#wrong", expected=["401"]) as page:
            page.get_by_text("This link is not known here").wait_for()


def command(folder, port):
    """The command of a study of six prompts, as a user types it."""
    return [sys.executable, "-m", "easylm_imitation", "compare", "--by", "people", "--models", f"{folder}/a0.jsonl",
            "--reference", f"{folder}/teacher.jsonl", "--out", f"{folder}/people.json", "--config.ratings=2",
            "--config.raters=2", "--config.checks=0", "--port", str(port)]


@contextlib.contextmanager
def serving(folder, port=0):
    """(the process of the command, its links)."""
    with subprocess.Popen(command(folder, port), stderr=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("serving at"):
                break
        assert lines[-1].startswith("serving at"), lines
        threading.Thread(target=process.stderr.read, daemon=True).start()
        try:
            yield process, [line.strip() for line in lines if "/#" in line]
        finally:
            process.kill()


@pytest.mark.slow
def test_a_killed_server_loses_and_doubles_nothing(chromium, tmp_path):  # noqa: F811
    """kill -9 amid two raters' work; the same command goes on, the open pages too, without a reload."""
    write_answers(tmp_path, prompts=6)
    with contextlib.ExitStack() as stack:
        with serving(tmp_path) as (process, links):
            port = int(re.search(r":(\d+)/", links[0])[1])
            pages = [stack.enter_context(visit(chromium, link, expected=["ERR_"])) for link in links]
            for page in pages:
                at(page, 1)
                rate(page, 0, keyboard=True)
            process.kill()
            process.wait()
        pages[0].keyboard.press("2")
        pages[0].keyboard.press("Enter")
        pages[0].get_by_text("The server does not answer").wait_for()
        assert not pages[1].get_by_text("The server does not answer").is_visible()
        with serving(tmp_path, port) as (process, again):
            assert again == links
            at(pages[0], 3)
            for page in pages:
                while not finished(page):
                    rate(page, 2, keyboard=True)
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
    rows = [json.loads(line) for line in (tmp_path / "people.ratings.jsonl").read_text().splitlines()]
    assert [(row["rater"], row["number"], row["revisions"]) for row in rows] == [
        (rater, number, 0) for rater in (1, 2) for number in range(1, 7)]
    said = {(row["rater"], row["number"]): row["said"] for row in rows}
    assert (said[1, 1], said[2, 1], said[1, 2], said[1, 3]) == (
        "A is better", "A is better", "About the same", "B is better")
    assert os.path.exists(tmp_path / "people.json")
