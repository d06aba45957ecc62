"""Loaded by schemathesis (test_serve_schema.py): what our OpenAPI schema cannot say, by name.

A request that fits the schema may be refused for these reasons alone; for any other it is a finding.
"""
import json
import re

import schemathesis

BEYOND_SCHEMA = {
    "another model's name": r"^the model '.*' is not served here",
    "prompt and answer longer than the context": r"together more than this server's context",
    "a text without a single token": r"prompt: empty|continuation is empty|context is empty|prefix_text: empty",
    "ids that this model does not have": r"token id -?\d+ \(number \d+\) is outside the vocabulary",
    "roles that make no conversation": r"^messages: (roles do not|nothing but a system message|the last mess)",
    "arguments of a tool call that are no JSON": r"the arguments of a tool call are no JSON object",
    "a template that knows no tools": r"knows no tools|reads no tools",
    "a grammar that is none, or too much": r"^(response_format\.json_schema|guided_\w+|structured_outputs)[.\w]*: ",
    "a grammar whose answer cannot go on": r"no token of the model goes on",
    "several grammars at once": r"cannot be asked together with",
    "fields that go together": r"goes with|needs logprobs|only with (stream|tools)|differs from max_compl|"
                               r"makes sense only with echo|only an assistant's message has them|content: missing",
    "lists that must be as long as each other": r"there must be as many",
    "limits of this server": r"at most \d+",
    "whole numbers written with a point, which JSON Schema takes for integers": r"Input should be a valid integer",
    "a model's name with a line break, which no route's pattern holds": r"^Not Found$",
    "integers that floats cannot tell from the largest": r"^seed: Input should be",
    "halves of surrogate pairs": r"surrogate|UTF-8",
}


@schemathesis.check
def refusals_are_named(ctx, response, case):
    """Valid data gets a 2xx answer, or is refused for one of the reasons above."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code not in (400, 404, 413):
        return
    message = json.loads(response.content)["error"]["message"]
    assert any(re.search(pattern, message) for pattern in BEYOND_SCHEMA.values()), f"a reason without a name: {message}"
