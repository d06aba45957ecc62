"""The recipe `answers`: each prompt is answered by the teacher, n times if wanted, and becomes a conversation.

With `ask_as` each prompt is put into a question first: that is *tldr-synthetic*, summaries of given passages.
"""
import dataclasses
import os
from collections.abc import Sequence
from typing import Literal

from easylm_imitation.data.rules import refusal_in
from easylm_imitation.records import Conversation, LedgerEntry, Message, Prompt, read_prompts
from easylm_imitation.schema import UserError
from easylm_imitation.teacher.recipe import FILTERED, Ask, AskConfig, Listed, Unusable, free
from easylm_imitation.teacher.runner import CollectResult, collect


@dataclasses.dataclass(frozen=True)
class ListedConfig(AskConfig):
    """What the recipes share that ask one request a row: which answers are no use, and how often to try again."""
    window: int = free(4096)
    tries: int = free(1)                            # at each row, when an answer is of no use
    empty: Literal["drop", "keep"] = free("drop")   # answers without text
    truncated: Literal["drop", "keep"] = free("drop")     # answers cut off by max_tokens
    filtered: Literal["drop", "keep"] = free("drop")      # answers that the endpoint's content filter cut off or took
    refusals: Literal["drop", "keep"] = free("keep")      # answers that the cleaning rule `refusals` would drop

    def __post_init__(self):
        super().__post_init__()
        if self.tries < 1:
            raise ValueError(f"tries={self.tries} must be at least 1")
        if self.tries > 1 and self.temperature == 0:
            raise ValueError(f"tries={self.tries} with temperature=0 pays for the same answer again; set tries=1")

    def useful(self, entry: LedgerEntry) -> str:
        """The answer's text. Raises Unusable for what the config drops."""
        text = entry.response or ""
        if self.filtered == "drop" and entry.finish_reason == FILTERED:
            raise Unusable("filtered")
        if self.empty == "drop" and not text.strip():
            raise Unusable("empty")
        if self.truncated == "drop" and entry.finish_reason == "length":
            raise Unusable("truncated")
        if self.refusals == "drop" and refusal_in(text) is not None:
            raise Unusable("refusal")
        return text


@dataclasses.dataclass(frozen=True)
class CollectConfig(ListedConfig):
    """How prompts are put to the teacher. `keep_system`: whether `system` becomes part of the conversation."""
    recipe: Literal["answers"] = "answers"
    dataset: str = free("answers")          # name of the dataset, for prompts that name none
    temperature: float = 0.7
    samples: int = free(1)                  # answers to each prompt
    system: str = ""                        # system message for prompts that have none
    keep_system: bool = free(False)
    ask_as: str = "{prompt}"                # what the last user message becomes

    def __post_init__(self):
        super().__post_init__()
        if self.samples < 1:
            raise ValueError(f"samples={self.samples} must be at least 1")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"samples={self.samples} with temperature=0 pays for equal answers; raise the temperature")
        if "{prompt}" not in self.ask_as:
            raise ValueError(f"ask_as={self.ask_as!r} has no place for the {{prompt}}")
        if self.keep_system and not self.system:
            raise ValueError("keep_system=True with system='' keeps nothing (a prompt's own system message stays "
                             "anyway); set system, or leave keep_system out")


class Answers(Listed):
    """Every prompt, `samples` times."""

    def __init__(self, config: CollectConfig, prompts: Sequence[Prompt]):
        self.config = config
        super().__init__([self._ask(prompt, sample) for prompt in prompts for sample in range(config.samples)],
                         config.tries)

    def _ask(self, prompt: Prompt, sample: int) -> Ask:
        last = Message("user", self.config.ask_as.replace("{prompt}", prompt.messages[-1].content))
        asked = (*prompt.messages[:-1], last)
        own_system = asked[0].role == "system"
        system = (Message("system", self.config.system),) if self.config.system and not own_system else ()
        if self.config.api == "completions" and len(system + asked) > 1:
            raise UserError(f"prompt '{prompt.id}' has {len(system + asked)} messages, of which api='completions' can "
                            "send one; use api='chat', or leave the others out")
        return Ask(prompt.id, system + asked, sample, number=sample, about=(prompt, asked))

    def read(self, ask: Ask, entry: LedgerEntry) -> Conversation:
        """The prompt and its answer."""
        text, (prompt, asked) = self.config.useful(entry), ask.about
        asked = ask.messages if self.config.keep_system else asked
        name = prompt.id if self.config.samples == 1 else f"{prompt.id}_{ask.sample}"
        return Conversation(prompt.dataset or self.config.dataset, name, (*asked, Message("assistant", text)),
                            meta={**prompt.meta, "finish_reason": entry.finish_reason})


def collect_answers(config: CollectConfig, url: str, prompts: str | os.PathLike,
                    out: str | os.PathLike) -> CollectResult:
    """Asks the model at `url` each prompt of the file `prompts` and writes conversations to `out`: see `collect`."""
    return collect(config, Answers(config, read_prompts(prompts)), [url], out, prompts)
