"""What `clean` can do to a conversation, each rule a small pure function. It returns the conversation (mended, or as it
was), or raises Drop; a rule that splits returns several; one that compares gives the text that must not come twice.

To add one: write it here (its keyword-only parameters are its options), name it in `RULES`, give
tests/data/test_clean_rules.py a case and docs/build.md a line. The originals of the field are offered by name (`like`)
where they differ.
"""
import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from easylm_imitation.data.markdown import from_html, without_page
from easylm_imitation.data.near import banding
from easylm_imitation.data.phrases import MENTIONS, PUBLISHED_REFUSALS, REFUSALS, SELF
from easylm_imitation.data.sources import Drop, package
from easylm_imitation.records import Conversation, Message
from easylm_imitation.schema import UserError
from easylm_imitation.text.template import fault_of

_EXCERPT = 200      # characters of a text that a drop or a sample quotes


@dataclasses.dataclass(frozen=True)
class Count:
    """How many tokens something takes."""
    row: Callable[[Sequence[Message]], int]     # these messages as a training row, under the build's template
    text: Callable[[str], int]                  # a text alone


@dataclasses.dataclass(frozen=True)
class Rule:
    """`kind`: "mend" gives the conversation or drops it; "split" gives a list and is told `count`; "same" gives
    the text that must not come twice, "whole" one that data/whole.py judges when it knows all of them."""
    apply: Callable[..., Any]
    kind: Literal["mend", "split", "same", "whole"] = "mend"
    alone: tuple[str, ...] = ()     # options that say nothing beside `like`, which decides what they would


def html(conversation: Conversation, *, like: Literal["", "fastchat"] = "",
         turns: Literal["answers", "all"] = "answers") -> Conversation:
    """HTML becomes markdown, code blocks with their language; what ShareGPT's page adds ("Copy code", "2 / 2") goes.
    What people wrote may be about HTML: of their turns only the page's "2 / 2" goes, but for `turns="all"` and `like`.
    """
    every = turns == "all" or bool(like)
    messages = tuple(Message(m.role, from_html(m.content, like) if every or m.role == "assistant" else
                             without_page(m.content)) for m in conversation.messages)
    return dataclasses.replace(conversation, messages=messages)


def roles(conversation: Conversation, *, repeated: Literal["join", "drop"] = "join") -> Conversation:
    """Mends the order of turns: what stands before the first question and after the last answer goes, an empty turn
    ends the conversation, and turns of one speaker in a row are joined (`repeated="drop"`, FastChat's: it is dropped).
    """
    if any(message.role == "document" for message in conversation.messages):
        return conversation
    system = [message for message in conversation.messages[:1] if message.role == "system"]
    turns: list[Message] = []
    for message in conversation.messages[len(system):]:
        if not message.content.strip():
            break
        if not turns and message.role != "user":
            continue
        if turns and turns[-1].role == message.role:
            if repeated == "drop":
                raise Drop("roles", f"two turns of '{message.role}' in a row")
            turns[-1] = Message(message.role, f"{turns[-1].content}\n\n{message.content}")
        else:
            turns.append(message)
    if turns and turns[-1].role == "user":
        turns.pop()
    if not turns:
        raise Drop("roles", "no question with an answer")
    return dataclasses.replace(conversation, messages=(*system, *turns))


def refusal_in(text: str, phrases: tuple[str, ...] = REFUSALS, until: int | None = 100) -> int | None:
    """Where an answer says one of `phrases`, within its first `until` characters; None where it does not."""
    found = _pattern(phrases).search(_straight(text)[:until])
    return None if found is None else found.start()


def refusals(conversation: Conversation, *, phrases: tuple[str, ...] = REFUSALS,
             where: Literal["start", "anywhere"] = "start", like: Literal["", "gpt4all"] = "") -> Conversation:
    """Drops a conversation with an answer whose first 100 characters, or any part (`where`), match one of `phrases`:
    regular expressions, whatever the case. `like="gpt4all"`: with GPT4All-J's two phrases anywhere."""
    phrases = PUBLISHED_REFUSALS[like] if like else phrases
    for message in _answers(conversation):
        at = refusal_in(message.content, phrases, 100 if where == "start" and not like else None)
        if at is not None:
            raise Drop("refusals", _around(message.content, at))
    return conversation


