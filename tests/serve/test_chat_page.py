"""The chat page in a real Chromium on a real server; a scripted endpoint beside it says what no tiny model would."""
import contextlib
import dataclasses
import itertools
import json
import re
import threading
import time

import endpoint as ep
import httpx
import pytest
from browser import DESKTOP, PHONE, SECONDS, visit
from serve_helpers import CONFIG

from easylm_imitation.serve import BesideConfig, Limits, open_server

# With a system prompt of its own: the template's is longer than this model can take.
GREEDY = {"temperature": "0", "max_tokens": "8", "system": "Be brief."}
NASTY = """<script>window.hit = 1</script> and <img src=x onerror="window.hit = 2"> and <b onclick=alert(1)>bold</b>

<iframe src="javascript:window.parent.hit = 3"></iframe>
<style>body { display: none }</style>

[run](javascript:window.hit=4) [data](data:text/html,<script>window.hit=5</script>) [vb](vbscript:x) [rel](/v1/models)
[entity](&#106;avascript:window.hit=6) <javascript:window.hit=7> [fine](https://example.org/a?b=<c>"d") &lt;script&gt;
![picture](http://127.0.0.1:9/x.png) **<svg onload="window.hit=8">** `<code>` <base href="http://127.0.0.1:9/">

| <script>window.hit=9</script> | b |
|---|---|
| <img src=x onerror="window.hit=10"> | [x](JaVaScRiPt:window.hit=11) |

```"><script>window.hit=12</script>
<script>window.hit=13</script>
```
"""
MARKDOWN = """# Title

A **bold** word, *another*, ~~gone~~, `code` and https://example.org.

3. three
4. four
   - inner

| left | right |
|:-----|------:|
| a | 1 |

```python
print("a very long line that does not fit a phone", "a very long line that does not fit a phone")
```

> quoted
"""


def said(text, finish=None):
    """One event of a chat stream."""
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


def speak(handler, pieces):
    """Streams `pieces` as a chat answer; the iterable may wait between two."""
    handler.close_connection = True
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()
    for piece in pieces:
        handler.wfile.write(said(piece))
    handler.wfile.write(said("", "stop") + b"data: [DONE]\n\n")


@pytest.fixture(scope="module")
def pair(served_model):
    """(a server, the scripted endpoint beside it)."""
    with ep.serving(ep.Endpoint(models=[{"id": "teller"}])) as other:
        config = dataclasses.replace(CONFIG, beside=BesideConfig(other.url))
        with open_server(served_model, config) as running:
            yield running, other


@contextlib.contextmanager
def other_server(model, **changes):
    with open_server(model, dataclasses.replace(CONFIG, **changes)) as running:
        yield running


def slow(running, seconds=0.05):
    """Makes each step of decode take a while, so that there is something to stop."""
    decode = running.service.engine.decode

    def later(*args):
        time.sleep(seconds)
        return decode(*args)
    running.service.engine.decode = later


def set_options(page, **values):
    if not page.locator("#settings").is_visible():
        page.get_by_role("button", name="Settings").click()
    for name, value in values.items():
        page.locator(f"#{name}").fill(value)


def send(page, text):
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")


def state(page, name, nth=-1):
    """Waits until the answer `nth` of the last turn is in the state `name`; its text."""
    answer = page.locator(".turn").last.locator(f".answer[data-state={name}]").nth(nth)
    answer.wait_for()
    return answer.locator(".text").inner_text()


def wait_until(condition):
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def tell(page, other, text, state_name="done"):
    """Lets the endpoint answer with `text` and asks it alone."""
    other.behave = lambda handler, body, n: speak(handler, [text[i:i + 7] for i in range(0, len(text), 7)])
    page.get_by_role("radio", name="teller").check()
    send(page, "go on")
    return state(page, state_name)


def test_the_answer_is_the_servers_own(chromium, server):
    body = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is\nOslo?"}],
            "temperature": 0, "max_tokens": 8}
    expected = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    with visit(chromium, server.url) as page:
        assert page.title() == "tiny"
        set_options(page, **GREEDY)
        page.get_by_label("Show markdown").uncheck()
        send(page, "Where is\nOslo?")
        state(page, "done")
        shown = page.locator(".answer .plain").evaluate("node => node.textContent")
        assert shown == expected["choices"][0]["message"]["content"]
        assert page.locator(".bubble").inner_text() == "Where is\nOslo?"
        foot = page.locator(".foot").inner_text()
        assert foot.startswith(f"{expected['usage']['completion_tokens']} tokens")
        assert ("cut off" in foot) == (expected["choices"][0]["finish_reason"] == "length")


