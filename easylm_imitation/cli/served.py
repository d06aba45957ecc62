"""What `--model X` and `--teacher X` share: an address is used as it is, a folder is served on a free port."""
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from easylm_imitation import console
from easylm_imitation.schema import UserError


@dataclasses.dataclass(frozen=True)
class Served:
    """Where a model answers. `tokenizer` is a text.Tokenizer for a model that this process serves, else None; `local` a
    serve.LocalModel for one that answers without HTTP, and then there is no `url`."""
    url: str
    tokenizer: Any = None
    local: Any = None


@contextlib.contextmanager
def served(model: str, flag: str, *, slots: int = 8, chat: bool = False,
           quantize: str = "none", http: bool = True) -> Iterator[Served]:
    """Yields where `model` answers: an address, or a run dir or Hugging Face dir (or whatever else `open_model` takes)
    that is opened and served on loopback (or answers calls of this process, where not `http`), in fewer bits if
    `quantize` says so.

    Raises UserError when it is neither, and when `chat` is wanted of a folder that names no chat template.
    """
    if "://" in model:
        yield Served(model)
        return
    with serving(_opened(model, flag, chat, quantize), slots=slots, quantize=quantize, http=http) as found:
        yield found


def _opened(model: str, flag: str, chat: bool, quantize: str) -> Any:
    """The model in the dtype that it is served in."""
    from easylm_imitation.serve import ServeConfig, open_weights
    from easylm_imitation.weights import is_model_path
    if not is_model_path(model):
        raise UserError(f"{flag} {model}: neither an address (http://HOST:PORT) nor a folder that holds a model")
    loaded = open_weights(model, ServeConfig(quantize=quantize))
    if chat and loaded.template is None:    # before the slow part
        raise UserError(f"{flag} {model} names no chat template; convert --from {model} --to DIR --format hf "
                        "--template NAME gives it one")
    return loaded


@contextlib.contextmanager
def serving(loaded: Any, *, slots: int = 8, quantize: str = "none", http: bool = True) -> Iterator[Served]:
    """Yields where a LoadedModel answers, on loopback and for this process alone, or not `http` at all."""
    from easylm_imitation.serve import LocalModel, ServeConfig, open_server
    console.say(f"{loaded.lineage.name}: compiling")
    config, tokenizer = ServeConfig(slots=slots, api_key_env="", quantize=quantize), loaded.tokenizer
    running = open_server(loaded, config) if http else LocalModel(loaded, config)
    del loaded      # the engine has weights of its own by now: on a CPU other arrays, elsewhere other dtypes
    with running:
        yield Served(running.url, tokenizer) if http else Served("", tokenizer, running)
