"""Another dataset mixed into each batch, such as text that the base was pre-trained on.

Finetuning on little data forgets; a share of each batch that is what the base read before is the field's oldest cure
(InstructGPT's PPO-ptx, arXiv 2203.02155, mixed gradients so; the paper leaves it open for imitation).
"""
import os
import pathlib

from easylm_imitation.data import (
    Loader,
    MixedLoader,
    TeacherCache,
    data_use,
    is_cache,
    open_loader,
    open_mixed,
    read_card,
)
from easylm_imitation.records import DataCard
from easylm_imitation.schema import UserError
from easylm_imitation.train.config import TrainConfig


def check_mix(config: TrainConfig, mix: str | os.PathLike | None, card: DataCard,
              teacher: str | os.PathLike | None) -> DataCard | None:
    """The card of what is mixed in; None where nothing is. Raises UserError when it does not fit `card`, the data's."""
    if (config.mix is None) != (mix is None):
        raise UserError("config.mix is set, but no --mix names a dataset" if mix is None else
                        f"--mix {mix}: the config mixes nothing in; say --config.mix.share=0.25, say")
    if mix is None:
        return None
    if teacher is not None and is_cache(teacher):
        raise UserError(f"--teacher {teacher}: the cache knows nothing of what --mix adds; give the model itself")
    other = read_card(mix)
    for what in ("tokenizer", "template"):
        if getattr(other, what) != getattr(card, what):
            raise UserError(f"--mix {mix}: built with the {what} {getattr(other, what)}, but the data '{card.name}' "
                            f"with {getattr(card, what)}; build it again with that one")
    if other.hash == card.hash:
        raise UserError(f"--mix {mix}: is the data itself; leave --mix out, or name another dataset")
    data_use(mix, config.mix_data)      # checks the lengths
    return other


def open_data(config: TrainConfig, data: pathlib.Path, mix: str | os.PathLike | None, epochs: int | None, rows: slice,
              cache: TeacherCache | None) -> Loader | MixedLoader:
    """The run's batches; `epochs` counts passes over the data, `rows` are this process's."""
    if mix is None:
        return open_loader(data, config.data, seed=config.seed, epochs=epochs, rows=rows, teacher=cache)
    return open_mixed(data, config.data_rows, mix, config.mix_data, weight=config.mix.weight, seed=config.seed,
                      epochs=epochs, rows=rows)
