"""A template as the Jinja text that Hugging Face tooling renders; made from the same definition as the training rows.

Its rendering, tokenized with special tokens parsed, gives `prompt_ids` (with `add_generation_prompt`) and the training
row (without), as long as nobody's text spells out a control token (Jinja cannot tell the two apart; our server can) and
no earlier answer opens with white space or punctuation that the tokenizer would join with the text before it.
"""
from collections.abc import Sequence

from easylm_imitation.text.own_template import OwnTemplate
from easylm_imitation.text.rows import check_template, special_token
from easylm_imitation.text.template import Piece, Template, Turn
from easylm_imitation.text.tokenizer import Tokenizer


def chat_jinja(template: Template, tokenizer: Tokenizer) -> str:
    """The Jinja chat template, with the tokenizer's own end and beginning tokens written out, and the template's id in
    a comment. Raises UserError when the tokenizer lacks one of the template's tokens."""
    check_template(template, tokenizer)
    if isinstance(template, OwnTemplate):
        return template.source

    def literal(pieces: Sequence[Piece]) -> str:
        return _quoted("".join(_spelled(piece, tokenizer) for piece in pieces))

    def around(turn: Turn, content: str) -> str:
        return f"{literal(turn.before)} + {content} + {literal(turn.after)}"

    trim = "|trim" if template.strip else ""
    default = "none" if template.default_system is None else _quoted(template.default_system)
    content = f"(message['content']{trim})"
    answer = (f"{literal(template.assistant.before)} + {_lead(template)} + {content} + "
              f"{literal((template.tail, template.end))}")
    return "".join((
        f"{{#- {template.id} -#}}",
        "{%- if messages[0]['role'] == 'system' %}",
        "{%- set system = messages[0]['content'] %}{%- set turns = messages[1:] %}",
        f"{{%- else %}}{{%- set system = {default} %}}{{%- set turns = messages %}}{{%- endif %}}",
        f"{{{{- {literal(template.begin)} }}}}",
        f"{{%- if system is not none %}}{{{{- {around(template.system, f'(system{trim})')} }}}}{{%- endif %}}",
        "{%- for message in turns %}",
        "{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}",
        "{{- raise_exception('messages: roles do not alternate') }}{%- endif %}",
        "{%- if message['role'] == 'user' %}",
        f"{{%- if not loop.first %}}{{{{- {literal(template.assistant.after)} }}}}{{%- endif %}}",
        f"{{{{- {around(template.user, content)} }}}}",
        f"{{%- else %}}{{{{- {answer} }}}}{{%- endif %}}",
        "{%- endfor %}",
        f"{{%- if add_generation_prompt %}}{{{{- {literal(template.assistant.before)} }}}}{{%- endif %}}"))


def _lead(template: Template) -> str:
    """Template.lead_of as a Jinja expression."""
    if not template.lead_between_words:
        return _quoted(template.lead)
    white = "[' ', '\\n', '\\t']"
    return (f"('' if turns[loop.index0 - 1]['content'][-1:] in {white} or message['content'][:1] in {white} "
            f"else {_quoted(template.lead)})")


def _spelled(piece: Piece, tokenizer: Tokenizer) -> str:
    if isinstance(piece, str):
        return piece
    token_id = special_token(piece, tokenizer)
    return "" if token_id is None else tokenizer.token(token_id)


def _quoted(text: str) -> str:
    """A Jinja string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
