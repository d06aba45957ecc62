"""The run's scalars in Weights & Biases, for those who ask for it: the package is an extra, and its account the user's.

The key is the package's own affair (WANDB_API_KEY, or `wandb login`); WANDB_MODE=offline keeps everything in RUN/wandb.
"""
import pathlib
from collections.abc import Mapping
from typing import Any

from easylm_imitation.files import digest
from easylm_imitation.schema import UserError


class WandbRun:
    """One run there, found again when the workdir is continued."""

    def __init__(self, project: str, name: str, folder: pathlib.Path, config: Mapping[str, Any]) -> None:
        """`folder`: the workdir; `config`: what is shown as the run's config. Raises UserError."""
        try:
            import wandb
        except ImportError:
            raise UserError(f"config.wandb is '{project}', but the package is not installed: "
                            "pip install -e '.[wandb]', or leave config.wandb out") from None
        settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        try:
            self._run = wandb.init(
                project=project, name=name, id=digest([name, str(folder.absolute())]), resume="allow",
                dir=str(folder), config=dict(config), settings=settings)
        except wandb.Error as error:
            cause = " ".join(str(error).split())[:200]
            raise UserError(f"config.wandb is '{project}', but Weights & Biases cannot be used ({cause}); log in with "
                            "`wandb login`, set WANDB_MODE=offline, or leave config.wandb out") from None

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Sends scalars. Steps that it has already, because a continued run repeats them, it leaves as they are."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Waits until all is sent."""
        self._run.finish()