def identity(conversation: Conversation, *, phrases: tuple[str, ...] = SELF,
             like: Literal["", "fastchat", "koala"] = "") -> Conversation:
    """Drops a conversation whose answers say which model gives them (`phrases`, regular expressions). `like`: with any
    of that pipeline's words in any turn, so also what was only asked about them."""
    messages = conversation.messages if like else _answers(conversation)
    pattern = _pattern(tuple(map(re.escape, MENTIONS[like])) if like else phrases)
    for message in messages:
        found = pattern.search(_straight(message.content))
        if found:
            raise Drop("identity", _around(message.content, found.start()))
    return conversation


def numbering(conversation: Conversation, *, like: Literal["", "fastchat"] = "") -> Conversation:
    """Drops a list whose second item is numbered 1 again, with no item 2 between. `like="fastchat"`: with no digit 2
    between, and in any turn."""
    if like:
        pattern, messages = r"\n1\. [^2]*\n1\. ", conversation.messages
    else:
        pattern, messages = r"(?:^|\n)1\. (?:(?!\n2\. )[\s\S])*?\n1\. ", _answers(conversation)
    for message in messages:
        found = re.search(pattern, message.content)
        if found:
            raise Drop("numbering", _around(message.content, found.start()))
    return conversation


def digits(conversation: Conversation, *, repeats: int = 9) -> Conversation:
    """Drops a conversation in which one digit stands `repeats` times in a row: a model that ran on."""
    for message in conversation.messages:
        found = re.search(rf"(\d)\1{{{repeats - 1}}}", message.content)
        if found:
            raise Drop("digits", _around(message.content, found.start()))
    return conversation


# Told apart unless `keep` or `skip` name more: of all that it knows, lists of names and code look like the rarest.
_COMMON = ("af ar az bg bn ca cs da de el en es et eu fa fi fr gl gu he hi hr hu hy id is it ja ka kk kn ko lt lv mk "
           "ml mr ms nl no pa pl pt ro ru sk sl sq sr sv sw ta te th tl tr uk ur vi zh").split()


def language(conversation: Conversation, *, keep: tuple[str, ...] = ("en",), skip: tuple[str, ...] = (),
             least: int = 20) -> Conversation:
    """Drops what is not in one of the languages `keep` (any, when empty) or is in one of `skip`, as py3langid tells
    from the first 4,000 characters outside code. Less than `least` letters tell nothing: it stays."""
    text = re.sub(r"```.*?(```|$)", " ", "\n".join(m.content for m in conversation.messages), flags=re.DOTALL)[:4000]
    if sum(map(str.isalpha, text)) < least:
        return conversation
    found = _languages((*keep, *skip))(text)[0]
    if (keep and found not in keep) or found in skip:
        raise Drop("language", found)
    return conversation


@functools.cache
def _languages(named: tuple[str, ...]) -> Callable[[str], tuple[str, float]]:
    langid = package("py3langid.langid", "the rule 'language'")
    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    known = {str(label) for label in identifier.labels}
    for name in named:
        if name not in known:
            raise UserError(f"clean: rule 'language': no language '{name}'; ISO 639-1 codes: "
                            f"{', '.join(sorted(known))}")
    identifier.set_languages(sorted(known & {*_COMMON, *named}))
    return identifier.classify


def length(conversation: Conversation, *, least: int = 16, most: int | None = None, answer_least: int = 0,
           rounds_most: int | None = None) -> Conversation:
    """Drops what has fewer than `least` or more than `most` characters in all its turns, an answer of fewer than
    `answer_least`, or more than `rounds_most` rounds."""
    size, answers = sum(len(m.content) for m in conversation.messages), _answers(conversation)
    if size < least or (most is not None and size > most):
        raise Drop("length", f"{size} characters")
    if any(len(message.content.strip()) < answer_least for message in answers):
        raise Drop("length", f"an answer of {min(len(m.content.strip()) for m in answers)} characters")
    if rounds_most is not None and len(answers) > rounds_most:
        raise Drop("length", f"{len(answers)} rounds")
    return conversation


def tokens(conversation: Conversation, count: Count, *, least: int = 0, most: int = 2048) -> list[Conversation]:
    """Drops a conversation whose row has fewer than `least` or more than `most` tokens."""
    size = 0 if fault_of(conversation.messages) else count.row(conversation.messages)
    if size and not least <= size <= most:
        raise Drop("tokens", f"{size} tokens")
    return [conversation]


