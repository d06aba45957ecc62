"""Calls of tools, found in what a model writes. Two forms are known; which one, the model's own chat template says:

    hermes (Hermes, Qwen 2.5 and 3)     It rains? <tool_call>{"name": "f", "arguments": {"x": 3}}</tool_call>
    llama3 (Llama 3.1 to 3.3)           {"name": "f", "parameters": {"x": 3}}

Only a whole object of strict JSON that names a tool of the request is a call. All else stays text as it was written.
"""
import dataclasses
import json
import secrets
from collections.abc import Collection
from typing import Any, Literal

from easylm_imitation.serve.strict_json import read_json
from easylm_imitation.text import OwnTemplate, Template

Form = Literal["hermes", "llama3"]
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


@dataclasses.dataclass(frozen=True)
class Call:
    """One call; `arguments` is JSON text of an object."""
    name: str
    arguments: str
    id: str = dataclasses.field(default_factory=lambda: f"call_{secrets.token_hex(12)}")

    def body(self) -> dict[str, Any]:
        """As OpenAI's API has it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def form_of(template: Template | None) -> Form | None:
    """The form that a template asks its model to write calls in; None where that is none of ours."""
    source = template.source if isinstance(template, OwnTemplate) else ""
    if _OPEN in source and '"arguments"' in source and "<function=" not in source:
        return "hermes"
    return "llama3" if "<|start_header_id|>" in source and '"parameters": ' in source else None


class CallReader:
    """Takes an answer piece by piece, and tells calls from text. What could still become a call is held back.

    >>> reader = CallReader("hermes", {"f"})
    >>> reader.take('Yes. <tool_call>{"name": "f", "argu'), reader.take('ments": {}}</tool_call>')
    (('Yes.', []), ('', [Call(name='f', arguments='{}', id=...)]))
    """

    def __init__(self, form: Form | None, names: Collection[str]):
        """`form` None finds no calls; `names` are those of the request's tools."""
        self.called = False
        self._form, self._names = form, names
        self._held = ""
        self._begun = False         # text was shown: for llama3 there is no call after it

    def take(self, piece: str, last: bool = False) -> tuple[str, list[Call]]:
        """(text to show, calls that are complete) after another piece; `last`: no more will come."""
        if self._form is None:
            return piece, []
        self._held += piece
        shown, calls = self._hermes(last) if self._form == "hermes" else self._llama3(last)
        self.called |= bool(calls)
        self._begun |= bool(shown.strip())
        if last:        # blank text before or after a call is the form's own
            shown, self._held = shown + ("" if self.called and not self._held.strip() else self._held), ""
        return shown, calls

    def _hermes(self, last: bool) -> tuple[str, list[Call]]:
        shown, calls = "", []
        while (at := self._held.find(_OPEN)) >= 0:
            end = self._held.find(_CLOSE, at)
            if end < 0 and not last:
                break
            inner = self._held[at + len(_OPEN):end if end >= 0 else None]
            rest = self._held[end + len(_CLOSE):] if end >= 0 else ""
            call = self._call(inner, "arguments")
            if call is None:
                shown += self._held[:len(self._held) - len(rest)]
            else:
                shown += self._held[:at].rstrip()
                calls.append(call)
            self._held = rest
        at = at if at >= 0 else len(self._held) - _overlap(self._held, _OPEN)
        sure = self._held[:at].rstrip()
        self._held = self._held[len(sure):]
        return shown + sure, calls

    def _llama3(self, last: bool) -> tuple[str, list[Call]]:
        start = self._held.lstrip()
        if not self._begun and (start.startswith("{") or not start):      # a call, or not to be told yet
            calls = self._objects(start) if last else []
            self._held = "" if calls else self._held
            return "", calls
        shown, self._held = self._held, ""
        return shown, []

    def _objects(self, text: str) -> list[Call]:
        """All calls of a text that is nothing but calls, with semicolons or blanks between them; else none."""
        calls, decoder = [], json.JSONDecoder()
        while text:
            try:
                _, end = decoder.raw_decode(text)
            except (ValueError, RecursionError):
                return []
            call = self._call(text[:end], "parameters")
            if call is None:
                return []
            calls.append(call)
            text = text[end:].lstrip("; \n\t")
        return calls

    def _call(self, text: str, field: str) -> Call | None:
        try:
            said = read_json(text)
        except (ValueError, RecursionError):
            return None
        name, given = (said.get("name"), said.get(field)) if isinstance(said, dict) else (None, None)
        if not isinstance(name, str) or name not in self._names or not isinstance(given, dict):
            return None
        return Call(name, _as_text(given))


def _as_text(given: dict[str, Any]) -> str:
    """JSON that has a UTF-8 form: a model may have written half of a surrogate pair as an escape."""
    text = json.dumps(given, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(given)
    return text


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of a text could be the beginning of a mark."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:size])), 0)
