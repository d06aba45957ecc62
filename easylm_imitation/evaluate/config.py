"""How a model is asked: settings of task runs and of answers to prompts."""
import dataclasses
from typing import Any, Literal, Self, TypeVar

_Asked = TypeVar("_Asked", "AnswerConfig", "EvaluateConfig")


@dataclasses.dataclass(frozen=True)
class AnswerConfig:
    """How prompts are put and how long answers may be."""
    prompt: Literal["chat", "raw"] = "chat"     # raw: the text of the one user message, nothing around it
    max_tokens: int = 512                       # of one answer
    temperature: float = 0.0
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    concurrency: int = 8
    timeout: float = 600.0                      # seconds for one attempt
    attempts: int = 6                           # of one request
    api_key_env: str = "OPENAI_API_KEY"

    def options(self) -> dict[str, Any]:
        """Fields of a request that decide the answer."""
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p,
                "stop": list(self.stop) or None, "seed": self.seed}

    def patient(self, seconds: float | None) -> Self:
        """For a server of this process, which gives a request so many `seconds`: asked once, for at least as long. On a
        busy machine an answer may take long, and asking again, as of a server that may have lost the request, would
        only begin it anew. None, for the servers of others, changes nothing."""
        return self if seconds is None else _once(self, seconds)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """How tasks are run; only `max_tokens`, and a `context` too short for the prompts, change a score."""
    batch: int = 32                         # prompts in one request to /v1/completions
    concurrency: int = 8                    # chat requests in flight
    context: int | None = None              # tokens that a folder's model is served with (None: its own, at most 2048),
                                            # and of an address that does not say (None: 2048)
    max_tokens: int = 256                   # of a generated answer, for tasks that do not say
    timeout: float = 600.0                  # seconds for one request
    attempts: int = 3                       # of one request
    toxicity: str = ""                      # who scores it: "perspective", a moderations server, a classifier's folder
    toxicity_label: str = ""                # of a classifier: whose probability is the score; "" where it is clear
    unsafe_code: bool = False               # run a model's programs without walls where the sandbox cannot be built
    api_key_env: str = "OPENAI_API_KEY"
    answers: AnswerConfig = AnswerConfig()  # for --prompts

    def __post_init__(self) -> None:
        if self.context is not None and self.context < 1:
            raise ValueError(f"context {self.context}: at least 1 token, or None")

    def patient(self, seconds: float | None) -> Self:
        """As that of AnswerConfig, for tasks and for answers."""
        return self if seconds is None else _once(self, seconds, answers=self.answers.patient(seconds))


def _once(config: _Asked, seconds: float, **others: Any) -> _Asked:
    return dataclasses.replace(config, timeout=max(config.timeout, seconds), attempts=1, **others)