def test_settings_go_into_the_request_and_nonsense_is_not_sent(chromium, pair):
    running, other = pair
    with visit(chromium, running.url) as page:
        set_options(page, system=" Be kind. ", temperature="1.5", top_p="0.25", max_tokens="7", seed="42",
                    stop="END\n\\n\\n")
        tell(page, other, "fine")
        sent = {name: value for name, value in other.requests[-1].items() if name != "stream_options"}
        messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "go on"}]
        assert sent == {"model": "teller", "temperature": 1.5, "top_p": 0.25, "max_tokens": 7, "seed": 42,
                        "stream": True, "stop": ["END", "\n\n"], "messages": messages}
        count = len(other.requests)
        set_options(page, max_tokens="0")
        send(page, "again")
        assert page.get_by_label("Max tokens").evaluate("field => field.validity.rangeUnderflow")
        assert page.get_by_label("Message").input_value() == "again"
        assert len(other.requests) == count
        page.reload()
        assert page.get_by_label("Seed").input_value() == "42"
        page.get_by_role("button", name="Defaults").click()
        assert page.get_by_label("Seed").input_value() == ""


def test_text_shows_while_more_is_to_come(chromium, pair):
    running, other = pair
    go_on = threading.Event()

    def pieces():
        yield "The first "
        assert go_on.wait(SECONDS)
        yield "and the last"

    other.behave = lambda handler, body, n: speak(handler, pieces())
    with visit(chromium, running.url) as page:
        page.get_by_role("radio", name="teller").check()
        send(page, "go on")
        page.get_by_text("The first").wait_for()
        assert state(page, "writing") == "The first"
        assert page.locator("#log").get_attribute("aria-busy") == "true"
        go_on.set()
        assert state(page, "done") == "The first and the last"
        assert page.locator("#log").get_attribute("aria-busy") == "false"
        assert page.locator("#status").inner_text() == "The answer is complete."


def test_a_models_text_never_becomes_html(chromium, pair):
    running, other = pair
    with visit(chromium, running.url) as page:
        tell(page, other, NASTY)
        text = page.locator(".answer .text")
        assert page.evaluate("window.hit") is None
        assert text.locator("script, img, iframe, style, svg, base, b, [onclick], [onerror], [onload]").count() == 0
        links = text.locator("a").evaluate_all("all => all.map(a => [a.protocol, a.rel, a.target, a.textContent])")
        assert links == [["https:", "noopener noreferrer nofollow", "_blank", "fine"],
                         ["http:", "noopener noreferrer nofollow", "_blank", "image: picture"]]
        shown = text.evaluate("node => node.textContent")
        for source in ('<script>window.hit = 1</script>', '<img src=x onerror="window.hit = 2">', "<svg onload=",
                       "[run](javascript:window.hit=4)", "body { display: none }", "[x](JaVaScRiPt:window.hit=11)"):
            assert source in shown


def test_the_policy_holds_where_the_page_would_fail(chromium, pair):
    """What a careless page would do with a model's text is refused by the browser itself."""
    refused = ["TrustedHTML", "Content Security Policy"]
    with visit(chromium, pair[0].url, expected=refused) as page:
        attempt = "html => { try { document.body.innerHTML = html; } catch (error) { return error.name; } }"
        assert page.evaluate(attempt, "<img src=x onerror='window.hit = 1'>") == "TypeError"
        fetched = "() => fetch('http://127.0.0.1:9/').then(() => 'sent', error => error.name)"
        assert page.evaluate(fetched) == "TypeError"
        assert page.evaluate("window.hit") is None


