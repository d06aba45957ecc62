"""Checkpoints through Orbax: weights, optimizer, data position and progress of one step, committed as one.

    checkpoints/<step>/{params, optimizer, data, progress}

`data` and `progress` are small JSON trees. Restoring reads each array straight into the sharding asked for, whatever
mesh it was written from. Writing goes on behind the next updates; a step gets its name only when all of it is on disk.
"""
import dataclasses
import os
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from easylm_imitation.schema import UserError, build, plain
from easylm_imitation.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is; counted over all restarts."""
    step: int = 0
    total_steps: int = 0
    tokens: int = 0                 # without padding
    loss_tokens: int = 0
    seconds: float = 0.0            # of training, compilation included


class Checkpoints:
    """The checkpoints of one run, newest `keep` of them. All processes call everything, in the same order."""

    def __init__(self, directory: str | os.PathLike, keep: int) -> None:
        policy = ocp.training.preservation_policies.LatestN(keep)
        context = ocp.Context()
        context.checkpointables.registry = _registry()
        self._checkpointer = ocp.training.Checkpointer(
            os.path.abspath(directory), context=context, preservation_policy=policy, cleanup_tmp_directories=True)
        self._pending: ocp.AsyncResponse | None = None

    @property
    def latest(self) -> int | None:
        """Step of the newest committed checkpoint."""
        return self._checkpointer.latest.step if self._checkpointer.latest else None

    def save(self, state: TrainState, data: dict, progress: Progress) -> None:
        """Copies the arrays to the host; the write goes on behind. Waits for the last write, raises its error."""
        self.wait()
        parts = {"params": state.params, "optimizer": state.optimizer, "data": data, "progress": plain(progress)}
        self._pending = self._checkpointer.save_checkpointables_async(progress.step, parts, force=True)

    def progress(self, step: int) -> Progress:
        """Reads only how far checkpoint `step` is. Raises UserError when it cannot be read."""
        loaded = self._load(step, {"progress": None})
        return build(Progress, loaded["progress"], f"{self._checkpointer.directory}/{step}/progress")

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict]:
        """State in the shardings of `abstract`, and the data position. Raises UserError when it cannot be read."""
        loaded = self._load(step, {"params": abstract.params, "optimizer": abstract.optimizer, "data": None})
        at = jax.device_put(jax.numpy.int32(step), abstract.step.sharding)
        return TrainState(at, loaded["params"], loaded["optimizer"]), loaded["data"]

    def _load(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._checkpointer.load_checkpointables(step, wanted)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{self._checkpointer.directory}/{step}: the checkpoint cannot be read as this run's "
                            f"({error}); move the folder away and the one before it is taken") from error

    def wait(self) -> None:
        """Blocks until the last save is committed."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self) -> None:
        """Waits, then ends Orbax's threads."""
        self.wait()
        self._checkpointer.close()


def _registry() -> Any:
    """Says which parts are JSON; Orbax would otherwise guess that a dict is a tree of arrays."""
    registry = ocp.handlers.local_registry()
    for name in ("data", "progress"):
        registry.add(ocp.handlers.JsonHandler, checkpointable_name=name)
    return registry
