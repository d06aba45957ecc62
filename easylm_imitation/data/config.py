"""What `build` and the loader take. No heavy imports: training configs embed `LoaderConfig`."""
import dataclasses
from typing import Literal

Format = Literal["conversations", "alpaca", "halueval", "sharegpt", "prompt-completion"]


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One file of raw records: JSONL or one JSON array, either of them gzipped or not."""
    path: str                       # relative to the build's `root`
    format: Format = "conversations"
    dataset: str = ""               # name for records that carry none; "" means the file's stem
    teacher: str = ""               # who wrote the assistant turns, for records that do not say
    limit: int | None = None        # keep at most so many conversations, the file's first

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit {self.limit}: at least 1, or None for all")


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """A dataset to build."""
    name: str
    sources: tuple[SourceConfig, ...]
    tokenizer: str                  # a Hugging Face folder or a tokenizer file
    template: str = "plain"
    root: str = "."                 # folder that the sources' paths start from
    seed: int | None = None         # shuffles the conversations of all sources; None keeps the sources' order
    processes: int | None = None    # None: one a core for large inputs, this process alone for small ones

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty; name at least one file")
        if self.processes is not None and self.processes < 1:
            raise ValueError(f"processes {self.processes}: at least 1")


@dataclasses.dataclass(frozen=True)
class LoaderConfig:
    """How shards become batches. Nothing here needs the shards to be built again."""
    context: int = 1024             # tokens a row
    batch: int = 8                  # global rows a step
    packing: Literal["first_fit", "none"] = "first_fit"
    shuffle: bool = True            # anew each epoch
    too_long: Literal["error", "drop", "truncate"] = "error"    # conversations of more than `context` tokens
    packing_bins: int = 32          # rows open at once; more of them waste less on padding
    holdout: float = 0.0            # share of each dataset's conversations that is validated on and never trained on

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout {self.holdout}: a share of at least 0 and below 1")
        for name, least in (("context", 2), ("batch", 1), ("packing_bins", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)}: at least {least}")
