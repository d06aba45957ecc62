"""Constrained decoding: whatever the model likes, the answer follows the schema, regex, grammar or choice; alone, in
company, as a stream; and what is no grammar is refused with the reason."""
import concurrent.futures
import json
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import openai
import pydantic
import pytest
from serve_helpers import CONFIG, SPECIALS, TEXTS, events
from tiny_tokenizers import KINDS

from easylm_imitation.schema import UserError
from easylm_imitation.serve.answer import AnswerText, Token
from easylm_imitation.serve.grammar import Constraint, GrammarFailed, Grammars, Spec
from easylm_imitation.serve.sampling import Masks, mask_words, neutral, sample
from easylm_imitation.text import train_bpe

COMPLETE, CHAT = "/v1/completions", "/v1/chat/completions"
MESSAGES = [{"role": "system", "content": "b"}, {"role": "user", "content": "a"}]
PERSON = {"type": "object", "additionalProperties": False, "required": ["name", "age", "tags"],
          "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0,
                         "maximum": 99}, "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 2}}}
ASKED = [{"guided_regex": "[a-c]{3}-[0-9]{2}"}, {"guided_choice": ["yes", 'no "never"', "日本\n"]},
         {"guided_grammar": 'start: "(" inner ")"\ninner: "a" | start'}, {"guided_json": PERSON},
         {"structured_outputs": {"regex": "[a-c]{3}-[0-9]{2}"}}, {"structured_outputs": {"json": json.dumps(PERSON)}},
         {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON, "strict": True}}}]


def follows(asked, text):
    """Whether `text` is what `asked` (one of ASKED) demands."""
    asked = asked.get("structured_outputs", asked)
    [(kind, source)] = asked.items()
    if kind.endswith("regex"):
        return re.fullmatch(source, text) is not None
    if kind.endswith("choice"):
        return text in source
    if kind.endswith("grammar"):
        return re.fullmatch(r"(\(+)a(\)+)", text) is not None and text.count("(") == text.count(")")
    found = json.loads(text)
    return (sorted(found) == ["age", "name", "tags"] and len(found["name"]) <= 5 and 0 <= found["age"] <= 99
            and len(found["tags"]) <= 2 and set(found["tags"]) <= {"x", "y"})


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: next(iter(asked)))
def test_the_answer_follows_what_was_asked(http, server, asked):
    """White space is discouraged, since this model would fill the context with it."""
    body = {"prompt": "a", "max_tokens": 90, "temperature": 1.0, "seed": 1, "n": 4, **asked,
            "logit_bias": {str(i): -100 for i in whitespace(server)}}
    before = server.service.engine.compilations
    response = http.post(COMPLETE, json=body)
    assert response.status_code == 200, response.text
    finished = [choice for choice in response.json()["choices"] if choice["finish_reason"] == "stop"]
    assert finished
    assert all(follows(asked, choice["text"]) for choice in finished)
    parts = [""] * 4
    for event in events(http, COMPLETE, **body):
        parts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert parts == [choice["text"] for choice in response.json()["choices"]]
    del body["prompt"]
    chat = http.post(CHAT, json={"messages": MESSAGES, **body, "max_tokens": 55})
    assert chat.status_code == 200, chat.text
    assert all(follows(asked, choice["message"]["content"]) for choice in chat.json()["choices"]
               if choice["finish_reason"] == "stop")
    assert server.service.engine.compilations == before


def whitespace(server):
    tokenizer = server.service.tokenizer
    return [i for i in range(tokenizer.vocab_size) if tokenizer.decode([i]) and not tokenizer.decode([i]).strip()]


def test_any_json_object_and_text(http, server):
    bias = {str(i): -100 for i in whitespace(server)}
    messages = MESSAGES
    for seed in range(4):
        body = {"messages": messages, "seed": seed, "logit_bias": bias, "response_format": {"type": "json_object"}}
        choice = http.post(CHAT, json=body).json()["choices"][0]
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(choice["message"]["content"]), dict)
        assert choice["message"]["content"].lstrip().startswith("{")
    plain = {"messages": messages, "temperature": 0, "max_tokens": 9}
    texts = [http.post(CHAT, json={**plain, **more}).json()["choices"][0]["message"]["content"]
             for more in ({}, {"response_format": {"type": "text"}})]
    assert texts[0] == texts[1]


def test_the_openai_package_parses_into_a_pydantic_model(server):
    class Step(pydantic.BaseModel):
        right: bool
        unit: int = pydantic.Field(ge=0, le=9)

    with openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0) as client:
        bias = {str(i): -100 for i in whitespace(server)}
        found = client.chat.completions.parse(model="tiny", messages=MESSAGES, seed=3,
                                              logit_bias=bias, response_format=Step)
    assert isinstance(found.choices[0].message.parsed, Step)
    assert found.choices[0].finish_reason == "stop"


