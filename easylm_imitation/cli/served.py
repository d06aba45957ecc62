"""What `--model X` and `--teacher X` share: an address is used as it is, a folder is served on a free port."""
import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from easylm_imitation import console
from easylm_imitation.schema import UserError


@dataclasses.dataclass(frozen=True)
class Served:
    """Where a model answers. `tokenizer` is a text.Tokenizer for a model that this process serves, else None."""
    url: str
    tokenizer: Any = None


@contextlib.contextmanager
def served(model: str, flag: str, *, slots: int = 8, chat: bool = False) -> Iterator[Served]:
    """Yields where `model` answers: an address, or a run dir or Hugging Face dir that is opened and served on loopback.

    Raises UserError when it is neither, and when `chat` is wanted of a folder that names no chat template.
    """
    if "://" in model:
        yield Served(model)
    elif not any(pathlib.Path(folder).is_dir() for folder in (model, model.rpartition("@")[0] or model)):   # RUN@120
        raise UserError(f"{flag} {model}: neither an address (http://HOST:PORT) nor a folder that holds a model")
    else:
        from easylm_imitation.weights import open_model
        loaded = open_model(model)
        if chat and loaded.template is None:    # before the slow part
            raise UserError(f"{flag} {model} names no chat template; convert --from {model} --to DIR --format hf "
                            "--template NAME gives it one")
        with serving(loaded, slots=slots) as found:
            yield found


@contextlib.contextmanager
def serving(loaded: Any, *, slots: int = 8) -> Iterator[Served]:
    """Yields where a LoadedModel answers, on loopback and for this process alone."""
    from easylm_imitation.serve import ServeConfig, open_server
    console.say(f"{loaded.lineage.name}: compiling")
    with open_server(loaded, ServeConfig(slots=slots, api_key_env="")) as server:
        yield Served(server.url, loaded.tokenizer)
