"""How long a save keeps the training loop from its updates, against one plain copy of the state.

    python benchmarks/save_blocking.py

A state of 1 GB (weights and Adam's moments, float32, random) is saved in the midst of updates that overwrite it in
place, as training does. The loop is blocked in `Checkpoints.save`, and in the next update as far as it takes longer
than the updates before: Orbax by itself hardly copies on CPU, and leaves the copying to that update. Fastest of each.
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


def blocked(state: TrainState, repeats: int) -> tuple[float, float, float]:
    """Seconds, of the fastest save: (in the save, in the next update beyond its usual time, until it is on disk)."""
    @jax.jit
    def copied(x):
        return x * 1

    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 1, s), donate_argnums=0)
    lineage, found = Lineage("i", "benchmark", "i", "benchmark"), []
    state = jax.tree.map(copied, state)
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder, keep=1) as checkpoints:
        for number in range(1, repeats + 1):
            usual = []
            for _ in range(5):
                seconds, state = timed(step, state)
                usual.append(seconds)
            saving, _ = timed(checkpoints.save, state, {}, Progress(step=number), lineage)
            after, state = timed(step, state)
            waiting, _ = timed(checkpoints.wait)
            found.append((saving, max(after - statistics.median(usual), 0.0), saving + after + waiting))
    return min(found, key=lambda one: one[0] + one[1])


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    state = make_state(args.megabytes * 10**6)
    copy = min(timed(lambda: [np.array(leaf, copy=True) for leaf in jax.tree.leaves(state)])[0]
               for _ in range(args.repeats))
    rows = [["one plain copy (numpy)", copy, 0.0, copy, 1.0, ""]]
    for name, apart in (("Checkpoints.save", None), ("the same, with the copying left to Orbax", lambda tree: tree)):
        with mock.patch.object(module, "_apart", apart or module._apart):
            saving, after, whole = blocked(state, args.repeats)
        rows.append([name, saving, after, saving + after, (saving + after) / copy, whole])
    report(f"Blocking of a save, {args.megabytes} MB of weights and optimizer",
           ["what", "call, s", "next update, s", "blocked, s", "blocked / copy", "on disk after, s"], rows)


if __name__ == "__main__":
    main()
