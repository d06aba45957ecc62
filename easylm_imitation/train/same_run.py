"""Whether a workdir holds the run that is asked for: the same command continues it, another one is refused."""
import json
from collections.abc import Iterator
from typing import Any

from easylm_imitation.files import read_json
from easylm_imitation.models import ModelConfig, config_mapping
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError, plain
from easylm_imitation.train.config import TrainConfig, free_keys
from easylm_imitation.weights import RunDir


def check_same_run(run: RunDir, config: TrainConfig, model: ModelConfig, lineage: Lineage) -> None:
    """Raises UserError, naming the first difference, unless `run` is absent, empty, or this very run."""
    if not run.config.exists():
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise UserError(f"--workdir {run.shown}: holds files that are no training run; choose a new or empty "
                            "folder")
        return
    known = read_json(Lineage, run.lineage)     # of step 0; a checkpoint's own may be damaged
    free = free_keys(config)
    old = {**json.loads(run.config.read_text()), "model.json": config_mapping(run.read_model()[0]),
           "the data's hash": known.data_card, "the mixed data's hash": known.mixed,
           "the initial weights' id": known.init, "who teaches": known.teachers}
    new = {**plain(config), "model.json": config_mapping(model),
           "the data's hash": lineage.data_card, "the mixed data's hash": lineage.mixed,
           "the initial weights' id": lineage.init, "who teaches": lineage.teachers}
    for key, before, now in changes(old, new):
        if key.partition(".")[0] not in free:
            raise UserError(f"--workdir {run.shown}: {key} is {now!r} here, but {before!r} in the run that the folder "
                            "holds; continue it as it was, or choose a new workdir")


def changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, old, new) of every leaf that differs, in the order of `new`.

    >>> list(changes({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}))
    [("a.b", 1, 3)]
    """
    for key in dict.fromkeys([*new, *old]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from changes(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b
