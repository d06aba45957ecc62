"""Checkpoints through Orbax: weights, optimizer, data position, progress and lineage of one step, committed as one.

    checkpoints/<step>/{params, optimizer, data, progress, lineage}

The last three are small JSON trees. Restoring reads each array straight into the sharding asked for, whatever
mesh it was written from. Writing goes on behind the next updates; a step gets its name only when all of it is on disk.
"""
import contextlib
import dataclasses
import functools
import logging
import os
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from easylm_imitation.folders import refusing_disk
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError, plain
from easylm_imitation.storage import is_url, located
from easylm_imitation.train.state import TrainState, shardings_of
from easylm_imitation.weights import DATA, LINEAGE, OPTIMIZER, PARAMS, PROGRESS


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is; counted over all restarts."""
    step: int = 0
    tokens: int = 0                 # without padding
    loss_tokens: int = 0
    seconds: float = 0.0            # of training, compilation included
    mixed_tokens: int = 0           # of the dataset mixed in, without padding; not among `tokens`


class Checkpoints:
    """The checkpoints of one run: the newest `keep`, those whose step is a multiple of `keep_every`, and with
    `keep_best` the one of the lowest validation loss.

    A context manager. All processes call everything, in the same order. A save that fails is a UserError, which says
    what is left; it comes from `save`, `check`, `wait` or the end of the context, whichever is first to know.
    """

    def __init__(self, directory: str | os.PathLike, keep: int, keep_every: int | None = None,
                 keep_best: bool = False) -> None:
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(keep), *([policies.EveryNSteps(keep_every)] if keep_every else [])]
        if keep_best:
            kept.append(policies.BestN(get_metric_fn=lambda found: found["loss"], reverse=True, n=1,
                                       keep_checkpoints_without_metrics=False))
        context = checkpoint_context()
        # Made behind the loop, a folder that cannot be made would leave threads waiting for it for 20 minutes.
        context.asynchronous.create_directories_asynchronously = False
        if is_url(directory):       # where a listing may come late, and these two go by one:
            context.array.saving.use_ocdbt = False      # would merge what it finds, and call nothing at all whole
            context.array.saving.array_metadata_store = None    # would miss what other processes wrote, and wait
        self._checkpointer = ocp.training.Checkpointer(
            located(directory), context=context, cleanup_tmp_directories=True,
            preservation_policy=policies.AnyPreservationPolicy(kept))
        self._pending: tuple[int, ocp.AsyncResponse] | None = None
        self._copy = _Copier()
        self._log = logging.getLogger("absl")
        self._log_level = self._log.level
        self._log.setLevel(logging.CRITICAL)    # Orbax prints tracebacks of what it raises, too

    def save(self, state: TrainState, data: dict[str, Any], progress: Progress, lineage: Lineage,
             validation_loss: float | None = None) -> None:
        """Copies the arrays; the write goes on behind. Waits for the last write. A step that exists is left alone."""
        self.wait()
        if progress.step == self._newest():
            return
        arrays = self._copy({PARAMS: state.params, OPTIMIZER: state.optimizer})
        parts = {**arrays, DATA: data, PROGRESS: plain(progress), LINEAGE: plain(lineage)}
        with refusing_disk(functools.partial(self._refused, progress.step)):
            response = self._checkpointer.save_checkpointables_async(
                progress.step, parts, force=True,
                metrics=None if validation_loss is None else {"loss": validation_loss})
        self._pending = progress.step, response

    def check(self) -> None:
        """Raises the error of a write that has failed meanwhile; never waits for one that goes on."""
        if self._pending is not None and not self._checkpointer.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Blocks until the last save is committed."""
        if self._pending is not None:
            (step, response), self._pending = self._pending, None
            with refusing_disk(functools.partial(self._refused, step)):
                response.result()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits and ends Orbax's threads. An error on its way is not replaced by one of a write that fails, too; and a
        user who gives up waits for nothing."""
        try:
            if kind is None:
                self.wait()
                self._checkpointer.close()
            elif not issubclass(kind, KeyboardInterrupt):
                with contextlib.suppress(UserError, OSError, ValueError):
                    self.wait()
                with contextlib.suppress(OSError, ValueError):      # Orbax repeats what it has raised before
                    self._checkpointer.close()
        finally:
            self._log.setLevel(self._log_level)

    def _newest(self) -> int | None:
        latest = self._checkpointer.latest
        return latest and latest.step

    def _refused(self, step: int, cause: str) -> str:
        left = self._newest()
        kept = "no checkpoint was before it" if left is None else f"that of update {left} is whole"
        return (f"{self._checkpointer.directory}: the checkpoint of update {step} cannot be written ({cause}); {kept}. "
                "Once this is mended, the same command continues")


def checkpoint_context() -> ocp.Context:
    """Options for reading and writing checkpoints; Orbax would guess that a dict of JSON is a tree of arrays."""
    context = ocp.Context()
    context.checkpointables.registry = ocp.handlers.local_registry()
    for name in (DATA, PROGRESS, LINEAGE):
        context.checkpointables.registry.add(ocp.handlers.JsonHandler, checkpointable_name=name)
    return context


class _Copier:
    """Copies arrays for Orbax to hold while the next updates run; each copy goes into the memory of the one before.

    From an accelerator Orbax copies by itself. On CPU it would hold the very memory that the next update wants to
    overwrite, and that update would then have to copy everything, while the writer compresses it, into fresh memory.
    """

    def __init__(self) -> None:
        self._needed = jax.default_backend() == "cpu"
        self._last: Any = None

    def __call__(self, tree: Any) -> Any:
        if not self._needed:
            return tree
        if self._last is None:
            self._last = jax.device_put(tree, shardings_of(tree), may_alias=False)
            self._again = jax.jit(lambda new, old: jax.tree.map(jnp.copy, new), donate_argnums=1, keep_unused=True,
                                  out_shardings=shardings_of(tree))
        else:
            self._last = self._again(tree, self._last)
        return jax.block_until_ready(self._last)
