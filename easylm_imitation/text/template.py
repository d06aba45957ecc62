"""Chat templates as data: what stands before and after each role's text. Tokens, prompts and the Jinja export all read
this.

A piece is a string, or a `Special`: a control token by name, or by its role "bos"/"eos". "bos" vanishes for tokenizers
that have none. Texts around the contents follow the originals (the source is named at each template), with two
differences in what carries loss: only the answer and its end token do, and a row ends with the last end token.
"""
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from easylm_imitation.records import Message, digest
from easylm_imitation.schema import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Special:
    """A control token: `name` is its spelling, or "bos" / "eos" for the tokenizer's own."""
    name: str


Piece = str | Special
BOS, EOS = Special("bos"), Special("eos")


@dataclasses.dataclass(frozen=True)
class Turn:
    """What stands around one message."""
    before: tuple[Piece, ...]
    after: tuple[Piece, ...] = ()


@dataclasses.dataclass(frozen=True)
class Template:
    """One chat format. `assistant.before` is the generation prompt; `lead` (often " ") opens every answer and belongs
    to it: the model writes it, loss falls on it, a server takes it off again. `end` closes an answer, and carries loss
    too.
    """
    name: str
    system: Turn
    user: Turn
    assistant: Turn
    begin: tuple[Piece, ...] = (BOS,)
    lead: str = ""
    end: Special = EOS
    default_system: str | None = None   # stands in when a conversation has no system message
    strip: bool = False                 # contents lose white space at both ends
    stop_strings: tuple[str, ...] = ()  # text that ends an answer, for formats whose end token a model may not know

    @property
    def id(self) -> str:
        """`name@` and eight hex digits over the whole definition."""
        return f"{self.name}@{digest(self, 8)}"

    def specials(self) -> tuple[str, ...]:
        """Names of the control tokens that the tokenizer must have, "bos" and "eos" aside."""
        pieces = [*self.begin, self.end]
        for turn in (self.system, self.user, self.assistant):
            pieces += [*turn.before, *turn.after]
        names = {piece.name for piece in pieces if isinstance(piece, Special)}
        return tuple(sorted(names - {"bos", "eos"}))


class Fault(NamedTuple):
    """Why messages are no conversation: `reason` is one of a few that counts gather under, `detail` says where."""
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


def fault_of(messages: Sequence[Message]) -> Fault | None:
    """Why these messages are no conversation (without their text), or None.

    Roles: an optional first `system`, then `user` and `assistant` in turn; or one `document` alone.
    """
    roles = [message.role for message in messages]
    if not roles:
        return Fault("no messages")
    if "document" in roles:
        return None if len(roles) == 1 else Fault("a document beside other messages")
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns:
        return Fault("nothing but a system message")
    for i, role in enumerate(turns):
        due = ("user", "assistant")[i % 2]
        if role != due:
            number = len(roles) - len(turns) + i + 1
            return Fault("roles do not alternate", f"message {number} of {len(roles)} is from '{role}', not '{due}'")
    return None


def get_template(name: str) -> Template:
    """The template called `name` (an id such as "chatml@0123abcd" counts when the definition is the same). Raises
    UserError."""
    template = TEMPLATES.get(name.partition("@")[0])
    if template is None:
        raise UserError(f"unknown template '{name}'{nearest(name, TEMPLATES)}")
    if "@" in name and name != template.id:
        raise UserError(f"template '{name}' is defined otherwise in this version ({template.id}); build the data again")
    return template


def _chatml_turn(role: str) -> Turn:
    return Turn((Special("<|im_start|>"), f"{role}\n"), (Special("<|im_end|>"), "\n"))


# Qwen2.5's own Jinja template, tools aside: no BOS, its system message when there is none, contents as they are.
_CHATML = Template(
    "chatml", begin=(), system=_chatml_turn("system"), user=_chatml_turn("user"),
    assistant=Turn((Special("<|im_start|>"), "assistant\n"), ("\n",)), end=Special("<|im_end|>"),
    default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")

# open-instruct (Tülu 1): the role markers are plain text, contents are stripped.
_TULU = Template(
    "tulu", system=Turn(("<|system|>\n",), ("\n",)), user=Turn(("<|user|>\n",), ("\n",)),
    assistant=Turn(("<|assistant|>\n",), ("\n",)), strip=True)

# FastChat's vicuna_v1.1: two separators, " " after what the user says and EOS after the answer.
_VICUNA = Template(
    "vicuna", system=Turn((), (" ",)), user=Turn(("USER: ",), (" ",)), assistant=Turn(("ASSISTANT:",)), lead=" ",
    default_system="A chat between a curious user and an artificial intelligence assistant. "
                   "The assistant gives helpful, detailed, and polite answers to the user's questions.")

# Stanford Alpaca without "input" (a source's input joins the user's message); a system message replaces the
# introduction.
_ALPACA = Template(
    "alpaca", system=Turn((), ("\n\n",)), user=Turn(("### Instruction:\n",), ("\n\n",)),
    assistant=Turn(("### Response:",), ("\n\n",)),
    default_system="Below is an instruction that describes a task. "
                   "Write a response that appropriately completes the request.")

# Ours: needs nothing of a tokenizer but an end token.
_PLAIN = Template(
    "plain", system=Turn((), ("\n",)), user=Turn(("User: ",), ("\n",)), assistant=Turn(("Assistant:",), ("\n",)),
    lead=" ")

TEMPLATES: dict[str, Template] = {t.name: t for t in (_CHATML, _TULU, _VICUNA, _ALPACA, _PLAIN)}
