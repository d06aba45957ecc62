"""What the training loop costs beyond the compiled update: loader, metrics, progress, checks; no save, no validation.

    python benchmarks/train_overhead.py [--updates 20] [--rounds 3]

Two processes take turns, each doing the same updates of the same data: `train`, timed from the end of its first tenth
to its last update, and the bare compiled step in a loop over batches that lie on the device. CPU time is that of the
process, all threads. The 34M LLaMA of train_cpu.py with rows of 128 tokens, so that an update is short; and a tiny
one, whose updates take almost nothing: there the difference is what the loop itself costs an update.
"""
import argparse
import dataclasses
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

SIZES = {"34M": {"layers": 8, "d_model": 512, "heads": 8, "d_ff": 1376, "vocab_size": 8192},
         "tiny": {"layers": 2, "d_model": 32, "heads": 2, "d_ff": 64, "vocab_size": 512}}
_ROWS, _LENGTH = 8, 128


def main() -> None:
    """Measures, prints, appends to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", help=argparse.SUPPRESS)       # this process is one of the sides
    parser.add_argument("--size", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        with tempfile.TemporaryDirectory() as folder:
            run = {"train": _train, "bare": _bare}[args.side]
            print(json.dumps(run(args.size, args.data, pathlib.Path(folder), args.updates)))
        return
    from measure import report
    with tempfile.TemporaryDirectory() as folder:
        data = _build(pathlib.Path(folder))
        rows = [row for size in SIZES for row in _compared(size, data, args)]
    report("The training loop beside its bare compiled update, on a CPU",
           ["model", "side", "CPU ms an update", "ms an update", "CPU / bare", "ms / bare"], rows,
           f"{_ROWS} rows of {_LENGTH} tokens, {args.updates} updates, medians of {args.rounds} alternating processes.")


def _compared(size: str, data: pathlib.Path, args: argparse.Namespace) -> Iterator[list[object]]:
    found = {"train": [], "bare": []}
    updates = args.updates if size == "34M" else 20 * args.updates
    for turn in range(args.rounds):
        for side in sorted(found, reverse=turn % 2 == 0):
            made = subprocess.run([sys.executable, __file__, "--side", side, "--size", size, "--data", str(data),
                                   "--updates", str(updates)], capture_output=True, text=True, check=True)
            found[side].append(json.loads(made.stdout.splitlines()[-1]))
    medians = {side: np.median(np.array(times), axis=0) for side, times in found.items()}
    for side, (cpu, wall) in medians.items():
        yield [size, side, 1e3 * cpu, 1e3 * wall, cpu / medians["bare"][0], wall / medians["bare"][1]]


def _build(folder: pathlib.Path) -> pathlib.Path:
    from easylm_imitation.data import BuildConfig, SourceConfig, build_dataset
    from easylm_imitation.text.bpe import train_bpe
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefghij"), 3)) for _ in range(2000)]
    lines = [json.dumps({"id": f"d{i}", "messages": [
        {"role": "user", "content": " ".join(random.choice(words, 5))},
        {"role": "assistant", "content": " ".join(random.choice(words, 20))}]}) for i in range(4000)]
    (folder / "raw.jsonl").write_text("\n".join(lines))
    train_bpe(words, 400).save(folder / "tokenizer")
    build_dataset(BuildConfig("d", (SourceConfig(str(folder / "raw.jsonl")),), str(folder / "tokenizer"), "plain"),
                  folder / "data")
    return folder / "data"


def _config(size: str, updates: int) -> Any:
    from easylm_imitation.data import LoaderConfig
    from easylm_imitation.train import TrainConfig
    return TrainConfig(model={"family": "llama", "context": _LENGTH, **SIZES[size]}, mesh="fsdp:1", steps=updates + 2,
                       data=LoaderConfig(context=_LENGTH, batch=_ROWS), compute_dtype="float32", remat="none",
                       loss_chunk=8192, checkpoint_every=10**9, log_every=10)


def _train(size: str, data: str, folder: pathlib.Path, updates: int) -> tuple[float, float]:
    """(CPU seconds, seconds) an update of `train`, by looks that do nothing but take the time."""
    from easylm_imitation.train import train
    from easylm_imitation.train.config import ValidationConfig
    first, times = max(updates // 10, 1), {}

    def look(model: Any) -> dict[str, float]:
        times[model.lineage.step] = _now()
        return {}
    config = dataclasses.replace(_config(size, updates), validation=ValidationConfig(every=first))
    train(config, data_dir=data, workdir=folder / "run", evaluate=look)
    last = max(step for step in times if step % first == 0)
    return _each(times[first], times[last], last - first)


def _bare(size: str, data: str, folder: pathlib.Path, updates: int) -> tuple[float, float]:
    """The same of the compiled step alone, whose results are waited for at the end."""
    import jax
    import jax.numpy as jnp

    from easylm_imitation.data import open_loader
    from easylm_imitation.models import create, model_config
    from easylm_imitation.sharding import make_mesh
    from easylm_imitation.train import abstract_state, init_state, make_optimizer, make_step
    from easylm_imitation.train.place import BatchPlace
    config, mesh = _config(size, updates), make_mesh("fsdp:1")
    model = create(model_config(config.model))
    optimizer, rate = make_optimizer(config.optimizer, config.steps)
    jax.set_mesh(mesh)
    abstract = abstract_state(model, optimizer, mesh)
    step = make_step(model, optimizer, rate, mesh, abstract, dtype=jnp.float32, remat="none", loss_chunk=8192)
    state = init_state(model, optimizer, abstract, seed=0)
    place = BatchPlace(mesh, _ROWS, _LENGTH)
    loader = open_loader(data, config.data, seed=0, epochs=None)
    batches = [place(next(loader)) for _ in range(8)]
    state = jax.block_until_ready(step(state, batches[0]))[0]
    start = _now()
    for number in range(updates):
        state, _ = step(state, batches[number % 8])
    jax.block_until_ready(state)
    return _each(start, _now(), updates)


def _now() -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, time.perf_counter()


def _each(start: tuple[float, float], end: tuple[float, float], updates: int) -> tuple[float, float]:
    return (end[0] - start[0]) / updates, (end[1] - start[1]) / updates


if __name__ == "__main__":
    main()
