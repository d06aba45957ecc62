"""A teacher's best tokens at every place of a dataset, on disk: what distillation reads instead of running the teacher.

    CACHE/card.json        whose they are, of which dataset; written last, so that a folder with it is whole
    CACHE/ids.npy          int32 [tokens, K], tokens counted through all conversations in the shards' order
    CACHE/logprobs.npy     float16 [tokens, K], falling
    CACHE/progress.json    batches written so far, while it grows

Place i of a conversation holds what the teacher expects after its tokens 0 to i.
"""
import dataclasses
import os
import pathlib

import numpy as np

from easylm_imitation.data.build import read_card
from easylm_imitation.files import read_json, read_object, write_json
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError, plain

_NEVER = -1e4   # a log-probability that is none, and still a number: 0 * infinity would be none
IDS, LOGPROBS = "teacher_ids", "teacher_logprobs"      # what a cache adds to a batch, [B, T, K]


@dataclasses.dataclass(frozen=True)
class CacheCard:
    """CACHE/card.json."""
    teacher: Lineage
    data: str                   # hash of the dataset's card
    tokens: int
    top_k: int
    context: int                # places beyond it, in a conversation, are not covered


class TeacherCache:
    """Reads a cache beside its dataset. Nothing but the places that are asked for is read."""

    def __init__(self, folder: str | os.PathLike, data: str | os.PathLike, context: int):
        """Raises UserError for a folder that is no whole cache, of another dataset, or covers less than `context`."""
        folder = pathlib.Path(folder)
        if not (folder / "card.json").is_file():
            raise UserError(f"{folder}: no whole cache of a teacher's tokens (no card.json); make or finish it with "
                            "`easylm-imitation logits`")
        self.card = read_json(CacheCard, folder / "card.json")
        dataset = read_card(data)
        if self.card.data != dataset.hash:
            raise UserError(f"{folder}: the teacher's tokens are of the dataset {self.card.data}, but {data} is "
                            f"{dataset.hash}; ask the teacher again with `easylm-imitation logits`")
        if self.card.context < min(context, dataset.longest):
            raise UserError(f"{folder}: covers the first {self.card.context} tokens of a conversation, data.context is "
                            f"{context}; ask the teacher again with --context {min(context, dataset.longest)}")
        self._arrays = {IDS: _mapped(folder / "ids.npy", self.card, np.int32),
                        LOGPROBS: _mapped(folder / "logprobs.npy", self.card, np.float16)}
        self._starts = starts_of(data)

    def empty(self, shape: tuple[int, int]) -> dict[str, np.ndarray]:
        """Arrays [B, T, K] to fill; where no teacher spoke, its first token is certain."""
        arrays = {name: np.zeros((*shape, self.card.top_k), array.dtype) for name, array in self._arrays.items()}
        arrays[LOGPROBS][..., 1:] = _NEVER
        return arrays

    def read(self, conversation: int, count: int) -> dict[str, np.ndarray]:
        """What is said at the first `count` places of one conversation, [count, K] each."""
        start = self._starts[conversation]
        return {name: array[start:start + count] for name, array in self._arrays.items()}


def is_cache(folder: str | os.PathLike) -> bool:
    """Whether a folder is a cache, whole or not, and no model."""
    return any((pathlib.Path(folder) / name).is_file() for name in ("ids.npy", "progress.json"))


def starts_of(data: str | os.PathLike) -> np.ndarray:
    """The number of each conversation's first token, int64 [conversations + 1]; the last entry counts all tokens."""
    lengths = np.load(pathlib.Path(data) / "lengths.npy").astype(np.int64)
    return np.concatenate([[0], np.cumsum(lengths)])


def _mapped(path: pathlib.Path, card: CacheCard, dtype: type) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable part of a teacher's cache ({error}); ask the teacher again") from None
    if array.shape != (card.tokens, card.top_k) or array.dtype != dtype:
        raise UserError(f"{path}: holds {array.dtype}{list(array.shape)}, the card says {np.dtype(dtype)}"
                        f"[{card.tokens}, {card.top_k}]; ask the teacher again")
    return array


class CacheWriter:
    """Makes a cache, batch by batch; what is there of an unfinished one of the same card is kept."""

    def __init__(self, folder: str | os.PathLike, card: CacheCard):
        """Raises UserError when `folder` holds something else."""
        self.folder, self.card = pathlib.Path(folder), card
        self.batches = self._found()        # written already
        kinds = {"ids.npy": np.int32, "logprobs.npy": np.float16}
        self._arrays = [self._open(name, dtype) for name, dtype in kinds.items()]

    def write(self, start: int, ids: np.ndarray, logprobs: np.ndarray) -> None:
        """Puts [count, K] each at the places from `start` on."""
        for array, values in zip(self._arrays, (ids, logprobs), strict=True):
            array[start:start + len(values)] = values

    def commit(self, batches: int) -> None:
        """All of the first `batches` batches is written: it is on disk when this returns."""
        for array in self._arrays:
            array.flush()
        write_json(self.folder / "progress.json", {"card": self.card, "batches": batches})

    def finish(self) -> None:
        """The cache is whole."""
        write_json(self.folder / "card.json", self.card)
        (self.folder / "progress.json").unlink()

    def _found(self) -> int:
        progress = self.folder / "progress.json"
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            self.folder.mkdir(parents=True, exist_ok=True)
            return 0
        if not progress.is_file() or read_object(progress).get("card") != plain(self.card):
            raise UserError(f"--out {self.folder}: holds something else, or the tokens of another teacher, dataset or "
                            "--top-k; choose a new folder")
        return int(read_object(progress)["batches"])

    def _open(self, name: str, dtype: type) -> np.ndarray:
        path, shape = self.folder / name, (self.card.tokens, self.card.top_k)
        if self.batches and path.is_file():
            return np.load(path, mmap_mode="r+")
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