def test_markdown_shows_as_it_should(chromium, pair):
    running, other = pair
    with visit(chromium, running.url, permissions=["clipboard-read", "clipboard-write"]) as page:
        tell(page, other, MARKDOWN)
        text = page.locator(".answer .text")
        assert text.evaluate("node => [...node.children].map(n => n.tagName).join(' ')") == "H3 P OL DIV DIV BLOCKQUOTE"
        assert text.locator("strong").inner_text() == "bold"
        assert text.locator("ol").get_attribute("start") == "3"
        assert text.locator("ol li ul li").inner_text() == "inner"
        assert text.locator("td").all_inner_texts() == ["a", "1"]
        assert text.locator("pre").inner_text().startswith('print("a very long line')
        page.get_by_role("button", name="Copy", exact=True).first.click()
        page.get_by_text("Copied", exact=True).wait_for()
        assert page.evaluate("navigator.clipboard.readText()").startswith('print("a very')
        page.locator(".tools").get_by_role("button", name="Copy").click()
        wait_until(lambda: page.evaluate("navigator.clipboard.readText()") == MARKDOWN)
        page.get_by_label("Show markdown").uncheck()
        assert text.inner_text() == MARKDOWN.rstrip("\n") or text.inner_text() == MARKDOWN


def test_a_key_is_asked_for_and_a_wrong_one_is_told(chromium, served_model, monkeypatch):
    monkeypatch.setenv(CONFIG.api_key_env, "sesame")
    with other_server(served_model) as running, visit(chromium, running.url, expected=["status of 401"]) as page:
        dialog = page.get_by_role("dialog", name="This server needs a key")
        dialog.wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Enter the key").click()
        for key, says in (("wrong", "That key was not accepted"), ("not a key", "without spaces")):
            dialog.get_by_label("API key").fill(key)
            page.keyboard.press("Enter")
            dialog.get_by_text(says).wait_for()
        dialog.get_by_label("API key").fill("sesame")
        dialog.get_by_role("button").click()
        page.get_by_text("What would you like to ask?").wait_for()
        set_options(page, **GREEDY)
        send(page, "a")
        state(page, "done")
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.reload()       # the tab still knows it
        page.get_by_text("What would you like to ask?").wait_for()
        page.get_by_role("button", name="Forget the key").click()
        dialog.wait_for()
        assert "sesame" not in page.evaluate("JSON.stringify(sessionStorage)")


def test_stopping_frees_the_slot(chromium, served_model):
    with other_server(served_model) as running, visit(chromium, running.url) as page:
        slow(running, 0.5)
        scheduler = running.service.scheduler
        set_options(page, temperature="2", seed="1")
        send(page, "a")
        wait_until(lambda: scheduler.slots_busy == 1)
        state(page, "writing")
        page.keyboard.press("Escape")
        state(page, "stopped")
        wait_until(lambda: not scheduler.slots_busy and not scheduler.queue_depth)
        assert (scheduler.counts["cancelled"], scheduler.counts["answers"]) == (1, 0)
        assert page.locator(".foot").inner_text() == "stopped"


def test_stopping_reaches_the_server_beside(chromium, pair):
    running, other = pair
    left = threading.Event()

    def pieces():
        try:
            for number in itertools.count():
                yield f"{number} "
                time.sleep(0.02)
        finally:
            left.set()

    other.behave = lambda handler, body, n: speak(handler, pieces())
    with visit(chromium, running.url) as page:
        page.get_by_role("radio", name="teller").check()
        send(page, "count")
        wait_until(lambda: "3" in page.locator(".answer .text").inner_text())
        page.get_by_role("button", name="Stop", exact=True).click()
        state(page, "stopped")
        assert left.wait(SECONDS)
        assert page.evaluate("document.activeElement.id") == "input"


def test_two_models_answer_one_prompt_at_once(chromium, pair):
    running, other = pair
    go_on = threading.Event()

    def pieces():
        assert go_on.wait(SECONDS)
        yield "from beside"

    other.behave = lambda handler, body, n: speak(handler, pieces())
    with visit(chromium, running.url, expected=["status of 400"]) as page:
        page.get_by_text("One prompt, two answers.").wait_for()
        set_options(page, **GREEDY)
        send(page, "first")
        state(page, "done", 0)                     # the served model is done while the other has not begun
        assert page.locator(".answer.m1").get_attribute("data-state") == "writing"
        assert page.get_by_role("button", name="Stop", exact=True).is_visible()
        go_on.set()
        page.locator(".answer.m1[data-state=done]").get_by_text("from beside").wait_for()
        assert page.locator(".answer h3").all_inner_texts() == ["tiny", "teller"]
        one, two = (page.locator(f".answer.m{i}").bounding_box() for i in (0, 1))
        assert one["x"] + one["width"] <= two["x"]
        assert one["y"] == two["y"]
        send(page, "second")
        page.locator(".answer.m1[data-state=done]").nth(1).wait_for()
        # Each model hears its own answers only.
        assert other.requests[-1]["messages"] == [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "first"},
            {"role": "assistant", "content": "from beside"},
            {"role": "user", "content": "second"}]