def test_logprobs_are_the_models_own_and_masked_tokens_are_among_the_alternatives(http, served_model, reference):
    ids = served_model.tokenizer.encode("The sky is")
    body = {"prompt": ids, "max_tokens": 3, "temperature": 0, "logprobs": 5, "guided_regex": "[0-9]{3}"}
    said = http.post(COMPLETE, json=body).json()["choices"][0]["logprobs"]
    digits = [served_model.tokenizer.encode(str(i))[0] for i in range(10)]
    for token, logprob, top in zip(said["tokens"], said["token_logprobs"], said["top_logprobs"]):
        row = reference(ids)[-1]
        best = max(digits, key=lambda i: row[i])
        assert token == served_model.tokenizer.decode([best])
        np.testing.assert_allclose(logprob, row[best], atol=1e-4)
        np.testing.assert_allclose(sorted(top.values())[-5:], np.sort(row)[-5:], atol=1e-4)
        ids = [*ids, best]


def test_constrained_and_free_answers_side_by_side_are_what_they_are_alone(http):
    free = [{"prompt": [5 + i] * 3, "max_tokens": 25, "temperature": 0.8, "seed": i} for i in range(6)]
    bound = [{**body, "guided_regex": "[a-f]{20}x*"} for body in free]
    bodies = [body for pair in zip(free, bound) for body in pair]

    def ask(body):
        choice = http.post(COMPLETE, json=body).json()["choices"][0]
        return choice["text"], choice["finish_reason"]

    alone = [ask(body) for body in bodies]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, bodies)) == alone
    assert len({text for text, _ in alone}) == 12


