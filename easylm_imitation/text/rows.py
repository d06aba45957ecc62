"""A conversation as tokens with loss weights, built turn by turn: the one place where masks are made.

Text between two control tokens is encoded as one string; an answer is a piece of its own, from the end of the
generation prompt to its end token. So a row's beginning is, token by token, the prompt that a server builds from the
same messages.
"""
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from easylm_imitation.records import Conversation, Message
from easylm_imitation.schema import UserError
from easylm_imitation.text.own_template import Marked, OwnTemplate, end_token, own_pieces, tool_pieces
from easylm_imitation.text.template import BOS, EOS, Fault, Loss, Piece, Special, Template, fault_of
from easylm_imitation.text.tokenizer import After, Tokenizer


@dataclasses.dataclass(frozen=True)
class Row:
    """`loss_weights[t]` weighs the prediction of `tokens[t]` from the tokens before it; nothing predicts the first: it
    weighs 0."""
    tokens: np.ndarray          # int32 [T]
    loss_weights: np.ndarray    # float32 [T]


def tokenize(template: Template, tokenizer: Tokenizer, conversation: Conversation) -> Row:
    """The training row of a conversation. Raises UserError, naming it, where its roles are out of order or no answer
    ends it.

    An answer and its end token weigh 1, everything else 0; with a template's `loss` "last" only the last answer, with
    "breaks" also the line break before the next turn, with "all" everything but the first token. A `document` is
    [BOS if any] + text + EOS, all of it weighing 1 but the first
    token. With the template `plain`, a tokenizer whose ids are bytes, and 256 as its EOS and
    no BOS:

        user "a", assistant "b"   ->   "User: a\\nAssistant:" " b" <eos>
        tokens        85 115 101 114 58 32 97 10 65 115 115 105 115 116 97 110 116 58 | 32 98 256
        loss_weights   0   0   0   0  0  0  0  0  0   0   0   0   0   0  0   0   0  0 |  1  1   1
    """
    [row] = tokenize_all(template, tokenizer, [conversation])
    if isinstance(row, UserError):
        raise row
    return row


def tokenize_all(template: Template, tokenizer: Tokenizer, conversations: Sequence[Conversation]
                 ) -> list[Row | UserError]:
    """What `tokenize` makes of each conversation, or would raise: all their texts go to the tokenizer at once."""
    pieces: list[list[Marked] | UserError] = []
    for conversation in conversations:
        try:
            pieces.append(_checked(template, tokenizer, conversation))
        except UserError as error:
            pieces.append(error)
    whole = [made for made in pieces if not isinstance(made, UserError)]
    try:
        rows = iter(_rows(tokenizer, whole, template.loss))
        return [made if isinstance(made, UserError) else next(rows) for made in pieces]
    except UserError as error:      # a text that no tokenizer takes: whose is it?
        if len(pieces) == 1:
            return [error]
        return [row for conversation in conversations for row in tokenize_all(template, tokenizer, [conversation])]


def _checked(template: Template, tokenizer: Tokenizer, conversation: Conversation) -> list[Marked]:
    """What the row of a conversation consists of. Raises UserError, naming it."""
    messages = conversation.messages
    fault = fault_of(messages)
    if fault is None and messages[-1].role == "user":
        fault = Fault("no answer at its end")
    if fault:
        raise UserError(f"conversation '{conversation.id}': {fault}; fix the source, or drop it")
    if messages[0].role == "document":
        return [Marked(BOS, True), Marked(messages[0].content, True), Marked(EOS, True)]
    return list(_pieces(template, tokenizer, messages))


def prompt_ids(template: Template, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of `messages` and the generation prompt: the prefix, up to the next answer, of every training row that begins
    with these messages. Raises UserError when they are out of order or do not end with the user's."""
    fault = fault_of(messages)
    if fault is None and messages[-1].role != "user":
        fault = Fault("the last message must be the user's")
    if fault:
        raise UserError(f"messages: {fault}")
    return _rows(tokenizer, [_pieces(template, tokenizer, messages, generate=True)])[0].tokens.tolist()


def tool_prompt_ids(template: Template, tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]],
                    tools: Sequence[Mapping[str, Any]]) -> list[int]:
    """Ids of a conversation with tools and the generation prompt, all as OpenAI's API has them (but arguments of calls
    as objects). Only a tokenizer's own Jinja template may know tools; raises UserError for others."""
    if not isinstance(template, OwnTemplate):
        raise UserError(f"template '{template.name}' knows no tools; leave them out, or serve a model whose own "
                        "template has them")
    return _rows(tokenizer, [tool_pieces(template, tokenizer, messages, tools)])[0].tokens.tolist()


