"""The harness's own HTTP models, `local-completions` and `local-chat-completions`, with what they lack here.

The requests are theirs, also where they do not leave this process (`local`). Added: progress on our console; ids from a
local tokenizer where there is one (else from the server, each text once); the chat template of the server's
/tokenizer_info, rendered in a sandbox (0.4.13 renders none for remote tokenizers); and the beginning-of-text token
before raw prompts when the server says that the model wants it.

Import this module late: it pulls in the harness (seconds).
"""
import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.sandbox
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

from easylm_imitation import console
from easylm_imitation.client import check_stopped, stoppable
from easylm_imitation.evaluate.cache import Kept
from easylm_imitation.evaluate.endpoint import HERE, text_before_raw
from easylm_imitation.schema import UserError

if TYPE_CHECKING:
    from easylm_imitation.serve import LocalModel

_SEED = 1234        # the harness's default


class _Asking:
    """Asks for what is not kept, and counts answered requests on the console, whichever way the harness sends them."""

    def __init__(self, *, kept: Kept, local: "LocalModel | None" = None, **kwargs: Any):
        """`local`: the model of this process that answers instead of a server."""
        super().__init__(**kwargs)
        self.set_cache_hook(kept)
        self._session = _Session(local) if local else None

    _advance: Callable[..., None] = staticmethod(lambda n=1: None)

    @contextlib.contextmanager
    def _shown(self, label: str, total: int) -> Iterator[None]:
        with console.progress(label, total) as self._advance:
            yield

    def model_call(self, messages: Sequence[Any], **kwargs: Any) -> Any:
        """One request, synchronous."""
        check_stopped()
        made = self._answered_here(messages, **kwargs) if self._session else super().model_call(messages, **kwargs)
        choices = made.get("choices") if isinstance(made, dict) else None
        if not isinstance(choices, list) or len(choices) != len(messages):
            raise UserError(f"{self.base_url} gave no answer of the expected form to {len(messages)} prompts at once")
        self._advance(len(messages))
        return made

    def _answered_here(self, messages: Sequence[Any], *, generate: bool = True, gen_kwargs: dict | None = None,
                       **kwargs: Any) -> dict[str, Any]:
        """The body that the harness would have posted, answered in this process."""
        body = self._create_payload(self.create_message(messages), generate=generate, seed=self._seed,
                                    gen_kwargs=copy.deepcopy(gen_kwargs), eos=self.eos_string, **kwargs)
        return self._session.ask(self.base_url, body).result()

    async def amodel_call(self, session: Any, sem: Any, messages: Sequence[Any], **kwargs: Any) -> Any:
        """One request, concurrent."""
        try:
            made = await super().amodel_call(self._session or session, sem, messages, **kwargs)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"{self.base_url} gave no answer of the expected form ({error!r})") from None
        self._advance(len(messages))
        return made

    async def get_batched_requests(self, *args: Any, **kwargs: Any) -> list:
        """All requests of a batch, concurrently; the first error is the one that counts, the others are not logged."""
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        with stoppable():
            return await super().get_batched_requests(*args, **kwargs)

    def loglikelihood(self, requests: list, disable_tqdm: bool = True) -> list:
        """Log-likelihoods of (context, continuation) pairs."""
        def ask(left: list) -> list:
            with self._shown("scoring", len(left)):
                return super(_Asking, self).loglikelihood(left, disable_tqdm=True)
        return self.cache_hook.through("loglikelihood", requests, ask)

    def generate_until(self, requests: list, **kwargs: Any) -> list[str]:
        """Generated texts. Each further sample of a prompt has a seed of its own, else it would be the first again."""
        def ask(left: list) -> list[str]:
            self._seed = _SEED + self.cache_hook.sample
            with self._shown("generating", len(left)):
                return super(_Asking, self).generate_until(left, **kwargs)
        return self.cache_hook.through("generate_until", requests, ask)


class _Session:
    """What the harness takes for its HTTP session: a post is a call of a function."""

    def __init__(self, local: "LocalModel"):
        self._local = local

    def ask(self, url: str, body: dict[str, Any]) -> Any:
        """The future of an answer's body."""
        return self._local.post(url.removeprefix(HERE), body)

    @contextlib.asynccontextmanager
    async def post(self, url: str, json: dict[str, Any], headers: Any) -> AsyncIterator["_Answered"]:
        """A response, as of aiohttp."""
        yield _Answered(await asyncio.wrap_future(self.ask(url, json)))


class _Answered:
    """A response that is good: what the routes refuse comes as an error of its own."""
    ok = True

    def __init__(self, body: dict[str, Any]):
        self._body = body

    def raise_for_status(self) -> None:
        """Nothing to raise."""

    async def json(self) -> dict[str, Any]:
        """The body."""
        return self._body


