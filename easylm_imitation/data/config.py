"""What `build` and the loader take. No heavy imports: training configs embed `LoaderConfig`."""
import dataclasses
import re
from typing import Any, Literal

from easylm_imitation.data.clean import steps_of, whole_steps
from easylm_imitation.data.formats import FORMATS
from easylm_imitation.data.rules import check_like
from easylm_imitation.schema import UserError, arguments, named

CleanRule = str | dict[str, Any]
"""A rule's name, or {"rule": name} with its options beside."""


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One file of raw records, or several as a pattern: JSONL, a JSON array, tab-separated lines or Parquet; plain,
    gzip or zstd."""
    path: str                       # relative to the build's `root`, or a URL that fsspec reads; may have * and ?
    format: str = "conversations"   # a name of data.formats.FORMATS
    dataset: str = ""               # name for records that carry none; "" means the file's stem
    teacher: str = ""               # who wrote the assistant turns, for records that do not say
    limit: int | None = None        # keep at most so many conversations, the file's first
    options: dict[str, Any] = dataclasses.field(default_factory=dict)     # of the format
    clean: tuple[CleanRule, ...] = ()   # rules for this source, before the build's own
    sample: int | None = None       # so many of its conversations, drawn by the build's seed; all, if fewer
    cap: int | None = None          # of these, drawn in the same way, at most so many tokens
    weight: float = 1.0             # how often each is in the dataset; 2.5: twice, and once more for a drawn half
    skip: str | None = None         # pattern of names of files to pass over; None: the format's own
    licence: str = ""               # goes to the data card, as does
    terms: str = ""                 # what the teacher's terms say about its outputs
    origin: str = ""                # where the file is to be had; named when it is missing

    def __post_init__(self) -> None:
        for name in ("limit", "sample", "cap"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: at least 1, or None for all")
        if not self.weight > 0:
            raise ValueError(f"weight {self.weight}: above 0")
        try:
            form = named(self.format, FORMATS, "format")
            check_like(arguments(form.rows, self.options, "options"), form.alone, "options")
            if whole_steps(steps_of(self.clean)):
                raise UserError("clean: a rule that looks at all conversations at once belongs to the build's own")
        except UserError as error:
            raise ValueError(f"source '{self.path}': {error}") from None

    @property
    def drawn(self) -> bool:
        """Whether chance decides what of it is taken."""
        return self.sample is not None or self.cap is not None or self.weight != 1


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
    clean: tuple[CleanRule, ...] = ()   # rules for every source, in this order
    order: Literal["mixed", "sources"] = "mixed"    # "sources": one after the other (a curriculum), each shuffled
    budget: str | int | None = None     # tokens, "20M" or a number: the longest beginning of that order that fits

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty; name at least one file")
        if self.processes is not None and self.processes < 1:
            raise ValueError(f"processes {self.processes}: at least 1")
        if self.budget is not None and tokens_of(self.budget) < 1:
            raise ValueError(f"budget {self.budget}: at least 1 token, or None for all")
        if self.seed is None and (self.budget is not None or any(source.drawn for source in self.sources)):
            raise ValueError("a budget, and a source's sample, cap or weight, are drawn by chance: set seed")
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"seed {self.seed}: at least 0")
        try:
            steps_of(self.clean)
        except UserError as error:
            raise ValueError(str(error)) from None


def tokens_of(budget: str | int) -> int:
    """A budget as a number of tokens: 300000, "300000", "0.3M", "20M", "1B". Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", str(budget))
    if not found:
        raise ValueError(f"budget '{budget}': a number of tokens such as 300000, 0.3M or 20M")
    return round(float(found.group(1)) * {"": 1, "K": 1e3, "M": 1e6, "B": 1e9}[found.group(2)])


TooLong = Literal["error", "drop", "truncate", "truncate-left"]
"""What becomes of a conversation of more tokens than the context: nothing goes, it is left out, the context's first
tokens stay, or its last ones."""


@dataclasses.dataclass(frozen=True)
class LoaderConfig:
    """How shards become batches. Nothing here needs the shards to be built again."""
    context: int = 1024             # tokens a row
    batch: int = 8                  # global rows a step
    packing: Literal["best_fit", "first_fit", "none"] = "best_fit"
    shuffle: bool = True            # anew each epoch
    too_long: TooLong = "error"     # conversations of more than `context` tokens
    packing_bins: int = 32          # rows open at once; more of them waste less on padding
    holdout: float = 0.0            # share of each dataset's conversations that is validated on and never trained on

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout {self.holdout}: a share of at least 0 and below 1")
        for name, least in (("context", 2), ("batch", 1), ("packing_bins", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)}: at least {least}")
