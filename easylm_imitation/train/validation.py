"""What a run says of itself while it trains: the loss on conversations held out of training, and answers to them.

Both look at the weights and change nothing; all processes of a run call them together.
"""
import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from easylm_imitation.data import LoaderConfig, held_out_datasets, held_out_examples, open_loader
from easylm_imitation.models import Model
from easylm_imitation.sharding import constrain
from easylm_imitation.text import Tokenizer
from easylm_imitation.train.config import TrainConfig
from easylm_imitation.train.loss import Sums, loss_sums
from easylm_imitation.train.place import BatchPlace


class Validation:
    """The mean loss of held-out conversations, by dataset, taken as the training's is.

    >>> validate = Validation(model, config, "DATA", place)
    >>> validate(state.params)
    {"loss": 1.25, "datasets": {"nq": 0.91, "sharegpt": 1.31}}

    What is mixed in has losses of its own, called "mix: NAME", which are no part of "loss".
    """

    def __init__(self, model: Model, config: TrainConfig, folder: str | os.PathLike, place: BatchPlace,
                 mix: str | os.PathLike | None = None) -> None:
        """Reads nothing yet but which datasets there are; none where `config.data.holdout` is 0."""
        own = {name: (folder, config.data, name) for name in held_out_datasets(folder, config.data)}
        whole = dataclasses.replace(config.data, too_long=config.mix.too_long) if mix else None
        other = {f"mix: {name}": (mix, whole, name) for name in held_out_datasets(mix, whole)} if mix else {}
        self.datasets, self._own = own | other, set(own)
        self._place, self._batches = place, config.validation.batches
        self._sums = jax.jit(lambda params, batch: loss_sums(
            model, params, batch, normalise=config.loss, chunk=config.loss_chunk,
            dtype=jnp.dtype(config.compute_dtype), attention=config.attention))

    def __call__(self, params: Any) -> dict[str, Any]:
        """{"loss": over all, "datasets": {name: loss}}, in nats per weighted token (or row, as `config.loss` says).

        A dataset whose held-out conversations bring no loss (all of them too long, say) is left out; empty when that
        leaves none of the data's own.
        """
        sums = {name: self._sum(name, params) for name in self.datasets}
        sums = {name: found for name, found in sums.items() if found.weight}
        own = [found for name, found in sums.items() if name in self._own]
        return {"loss": _mean(*own), "datasets": {name: _mean(found) for name, found in sums.items()}} if own else {}

    def _sum(self, name: str, params: Any) -> Sums:
        folder, config, dataset = self.datasets[name]
        config = dataclasses.replace(config, shuffle=False)
        loader = open_loader(folder, config, seed=0, epochs=1, rows=self._place.own_rows, held_out=dataset)
        parts = [self._sums(params, self._place(batch)) for batch in itertools.islice(loader, self._batches)]
        return Sums(*(sum(getattr(part, name).item() for part in parts) for name in Sums._fields))


def _mean(*sums: Sums) -> float:
    return sum(part.nll for part in sums) / sum(part.weight for part in sums)


@dataclasses.dataclass(frozen=True)
class Question:
    """A held-out conversation up to its first answer."""
    id: str
    prompt: np.ndarray          # int32 [P]
    answer: np.ndarray          # int32: what the data answer


class Samples:
    """Greedy answers to a few held-out questions: what a loss cannot show.

    >>> sample = Samples(model, tokenizer, config, "DATA", end_ids=[2])
    >>> sample(state.params)
    [{"id": "nq_7", "prompt": "Where is Oslo?", "answer": "In Norway.", "reference": "Oslo is in Norway."}]
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, config: TrainConfig, folder: str | os.PathLike,
                 end_ids: Sequence[int]) -> None:
        """Takes the questions in turn from each dataset; one that leaves no room for an answer is passed over."""
        asked = config.validation
        self._tokenizer, self._tokens, self._ends = tokenizer, asked.sample_tokens, tuple(end_ids)
        longest = config.data.context - asked.sample_tokens
        fitting = (q for q in _questions(folder, config.data) if 0 < len(q.prompt) <= longest)
        self.questions = list(itertools.islice(fitting, asked.samples))
        self._read, self._write = _programs(model, jnp.dtype(config.compute_dtype), config.data.context)

    def __call__(self, params: Any) -> list[dict[str, str]]:
        """One record a question. Answers end at an end id, or after `sample_tokens`."""
        lengths = np.array([len(question.prompt) for question in self.questions], np.int32)
        prompts = np.zeros((len(lengths), lengths.max()), np.int32)
        for row, question in enumerate(self.questions):
            prompts[row, :lengths[row]] = question.prompt
        token, cache = self._read(params, prompts, lengths)
        written = [token]
        for step in range(self._tokens - 1):
            token, cache = self._write(params, token, lengths + step, cache)
            written.append(token)
        rows = np.stack([np.asarray(token) for token in written], axis=1)
        return [self._record(question, row.tolist()) for question, row in zip(self.questions, rows, strict=True)]

    def _record(self, question: Question, ids: list[int]) -> dict[str, str]:
        end = next((i for i, token in enumerate(ids) if token in self._ends), len(ids))
        text = self._tokenizer.decode
        return {"id": question.id, "prompt": text(question.prompt, skip_special=False), "answer": text(ids[:end]),
                "reference": text(question.answer)}


def _questions(folder: str | os.PathLike, config: LoaderConfig) -> Iterator[Question]:
    by_dataset = [held_out_examples(folder, config, name) for name in held_out_datasets(folder, config)]
    for examples in itertools.zip_longest(*by_dataset):
        for example in filter(None, examples):
            start = int(np.argmax(example.loss_weights > 0))
            end = start + int(np.argmin(np.append(example.loss_weights[start:] > 0, False)))
            yield Question(example.id, example.tokens[:start], example.tokens[start:end])


def _programs(model: Model, dtype: jnp.dtype, length: int) -> tuple[Any, Any]:
    """(prompts [N, P], lengths [N] -> first tokens [N], cache), (tokens [N], positions [N], cache -> the next)."""
    def next_token(params: Any, hidden: jax.Array) -> jax.Array:
        return constrain(jnp.argmax(model.unembed(params, hidden), axis=-1).astype(jnp.int32), None)

    @jax.jit
    def read(params: Any, prompts: jax.Array, lengths: jax.Array) -> tuple[jax.Array, Any]:
        places = jnp.arange(prompts.shape[1], dtype=jnp.int32)
        positions = jnp.where(places < lengths[:, None], places, length)
        cache = model.init_cache(prompts.shape[0], length, dtype)
        hidden, cache = model.extend(params, prompts, positions, cache, dtype=dtype)
        last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)[:, 0]
        return next_token(params, last), cache

    def write(params: Any, tokens: jax.Array, positions: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        hidden, cache = model.extend(params, tokens[:, None], positions[:, None], cache, dtype=dtype)
        return next_token(params, hidden[:, 0]), cache

    return read, jax.jit(write, donate_argnums=3)