def split(conversation: Conversation, count: Count, *, tokens: int = 2048, long_round: Literal["keep", "drop"] = "keep",
          like: Literal["", "fastchat", "open-instruct"] = "") -> list[Conversation]:
    """A conversation of more than `tokens` tokens, as a row, becomes several of whole rounds, each as long as may be
    and with the system message; nothing is lost. A round that is too long alone stays alone, unless `long_round` is
    "drop".

    `like="fastchat"`: each text counts its tokens and 6 more, an overflow in the last round loses that round, and a
    round that is too long alone stays. `like="open-instruct"`: the same, but that round is left out, and its length
    counts against the one after it.
    """
    messages = conversation.messages
    if fault_of(messages) or messages[-1].role != "assistant" or (not like and count.row(messages) <= tokens):
        return [conversation]
    system = messages[:len(messages) % 2]
    rounds = [messages[i:i + 2] for i in range(len(system), len(messages), 2)]
    if like:
        runs = _runs_of_fastchat([sum(count.text(m.content) + 6 for m in pair) for pair in rounds], tokens,
                                 skips=like == "open-instruct")
    else:
        runs = _runs(rounds, lambda piece: count.row([*system, *piece]) <= tokens, long_round)
    if not runs:
        raise Drop("split", f"no round of at most {tokens} tokens")
    if runs == [(0, len(rounds))]:
        return [conversation]
    return [dataclasses.replace(conversation, id=f"{conversation.id}_{2 * start}",
                                messages=(*system, *(m for pair in rounds[start:end] for m in pair)))
            for start, end in runs]


def _runs(rounds: list[Sequence[Message]], fits: Callable[[list[Message]], bool],
          long_round: str) -> list[tuple[int, int]]:
    """(first, one past the last) round of each piece, greedily."""
    runs, start = [], 0
    while start < len(rounds):
        end = start + 1
        piece = list(rounds[start])
        alone = fits(piece)
        while alone and end < len(rounds) and fits([*piece, *rounds[end]]):
            piece += rounds[end]
            end += 1
        if alone or long_round == "keep":
            runs.append((start, end))
        start = end
    return runs


def _runs_of_fastchat(sizes: list[int], most: int, skips: bool) -> list[tuple[int, int]]:
    runs, start, size = [], 0, 0
    for i, more in enumerate(sizes):
        if size + more > most:
            runs.append((start, i))
            start, size = i + (skips and more > most), 0
        elif i == len(sizes) - 1:       # not reached when the last round overflows: it is lost
            runs.append((start, i + 1))
        size += more
    return [(first, end) for first, end in runs if end > first]


def same_query(conversation: Conversation) -> str:
    """The first question, whatever its case and white space."""
    return _plain(next((m.content for m in conversation.messages if m.role == "user"), _whole(conversation)))


def same_opening(conversation: Conversation) -> str:
    """The first question with its answer (FastChat's)."""
    return "\0".join(m.content for m in [m for m in conversation.messages if m.role != "system"][:2])


def same_dialogue(conversation: Conversation) -> str:
    """All turns, whatever their case and white space."""
    return _plain(_whole(conversation))


def near_query(conversation: Conversation, *, threshold: float = 0.7) -> str:
    """The first question; of those that are alike by `threshold` or more (data/near.py), the first stays."""
    return same_query(conversation)


def near_dialogue(conversation: Conversation, *, threshold: float = 0.7) -> str:
    """All turns, compared as `near_query` compares questions."""
    return same_dialogue(conversation)


def overlap(conversation: Conversation, *, against: tuple[str, ...], rules: tuple[str, ...] = ("13-gram", "near"),
            fields: tuple[str, ...] = (), remove: bool = False) -> str:
    """All turns; compared with the items of evaluation sets (files: data/overlap.py) by its `rules`. `remove` drops a
    conversation that holds one; else it is reported alone."""
    return "\n".join(message.content for message in conversation.messages)


def diversity(conversation: Conversation, *, sample: int | None = 1000, seed: int = 0) -> str:
    """The first question; how like the nearest other question it is, on average, goes to the card."""
    return next((m.content for m in conversation.messages if m.role == "user"), _whole(conversation))


def held_out(conversation: Conversation, *, against: tuple[str, ...], fields: tuple[str, ...] = (),
             most: float = 0.2) -> str:
    """The first question. It leaves all conversations in, and of the evaluation prompts in the files `against` those
    out that have a BLEU of more than `most` to any of these questions."""
    return diversity(conversation)


