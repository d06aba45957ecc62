"""Batches of two datasets: of the rows of each batch some are another dataset's, and always the same ones.

    batch of 8 rows, 2 of them mixed in        data data data MIX data data data MIX

Each dataset has its own order, epochs and position, so mixing changes nothing about how either is read.
"""
import os
from typing import Any

import numpy as np

from easylm_imitation.data.config import LoaderConfig
from easylm_imitation.data.loader import Batch, Loader, demand_position, open_loader
from easylm_imitation.files import digest
from easylm_imitation.schema import UserError


def mixed_rows(batch: int, count: int) -> np.ndarray:
    """Which of `batch` rows are mixed in, bool [batch]: `count` of them, spread evenly."""
    return np.diff(np.arange(batch + 1) * count // batch) > 0


class MixedLoader:
    """As `Loader`: iterates batches, knows and takes positions. The loss weights of what is mixed in are scaled."""

    def __init__(self, data: Loader, mix: Loader, mixed: np.ndarray, weight: float):
        """`mixed`: which rows of the batches are the mix's, bool [rows]; `weight` multiplies their loss weights."""
        self._parts, self._mixed, self._weight = {"data": data, "mix": mix}, mixed, np.float32(weight)

    def __iter__(self) -> "MixedLoader":
        return self

    def __next__(self) -> Batch:
        ours, theirs = next(self._parts["data"]), next(self._parts["mix"])
        theirs = theirs | {"loss_weights": theirs["loss_weights"] * self._weight}
        return {name: self._joined(ours[name], theirs[name]) for name in ours}

    def _joined(self, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        rows = np.empty((len(self._mixed), *ours.shape[1:]), ours.dtype)
        rows[~self._mixed], rows[self._mixed] = ours, theirs
        return rows

    def get_state(self) -> dict[str, Any]:
        """The positions in both after the batches given so far; JSON-able."""
        states = {name: part.get_state() for name, part in self._parts.items()}
        return {"fingerprint": digest([state["fingerprint"] for state in states.values()]),
                "grain": {name: state["grain"] for name, state in states.items()}}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position. Raises UserError for what is none, and for one in other datasets, or under another config
        or seed."""
        demand_position(state)
        own = self.get_state()
        if state["fingerprint"] != own["fingerprint"] or set(state["grain"]) != set(own["grain"]):
            raise UserError("the saved data position belongs to other datasets, another loader config, seed or number "
                            "of epochs; continue with the saved run's, or start a new one")
        for name, part in self._parts.items():
            part.set_state(part.get_state() | {"grain": state["grain"][name]})


def open_mixed(folder: str | os.PathLike, config: LoaderConfig, mix: str | os.PathLike, mix_config: LoaderConfig, *,
               weight: float, seed: int, epochs: int | None, rows: slice | None = None) -> MixedLoader:
    """Batches of `config.batch` rows of `folder` and `mix_config.batch` of `mix`, for `epochs` passes over `folder`.

    `rows`: this process's part of all those rows (None: all). `mix` is passed over without end. Raises UserError as
    `open_loader` does.
    """
    mixed = mixed_rows(config.batch + mix_config.batch, mix_config.batch)
    start, stop, _ = (rows or slice(None)).indices(len(mixed))
    before, until = np.count_nonzero(mixed[:start]), np.count_nonzero(mixed[:stop])
    data = open_loader(folder, config, seed=seed, epochs=epochs, rows=slice(start - before, stop - until))
    other = open_loader(mix, mix_config, seed=seed, epochs=None, rows=slice(before, until))
    return MixedLoader(data, other, mixed[start:stop], weight)