def test_a_phone_needs_no_sideways_scrolling(chromium, pair):
    running, other = pair
    fits = "() => [document.scrollingElement, document.querySelector('#log')].every(n => n.scrollWidth <= innerWidth)"
    phone = {"viewport": PHONE, "has_touch": True, "is_mobile": True}
    with visit(chromium, running.url, expected=["status of 400"], **phone) as page:
        assert not page.locator("#settings").is_visible()
        set_options(page, **GREEDY)
        assert page.evaluate(fits)
        page.get_by_role("button", name="Close").click()
        tell(page, other, MARKDOWN + "x" * 400)
        assert page.evaluate(fits)
        other.behave = lambda handler, body, n: speak(handler, [MARKDOWN])
        page.get_by_role("radio", name="Both").check()
        send(page, "y" * 200)
        page.locator(".answer.m1[data-state=done]").nth(1).wait_for()
        page.locator(".turn").last.locator(".answer.m0[data-state=failed]").wait_for()      # too long for its context
        assert page.evaluate(fits)
        one, two = (page.locator(".turn").last.locator(f".answer.m{i}").bounding_box() for i in (0, 1))
        assert one["y"] + one["height"] <= two["y"]
        assert page.locator("#send").bounding_box()["height"] >= 36


def test_the_keyboard_is_enough(chromium, pair):
    running, other = pair
    other.behave = lambda handler, body, n: speak(handler, [f"answer to {body['messages'][-1]['content']}"])
    with visit(chromium, running.url, viewport={"width": 900, "height": 700}, reduced_motion="reduce") as page:
        focused = "document.activeElement.id || document.activeElement.textContent"
        page.get_by_text("One prompt").wait_for()
        assert page.evaluate(focused) == "input"
        order = []
        for _ in range(5):
            page.keyboard.press("Shift+Tab")
            order.append(page.evaluate(focused))
        assert order == ["log", "settings-button", "clear", "who-2", "Skip to the message box"]
        page.keyboard.press("Enter")
        page.keyboard.type("one")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("two")
        page.keyboard.press("Enter")
        page.locator(".answer.m1[data-state=done]").wait_for()
        page.locator(".answer.m0[data-state=done]").wait_for()
        assert other.requests[-1]["messages"][-1]["content"] == "one\ntwo"
        page.keyboard.press("ArrowUp")
        page.get_by_label("Edit your message").fill("three")
        page.keyboard.press("Enter")
        page.locator(".answer.m1[data-state=done]").get_by_text("answer to three").wait_for()
        page.locator(".answer.m0[data-state=done]").wait_for()
        assert page.locator(".bubble").all_inner_texts() == ["three"]
        assert other.requests[-1]["messages"] == [{"role": "user", "content": "three"}]
        assert page.evaluate(focused) == "input"
        for _ in range(4):
            page.keyboard.press("Shift+Tab")        # over Copy and Regenerate of the last column
        assert page.evaluate("document.activeElement.closest('.answer, .said') !== null")
        unnamed = "all => all.filter(n => !n.labels?.length && !n.ariaLabel && !n.textContent.trim()).map(n => n.id)"
        assert page.locator("button, input, textarea, select").evaluate_all(unnamed) == []
        assert page.locator(".answer h3").first.evaluate("n => getComputedStyle(n, '::after').animationName") == "none"


def test_the_last_turn_can_be_asked_again_and_all_cleared(chromium, pair):
    running, other = pair
    with visit(chromium, running.url) as page:
        tell(page, other, "first")
        tell(page, other, "second")
        before = len(other.requests)
        other.behave = lambda handler, body, n: speak(handler, ["third"])
        assert page.get_by_role("button", name="Regenerate").count() == 1       # only the last turn can
        page.get_by_role("button", name="Regenerate").click()
        page.get_by_text("third").wait_for()
        state(page, "done")
        assert page.locator(".answer .text").all_inner_texts() == ["first", "third"]
        assert [m["content"] for m in other.requests[before]["messages"]] == ["go on", "first", "go on"]
        page.get_by_role("button", name="New chat").click()
        assert page.locator(".turn").count() == 0
        tell(page, other, "fresh")
        assert len(other.requests[-1]["messages"]) == 1


