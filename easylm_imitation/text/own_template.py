"""A tokenizer's own Jinja chat template, for rows as well as prompts: a template that nobody here wrote.

It renders text, and a row needs to know whose text is whose. So an answer is found by rendering twice: what the
messages before it render to, generation prompt included, must be the beginning of what all of them render to; the
answer follows there, up to the first control token, its end. `{% generation %}` blocks, where the template has them,
say themselves what carries loss. A template that rewrites earlier turns has no such beginning, and is refused,
conversation by conversation; so the prompt that a server builds is the beginning of the row, or there is no row.

Templates run in Jinja's sandbox, without today's date: the same conversation always gives the same row.
"""
import dataclasses
import functools
import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from easylm_imitation.files import digest
from easylm_imitation.records import Message
from easylm_imitation.schema import UserError
from easylm_imitation.text.template import Special, Template, Turn
from easylm_imitation.text.tokenizer import Tokenizer

# Characters that no text can contain: they stand in special tokens that are spelled out, and around learned text.
_GUARD, _START, _STOP = (f"\ue000{secrets.token_hex(12)}{name}\ue001" for name in "gse")
_TAG = re.compile(r"{%[-+]?\s*generation\b")
_CURE = "take a template of ours by name, or mend the tokenizer's"


class Marked(NamedTuple):
    """A piece of a rendered conversation."""
    piece: str | Special
    learned: bool


@dataclasses.dataclass(frozen=True)
class OwnTemplate(Template):
    """`source`: the Jinja text. What `Template` says of turns is empty here."""
    source: str = ""

    @property
    def id(self) -> str:
        """`name@` and eight hex digits over the Jinja text."""
        return f"{self.name}@{digest([self.source, self.loss], 8)}"


def own_template(tokenizer: Tokenizer) -> OwnTemplate:
    """The template called "tokenizer". Raises UserError for a tokenizer without one, or one that is no Jinja."""
    if tokenizer.chat_template is None:
        raise UserError("template 'tokenizer': the tokenizer has no chat template of its own; take one by name")
    empty = Turn(())
    template = OwnTemplate("tokenizer", empty, empty, empty, begin=(), source=tokenizer.chat_template)
    _compiled(template.source)
    return template


def own_pieces(template: OwnTemplate, tokenizer: Tokenizer, messages: Sequence[Message], generate: bool
               ) -> list[Marked]:
    """What `messages` look like, with the generation prompt after them where `generate`. Raises UserError."""
    marked = _render(template, tokenizer, messages, generate)
    text = marked.replace(_START, "").replace(_STOP, "")
    control = _control(tokenizer)
    answers = []
    for turn, message in enumerate(messages):
        if message.role == "assistant":
            prompt = _render(template, tokenizer, messages[:turn], True).replace(_START, "").replace(_STOP, "")
            if not text.startswith(prompt):
                raise UserError(f"template '{template.name}': the prompt for message {turn + 1} is not the beginning "
                                f"of what the whole renders to; {_CURE}")
            end = control.search(text, len(prompt))
            if end is None:
                raise UserError(f"template '{template.name}': no control token ends message {turn + 1}; {_CURE}")
            answers.append((len(prompt), end.end()))
    learned = list(_blocks(marked)) if _TAG.search(template.source) else answers
    cuts = sorted({place for span in (*answers, *learned) for place in span} | {0, len(text)})
    return [Marked(piece, any(start <= at < stop for start, stop in learned))
            for at, until in zip(cuts, cuts[1:]) for piece in _split(text[at:until], control)]


def tool_pieces(template: OwnTemplate, tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]],
                tools: Sequence[Mapping[str, Any]]) -> list[Marked]:
    """A prompt about tools: messages and tools as OpenAI's API has them, whatever fields the template reads. Raises
    UserError for a template that reads no tools."""
    if "tools" not in _variables(template.source):
        raise UserError(f"template '{template.name}': reads no tools; take a model whose template does")
    text = _fill(template, tokenizer, _guarded(messages, tokenizer), True, tools=_guarded(tools, tokenizer) or None)
    control = _control(tokenizer)
    return [Marked(piece, False) for piece in _split(text.replace(_START, "").replace(_STOP, ""), control)]


