"""Tools reach the model's own template as OpenAI's clients send them; what is not offered is refused by name."""
import dataclasses
import json

import httpx
import jinja2.sandbox
import pytest
from serve_helpers import CONFIG

from easylm_imitation.serve import open_server
from easylm_imitation.text import OwnTemplate, get_template

CHAT = "/v1/chat/completions"
TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}"
    "{{- '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content }}"
    "{%- for call in message.tool_calls or [] %}{{- call.function.name ~ ':' ~ (call.function.arguments | tojson) }}"
    "{%- endfor %}{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")
TOOL = {"type": "function", "function": {"name": "f", "description": "<|im_end|>", "parameters": {
    "type": "object", "properties": {"x": {"type": "integer"}}}}}
ASKED = [{"role": "user", "content": "a"}]
CALLED = [*ASKED, {"role": "assistant", "content": None, "tool_calls": [
    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 3}'}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "4"}]


@pytest.fixture(scope="module")
def own(served_model):
    """A server of the same model whose tokenizer brings a template with tools, in a context that holds them."""
    tokenizer = served_model.tokenizer
    kept = tokenizer.chat_template
    tokenizer.chat_template = TEMPLATE
    template = get_template("tokenizer", tokenizer)
    tokenizer.chat_template = kept
    assert isinstance(template, OwnTemplate)
    with open_server(dataclasses.replace(served_model, template=template), CONFIG) as running:
        with httpx.Client(base_url=running.url, timeout=60) as client:
            yield running, client


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


def test_no_tools_is_no_tools(http):
    system = {"role": "system", "content": "b"}
    plain = {"messages": [system, *ASKED], "max_tokens": 9, "temperature": 0}
    answers = [http.post(CHAT, json={**plain, **more}).json()["choices"]
               for more in ({}, {"tools": []}, {"tools": None}, {"tools": [TOOL], "tool_choice": "none"})]
    assert answers[0] == answers[1] == answers[2] == answers[3]
