"""When a run looks at itself, and where it writes what it saw: validation.jsonl, samples.jsonl, TensorBoard, a line.

    validation.jsonl    {"step", "loss", "datasets": {name: loss}}
    samples.jsonl       {"step", "id", "prompt", "answer", "reference"}
"""
import os
from typing import Any

from easylm_imitation import console
from easylm_imitation.models import Model
from easylm_imitation.text import stop_ids
from easylm_imitation.train.metrics import MetricsLog
from easylm_imitation.train.place import BatchPlace
from easylm_imitation.train.start import Start
from easylm_imitation.train.validation import Samples, Validation
from easylm_imitation.weights.run_dir import SAMPLES, VALIDATION

_SHOWN = 60     # characters of a sample on screen


class Looks:
    """Validation and samples of one run."""

    def __init__(self, model: Model, start: Start, data: str | os.PathLike, mix: str | os.PathLike | None,
                 place: BatchPlace, log: MetricsLog) -> None:
        self.losses: dict[int, float] = {}      # by update
        self._config, self._log, self._last = start.config, log, start.total_steps
        self._validate = Validation(model, start.config, data, place, mix)
        self._sample = Samples(model, start.tokenizer, start.config, data, stop_ids(start.template, start.tokenizer))

    def due(self, step: int, saving: bool, interrupted: bool) -> bool:
        """Whether to look after this update; not when the process is being told to end."""
        if not self._validate.datasets or (interrupted and step < self._last):
            return False
        every = self._config.validation.every
        return saving or bool(every and step % every == 0)

    def __call__(self, step: int, params: Any) -> None:
        """Looks, and writes down what it sees."""
        found = self._validate(params)
        if not found["datasets"]:
            console.say_once("no held-out conversation brings a loss, so there is no validation; see data.too_long")
            return
        self.losses[step] = found["loss"]
        scalars = {"validation/loss": found["loss"]} | {f"validation/{k}": v for k, v in found["datasets"].items()}
        self._log.beside(VALIDATION, [{"step": step, **found}], scalars)
        parts = ", ".join(f"{name} {loss:.4f}" for name, loss in found["datasets"].items())
        console.say(f"update {step}: validation loss {found['loss']:.4f} ({parts})")
        if self._sample.questions:
            answered = self._sample(params)
            self._log.beside(SAMPLES, [{"step": step, **record} for record in answered])
            first = answered[0]
            console.say(f"update {step}: {_short(first['prompt'])} -> {_short(first['answer'])}")


def _short(text: str) -> str:
    """The end of a prompt, or the beginning of an answer that short, in a line."""
    text = " ".join(text.split())
    return repr(text if len(text) <= _SHOWN else f"…{text[-_SHOWN:]}")