def stop_ids(template: Template, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids that end an answer: the template's end token, the tokenizer's EOS, and <|endoftext|> where there is one."""
    end = end_token(template, tokenizer) if isinstance(template, OwnTemplate) else template.end
    ids = {special_token(end, tokenizer), tokenizer.eos_id}
    if tokenizer.has_token("<|endoftext|>"):
        ids.add(tokenizer.special_id("<|endoftext|>"))
    return tuple(sorted(ids))


def check_template(template: Template, tokenizer: Tokenizer) -> None:
    """Raises UserError when the tokenizer lacks a control token of the template, or its own template gives no rows."""
    if isinstance(template, OwnTemplate):
        end_token(template, tokenizer)
    missing = [name for name in template.specials() if not tokenizer.has_token(name)]
    if missing:
        raise UserError(f"template '{template.name}': the tokenizer has no {' or '.join(missing)}; take one that "
                        "has them, or a template that needs only an end token: tulu, vicuna, alpaca, plain")


def special_token(piece: Special, tokenizer: Tokenizer) -> int | None:
    """The id that `piece` stands for; None for "bos" where the tokenizer has no such token."""
    if piece.name == "bos":
        return tokenizer.bos_id
    return tokenizer.eos_id if piece.name == "eos" else tokenizer.special_id(piece.name)


def _pieces(template: Template, tokenizer: Tokenizer, messages: Sequence[Message], generate: bool = False
            ) -> Iterable[Marked]:
    """What `messages` look like in `template`, with the generation prompt after them where `generate`."""
    if isinstance(template, OwnTemplate):
        return own_pieces(template, tokenizer, messages, generate)
    return _turns(template, messages, generate)


def _turns(template: Template, messages: Sequence[Message], generate: bool) -> Iterator[Marked]:
    """The text after an answer comes only before another turn."""
    yield from _silent(template.begin)
    system, turns = _system_and_turns(template, messages)
    if system is not None:
        yield from _silent((*template.system.before, _content(template, system), *template.system.after))
    question = ""
    for i, message in enumerate(turns):
        content = _content(template, message.content)
        if message.role == "user":
            yield from _silent((*(template.assistant.after if i else ()), *template.user.before, content,
                                *template.user.after))
            question = content
        else:
            yield from _silent(template.assistant.before)
            yield Marked(template.lead_of(question, content) + content + template.tail, True)
            yield Marked(template.end, True)
    if generate:
        yield from _silent(template.assistant.before)


def _silent(pieces: Iterable[Piece]) -> Iterator[Marked]:
    return (Marked(piece, False) for piece in pieces)


def _system_and_turns(template: Template, messages: Sequence[Message]) -> tuple[str | None, Sequence[Message]]:
    if messages[0].role == "system":
        return messages[0].content, messages[1:]
    return template.default_system, messages


def _content(template: Template, content: str) -> str:
    return content.strip() if template.strip else content


def _rows(tokenizer: Tokenizer, rows: Iterable[Iterable[Marked]], loss: Loss = "answers") -> list[Row]:
    """The rows that consist of these pieces."""
    joined = [list(_joined(pieces)) for pieces in rows]
    encoded = iter(tokenizer.encode_all([text for pieces in joined for text in _texts(tokenizer, pieces)]))
    return [_row(tokenizer, pieces, encoded, loss) for pieces in joined]


def _texts(tokenizer: Tokenizer, pieces: Sequence[Marked]) -> Iterator[tuple[str, After]]:
    """The texts of a row, each with what it stands after. BOS may be nothing."""
    after: After = "nothing"
    for marked in pieces:
        if isinstance(marked.piece, str):
            yield marked.piece, after
            after = "text"
        elif after != "nothing" or special_token(marked.piece, tokenizer) is not None:
            after = "special"


def _row(tokenizer: Tokenizer, pieces: Sequence[Marked], encoded: Iterator[list[int]], loss: Loss) -> Row:
    tokens: list[int] = []
    counts: list[int] = []      # of each piece: tokens,
    answers: list[int] = []     # and the number of its answer from 1, or 0
    answer, learned = 0, False
    for marked in pieces:
        if isinstance(marked.piece, Special):
            token_id = special_token(marked.piece, tokenizer)
            ids = [] if token_id is None else [token_id]
        else:
            ids = next(encoded)
        answer += marked.learned and not learned
        learned = marked.learned
        tokens += ids
        if loss == "breaks" and not learned and answers and answers[-1]:
            counts.append(_break(tokenizer, ids))
            answers.append(answer)
            ids = ids[counts[-1]:]
        counts.append(len(ids))
        answers.append(answer if learned else 0)
    return Row(np.array(tokens, np.int32), _weights(np.repeat(np.array(answers, np.int32), counts), loss))


def _break(tokenizer: Tokenizer, ids: list[int]) -> int:
    """How many tokens the line break takes that a text begins with."""
    return next(i for i in range(1, len(ids) + 1) if "\n" in tokenizer.decode(ids[:i], skip_special=False))


def _weights(answers: np.ndarray, loss: Loss) -> np.ndarray:
    """float32 [T]. `answers` int32 [T]: of each token the number of its answer, 0 for what is none."""
    learned = {"answers": answers > 0, "last": answers == max(1, answers.max(initial=0)), "all": answers >= 0,
               "breaks": answers > 0}[loss]
    weights = learned.astype(np.float32)
    weights[:1] = 0.0
    return weights


def _joined(pieces: Iterable[Marked]) -> Iterator[Marked]:
    """`pieces` with neighbouring texts of one kind as one, and without empty ones; an answer is never joined."""
    for (silent_text, _), group in itertools.groupby(
            pieces, lambda marked: (isinstance(marked.piece, str) and not marked.learned, marked.learned)):
        if not silent_text:
            yield from group
        elif text := "".join(marked.piece for marked in group):
            yield Marked(text, False)
