"""Chat templates as data: what stands before and after each role's text. Tokens, prompts and the Jinja export all read
this.

A piece is a string, or a `Special`: a control token by name, or by its role "bos"/"eos". "bos" vanishes for tokenizers
that have none. Texts around the contents follow the originals (the source is named at each template), with two
differences in what carries loss: only the answer and its end token do, and a row ends with the last end token.
"""
import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

from easylm_imitation.files import digest
from easylm_imitation.records import Message
from easylm_imitation.schema import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Special:
    """A control token: `name` is its spelling, or "bos" / "eos" for the tokenizer's own."""
    name: str


Piece = str | Special
Loss = Literal["answers", "last", "all", "breaks"]
LOSSES: tuple[Loss, ...] = ("answers", "last", "all", "breaks")
"""What the loss covers: answers with their end tokens; the last answer with its end token; all but the first token;
answers, end tokens and the line breaks after these where another turn follows (open-instruct's)."""
BOS, EOS = Special("bos"), Special("eos")


@dataclasses.dataclass(frozen=True)
class Turn:
    """What stands around one message."""
    before: tuple[Piece, ...]
    after: tuple[Piece, ...] = ()


@dataclasses.dataclass(frozen=True)
class Template:
    """One chat format. `assistant.before` is the generation prompt; `lead` (often " ") opens every answer and `tail`
    closes it. Both belong to it: the model writes them, loss falls on them, a server takes them off again. `end` comes
    last, and carries loss too.
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
    tail: str = ""
    lead_between_words: bool = False    # no lead where the question ends, or the answer begins, with white space
    loss: Loss = "answers"

    @property
    def id(self) -> str:
        """`name@` and eight hex digits over the whole definition."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, default in _ADDED_LATER.items():      # so that older definitions keep their ids
            if content[name] == default:
                del content[name]
        return f"{self.name}@{digest(content, 8)}"

    def lead_of(self, question: str, answer: str) -> str:
        """What opens this answer to this question (contents as they stand in the row)."""
        apart = question[-1:] in _WHITE or answer[:1] in _WHITE
        return "" if self.lead_between_words and apart else self.lead

    def specials(self) -> tuple[str, ...]:
        """Names of the control tokens that the tokenizer must have, "bos" and "eos" aside."""
        pieces = [*self.begin, self.end]
        for turn in (self.system, self.user, self.assistant):
            pieces += [*turn.before, *turn.after]
        names = {piece.name for piece in pieces if isinstance(piece, Special)}
        return tuple(sorted(names - {"bos", "eos"}))


_WHITE = (" ", "\n", "\t")
_ADDED_LATER = {"tail": "", "lead_between_words": False, "loss": "answers"}


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


def with_loss(template: Template, loss: str) -> Template:
    """The template with loss on something else than answers, which its name then says. Raises UserError."""
    if loss not in LOSSES:
        raise UserError(f"template '{template.name}:{loss}': the loss may cover {', '.join(LOSSES)}{_meant(loss)}")
    if loss == "answers":
        return template
    opens = template.user.before[:1]    # must not lengthen the break's token
    alone = not (opens and isinstance(opens[0], str) and opens[0][:1].isspace())
    if loss == "breaks" and not (template.assistant.after == ("\n",) and alone):
        raise UserError(f"template '{template.name}:breaks': no line break follows its end token; take the loss "
                        "'answers', or a template that has one, such as tulu or chatml")
    return dataclasses.replace(template, name=f"{template.name}:{loss}", loss=loss)


def _meant(loss: str) -> str:
    close = nearest(loss, LOSSES)
    return close if "did you mean" in close else ""


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

# Stanford Alpaca; a system message replaces the introduction. A source's input joins the user's message: with its
# encoding "alpaca" under the original's heading, and with the original's other introduction as system message.
_ALPACA = Template(
    "alpaca", system=Turn((), ("\n\n",)), user=Turn(("### Instruction:\n",), ("\n\n",)),
    assistant=Turn(("### Response:",), ("\n\n",)),
    default_system="Below is an instruction that describes a task. "
                   "Write a response that appropriately completes the request.")

# Ours: needs nothing of a tokenizer but an end token.
_PLAIN = Template(
    "plain", system=Turn((), ("\n",)), user=Turn(("User: ",), ("\n",)), assistant=Turn(("Assistant:",), ("\n",)),
    lead=" ")

# EasyLM's koala_data_pipeline: the model is asked to write right after "GPT:". Koala knows no system message; one
# stands after the opening words.
_KOALA = Template(
    "koala", begin=(BOS, "BEGINNING OF CONVERSATION: "), system=Turn((), (" ",)), user=Turn(("USER: ",), (" ",)),
    assistant=Turn(("GPT:",)))

# GPT4All's training: prompt, line break, response. Made for one round; a line break stands before another.
_GPT4ALL = Template(
    "gpt4all", system=Turn((), ("\n",)), user=Turn((), ("\n",)), assistant=Turn((), ("\n",)))

# Dolly's own prompt, its keys as text; it learns its "### End" too. A context joins the user's message: with a
# source's encoding "dolly" under the original's heading.
_DOLLY = Template(
    "dolly", system=Turn((), ("\n\n",)), user=Turn(("### Instruction:\n",), ("\n\n",)),
    assistant=Turn(("### Response:\n",), ("\n\n",)), tail="\n\n### End", stop_strings=("\n\n### End",),
    default_system="Below is an instruction that describes a task. "
                   "Write a response that appropriately completes the request.")

# Meta's llama repository (chat_completion): every round begins with BOS, the system message stands in the first.
_LLAMA2 = Template(
    "llama2", begin=(BOS, "[INST] "), system=Turn(("<<SYS>>\n",), ("\n<</SYS>>\n\n",)), user=Turn((), (" [/INST]",)),
    assistant=Turn((), (BOS, "[INST] ")), lead=" ", tail=" ", strip=True)


def _llama3_turn(role: str) -> Turn:
    return Turn((Special("<|start_header_id|>"), role, Special("<|end_header_id|>"), "\n\n"), (Special("<|eot_id|>"),))


# Meta's llama3 repository (ChatFormat), without the dates that 3.1's Jinja template puts into the system message.
_LLAMA3 = Template(
    "llama3", system=_llama3_turn("system"), user=_llama3_turn("user"),
    assistant=Turn(_llama3_turn("assistant").before), end=Special("<|eot_id|>"), strip=True)

# The False Promise paper: "special tokens that demarcate the beginning of each user query and model output", which it
# does not name. As control tokens, which the tokenizer must have; Koala's code has them as text.
_PAPER = Template(
    "paper", system=Turn((), ("\n",)), user=Turn((Special("<|query|>"),)), assistant=Turn((Special("<|output|>"),)))

# open-instruct's records of prompt and completion: a space between them where neither brings white space.
_PROMPT_COMPLETION = Template(
    "prompt-completion", system=Turn((), ("\n",)), user=Turn(()), assistant=Turn((), ("\n",)), lead=" ",
    lead_between_words=True)

TEMPLATES: dict[str, Template] = {t.name: t for t in (
    _CHATML, _TULU, _VICUNA, _ALPACA, _PLAIN, _KOALA, _GPT4ALL, _DOLLY, _LLAMA2, _LLAMA3, _PAPER, _PROMPT_COMPLETION)}
