"""What a process of a run costs its host outside the compiled update, alone and as one of several.

    python benchmarks/train_processes.py [--processes 1,2,4] [--updates 200] [--rounds 2]

Every process has one CPU device and 8 rows of its own, so each has as much to do, however many there are. Several
processes are in each other's way on few cores, whatever they do; as many runs of one process each, at the same time,
show how much of a difference that is ("apart").

Counted is CPU time over the second half of the run: of the main thread outside its calls of the compiled update, and of
all other threads (the loader's, the watch's, Orbax's, the coordination service's) but those that come to be while jax
makes its backend and that Python does not know. These are XLA's pools and, with several processes, the loop of gloo
(gloo::transport::tcp::Loop::run), in which all bytes of the update's collectives arrive: they belong to the update, and
have a column of their own. By its name gloo's thread is not to be told from Python's: both are called "python".
"""
import argparse
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
_ROWS, _LENGTH = 8, 128
_MODEL = {"family": "llama", "context": _LENGTH, "layers": 2, "d_model": 32, "heads": 2, "d_ff": 64, "vocab_size": 512}


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
    kinds = [(count, apart) for count in counts for apart in ((True, False) if count > 1 else (False,))]
    found: dict[tuple[int, bool], list[np.ndarray]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        data = _build(pathlib.Path(folder))
        for turn in range(args.rounds):
            for count, apart in kinds[::1 if turn % 2 == 0 else -1]:
                workdir = pathlib.Path(folder) / f"run-{turn}-{count}-{apart}"
                found[count, apart].append(_together(count, apart, data, workdir, args.updates))
    report("A process's own host CPU time an update, outside the compiled update",
           ["processes", "main thread, ms", "other threads, ms", "together, ms", "process 0, ms",
            f"ratio to {counts[0]}", "ratio to apart", "threads of XLA and gloo, ms", "ms an update"], _rows(found),
           f"{_ROWS} rows of {_LENGTH} tokens and one CPU device a process, {args.updates // 2} updates; means over "
           f"the processes, medians of {args.rounds} rounds. Apart: as many runs of one process each, at once.")


def _rows(found: dict[tuple[int, bool], list[np.ndarray]]) -> list[list[object]]:
    """Of the table; `found`: per (processes, apart) the rounds, each seconds [process, what `_measured` returns]."""
    rows, own = [], {}
    for (count, apart), rounds in found.items():
        milliseconds = 1e3 * np.array(rounds)                   # [round, process, kind]
        main_thread, others, xla, wall = np.median(milliseconds.mean(axis=1), axis=0)
        own[count, apart] = main_thread + others
        rows.append([f"{count} apart" if apart else str(count), main_thread, others, main_thread + others,
                     np.median(milliseconds[:, 0, :2].sum(axis=-1)), own[count, apart] / next(iter(own.values())),
                     own[count, apart] / own.get((count, True), own[count, apart]), xla, wall])
    return rows


def _together(count: int, apart: bool, data: pathlib.Path, workdir: pathlib.Path, updates: int) -> np.ndarray:
    """What `_measured` returns [process, 4] of `count` processes at the same time: of one run, or of a run each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    running = []
    for index in range(count):
        own = workdir.with_name(f"{workdir.name}-{index}") if apart else workdir
        command = [sys.executable, __file__, "--data", str(data), "--workdir", str(own), "--updates", str(updates)]
        several = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(index),
                   "EASYLM_START_TIMEOUT": "600"} if count > 1 and not apart else {}
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {
            "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | several))
    said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"a process of {count} failed")
    return np.array([json.loads(text.splitlines()[-1]) for text in said])


def _measured(data: str, workdir: str, updates: int) -> list[float]:
    """Seconds an update: main thread outside the update, other threads, XLA's and gloo's threads, all by the clock."""
    from easylm_imitation.sharding import start_processes, together
    start_processes(watched=True)
    import jax
    before = _threads()
    rows = _ROWS * len(jax.devices())       # makes the backend
    of_xla = _threads().keys() - before.keys() - {thread.native_id for thread in threading.enumerate()}

    from easylm_imitation.data import LoaderConfig
    from easylm_imitation.train import TrainConfig, compiled, train
    run, marks, inside, calls = compiled.CompiledStep.__call__, [], [0.0], [0]

    def timed(self: Any, *arguments: Any) -> tuple:
        begun = time.thread_time()
        made = run(self, *arguments)
        calls[0] += 1
        if calls[0] in (updates // 2, updates):
            marks.append(_now(of_xla, begun - inside[0]))
        inside[0] += time.thread_time() - begun
        return made

    compiled.CompiledStep.__call__ = timed
    config = TrainConfig(model=_MODEL, mesh="fsdp:-1", steps=updates, checkpoint_every=10**9, log_every=10,
                         data=LoaderConfig(context=_LENGTH, batch=rows), remat="none", compute_dtype="float32",
                         loss_chunk=8192)
    with together():
        train(config, data_dir=data, workdir=workdir)
    half, end = marks
    return list((end - half) / (updates - updates // 2))


def _now(of_xla: set[int], main_thread: float) -> np.ndarray:
    """The clock and what the threads have used so far, as `_measured` returns it."""
    threads = _threads()
    others = sum(seconds for thread, seconds in threads.items() if thread not in of_xla | {os.getpid()})
    return np.array([main_thread, others, sum(threads.get(thread, 0.0) for thread in of_xla), time.perf_counter()])


def _threads() -> dict[int, float]:
    """CPU seconds so far of each thread of this process."""
    used = {}
    for folder in pathlib.Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):      # it has ended meanwhile
            used[int(folder.name)] = int((folder / "schedstat").read_text().split()[0]) / 1e9
    return used


if __name__ == "__main__":
    main()