@pytest.mark.parametrize(("manner", "says"), [
    (lambda h, b, n: ep.send(h, 429, {"error": {"message": "slow down"}}, [("Retry-After", "7")]), "Try again in 7 s"),
    (lambda h, b, n: ep.send(h, 500, {"error": {"message": "the engine failed"}}), "could not answer: the eng"),
    (lambda h, b, n: ep.send(h, 401, {"error": {"message": "no"}}), "refused this server's key"),
    (lambda h, b, n: ep.send(h, 400, {"error": {"message": "temperature: too hot"}}), "not accept this request: t"),
    (lambda h, b, n: ep.send(h, 200, b"<script>", [("Content-Type", "text/html")]), "not JSON"),
    (lambda h, b, n: ep.drop(h), "does not answer"),
    (lambda h, b, n: half(h), "broke before the answer was complete"),
], ids=["429", "500", "401", "400", "html", "dropped", "half"])
def test_errors_are_told_in_plain_english(chromium, pair, manner, says):
    running, other = pair
    other.behave = manner
    with visit(chromium, running.url, expected=["status of"]) as page:
        page.get_by_role("radio", name="teller").check()
        send(page, "go on")
        state(page, "failed")
        assert says in page.locator(".answer .error").inner_text()
        assert page.get_by_role("button", name="Send").is_visible()
        other.behave = lambda handler, body, n: speak(handler, ["well again"])
        page.get_by_role("button", name="Regenerate").click()
        assert state(page, "done") == "well again"
        assert not page.locator(".answer .error").is_visible()


def half(handler):
    """An answer that ends in the middle."""
    handler.close_connection = True
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()
    handler.wfile.write(said("half an"))


def test_a_full_queue_a_long_prompt_and_a_lost_server(chromium, served_model):
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(other_server(served_model, limits=Limits(drain_seconds=1)))
        page = stack.enter_context(visit(chromium, running.url, expected=["status of", "net::ERR_"]))
        send(page, "a" * 300)
        state(page, "failed")
        assert "The server did not accept this request: the prompt has" in page.locator(".answer .error").inner_text()
        running.service.scheduler._limit = 0        # as full as it can be, however slow this test is
        send(page, "b")
        page.get_by_text("The server is busy: its queue is full. Try again in 1 s.").wait_for()
        running.close()
        send(page, "c")
        page.get_by_text("The server does not answer.").wait_for()


def test_a_model_without_a_template_continues_text(chromium, served_model):
    base = dataclasses.replace(served_model, template=None)
    with other_server(base) as running, visit(chromium, running.url) as page:
        def complete(prompt, **more):
            body = {"prompt": prompt, "temperature": 0, "max_tokens": 9, **more}
            return httpx.post(f"{running.url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]

        def shown():
            state(page, "done")
            return page.locator(".answer .plain").last.evaluate("node => node.textContent")
        page.get_by_text("No chat template").wait_for()
        set_options(page, temperature="0", max_tokens="9", system="Be brief.")
        page.get_by_label("Show markdown").uncheck()
        send(page, "The sky")
        first = complete("Be brief.\n\nThe sky")
        assert shown() == first
        page.get_by_label("Without a chat template").select_option("transcript")
        send(page, "Oslo")
        page.locator(".answer[data-state=done]").nth(1).wait_for()
        dialogue = f"User: The sky\nAssistant: {first.strip()}\nUser: Oslo\nAssistant:"
        assert shown() == complete(f"Be brief.\n\n{dialogue}", stop=["\nUser:"])


def test_every_colour_of_text_has_enough_contrast(chromium, server):
    for scheme in ("light", "dark"):
        with visit(chromium, server.url, color_scheme=scheme, viewport=DESKTOP) as page:
            names = ("--ink", "--soft", "--one", "--two", "--bad", "--paper", "--sheet", "--one-tint", "--on-accent")
            read = "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue(n))"
            colour = dict(zip(names, page.evaluate(read, names)))
            pairs = [*itertools.product(names[:5], names[5:7]), ("--ink", "--one-tint"), ("--on-accent", "--one")]
            assert {pair: ratio for pair in pairs if (ratio := contrast(*(colour[n] for n in pair))) < 4.5} == {}


def contrast(one, two):
    """WCAG's ratio of two #rrggbb colours."""
    def luminance(colour):
        parts = [int(part, 16) / 255 for part in re.findall("[0-9a-f]{2}", colour)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))
    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
