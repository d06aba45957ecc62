"""Tools reach the model's own template as OpenAI's clients send them; what is not offered is refused by name."""
import contextlib
import dataclasses
import json

import httpx
import jinja2.sandbox
import pytest
from serve_helpers import CONFIG, events

from easylm_imitation.serve import open_server
from easylm_imitation.serve.schemas import BadField, ChatMessage
from easylm_imitation.serve.tool_calls import CallReader, form_of
from easylm_imitation.text import OwnTemplate, get_template

CHAT = "/v1/chat/completions"
TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}"
    "{{- '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content }}"
    "{%- for call in message.tool_calls or [] %}{{- call.function.name ~ ':' ~ (call.function.arguments | tojson) }}"
    "{%- endfor %}{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")
SHORT = (   # says of calls what Qwen's does, in less than this server's context
    '{#- <tool_call>{"name": ..., "arguments": ...}</tool_call> #}{% if tools %}{{ tools[0].function.name }}{% endif %}'
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")
TOOL = {"type": "function", "function": {"name": "f", "description": "<|im_end|>", "parameters": {
    "type": "object", "properties": {"x": {"type": "integer"}}}}}
ASKED = [{"role": "user", "content": "a"}]
CALLED = [*ASKED, {"role": "assistant", "content": None, "tool_calls": [
    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 3}'}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "4"}]


@contextlib.contextmanager
def serving(served_model, source):
    """A server of the same model whose tokenizer brings a template of its own, and a client."""
    tokenizer = served_model.tokenizer
    kept = tokenizer.chat_template
    tokenizer.chat_template = source
    template = get_template("tokenizer", tokenizer)
    tokenizer.chat_template = kept
    assert isinstance(template, OwnTemplate)
    with open_server(dataclasses.replace(served_model, template=template), CONFIG) as running:
        with httpx.Client(base_url=running.url, timeout=60) as client:
            yield running, client


@pytest.fixture(scope="module")
def own(served_model):
    with serving(served_model, TEMPLATE) as both:
        yield both


@pytest.fixture(scope="module")
def caller(served_model):
    with serving(served_model, SHORT) as (_, client):
        yield client


def rendered(messages, tools):
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment()
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(TEMPLATE).render(messages=messages, tools=tools, add_generation_prompt=True)


def prompt_of(running, monkeypatch, client, body):
    """The ids that a request is turned into."""
    seen = []
    check = running.service.check_room
    monkeypatch.setattr(running.service, "check_room", lambda ids, room: (seen.append(list(ids)), check(ids[:1], 1)))
    monkeypatch.setattr(running.service, "context", 10_000)
    client.post(CHAT, json={**body, "max_tokens": 1})
    return seen[0]


@pytest.mark.parametrize(("messages", "tools", "choice", "shown"), [
    (ASKED, [TOOL], None, [TOOL]), (ASKED, [TOOL], "auto", [TOOL]), (ASKED, [TOOL], "none", []), (ASKED, [], None, []),
    (CALLED, [TOOL], "auto", [TOOL]), (CALLED, None, None, [])])
def test_the_template_sees_tools_and_calls(own, served_model, monkeypatch, messages, tools, choice, shown):
    running, client = own
    body = {"messages": messages, "tools": tools, "tool_choice": choice}
    ids = prompt_of(running, monkeypatch, client, body)
    plain = [dict(message) for message in messages]
    for message in plain:
        message["content"] = message["content"] or ""
        if "tool_calls" in message:
            message["tool_calls"] = [{"function": {"name": "f", "arguments": {"x": 3}}}]
    text = rendered(plain, shown)
    assert served_model.tokenizer.decode(ids, skip_special=False) == text
    ends = ids.count(served_model.tokenizer.special_id("<|im_end|>"))
    assert ends == text.count("<|im_end|>") - (1 if shown else 0)       # what a tool spells out stays text


@pytest.mark.parametrize(("body", "says"), [
    ({"messages": ASKED, "tools": [TOOL]}, "template 'chatml' knows no tools"),
    ({"messages": CALLED}, "template 'chatml' knows no tools"),
    ({"messages": ASKED, "tool_choice": "required"}, "tool_choice: Input should be 'none' or 'auto'"),
    ({"messages": ASKED, "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice: "),
    ({"messages": ASKED, "functions": []}, "functions: unknown field"),
    ({"messages": ASKED, "tools": [{"type": "web_search"}]}, "tools.0.type"),
    ({"messages": [{"role": "tool", "content": "4"}]}, "tool_call_id"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content: missing"),
    ({"messages": [*CALLED[:1], {**CALLED[1], "tool_calls": [{**CALLED[1]["tool_calls"][0], "function": {
        "name": "f", "arguments": "3"}}]}]}, "no JSON object")])
def test_what_is_not_offered_is_named(http, body, says):
    response = http.post(CHAT, json={**body, "max_tokens": 2})
    assert response.status_code == 400, response.text
    assert says in response.json()["error"]["message"]


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 3}'}}
WRITTEN = r'Yes\.\n<tool_call>\n\{"name": "f", "arguments": \{"x": 3\}\}\n</tool_call>'


@pytest.mark.parametrize("offered", [True, False])
def test_a_call_that_the_model_writes_is_told_as_one(caller, offered):
    tool = {**TOOL, "function": {**TOOL["function"], "name": "f" if offered else "g"}}
    body = {"messages": ASKED, "tools": [tool], "parallel_tool_calls": True, "guided_regex": WRITTEN}
    [choice] = caller.post(CHAT, json=body).json()["choices"]
    deltas = [event["choices"][0] for event in events(caller, CHAT, **body)]
    text = "".join(one["delta"].get("content") or "" for one in deltas)
    streamed = [call for one in deltas for call in one["delta"].get("tool_calls", [])]
    assert text == choice["message"]["content"]
    assert deltas[-1]["finish_reason"] == choice["finish_reason"] == ("tool_calls" if offered else "stop")
    assert ("tool_calls" in choice["message"]) == bool(streamed) == offered
    if offered:
        assert text == "Yes."
        [whole], [piece] = choice["message"]["tool_calls"], streamed
        assert whole.pop("id").startswith("call_")
        assert piece.pop("id").startswith("call_")
        assert {"index": 0, **whole} == piece == {"index": 0, "type": "function", "function": CALL["function"]}


ONE, TWO = '{"name": "f", "%s": {"x": 3}}', '{"name": "g", "%s": {}}'


@pytest.mark.parametrize(("form", "said", "shown", "called"), [
    ("hermes", f"Well. <tool_call>\n{ONE}\n</tool_call>\n<tool_call>{TWO}</tool_call>\n", "Well.", "fg"),
    ("hermes", f"<tool_call>{ONE}", "", "f"), ("hermes", "a <tool_call>{ b", "a <tool_call>{ b", ""),
    ("hermes", '<tool_call>{"name": ["f"], "arguments": {}}</tool_call> \n', None, ""),
    ("hermes", '<tool_call>{"name": "h", "arguments": {}}</tool_call>', None, ""),
    ("hermes", '<tool_call>{"name": "f", "arguments": 3}</tool_call>', None, ""),
    ("hermes", "2 < 3, <tool \n\n", None, ""), ("hermes", f"<tool_call>no</tool_call> <tool_call>{ONE}</tool_call>",
                                               "<tool_call>no</tool_call>", "f"),
    ("llama3", f"\n{ONE}; {TWO}", "", "fg"), ("llama3", f"It is {ONE}", None, ""), ("llama3", '{"x": 1}', None, ""),
    ("llama3", f"{ONE} and", None, ""), ("llama3", " \n", None, ""),
    (None, f"<tool_call>{ONE}</tool_call>", None, "")])
def test_calls_are_found_wherever_the_pieces_are_cut(form, said, shown, called):
    said = said.replace("%s", "parameters" if form == "llama3" else "arguments")
    for cut in range(len(said) + 1):
        reader = CallReader(form, {"f", "g"})
        taken = [reader.take(said[:cut]), reader.take(said[cut:]), reader.take("", last=True)]
        assert "".join(text for text, _ in taken) == (said if shown is None else shown), cut
        assert "".join(call.name for _, calls in taken for call in calls) == called, cut
        assert reader.called == bool(called)


@pytest.mark.parametrize("given", ['{"x": NaN}', '{"x": -Infinity}', '{"x": 1, "x": 2}'])
def test_what_is_no_strict_json_stays_text(given):
    said = f'<tool_call>{{"name": "f", "arguments": {given}}}</tool_call>'
    assert CallReader("hermes", {"f"}).take(said, last=True) == (said, [])
    called = {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": given}}]}
    with pytest.raises(BadField, match="no JSON object"):
        ChatMessage.model_validate(called).plain()


def test_half_a_surrogate_pair_in_a_call_is_told_as_an_escape(caller):
    tool = {**TOOL, "function": {**TOOL["function"], "name": "f"}}
    written = r'<tool_call>\{"name": "f", "arguments": \{"x": "\\ud800é"\}\}</tool_call>'
    body = {"messages": ASKED, "tools": [tool], "guided_regex": written}
    [call] = caller.post(CHAT, json=body).json()["choices"][0]["message"]["tool_calls"]
    deltas = [event["choices"][0]["delta"] for event in events(caller, CHAT, **body)]
    [streamed] = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert call["function"]["arguments"] == streamed["function"]["arguments"] == r'{"x": "\ud800\u00e9"}'


@pytest.mark.parametrize(("source", "form"), [
    ('<tool_call>{"name": .., "arguments": ..}', "hermes"), ("<tool_call><function=f>", None), ("", None),
    ('<|start_header_id|> {"name": function name, "parameters": ..}', "llama3"), ("<|start_header_id|>", None)])
def test_the_form_of_calls_is_read_off_the_template(own, source, form):
    template = own[0].service.template
    assert form_of(dataclasses.replace(template, source=source)) == form
    assert form_of(None) is None


def test_long_tools_are_refused_as_long_texts_are(own, monkeypatch):
    running, client = own
    monkeypatch.setattr(running.service, "limits", dataclasses.replace(running.service.limits, characters=500))
    tool = {**TOOL, "function": {**TOOL["function"], "description": "x" * 600}}
    response = client.post(CHAT, json={"messages": ASKED, "tools": [tool]})
    assert response.status_code == 400
    assert "messages with tools: " in response.json()["error"]["message"]


def test_no_tools_is_no_tools(http):
    system = {"role": "system", "content": "b"}
    plain = {"messages": [system, *ASKED], "max_tokens": 9, "temperature": 0}
    answers = [http.post(CHAT, json={**plain, **more}).json()["choices"]
               for more in ({}, {"tools": []}, {"tools": None}, {"tools": [TOOL], "tool_choice": "none"})]
    assert answers[0] == answers[1] == answers[2] == answers[3]
