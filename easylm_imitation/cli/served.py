"""What `--model X` and `--teacher X` share: an address is used as it is, a folder is served on a free port."""
import contextlib
import pathlib
from collections.abc import Iterator

from easylm_imitation.schema import UserError


@contextlib.contextmanager
def served(model: str, flag: str, slots: int = 8) -> Iterator[str]:
    """Yields the URL of `model`: an address, or a run dir or Hugging Face dir that is opened and served on loopback.

    Raises UserError when it is neither.
    """
    if "://" in model:
        yield model
    elif not pathlib.Path(model).is_dir():
        raise UserError(f"{flag} {model}: neither an address (http://HOST:PORT) nor a folder that holds a model")
    else:
        from easylm_imitation.serve import ServeConfig, open_server
        from easylm_imitation.weights import open_model
        with open_server(open_model(model), ServeConfig(slots=slots)) as server:
            yield server.url
