"""The newest checkpoint that can be read. Damaged ones after it are moved aside, said out loud, never deleted.

Nothing is moved before an older one has been read well: what fails to read everything is not damage but the reader.
"""
import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from easylm_imitation import console
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError, build
from easylm_imitation.storage import located
from easylm_imitation.train.checkpoint import Progress, checkpoint_context
from easylm_imitation.train.state import TrainState
from easylm_imitation.weights import DATA, LINEAGE, OPTIMIZER, PARAMS, PROGRESS, RunDir, Unreadable, reading

_SEEN = 256     # newest checkpoints that are looked at
_CURE = "move the folder away, and the one before it is taken"


@dataclasses.dataclass(frozen=True)
class Restored:
    """All that a run needs to go on."""
    state: TrainState               # in the shardings asked for
    position: dict[str, Any]        # of the loader
    progress: Progress


@dataclasses.dataclass(frozen=True)
class _Position:
    """What a position of the loader has to look like."""
    fingerprint: str
    grain: dict[str, Any]


def saved_steps(run: RunDir) -> list[int]:
    """Steps with a checkpoint, ascending, the same for all processes: those that the first sees. A bucket may list them
    to one and not yet to another."""
    if jax.process_count() == 1:
        return run.numbered()
    steps = run.numbered()[-_SEEN:] if jax.process_index() == 0 else []
    known = multihost_utils.broadcast_one_to_all(np.array(steps + [-1] * (_SEEN - len(steps)), np.int32))
    return [step for step in known.tolist() if step >= 0]


def restore_newest(run: RunDir, abstract: TrainState) -> Restored:
    """What the newest readable checkpoint holds; all processes take the same one, and all have to call this.

    Raises UserError when none can be read, when the place refuses to be read, and for a checkpoint of other arrays than
    `abstract` has, which is not damage; then nothing is moved.
    """
    damaged: dict[int, str] = {}
    for step in reversed(saved_steps(run)):
        folder = run.checkpoints / str(step)
        try:
            found, cause = _restore(folder, abstract), "another process could not read it"
        except Unreadable as error:
            found, cause = None, error.cause
        if _everywhere(found is not None):
            _set_aside(run, damaged, step)
            return found
        del found
        damaged[step] = cause
    causes = "; ".join(f"{step}: {cause}" for step, cause in damaged.items())
    raise UserError(f"{run.checkpoints}: none of the checkpoints can be read ({causes}). Put back a copy of one of "
                    "them, or start the run again in a new workdir")


def _restore(folder: pathlib.Path, abstract: TrainState) -> Restored:
    """One checkpoint. Raises Unreadable, or UserError when it is one of other arrays."""
    loaded = _load(folder, {PARAMS: abstract.params, OPTIMIZER: abstract.optimizer, DATA: None, PROGRESS: None,
                            LINEAGE: None})
    try:
        build(_Position, loaded[DATA], DATA)
        progress, lineage = build(Progress, loaded[PROGRESS], PROGRESS), build(Lineage, loaded[LINEAGE], LINEAGE)
        if not progress.step == lineage.step == int(folder.name):
            raise UserError(f"it says that it is of update {progress.step}")
    except UserError as error:
        raise Unreadable(f"{folder}: {error}; {_CURE}", str(error)) from None
    step = jax.device_put(np.int32(progress.step), abstract.step.sharding)
    return Restored(TrainState(step, loaded[PARAMS], loaded[OPTIMIZER]), loaded[DATA], progress)


def _load(folder: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    context = checkpoint_context()
    if jax.process_count() > 1:     # each for itself: where one fails, the others must not wait for it inside Orbax
        own = context.multiprocessing
        own.primary_host, own.active_processes = jax.process_index(), {jax.process_index()}
    with context:
        try:
            with reading(f"{folder}: the checkpoint cannot be read", _CURE):
                loaded = ocp.load_checkpointables(located(folder), wanted)
                return jax.block_until_ready(loaded)
        except Unreadable:
            _check_same_arrays(folder, wanted)
            raise


def _check_same_arrays(folder: pathlib.Path, wanted: dict[str, Any]) -> None:
    """Raises UserError, naming the first difference, when it was for arrays of other names or shapes that a checkpoint
    could not be read; knows nothing of one whose own description cannot be read either."""
    try:
        stored = ocp.checkpointables_metadata(located(folder)).metadata
    except Exception:       # whatever the garbage in it makes Orbax raise
        return
    for part in (PARAMS, OPTIMIZER):
        old, new = _shapes(stored.get(part)), _shapes(wanted[part])
        for path in [*new, *old] if old else ():
            if old.get(path) != new.get(path):
                raise UserError(f"{folder}: {part} '{path}' is {old.get(path, 'not there')} in the checkpoint, but "
                                f"{new.get(path, 'not there')} in this run's model and optimizer; continue it with the "
                                "version of easylm_imitation that wrote it, or choose a new workdir")


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def _everywhere(fine: bool) -> bool:
    """Whether it is so on every process."""
    return fine if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(fine)).all())


def _set_aside(run: RunDir, damaged: dict[int, str], good: int) -> None:
    """Renames the folders of damaged checkpoints so that nothing takes them for one, and says so."""
    for step, cause in damaged.items():
        folder = run.checkpoints / str(step)
        if jax.process_index() == 0:
            folder.rename(_free(folder))
        console.say(f"{folder}: the checkpoint is damaged ({cause}); moved aside to {folder.name}.damaged")
    if damaged:
        console.say(f"{run.checkpoints}: going on from the checkpoint of update {good}")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("easylm_imitation: damaged checkpoints")


def _free(folder: pathlib.Path) -> pathlib.Path:
    name, number = folder.with_name(f"{folder.name}.damaged"), 2
    while name.exists():
        name, number = folder.with_name(f"{folder.name}.damaged-{number}"), number + 1
    return name
