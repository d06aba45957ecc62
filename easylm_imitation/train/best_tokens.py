"""Asks a local teacher, once, what it expects at every place of a dataset: its best K tokens, with log-probabilities.

Distillation reads them at each epoch (data/teacher_cache.py), so a large teacher need not stand beside the student.
"""
import os
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from easylm_imitation import console
from easylm_imitation.data import CacheCard, CacheWriter, LoaderConfig, planned_batches, read_card, starts_of
from easylm_imitation.models import Model, create
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import BATCH, constrain, make_mesh, scan
from easylm_imitation.text import load_tokenizer
from easylm_imitation.train.loss import NEVER, Batch, part_logits, strided_parts
from easylm_imitation.train.place import BatchPlace, check_split
from easylm_imitation.weights import LoadedModel, open_model

_COMMIT = 20    # batches


def cache_best_tokens(model: str | os.PathLike, data: str | os.PathLike, out: str | os.PathLike, *, top_k: int = 32,
                      batch: int = 8, context: int | None = None, mesh: str = "fsdp:-1", chunk: int = 4096,
                      dtype: jnp.dtype = jnp.bfloat16) -> CacheCard:
    """Writes the cache of `model` (a run dir or Hugging Face dir) for the dataset `data` into `out`; interrupted, the
    same call continues.

    `context`: places of a conversation that are covered (None: all of the longest); `batch`: rows at a time. Raises
    UserError, before any work, for a teacher of another tokenizer, and for sizes that it cannot have.
    """
    data = pathlib.Path(data)
    card, devices = read_card(data), make_mesh(mesh)
    check_split("--batch", batch, BATCH[0], devices.shape)
    with jax.set_mesh(devices):
        loaded = open_model(model, dtype=dtype, mesh=devices)
        entries = check_teacher(loaded, data)
        if not 1 <= top_k <= entries:
            raise UserError(f"--top-k {top_k}: between 1 and the {entries} tokens of the vocabulary")
        covered = min(context or card.longest, card.longest)
        rounded = _round_up(covered, devices.shape["sequence"] * 8)
        config = LoaderConfig(rounded, batch, "first_fit", too_long="truncate")
        loaded.config.check_context(config.context)
        writer = CacheWriter(out, CacheCard(loaded.lineage, card.hash, card.tokens, top_k, covered))
        place = BatchPlace(devices, batch, config.context)
        best = _program(create(loaded.config), top_k, entries, chunk, dtype)
        starts, batches = starts_of(data), planned_batches(data, config)
        with console.progress("asking the teacher", len(batches)) as advance:
            advance(writer.batches)
            for number in range(writer.batches, len(batches)):
                members, rows = batches[number]
                _keep(writer, starts, members, rows, *map(np.asarray, best(loaded.params, place(rows))))
                if (number + 1) % _COMMIT == 0:
                    writer.commit(number + 1)
                advance()
        writer.commit(len(batches))
        writer.finish()
    return writer.card


def check_teacher(loaded: LoadedModel, data: pathlib.Path) -> int:
    """Tokens of the vocabulary that teacher and data share. Raises UserError when they read text differently."""
    own, theirs = load_tokenizer(data / "tokenizer"), loaded.tokenizer
    if theirs is None or theirs.id != own.id:
        raise UserError(f"{loaded.path}: the teacher's tokenizer is {theirs and theirs.id}, the data's {own.id}; "
                        "distillation needs a teacher that reads the same tokens as the student")
    return own.vocab_size


def _program(model: Model, top_k: int, entries: int, chunk: int, dtype: jnp.dtype) -> Callable[..., tuple]:
    """(params, batch) -> (ids int32 [B, T, K], log-probabilities float16 [B, T, K]), over parts of the vocabulary."""
    count = -(-entries // max(chunk, top_k))

    def best(params: dict, batch: Batch) -> tuple[jax.Array, jax.Array]:
        hidden = model.hidden(params, batch["tokens"], batch["positions"], batch["segment_ids"], dtype=dtype)

        def part(carry: tuple, this: tuple) -> tuple[tuple, jax.Array]:
            number, kernel = this
            places = number + count * jnp.arange(kernel.shape[1], dtype=jnp.int32)
            logits = part_logits(hidden, kernel, number, count, entries)
            all_logits = jnp.concatenate([carry[0], logits], axis=-1)
            all_ids = jnp.concatenate([carry[1], jnp.broadcast_to(places, logits.shape)], axis=-1)
            top, chosen = jax.lax.top_k(all_logits, top_k)
            return (top, jnp.take_along_axis(all_ids, chosen, axis=-1)), jax.nn.logsumexp(logits, axis=-1)

        none = jnp.full((*hidden.shape[:2], top_k), NEVER), jnp.zeros((*hidden.shape[:2], top_k), jnp.int32)
        parts = jnp.arange(count, dtype=jnp.int32), strided_parts(model.head(params)[:, :entries], count)
        (top, ids), log_parts = scan(part, none, parts)
        logprobs = top - jax.nn.logsumexp(log_parts, axis=0)[..., None]
        return constrain(ids, None), constrain(logprobs.astype(jnp.float16), None)

    return jax.jit(best)


def _keep(writer: CacheWriter, starts: np.ndarray, members: list[list[int]], rows: Batch, ids: np.ndarray,
          logprobs: np.ndarray) -> None:
    """Hands each conversation's places to the writer."""
    for row, conversations in enumerate(members):
        for segment, conversation in enumerate(conversations, 1):
            places = np.flatnonzero(rows["segment_ids"][row] == segment)
            writer.write(starts[conversation], ids[row, places], logprobs[row, places])


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
