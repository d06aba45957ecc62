"""Constrained decoding: which tokens may come next, so that an answer follows a JSON schema, a regex, a grammar or one
of a few choices.

llguidance does the work: it reads the same tokenizer.json as we do, so every kind of tokenizer is served, and gives a
mask of one bit a token, which the sampler applies on the device (sampling.py). Sizes and steps are bounded, because
grammars come from strangers: a grammar that is too large or too slow is refused, or ends its own request alone.
"""
import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any, Literal

import llguidance
import llguidance.numpy
import numpy as np

from easylm_imitation.schema import UserError
from easylm_imitation.serve.sampling import mask_words
from easylm_imitation.text import Tokenizer

Kind = Literal["json", "regex", "choice", "grammar"]
SLOWEST = 0.5       # seconds of a core that a step of a grammar may take; llguidance's own limits come first as a rule
# White space in JSON is the model's choice, but bounded: an endless run of it is a well-known way to say nothing.
_JSON = {"whitespace_pattern": r"[ \n\t]{0,20}"}
_LIMITS = {"initial_lexer_fuel": 300_000, "step_lexer_fuel": 100_000, "max_lexer_states": 20_000,
           "max_grammar_size": 50_000, "verbose_errors": False}


@dataclasses.dataclass(frozen=True)
class Spec:
    """What an answer must look like, as a request says it. `field`: where in the request."""
    kind: Kind
    source: Any         # json: a schema as an object or as text; choice: texts; else text
    field: str


class GrammarFailed(UserError):
    """An answer cannot go on: its grammar has become too complex, or leads where no token goes. `param`: the field of
    the request that the grammar came in."""

    def __init__(self, param: str, reason: str):
        super().__init__(f"{param}: {reason}")
        self.param = param


class Grammars:
    """Compiles grammars for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_ids: Sequence[int], longest: int):
        """`vocab_size`: ids of the model. `longest`: characters of a grammar's text at most."""
        self._size, self._longest, self._fault = vocab_size, longest, ""
        known = max(vocab_size, tokenizer.vocab_size)
        ends = [token for token in stop_ids if token < known] or [tokenizer.eos_id]
        try:
            self._tokenizer = llguidance.LLTokenizer(tokenizer.definition, n_vocab=known, eos_token=ends)
        except ValueError as error:     # told to those who ask for a grammar; others need none
            self._fault = f"this model's tokenizer cannot follow grammars ({error})"
        self._known = known

    def compile(self, spec: Spec, lead: str = "") -> "Constraint":
        """The beginning of an answer. `lead`: text that the template puts before each. Raises UserError saying why not.

        It may take a while: call it outside the event loop.
        """
        if self._fault:
            raise UserError(self._fault)
        try:
            grammar = self._grammar(spec)
            if lead:
                grammar = {**grammar, "name": "answer"}
            top = [{"lark_grammar": f"start: {_quoted(lead)} @answer"}] if lead else []
            text = json.dumps({"grammars": [*top, grammar]})
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{spec.field}: {error}") from None
        matcher = llguidance.LLMatcher(self._tokenizer, text, log_level=0, limits=llguidance.LLParserLimits(**_LIMITS))
        if matcher.is_error():
            raise UserError(f"{spec.field}: {_reason(matcher)}")
        first = Constraint(matcher, self._size, self._known, spec.field)
        first.mask()
        return first

    def _grammar(self, spec: Spec) -> dict[str, Any]:
        """One grammar as llguidance has them. Raises ValueError."""
        text = spec.source if isinstance(spec.source, str) else json.dumps(spec.source)
        if len(text) > self._longest:
            raise ValueError(f"{len(text)} characters; at most {self._longest}")
        if spec.kind == "json":
            schema = json.loads(text)
            if not isinstance(schema, dict):
                raise ValueError("a JSON schema is an object")
            if "x-guidance" in schema:
                raise ValueError("x-guidance is the server's own; leave it out of the schema")
            return {"json_schema": {**schema, "x-guidance": _JSON}}
        if spec.kind == "choice":
            # One terminal: a rule with some 2,000 alternatives would fail amid the answer.
            return {"lark_grammar": "start: CHOICE\nCHOICE: " + " | ".join(map(_quoted, spec.source))}
        if spec.kind == "regex":
            return json.loads(llguidance.grammar_from("regex", text))["grammars"][0]
        return {"lark_grammar": llguidance.grammar_from("grammar", text)}     # GBNF becomes Lark


class Constraint:
    """Where one answer stands in its grammar. Used by one thread at a time."""

    def __init__(self, matcher: llguidance.LLMatcher, size: int, known: int, field: str):
        """`size`: ids of the model; `known`: ids of the matcher; `field`: where in the request the grammar is."""
        self._matcher, self._size, self._known, self.field = matcher, size, known, field
        self._next: np.ndarray | None = None

    def copy(self) -> "Constraint":
        """Another answer that stands at the same place."""
        other = Constraint(self._matcher.deep_copy(), self._size, self._known, self.field)
        other._next = self._next
        return other

    def mask(self) -> np.ndarray:
        """uint32 [ceil(size / 32)]: bit i of word w is set where token 32 w + i may come next. Raises GrammarFailed."""
        if self._next is None:
            self._next = self._compute()
        return self._next

    def push(self, token: int) -> bool:
        """Takes the next token; True when the answer is complete and nothing may follow. A fault shows in `mask`."""
        self._next = None
        self._matcher.consume_token(token)
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def _compute(self) -> np.ndarray:
        started = time.thread_time()
        found = llguidance.numpy.allocate_token_bitmask(1, self._known)
        if not self._matcher.is_error():
            llguidance.numpy.fill_next_token_bitmask(self._matcher, found)
        if self._matcher.is_error():
            raise GrammarFailed(self.field, _reason(self._matcher))
        if time.thread_time() - started > SLOWEST:
            raise GrammarFailed(self.field, f"a step of it took more than {SLOWEST} seconds of a core; make it simpler")
        mask = found[0].view(np.uint32)[:mask_words(self._size)].copy()
        if self._size % 32:
            mask[-1] &= (1 << self._size % 32) - 1
        if not mask.any():
            raise GrammarFailed(self.field, "no token of the model goes on from here")
        return mask


def _reason(matcher: llguidance.LLMatcher) -> str:
    """llguidance's message in a line, without its excerpts."""
    said = " ".join(matcher.get_error().replace("<non-verbose/>", "").split())
    return "nothing can match it" if said.startswith("NoExtension") else said[:400]


def _quoted(text: str) -> str:
    """A string of Lark's."""
    return json.dumps(text, ensure_ascii=False)
