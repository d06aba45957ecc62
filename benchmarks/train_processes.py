"""What a process of a run costs its host outside the compiled update, alone and as one of several.

    python benchmarks/train_processes.py [--processes 1,2,4] [--updates 200] [--rounds 2]

Every process has one CPU device and 8 rows of its own, so each has as much to do, however many there are. Counted is
CPU time, second half of the run: of the main thread outside its calls of the compiled update, and of all other threads
but those of XLA and its collectives (the loader's, the watch's, Orbax's).
"""
import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
_ROWS, _LENGTH = 8, 128
_MODEL = {"family": "llama", "context": _LENGTH, "layers": 2, "d_model": 32, "heads": 2, "d_ff": 64, "vocab_size": 512}
_PYTHON = ("python", "pytest", "asyncio", "Thread")     # names of threads that Python made


def main() -> None:
    """Measures, prints, appends to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2,4")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--data", help=argparse.SUPPRESS)       # this is one of the processes
    parser.add_argument("--workdir", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.data:
        print(json.dumps(_measured(args.data, args.workdir, args.updates)), flush=True)
        return
    from measure import report
    from train_overhead import _build
    counts = [int(count) for count in args.processes.split(",")]
    found: dict[int, list[np.ndarray]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as folder:
        data = _build(pathlib.Path(folder))
        for turn in range(args.rounds):
            for count in counts[::1 if turn % 2 == 0 else -1]:
                found[count] += _together(count, data, pathlib.Path(folder) / f"run-{turn}-{count}", args.updates)
    medians = {count: 1e3 * np.median(times, axis=0) for count, times in found.items()}
    first = medians[counts[0]].sum()
    report("A process's own host CPU time an update, outside the compiled update",
           ["processes", "main thread, ms", "other threads, ms", "together, ms", f"ratio to {counts[0]}"],
           [[count, main_thread, others, main_thread + others, (main_thread + others) / first]
            for count, (main_thread, others) in medians.items()],
           f"{_ROWS} rows of {_LENGTH} tokens and one CPU device a process, {args.updates // 2} updates, medians over "
           f"processes and {args.rounds} rounds.")


def _together(count: int, data: pathlib.Path, workdir: pathlib.Path, updates: int) -> list[np.ndarray]:
    """Seconds an update (main thread, others) of each of `count` processes of one run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, __file__, "--data", str(data), "--workdir", str(workdir), "--updates", str(updates)]
    several = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count), "EASYLM_START_TIMEOUT": "600"}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {
        "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | (several | {"JAX_PROCESS_ID": str(i)} if count > 1 else {}))
        for i in range(count)]
    said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"a process of {count} failed")
    return [np.array(json.loads(text.splitlines()[-1])) for text in said]


def _measured(data: str, workdir: str, updates: int) -> tuple[float, float]:
    from easylm_imitation.sharding import start_processes, together
    start_processes(watched=True)
    import jax

    from easylm_imitation.data import LoaderConfig
    from easylm_imitation.train import TrainConfig, compiled, train
    run, marks, inside = compiled.CompiledStep.__call__, [], [0.0]

    def timed(self: Any, *arguments: Any) -> tuple:
        before = time.thread_time()
        made = run(self, *arguments)
        inside[0] += time.thread_time() - before
        marks.append((time.thread_time() - inside[0], _other_threads()))
        return made

    compiled.CompiledStep.__call__ = timed
    config = TrainConfig(model=_MODEL, mesh="fsdp:-1", steps=updates, checkpoint_every=10**9, log_every=10,
                         data=LoaderConfig(context=_LENGTH, batch=_ROWS * jax.process_count()), remat="none",
                         compute_dtype="float32", loss_chunk=8192)
    with together():
        train(config, data_dir=data, workdir=workdir)
    half, end = marks[len(marks) // 2], marks[-1]
    each = len(marks) - 1 - len(marks) // 2
    return (end[0] - half[0]) / each, (end[1] - half[1]) / each


def _other_threads() -> float:
    """CPU seconds of the threads that Python made, but for this one."""
    own, total = str(os.getpid()), 0
    for folder in pathlib.Path("/proc/self/task").iterdir():
        name = (folder / "comm").read_text()
        if folder.name != own and name.startswith(_PYTHON):
            total += int((folder / "schedstat").read_text().split()[0])
    return total / 1e9


if __name__ == "__main__":
    main()
