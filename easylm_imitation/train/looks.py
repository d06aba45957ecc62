"""When a run looks at itself, and where it writes what it saw: beside its metrics, in TensorBoard, on a line.

    validation.jsonl    {"step", "loss", "datasets": {name: loss}}
    samples.jsonl       {"step", "id", "prompt", "answer", "reference"}
    evaluations.jsonl   {"step", "scores": {name: score}}
"""
import concurrent.futures
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax

from easylm_imitation import console
from easylm_imitation.models import Model, merged
from easylm_imitation.schema import UserError
from easylm_imitation.text import stop_ids
from easylm_imitation.train.checkpoint import Progress
from easylm_imitation.train.config import TrainConfig
from easylm_imitation.train.metrics import MetricsLog
from easylm_imitation.train.place import BatchPlace
from easylm_imitation.train.start import Start, lineage_at
from easylm_imitation.train.validation import Samples, Validation
from easylm_imitation.weights import LoadedModel
from easylm_imitation.weights.run_dir import EVALUATIONS, SAMPLES, VALIDATION

Evaluate = Callable[[LoadedModel], Mapping[str, float]]
"""What is asked of a model in the midst of its training: {name: score}. It must not keep the weights."""

_SHOWN = 60     # characters of a sample on screen


class Looks:
    """Validation, samples and evaluations of one run."""

    def __init__(self, model: Model, start: Start, data: str | os.PathLike, mix: str | os.PathLike | None,
                 place: BatchPlace, log: MetricsLog, evaluate: Evaluate | None) -> None:
        self.losses: dict[int, float] = {}      # by update
        self._start, self._log, self._evaluate = start, log, evaluate
        self._validate = Validation(model, start.config, data, place, mix)
        self._sample = Samples(model, start.tokenizer, start.config, data, stop_ids(start.template, start.tokenizer))

    def due(self, step: int, saving: bool, interrupted: bool) -> bool:
        """Whether to look after this update; not when the process is being told to end."""
        if not (self._validate.datasets or self._evaluate) or (interrupted and step < self._start.total_steps):
            return False
        every = self._start.config.validation.every
        return saving or bool(every and step % every == 0)

    def __call__(self, progress: Progress, params: Any) -> None:
        """Looks at the weights of the update that the run has reached, and writes down what it sees."""
        if self._validate.datasets:
            self._validated(progress.step, params)
        if self._sample.questions:
            self._sampled(progress.step, params)
        if self._evaluate:
            self._evaluated(progress, params)

    def _validated(self, step: int, params: Any) -> None:
        found = self._validate(params)
        if not found:
            console.say_once("no held-out conversation brings a loss, so there is no validation; see data.too_long")
            return
        self.losses[step] = found["loss"]
        scalars = {"validation/loss": found["loss"]} | {f"validation/{k}": v for k, v in found["datasets"].items()}
        self._log.beside(VALIDATION, [{"step": step, **found}], scalars)
        console.say(f"update {step}: validation loss {found['loss']:.4f} ({_listed(found['datasets'])})")

    def _sampled(self, step: int, params: Any) -> None:
        answered = self._sample(params)
        self._log.beside(SAMPLES, [{"step": step, **record} for record in answered])
        console.say(f"update {step}: {_short(answered[0]['prompt'])} -> {_short(answered[0]['answer'])}")

    def _evaluated(self, progress: Progress, params: Any) -> None:
        """An evaluation that fails is said, and the run goes on."""
        start = self._start
        model = LoadedModel(start.model, merged(params), start.tokenizer, start.template, lineage_at(start, progress),
                            start.config.name)
        thread = concurrent.futures.ThreadPoolExecutor(1)   # which knows nothing of the mesh that training has set
        try:
            scores = {name: float(score) for name, score in thread.submit(self._evaluate, model).result().items()}
        except UserError as error:
            console.say(f"update {progress.step}: not evaluated ({error})")
            return
        finally:
            thread.shutdown(wait=False)
        if not scores:
            return
        self._log.beside(EVALUATIONS, [{"step": progress.step, "scores": scores}],
                         {f"evaluation/{name}": score for name, score in scores.items()})
        console.say(f"update {progress.step}: {_listed(scores)}")


def check_looks(config: TrainConfig, evaluate: Evaluate | None) -> None:
    """Raises UserError when there is nothing to look at, or nobody who can."""
    if config.validation.every and not config.data.holdout and not evaluate:
        raise UserError(f"validation.every is {config.validation.every}, but data.holdout is 0, so there is nothing to "
                        "validate on; set data.holdout=0.02, say, or name --tasks")
    if evaluate and jax.process_count() > 1:
        raise UserError(f"a run of {jax.process_count()} processes cannot be evaluated on its way: one of them would "
                        "need all weights; leave out --tasks, and `evaluate` its checkpoints (RUN@120)")


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


def _short(text: str) -> str:
    """The end of a prompt, or the beginning of an answer that short, in a line."""
    text = " ".join(text.split())
    return repr(text if len(text) <= _SHOWN else f"…{text[-_SHOWN:]}")