class _Tokens:
    """What the harness asks of a remote tokenizer, of one that is here."""

    def __init__(self, local: "LocalModel"):
        self._tokenizer, self.tokenizer_info = local.service.tokenizer, local.service.tokenizer_info()
        self.eos_token = self.tokenizer_info["eos_token"]
        self.bos_token_id, self.eos_token_id = self._tokenizer.bos_id, self._tokenizer.eos_id

    def encode(self, text: str) -> list[int]:
        """As /tokenize does."""
        return self._tokenizer.encode(text, parse_special=True)


class Chat(_Asking, LocalChatCompletion):
    """/v1/chat/completions: the server builds the prompt and knows where an answer ends."""

    def parse_generations(self, outputs: dict | list[dict], **kwargs: Any) -> list[str]:
        """The texts. The harness takes an answer without choices for an empty text; here it is a KeyError."""
        for output in outputs if isinstance(outputs, list) else [outputs]:
            if not output["choices"] or any("content" not in choice["message"] for choice in output["choices"]):
                raise KeyError("no choice with a message")
        return super().parse_generations(outputs, **kwargs)


class Completions(_Asking, LocalCompletionsAPI):
    """/v1/completions: log-likelihoods of raw or rendered chat prompts, and generation from raw prompts."""

    def __init__(self, *, chat: bool, encode: Callable[[str], list[int]] | None, local: "LocalModel | None" = None,
                 **kwargs: Any):
        """`chat`: contexts are rendered chat templates. `encode`: text to ids with special tokens parsed, or None."""
        super().__init__(local=local, **kwargs)
        if local:
            self.tokenizer_backend, self.tokenizer, self.tokenized_requests = "remote", _Tokens(local), True
        self._chat, self._encode, self._ids = chat, encode, {}
        info = self.tokenizer.tokenizer_info if self.tokenizer else {}
        self._before_raw = self._ids_of(text_before_raw(info)) if text_before_raw(info) and not chat else []
        self._template = ChatTemplate(info) if chat else None

    def tok_encode(self, string: Any, left_truncate_len: int | None = None, add_special_tokens: bool = False,
                   **_: Any) -> Any:
        """Ids of one text (a part of a request), or of many (whole prompts, which get the beginning token)."""
        if isinstance(string, str):
            return self._ids_of(string)
        return [self._before_raw + self._ids_of(text) for text in string]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Renders messages up to where the answer's text begins. Without a generation prompt, the last message is the
        beginning of the answer itself."""
        if add_generation_prompt:
            return self._template.render(chat_history) + self._template.lead
        return self._template.render(chat_history[:-1]) + self._template.lead + chat_history[-1]["content"]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Splits a raw context as the harness does; a rendered one where training rows are split, which are tokenized
        turn by turn: what the template puts before an answer's first word belongs to the answer."""
        if not self._chat:
            before, after = super()._encode_pair(context, continuation)
            return self._before_raw + before, after
        lead = self._template.lead
        if lead and context.endswith(lead):
            context, continuation = context.removesuffix(lead), lead + continuation
        before, whole = self._ids_of(context), self._ids_of(context + continuation)
        split = whole[:len(before)] == before
        return list(before), whole[len(before):] if split else list(self._ids_of(continuation))

    def _ids_of(self, text: str) -> list[int]:
        if text not in self._ids:
            if len(self._ids) > 100_000:
                self._ids.clear()
            self._ids[text] = self._encode(text) if self._encode else self.tokenizer.encode(text)
        return self._ids[text]


class ChatTemplate:
    """The Jinja template of a server's /tokenizer_info, in a sandbox: it is text from another machine.

    `lead` is what it puts between the generation prompt and an answer's first word (a space, say).
    """

    def __init__(self, info: dict[str, Any]):
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise
        self._template = environment.from_string(info["chat_template"])
        self._tokens = {k: v for k, v in info.items() if k.endswith("_token") and isinstance(v, str)}
        question, answer = {"role": "user", "content": "x"}, {"role": "assistant", "content": "\ue000"}
        prompt, row = self.render([question]), self.render([question, answer], add_generation_prompt=False)
        self.lead = row.removeprefix(prompt).partition("\ue000")[0] if row.startswith(prompt) else ""

    def render(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of `messages`. Raises UserError where the template refuses them."""
        try:
            return self._template.render(messages=messages, add_generation_prompt=add_generation_prompt, **self._tokens)
        except jinja2.exceptions.TemplateError as error:
            raise UserError(f"the server's chat template refuses the messages of the task: {error}") from None


def _raise(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)
