"""How long a save keeps the training loop from its updates, against one plain copy of the state.

    python benchmarks/save_blocking.py

A state of 1 GB (weights and Adam's moments, float32, random) is saved in the midst of updates that overwrite it in
place, as training does. The loop is blocked in `Checkpoints.save`, and in the next update as far as it takes longer
than the updates before: Orbax by itself hardly copies on CPU, and leaves the copying to that update. Medians.
"""
import argparse
import statistics
import tempfile
import time
from unittest import mock

import jax
import numpy as np
from measure import report

from easylm_imitation.records import Lineage
from easylm_imitation.train import TrainState
from easylm_imitation.train import checkpoint as module
from easylm_imitation.train.checkpoint import Checkpoints, Progress

_LEAVES = 8


def make_state(size: int) -> TrainState:
    """`size` bytes in three trees of equal arrays."""
    def tree(seed: int) -> dict[str, jax.Array]:
        rows = size // (3 * _LEAVES * 4 * 1024)
        return {f"w{i}": jax.random.normal(jax.random.key(_LEAVES * seed + i), (rows, 1024)) for i in range(_LEAVES)}
    return jax.block_until_ready(TrainState(jax.numpy.int32(0), tree(0), {"mu": tree(1), "nu": tree(2)}))


def timed(run, *args) -> tuple[float, object]:
    """(seconds, result)."""
    start = time.perf_counter()
    result = jax.block_until_ready(run(*args))
    return time.perf_counter() - start, result


def blocked(state: TrainState, repeats: int) -> list[float]:
    """Medians: seconds of a plain copy, in the save, in the next update beyond its usual time, of these two together,
    their ratio to the copy beside them, until the save is on disk."""
    copied = jax.jit(lambda s: jax.tree.map(lambda x: x * 1, s))
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 1, s), donate_argnums=0)
    lineage, found = Lineage("i", "benchmark", "i", "benchmark"), []
    state = copied(state)
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder, keep=1) as checkpoints:
        for number in range(1, repeats + 1):
            usual = []
            for _ in range(5):
                seconds, state = timed(step, state)
                usual.append(seconds)
            copy, copies = timed(lambda leaves: [np.array(leaf, copy=True) for leaf in leaves], jax.tree.leaves(state))
            del copies
            saving, _ = timed(checkpoints.save, state, {}, Progress(step=number), lineage)
            after, state = timed(step, state)
            waiting, _ = timed(checkpoints.wait)
            late = max(after - statistics.median(usual), 0.0)
            found.append((copy, saving, late, saving + late, (saving + late) / copy, saving + after + waiting))
    return [statistics.median(column) for column in zip(*found, strict=True)]


def _itself(tree):
    return tree


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    state, rows = make_state(args.megabytes * 10**6), []
    for name, copier in (("Checkpoints.save", module._Copier), ("the copying left to Orbax", lambda: _itself)):
        with mock.patch.object(module, "_Copier", copier):
            rows.append([name, *blocked(state, args.repeats)])
    report(f"Blocking of a save, {args.megabytes} MB of weights and optimizer",
           ["", "numpy copy, s", "call, s", "next update, s", "blocked, s", "blocked / copy", "on disk after, s"], rows)


if __name__ == "__main__":
    main()
