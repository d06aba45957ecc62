"""The recipe `self-chat`, as Baize's: from a seed topic the teacher writes both sides of a dialogue, which is read into
turns."""
import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

from easylm_imitation.records import Conversation, LedgerEntry, Message, Prompt
from easylm_imitation.schema import UserError
from easylm_imitation.teacher.answers import ListedConfig
from easylm_imitation.teacher.recipe import Ask, Listed, Unusable, cut_off, free

_OPENING = ("Hello!", "Hi! How can I help you?")
_PROMPT = """Write a whole conversation between a person and an AI assistant about: "{topic}". The person wants to \
know something or to get something done, asks one thing after another, goes into detail, and stops when nothing is \
left to ask. The assistant answers with care, at length where that helps, and says so when it cannot or should not do \
a thing. What the person says begins with [Human], what the assistant says begins with [AI], each on a new line, in \
turn. Write nothing else, and keep exactly to the form of this opening, with which the conversation begins:

[Human] {hello}
[AI] {help}"""
_TURN = re.compile(r"^[ \t*]*\[\|?(Human|AI)\|?\][ \t*:]*", re.IGNORECASE | re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class SelfChatConfig(ListedConfig):
    """Baize's protocol. A transcript that is cut off loses its last turn, not its row."""
    recipe: Literal["self-chat"] = "self-chat"
    dataset: str = free("self-chat")
    truncated: Literal["drop", "keep"] = free("keep")
    max_tokens: int = 2048
    rounds: int = 1                 # a dialogue of fewer is of no use

    def __post_init__(self):
        super().__post_init__()
        if self.rounds < 1:
            raise ValueError(f"rounds={self.rounds} must be at least 1")


class SelfChat(Listed):
    """A dialogue for each topic: a line of a prompts file, whose one message names it. Raises UserError for more."""

    def __init__(self, config: SelfChatConfig, topics: Sequence[Prompt]):
        self.config = config
        super().__init__([self._ask(number, topic) for number, topic in enumerate(topics)], config.tries)

    def _ask(self, number: int, topic: Prompt) -> Ask:
        if len(topic.messages) > 1:
            raise UserError(f"topic '{topic.id}' has {len(topic.messages)} messages, of which self-chat would ask "
                            "about one; write one, or take the recipe 'answers'")
        text = _PROMPT.format(topic=topic.messages[0].content.strip(), hello=_OPENING[0], help=_OPENING[1])
        return Ask(topic.id, (Message("user", text),), number=number, about=topic)

    def read(self, ask: Ask, entry: LedgerEntry) -> Conversation:
        """The dialogue in turns, without the opening that was given."""
        turns = parse_turns(self.config.useful(entry), cut_off(entry))
        if len(turns) < 2 * self.config.rounds:
            raise Unusable(f"fewer than {self.config.rounds} rounds")
        topic = ask.about
        return Conversation(topic.dataset or self.config.dataset, topic.id, tuple(turns),
                            meta={**topic.meta, "topic": topic.messages[0].content})


def parse_turns(text: str, cut_off: bool) -> list[Message]:
    """Turns of a transcript, user and assistant in turn, up to where that order breaks; [] when there is no round.

    What stands before the first mark goes on from the opening and is left out, as is a repetition of the opening, and
    the last turn of a text that is `cut_off`.

    >>> parse_turns("[Human] Hello!\\n[AI] Hi! How can I help you?\\n[Human] Why?\\n[AI] So.\\n[Human] Bye", False)
    [Message(role='user', content='Why?'), Message(role='assistant', content='So.')]
    """
    parts = _TURN.split(text)[1:]
    said = list(zip(parts[::2], (part.strip() for part in parts[1::2])))[:-1 if cut_off else None]
    roles = [{"human": "user", "ai": "assistant"}[who.lower()] for who, _ in said]
    turns = [Message(role, words) for role, (_, words) in zip(roles, said)]
    if [turn.content for turn in turns[:2]] == list(_OPENING):
        turns = turns[2:]
    elif turns and turns[0] == Message("assistant", _OPENING[1]):
        turns = turns[1:]
    whole = next((i for i, turn in enumerate(turns) if not turn.content or turn.role != ("user", "assistant")[i % 2]),
                 len(turns))
    return turns[:whole - whole % 2]
