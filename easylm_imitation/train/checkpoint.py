"""Checkpoints through Orbax: weights, optimizer, data position, progress and lineage of one step, committed as one.

    checkpoints/<step>/{params, optimizer, data, progress, lineage}

The last three are small JSON trees. Restoring reads each array straight into the sharding asked for, whatever
mesh it was written from. Writing goes on behind the next updates; a step gets its name only when all of it is on disk.
"""
import dataclasses
import os
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from easylm_imitation.records import Lineage
from easylm_imitation.schema import build, plain
from easylm_imitation.train.state import TrainState
from easylm_imitation.weights import DATA, LINEAGE, OPTIMIZER, PARAMS, PROGRESS, reading


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is; counted over all restarts."""
    step: int = 0
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

    def save(self, state: TrainState, data: dict[str, Any], progress: Progress, lineage: Lineage) -> None:
        """Copies the arrays to the host; the write goes on behind. Waits for the last write, raises its error."""
        self.wait()
        parts = {PARAMS: state.params, OPTIMIZER: state.optimizer, DATA: data, PROGRESS: plain(progress),
                 LINEAGE: plain(lineage)}
        self._pending = self._checkpointer.save_checkpointables_async(progress.step, parts, force=True)

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any], Progress]:
        """(state in the shardings of `abstract`, data position, progress). Raises UserError when it cannot be read."""
        wanted = {PARAMS: abstract.params, OPTIMIZER: abstract.optimizer, DATA: None, PROGRESS: None}
        where = f"{self._checkpointer.directory}/{step}"
        with reading(f"{where}: the checkpoint cannot be read as this run's",
                     "move the folder away, and the one before it is taken"):
            loaded = self._checkpointer.load_checkpointables(step, wanted)
        progress = build(Progress, loaded[PROGRESS], where)
        at = jax.device_put(np.int32(step), abstract.step.sharding)
        return TrainState(at, loaded[PARAMS], loaded[OPTIMIZER]), loaded[DATA], progress

    def wait(self) -> None:
        """Blocks until the last save is committed."""
        if self._pending is not None:
            response, self._pending = self._pending, None
            response.result()

    def close(self) -> None:
        """Waits, then ends Orbax's threads."""
        self.wait()
        self._checkpointer.close()


def _registry() -> Any:
    """Says which parts are JSON; Orbax would otherwise guess that a dict is a tree of arrays."""
    registry = ocp.handlers.local_registry()
    for name in (DATA, PROGRESS, LINEAGE):
        registry.add(ocp.handlers.JsonHandler, checkpointable_name=name)
    return registry
