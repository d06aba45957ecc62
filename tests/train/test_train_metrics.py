"""metrics.jsonl is cut back without a trace, device scalars are read one step late, divergence stops the run."""
import json

import jax.numpy as jnp
import pytest

from easylm_imitation.schema import UserError
from easylm_imitation.train.checkpoint import Progress
from easylm_imitation.train.metrics import MetricsLog, Recorder, cut_back, read_metrics
from easylm_imitation.train.skip import NOT_FINITE, REASONS, SPIKE


def _scalars(loss: float, grad_norm: float = 1.0, reason: int = 0, in_a_row: int = 0) -> dict:
    floats = {"loss": loss, "z_loss": 0.0, "grad_norm": grad_norm, "learning_rate": 0.5, "weight": 4.0}
    return {k: jnp.float32(v) for k, v in floats.items()} | {"tokens": jnp.int32(7), "loss_tokens": jnp.int32(4)} | {
        "skip_reason": jnp.int32(reason), "skipped": jnp.int32(in_a_row), "skipped_in_a_row": jnp.int32(in_a_row)}


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


@pytest.mark.parametrize(("loss", "grad_norm", "reason", "cure"), [
    (float("nan"), 1.0, NOT_FINITE, "Lower optimizer.learning_rate"),
    (2.0, float("inf"), NOT_FINITE, "Lower optimizer.learning_rate"),
    (2.0, 50.0, SPIKE, "Raise optimizer.spike_factor"),
])
def test_one_skip_too_many_stops_with_the_step_and_the_cure(tmp_path, log, loss, grad_norm, reason, cure):
    recorder = Recorder(log, Progress(step=6), total_steps=20, every=100, max_skips=1)
    recorder.push(7, _scalars(3.0))
    recorder.push(8, _scalars(loss, grad_norm, reason, 1))
    recorder.push(9, _scalars(loss, grad_norm, reason, 2))
    assert recorder.sound == (reason == SPIKE)
    with pytest.raises(UserError, match=f"step 9: .*diverged.*updates in a row skipped: 2.*{cure}"):
        recorder.flush()
    assert [(line["step"], line["skip_reason"]) for line in read_metrics(tmp_path / "metrics.jsonl")] == [
        (8, REASONS[reason]), (9, REASONS[reason])]


def test_a_run_that_ends_on_an_update_that_was_not_finite_is_not_finished(log):
    recorder = Recorder(log, Progress(step=6), total_steps=8, every=100)
    recorder.push(7, _scalars(3.0, 9.0, SPIKE, 1))
    recorder.flush()
    recorder.push(8, _scalars(float("nan"), 1.0, NOT_FINITE, 2))
    with pytest.raises(UserError, match="step 8: "):
        recorder.flush()


def test_people_see_the_first_skips_and_each_hundredth(log, capsys):
    recorder = Recorder(log, Progress(), total_steps=500, every=1000, max_skips=1000)
    for step in range(1, 202):
        recorder.push(step, _scalars(2.0, 9.0, SPIKE, step))
    recorder.flush()
    assert capsys.readouterr().err.count("skipped (spike)") == 22
