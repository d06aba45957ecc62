"""metrics.jsonl is cut back without a trace, device scalars are read one step late, divergence stops the run."""
import json

import jax.numpy as jnp
import pytest

from easylm_imitation.schema import UserError
from easylm_imitation.train.checkpoint import Progress
from easylm_imitation.train.metrics import MetricsLog, Recorder, cut_back, read_metrics


def _scalars(loss: float, grad_norm: float = 1.0) -> dict:
    floats = {"loss": loss, "z_loss": 0.0, "grad_norm": grad_norm, "learning_rate": 0.5, "weight": 4.0}
    return {k: jnp.float32(v) for k, v in floats.items()} | {"tokens": jnp.int32(7), "loss_tokens": jnp.int32(4)}


@pytest.fixture
def log(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", step=0)
    yield log
    log.close()


def test_a_continued_log_loses_later_lines_and_a_torn_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": i}) + "\n" for i in (1, 2, 3)) + '{"step": 4, "lo')
    log = MetricsLog(path, tmp_path / "tensorboard", step=2)
    log.write({"step": 3, "loss": float("nan")})
    log.close()
    assert read_metrics(path) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": None}]
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".jsonl"] == ["metrics.jsonl"]
    assert any((tmp_path / "tensorboard").iterdir())


def test_nothing_to_cut_leaves_the_file_alone(tmp_path):
    cut_back(tmp_path / "absent.jsonl", 3)
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    before = path.stat().st_mtime_ns
    cut_back(path, 1)
    assert path.stat().st_mtime_ns == before


def test_a_step_is_read_only_when_the_next_is_queued(tmp_path, log):
    recorder = Recorder(log, Progress(step=0), total_steps=5, every=2)
    recorder.push(1, _scalars(3.0))
    assert recorder.progress.step == 0
    for step in range(2, 6):
        recorder.push(step, _scalars(3.0 - step / 10))
        assert recorder.progress.step == step - 1
        assert recorder.note().startswith(f"loss {3.0 if step == 2 else 3.0 - (step - 1) / 10:.4f}, ")  # not a line's
    recorder.flush()
    assert (recorder.progress.step, recorder.progress.tokens, recorder.progress.loss_tokens) == (5, 35, 20)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 4, 5]
    assert recorder.last["loss"] == pytest.approx(2.5)


@pytest.mark.parametrize("scalars", [_scalars(float("nan")), _scalars(2.0, grad_norm=float("inf"))])
def test_divergence_stops_with_the_step_and_the_cure(tmp_path, log, scalars):
    recorder = Recorder(log, Progress(step=6), total_steps=20, every=100)
    recorder.push(7, _scalars(3.0))
    recorder.push(8, scalars)
    with pytest.raises(UserError, match="step 8: .*Lower optimizer.learning_rate"):
        recorder.flush()
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 8
