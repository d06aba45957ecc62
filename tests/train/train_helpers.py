"""Batches, datasets and configs that the training tests share."""
import json
import pathlib
import subprocess
import time
from collections.abc import Callable

import jax
import numpy as np

from easylm_imitation.data import BuildConfig, LoaderConfig, SourceConfig, build_dataset
from easylm_imitation.schema import plain
from easylm_imitation.text import Tokenizer
from easylm_imitation.train import OptimizerConfig, TrainConfig, read_metrics
from easylm_imitation.weights import RunDir, open_model

ROOT = pathlib.Path(__file__).resolve().parents[2]
_CONFIG_FILE = """import json
from ml_collections import ConfigDict
def get_config():
    return ConfigDict(json.loads({!r}))
"""
VOCAB, LENGTH = 97, 24


def make_batch(rows: int, seed: int = 0, length: int = LENGTH) -> dict[str, np.ndarray]:
    """Packed rows [rows, length] of two or three conversations and some padding, with uneven masks."""
    random = np.random.default_rng(seed)
    batch = {name: np.zeros((rows, length), np.int32) for name in ("tokens", "segment_ids", "positions")}
    batch["loss_weights"] = np.zeros((rows, length), np.float32)
    for row in range(rows):
        ends = np.sort(random.choice(np.arange(3, length), size=random.integers(2, 4), replace=False))
        for segment, (start, end) in enumerate(zip([0, *ends[:-1]], ends), 1):
            batch["tokens"][row, start:end] = random.integers(1, VOCAB, end - start)
            batch["segment_ids"][row, start:end] = segment
            batch["positions"][row, start:end] = np.arange(end - start)
            batch["loss_weights"][row, start + 1:end] = random.random(end - start - 1) < (row + 1) / rows
    return batch


def build_data(folder: pathlib.Path, tokenizer: Tokenizer, teacher: str, longest: int = 9, template: str = "plain"):
    """Builds 60 conversations of 30 to 25 + 2 * longest tokens in `folder`/data."""
    folder.mkdir(exist_ok=True)
    texts = [("q" * (1 + i % 5), "ab" * (1 + i % longest)) for i in range(60)]
    records = [{"dataset": "d", "id": f"c{i}", "teacher": teacher, "messages": [
        {"role": "user", "content": asked}, {"role": "assistant", "content": answered}]}
        for i, (asked, answered) in enumerate(texts)]
    (folder / "raw.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    tokenizer.save(folder / "tokenizer")
    source = SourceConfig(str(folder / "raw.jsonl"))
    build_dataset(BuildConfig("d", (source,), str(folder / "tokenizer"), template), folder / "data")
    return folder / "data"


def tiny_config(**keys) -> TrainConfig:
    """Nine updates of a tiny LLaMA, each written down, a checkpoint every third."""
    keys = {"model": {"preset": "llama-debug"}, "data": LoaderConfig(context=64, batch=8), "steps": 9, "mesh": "fsdp:8",
            "optimizer": OptimizerConfig(learning_rate=0.01), "compute_dtype": "float32", "loss_chunk": 32,
            "checkpoint_every": 3, "keep": 3, "log_every": 1} | keys
    return TrainConfig(**keys)


def write_config(folder: pathlib.Path, config: TrainConfig) -> pathlib.Path:
    """A config file for the verb."""
    path = folder / "config.py"
    path.write_text(_CONFIG_FILE.format(json.dumps(plain(config))))
    return path


def lines_logged(workdir: pathlib.Path) -> int:
    """Lines in a run's metrics.jsonl so far."""
    path = RunDir(workdir).metrics
    return path.read_text().count("\n") if path.exists() else 0


def wait_for(process: subprocess.Popen, reached: Callable[[], bool]) -> None:
    """Waits until `reached()`, or the process has ended."""
    while process.poll() is None and not reached():
        time.sleep(0.01)


def history(workdir: pathlib.Path) -> list[dict]:
    """metrics.jsonl without what a clock decides."""
    return [{k: v for k, v in line.items() if k != "seconds" and not k.startswith("tokens_per_second")}
            for line in read_metrics(RunDir(workdir).metrics)]


def weights(workdir: pathlib.Path) -> list[np.ndarray]:
    """Those of a run's newest checkpoint."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(open_model(workdir).params)]
