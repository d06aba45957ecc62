"""The teacher of a distillation: a model that runs beside the student, or best tokens that one was asked for before."""
import dataclasses
import os
import pathlib
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from easylm_imitation.data import TeacherCache, is_cache
from easylm_imitation.models import create
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError
from easylm_imitation.text import load_tokenizer
from easylm_imitation.train.best_tokens import check_teacher
from easylm_imitation.train.config import TrainConfig
from easylm_imitation.train.distil import Distil
from easylm_imitation.weights import describe, open_model


@dataclasses.dataclass(frozen=True)
class Teacher:
    """What the step needs of it: `arguments` come behind (state, batch)."""
    distil: Distil | None = None
    arguments: tuple[Any, ...] = ()
    cache: TeacherCache | None = None


def teacher_lineage(config: TrainConfig, path: str | os.PathLike | None, data: pathlib.Path) -> Lineage | None:
    """Who teaches, without reading weights; None where nobody does. Raises UserError when config and path disagree."""
    if (config.distil is None) != (path is None):
        raise UserError("config.distil is set, but no --teacher names one" if path is None else
                        f"--teacher {path}: the config distils nothing; say --config.distil.weight=1.0, say")
    if path is None:
        return None
    return TeacherCache(path, data, config.data.context).card.teacher if is_cache(path) else describe(path)[1]


def open_teacher(config: TrainConfig, path: str | os.PathLike | None, data: pathlib.Path, mesh: Mesh) -> Teacher:
    """The teacher, ready; weights in the compute dtype, on the mesh. Raises UserError for one of another tokenizer."""
    if path is None:
        return Teacher()
    if is_cache(path):
        if config.distil.temperature != 1:
            raise UserError(f"config.distil.temperature is {config.distil.temperature}: a cache knows the teacher's "
                            "likeliest tokens at temperature 1 alone; give the model itself as --teacher")
        entries = load_tokenizer(data / "tokenizer").vocab_size
        return Teacher(Distil(config.distil, entries), (None,), TeacherCache(path, data, config.data.context))
    loaded = open_model(path, dtype=jnp.dtype(config.compute_dtype), mesh=mesh)
    loaded.config.check_context(config.data.context)
    entries = check_teacher(loaded, data)
    return Teacher(Distil(config.distil, entries, create(loaded.config)), (loaded.params,))