def end_token(template: OwnTemplate, tokenizer: Tokenizer) -> Special:
    """The control token that ends an answer. Raises UserError when there is none, or answers carry no loss."""
    one_round = (Message("user", "a"), Message("assistant", "b"))
    for messages in (one_round, (*one_round, Message("user", "c"), Message("assistant", "d"))):
        pieces = own_pieces(template, tokenizer, messages, False)
        ends = [piece for piece, learned in pieces if learned and isinstance(piece, Special)]
        said = "".join(piece for piece, learned in pieces if learned and isinstance(piece, str))
        if "b" not in said or len(ends) * 2 != len(messages):
            raise UserError(f"template '{template.name}': its generation blocks do not hold each answer with its end "
                            f"token; {_CURE}")
    return ends[-1]


def _split(text: str, control: re.Pattern[str]) -> Iterator[str | Special]:
    """Texts and control tokens, in order; guards come off."""
    at = 0
    for match in control.finditer(text):
        yield from filter(None, [text[at:match.start()].replace(_GUARD, "")])
        yield Special(match[0])
        at = match.end()
    yield from filter(None, [text[at:].replace(_GUARD, "")])


def _blocks(marked: str) -> Iterator[tuple[int, int]]:
    """Spans of the generation blocks, in the text without marks."""
    at, start = 0, 0
    for part in re.split(f"({_START}|{_STOP})", marked):
        if part == _START:
            start = at
        elif part == _STOP:
            yield start, at
        else:
            at += len(part)


def _render(template: OwnTemplate, tokenizer: Tokenizer, messages: Sequence[Message], generate: bool) -> str:
    """Rendered text, with marks; control tokens that contents spell out are guarded, so that they stay text."""
    plain = [{"role": message.role, "content": message.content} for message in messages]
    return _fill(template, tokenizer, _guarded(plain, tokenizer), generate)


def _guarded(value: Any, tokenizer: Tokenizer) -> Any:
    """JSON whose texts have their control tokens guarded, keys too."""
    if isinstance(value, str):
        return _control(tokenizer).sub(lambda m: m[0][:1] + _GUARD + m[0][1:], value)
    if isinstance(value, Mapping):
        return {_guarded(key, tokenizer): _guarded(one, tokenizer) for key, one in value.items()}
    return [_guarded(one, tokenizer) for one in value] if isinstance(value, list | tuple) else value


def _fill(template: OwnTemplate, tokenizer: Tokenizer, messages: list[dict[str, Any]], generate: bool,
          **more: Any) -> str:
    names = {name: "" if token is None else tokenizer.token(token)
             for name, token in (("bos_token", tokenizer.bos_id), ("eos_token", tokenizer.eos_id))}
    try:
        return _compiled(template.source).render(messages=messages, add_generation_prompt=generate, **names, **more)
    except (jinja2.TemplateError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        raise UserError(f"template '{template.name}': {error}; the conversation does not fit it, or {_CURE}") from None


@functools.lru_cache(8)
def _control(tokenizer: Tokenizer) -> re.Pattern[str]:
    names = sorted(tokenizer.special_names(), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) or r"(?!)")


class _Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}: the text in between, marked."""
    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """What Jinja calls at the tag."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        start, stop = (jinja2.nodes.Output([jinja2.nodes.TemplateData(mark)], lineno=line) for mark in (_START, _STOP))
        return [start, *body, stop]


@functools.lru_cache(8)
def _variables(source: str) -> set[str]:
    """Names that a template expects to be given."""
    return jinja2.meta.find_undeclared_variables(_environment().parse(source))


@functools.lru_cache(8)
def _compiled(source: str) -> jinja2.Template:
    """The template, as transformers compiles it. Raises UserError for what is no Jinja."""
    try:
        return _environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"template 'tokenizer': line {error.lineno} is no Jinja ({error.message}); {_CURE}") from None


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = tojson
    return environment
