"""Wherever a model may be named: an address is used as it is, a folder is opened and served meanwhile.

    with served("RUN", own_server(slots=8)) as model:
        evaluate_tasks(model.url, tasks, config=config.patient(model.request_seconds), encode=model.encode)
"""
import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Literal

from easylm_imitation import console
from easylm_imitation.schema import UserError
from easylm_imitation.serve.config import ServeConfig
from easylm_imitation.serve.local import LocalModel
from easylm_imitation.serve.server import open_server, open_weights
from easylm_imitation.text import Tokenizer
from easylm_imitation.weights import LoadedModel, find_template, is_model_path


def own_server(slots: int = 8, quantize: Literal["none", "int8", "int4"] = "none",
               context: int | None = None) -> ServeConfig:
    """A server of which this process alone knows, and for which it needs no key."""
    return ServeConfig(slots=slots, quantize=quantize, context=context, api_key_env="")


_DEFAULT = own_server()


@dataclasses.dataclass(frozen=True)
class Served:
    """Where a model answers. The rest is of one that this process serves: `local` is there for one that answers without
    HTTP, which has no `url`; `request_seconds` is what its server gives a request, `weight_bytes` what its weights take
    of a device as they are served."""
    url: str
    tokenizer: Tokenizer | None = None
    local: LocalModel | None = None
    request_seconds: float | None = None
    weight_bytes: int | None = None

    @property
    def encode(self) -> Callable[[str], list[int]] | None:
        """Ids of a text as /tokenize gives them, special tokens parsed; None for an address."""
        return self.tokenizer and (lambda text: self.tokenizer.encode(text, parse_special=True))


@contextlib.contextmanager
def served(model: str | os.PathLike[str], config: ServeConfig = _DEFAULT, *, chat: bool = False, http: bool = True,
           flag: str = "") -> Iterator[Served]:
    """Yields where `model` answers: an address, or whatever `open_model` takes, as `serving` serves it.

    Raises UserError when it is neither, and, before its weights are read, when `chat` is wanted of a model without a
    chat template that can be used; `flag` is where a person named it.
    """
    if "://" in str(model):
        yield Served(str(model))
        return
    with serving(_opened(model, config, chat, f"{flag} {model}".strip()), config, http=http) as found:
        yield found


def _opened(model: str | os.PathLike[str], config: ServeConfig, chat: bool, named: str) -> LoadedModel:
    """The model in the dtype that it is served in."""
    if not is_model_path(model):
        raise UserError(f"{named}: neither an address (http://HOST:PORT) nor a folder that holds a model")
    if chat and find_template(model) is None:
        raise UserError(f"{named} names no chat template, and its tokenizer brings none; convert --from {model} --to "
                        "DIR --format hf --template NAME gives it one")
    return open_weights(os.fspath(model), config)


@contextlib.contextmanager
def serving(loaded: LoadedModel, config: ServeConfig = _DEFAULT, *, http: bool = True) -> Iterator[Served]:
    """Yields where a LoadedModel answers, on loopback, or not `http` at all."""
    console.say(f"{loaded.lineage.name}: compiling")
    tokenizer = loaded.tokenizer
    running = open_server(loaded, config) if http else LocalModel(loaded, config)
    del loaded      # the engine has weights of its own by now: on a CPU other arrays, elsewhere other dtypes
    with running:
        at, local = (running.url, None) if http else ("", running)
        yield Served(at, tokenizer, local, config.limits.request_seconds, running.service.engine.param_bytes)