RULES: dict[str, Rule] = {
    "html": Rule(html, alone=("turns",)), "roles": Rule(roles), "refusals": Rule(refusals, alone=("phrases", "where")),
    "identity": Rule(identity, alone=("phrases",)),
    "numbering": Rule(numbering), "digits": Rule(digits), "language": Rule(language), "length": Rule(length),
    "tokens": Rule(tokens, "split"), "split": Rule(split, "split", alone=("long_round",)),
    "same-query": Rule(same_query, "same"), "same-opening": Rule(same_opening, "same"),
    "same-dialogue": Rule(same_dialogue, "same"),
    "near-query": Rule(near_query, "whole"), "near-dialogue": Rule(near_dialogue, "whole"),
    "overlap": Rule(overlap, "whole"), "diversity": Rule(diversity, "whole"),
    "held-out": Rule(held_out, "whole"),
}


_LEAST = {"repeats": 2, "tokens": 1, "sample": 1, "rounds_most": 1, "least": 0, "answer_least": 0, "seed": 0}


def check_options(options: dict[str, Any], defaults: dict[str, Any], where: str) -> None:
    """Raises UserError for an option of a rule that can do nothing, or only harm, with its value, or beside the
    `defaults` of the others."""
    for name, value in options.items():
        if value is None:
            continue
        if name in _LEAST and value < _LEAST[name]:
            raise UserError(f"{where}.{name}: {value} is too small; at least {_LEAST[name]}")
        if isinstance(value, float) and not 0 <= value <= 1:
            raise UserError(f"{where}.{name}: {value} is no share between 0 and 1")
        if name == "most" and isinstance(value, int) and value < 1:
            raise UserError(f"{where}.most: {value} is too small; at least 1")
        if name in ("against", "rules", "phrases") and not value:
            raise UserError(f"{where}.{name}: names none; give at least one")
        if name == "threshold":
            _check_threshold(value, where)
        if name == "phrases":
            _check_phrases(value, where)
    _check_bounds(options, defaults, where)


def _check_bounds(options: dict[str, Any], defaults: dict[str, Any], where: str) -> None:
    least, most = (options.get(name, defaults.get(name)) for name in ("least", "most"))
    if least is not None and most is not None and least > most:
        said = " and ".join(f"{name} is {value}{'' if name in options else ' unless it is set'}"
                            for name, value in (("least", least), ("most", most)))
        raise UserError(f"{where}: {said}, so everything would be dropped")


def check_like(options: dict[str, Any], alone: tuple[str, ...], where: str) -> None:
    """Raises UserError for an option that would be passed over, because an original's way (`like`) was asked for."""
    for name in alone:
        if options.get("like") and name in options:
            raise UserError(f"{where}.{name}: {options[name]!r} says nothing beside like='{options['like']}', which "
                            f"has its own way; leave out {name}, or like")


def _check_threshold(threshold: float, where: str) -> None:
    try:
        banding(threshold)
    except ValueError as error:
        raise UserError(f"{where}.{error}") from None


def _check_phrases(phrases: tuple[str, ...], where: str) -> None:
    for phrase in phrases:
        try:
            re.compile(phrase)
        except re.error as error:
            raise UserError(f"{where}.phrases: '{phrase}' is no regular expression ({error}); write \\ before a sign "
                            "that stands for itself") from None


def excerpt(conversation: Conversation) -> str:
    """The beginning of a conversation, for people to look at."""
    text = " ".join(f"[{m.role}] {m.content[:_EXCERPT]}" for m in conversation.messages[:4])
    return text[:_EXCERPT].replace("\n", " ") + ("…" if len(text) > _EXCERPT else "")


def _answers(conversation: Conversation) -> list[Message]:
    return [message for message in conversation.messages if message.role == "assistant"]


@functools.cache
def _pattern(phrases: tuple[str, ...]) -> re.Pattern:
    return re.compile("|".join(phrases), re.IGNORECASE)


def _straight(text: str) -> str:
    """With plain apostrophes."""
    return text.replace("\u2019", "'")


def _around(text: str, at: int) -> str:
    return text[max(0, at - 40):at + 80].replace("\n", " ")


def _whole(conversation: Conversation) -> str:
    return "\0".join(message.content for message in conversation.messages)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