def test_stop_strings_and_lengths_end_constrained_answers_too(http):
    body = {"prompt": "a", "temperature": 0, "guided_regex": "ab-cd-ef"}
    stopped = http.post(COMPLETE, json={**body, "stop": "cd"}).json()["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == ("ab-", "stop")
    cut = http.post(COMPLETE, json={**body, "max_tokens": 1}).json()["choices"][0]
    assert "ab-cd-ef".startswith(cut["text"])
    assert cut["finish_reason"] == "length"
    echoed = {**body, "max_tokens": 1, "echo": True, "logprobs": 1}     # what scoring alone would answer, but for this
    assert http.post(COMPLETE, json=echoed).json()["choices"][0]["text"] == "a" + cut["text"]


def test_one_of_thousands_of_choices(http):
    choices = [f"{i * 7919 % 100_003} (O|\"\n\\" for i in range(2500)]
    body = {"prompt": "a", "max_tokens": 60, "seed": 5, "guided_choice": choices}
    [said] = http.post(COMPLETE, json=body).json()["choices"]
    assert said["text"] in choices


@pytest.mark.parametrize(("asked", "says"), [
    ({"guided_regex": "[a"}, "guided_regex: "),
    ({"guided_regex": "[^\\s\\S]"}, "nothing can match it"),
    ({"guided_regex": "(?=a)b"}, "look-around"),
    ({"guided_regex": "a" * 70_000}, "guided_regex: 70000 characters; at most 65536"),
    ({"guided_choice": []}, "guided_choice"),
    ({"guided_choice": [""]}, "guided_choice"),
    ({"guided_grammar": "start: nothing"}, "guided_grammar: "),
    ({"guided_grammar": "start: start"}, "guided_grammar: "),
    ({"guided_grammar": "%import /etc/passwd.X\nstart: X"}, "guided_grammar: "),
    ({"guided_json": {"type": "objekt"}}, "Invalid type: objekt"),
    ({"guided_json": "[1]"}, "guided_json: a JSON schema is an object"),
    ({"guided_json": "{"}, "guided_json: "),
    ({"guided_json": {"type": "integer", "x-guidance": {}}}, "guided_json: x-guidance is the server's own"),
    ({"guided_json": {"$ref": "file:///etc/passwd"}}, "does not fetch"),
    ({"guided_json": {"$ref": "http://127.0.0.1:9/x"}}, "does not fetch"),
    ({"guided_json": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
    ({"guided_json": {"type": "integer", "minimum": 5, "maximum": 3}}, "Unsatisfiable"),
    ({"guided_json": {"type": "integer"}, "guided_regex": "a"}, "guided_regex: cannot be asked together with guided_j"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema: goes with type 'json_schema'"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "text", "schema": {}}}, "response_format.schema: unknown field"),
    ({"structured_outputs": {}}, "structured_outputs: asks for nothing"),
    ({"structured_outputs": {"jsn": {}}}, "structured_outputs.jsn: unknown field; did you mean 'json'?"),
    ({"structured_outputs": {"structural_tag": "x"}}, "structural_tag: unknown field"),
])
def test_what_is_no_grammar_is_refused_and_why(http, asked, says):
    for path, rest in ((COMPLETE, {"prompt": "a"}), (CHAT, {"messages": [{"role": "user", "content": "a"}]})):
        response = http.post(path, json={**rest, **asked, "max_tokens": 2})
        assert response.status_code == 400, response.text
        assert says in response.json()["error"]["message"]
        assert response.json()["error"]["param"].split(".")[0] in asked


@pytest.mark.parametrize("asked", [
    {"guided_regex": "(a{1000}){1000}"}, {"guided_json": {"type": "array", "items": {"type": "integer"},
                                                          "minItems": 100_000}},
    {"guided_regex": "((a|b){100}){100}c(((x|y){1,50}){1,50}){1,50}"}, {"guided_regex": ".*a.{300}"},
    {"guided_grammar": 'start: s\ns: s s s | s s | "a" | "b" |'}])
def test_grammars_made_to_hurt_are_refused_or_bounded(http, server, asked):
    started = time.monotonic()
    statuses = {http.post(COMPLETE, json={"prompt": "a", "max_tokens": 20, "seed": 1, **asked}).status_code
                for _ in range(2)}
    assert statuses <= {200, 400}
    assert time.monotonic() - started < 60          # not a measure of speed: it must merely end
    scheduler = server.service.scheduler
    assert scheduler.alive
    assert scheduler.slots_busy == scheduler.queue_depth == 0


def test_a_grammar_that_fails_on_the_way_ends_its_own_request_alone(http, server, monkeypatch):
    mask, calls = Constraint.mask, []

    def failing(self):
        calls.append(self)
        if len(calls) == 5:
            raise GrammarFailed(self.field, "too complex")
        return mask(self)

    free = {"prompt": "a", "max_tokens": 30, "temperature": 0}
    alone = http.post(COMPLETE, json=free).json()["choices"]
    monkeypatch.setattr(Constraint, "mask", failing)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        other = pool.submit(http.post, COMPLETE, json=free)
        response = http.post(COMPLETE, json={"prompt": "a", "max_tokens": 30, "guided_regex": "[ab]{30}"})
        error = response.json()["error"]
        assert (response.status_code, error["message"]) == (400, "guided_regex: too complex")
        assert error["param"] == "guided_regex"
        assert other.result().json()["choices"] == alone
    calls.clear()
    with http.stream("POST", COMPLETE, json={"prompt": "a", "max_tokens": 30, "guided_regex": "[ab]{30}",
                                             "stream": True}) as stream:
        lines = [line for line in stream.iter_lines() if line.startswith("data: {")]
    error = json.loads(lines[-1][6:])["error"]
    assert (error["code"], error["param"]) == (400, "guided_regex")
    assert server.service.scheduler.slots_busy == server.service.scheduler.queue_depth == 0


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("lead", ["", " "])
def test_every_kind_of_tokenizer_writes_what_was_asked(kind, lead):
    tokenizer = KINDS[kind]()
    grammars = Grammars(tokenizer, tokenizer.vocab_size + 3, [tokenizer.eos_id], 1000)
    rng = np.random.default_rng(0)
    for spec in (Spec("json", PERSON, "x"), Spec("regex", "[a-c]{3}-é", "x"), Spec("choice", ["yes", "no"], "x")):
        first = grammars.compile(spec, lead)
        for _ in range(3):
            text, constraint, done = AnswerText(tokenizer, lead=lead), first.copy(), False
            while not done:
                bits = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
                allowed = [i for i in np.flatnonzero(bits) if i != tokenizer.eos_id]
                plain = [i for i in allowed if tokenizer.decode([5, int(i)]).strip()] or allowed
                token = int(rng.choice(plain))
                text.push(Token(token, 0.0))
                done = constraint.push(token)
            text.finish()
            assert follows({f"guided_{spec.kind}": spec.source}, text.text)


def test_masks_cut_what_numpy_cuts_and_only_when_somebody_asks():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(6, 70)).astype(np.float32)
    bits = rng.integers(0, 2**32, (6, mask_words(70)), dtype=np.uint32)
    allowed = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")[:, :70].astype(bool)
    draw = jax.jit(sample)
    rest = (jnp.asarray(logits), neutral(6, jnp), jnp.zeros(6, jnp.int32), jnp.int32(70), jnp.zeros((6, 70), jnp.int32))
    found = draw(*rest, Masks(bits, np.bool_(True)))
    assert np.array_equal(found, np.where(allowed, logits, -np.inf).argmax(-1))
    assert np.array_equal(draw(*rest, Masks(bits, np.bool_(False))), logits.argmax(-1))


def test_a_tokenizer_that_cannot_is_told_to_those_who_ask(monkeypatch):
    import llguidance

    def refuse(*_, **__):
        raise ValueError("unknown model")
    monkeypatch.setattr(llguidance, "LLTokenizer", refuse)
    grammars = Grammars(train_bpe(TEXTS * 4, 290, SPECIALS), 296, [1], 1000)
    with pytest.raises(UserError, match="this model's tokenizer cannot follow grammars"):
        grammars.compile(Spec("regex", "a", "x"))
    assert CONFIG.limits.grammar_characters == 1 << 16
