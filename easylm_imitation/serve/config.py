"""How a server is sized: what the user may set (`ServeConfig`), and the list of program shapes that follows (`Shapes`).

Every shape that will ever run is in `Shapes`, and every shape in it is compiled before the server says ready. Few and
geometric: a tiny model gets four programs, a large one about ten.
"""
import dataclasses
from typing import Literal

from easylm_imitation.client import base_url
from easylm_imitation.schema import UserError

DEFAULT_CONTEXT = 2048      # tokens a slot when the model could hold more and nothing was asked for
TOP_SCORED = 5              # alternatives kept per scored position (OpenAI's cap for completions)
TOP_SAMPLED = 20            # alternatives kept per generated token (OpenAI's cap for chat)
MAX_STOP_IDS = 16           # end-of-answer ids that the device checks
ROW = 512                   # cells of a row to score
SMALL = 50_000_000          # parameters below which a padded row costs less than another program


def _at_least_1(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one client may ask for; beyond each limit stands a 4xx answer that names it."""
    queue: int = 512                # unfinished answers and scoring requests in the server; more gets 429
    prompts: int = 256              # prompts in one request
    samples: int = 16               # `n`
    stops: int = 32                 # stop strings (OpenAI allows 4; lm-eval sends more)
    stop_characters: int = 256      # of one stop string
    pairs: int = 8192               # pairs in one scoring request
    characters: int = 1 << 20       # of one text: turning it into tokens takes a second or two
    grammar_characters: int = 1 << 16   # of a JSON schema, regex, grammar, or all choices together
    body_bytes: int = 16 << 20
    request_seconds: float = 3600.0     # what a request may take, the wait for its turn included
    keepalive_seconds: float = 15.0     # silence on a stream after which a comment is sent
    drain_seconds: float = 30.0         # what running requests get when the server is told to stop

    def __post_init__(self):
        for name in ("queue", "prompts", "samples", "stops", "stop_characters", "pairs", "characters",
                     "grammar_characters", "body_bytes"):
            _at_least_1(f"limits.{name}", getattr(self, name))
        for name in ("keepalive_seconds", "request_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"limits.{name} is {getattr(self, name)}; it must be more than 0")
        if not self.drain_seconds >= 0:
            raise ValueError(f"limits.drain_seconds is {self.drain_seconds}; it must be 0 or more")


@dataclasses.dataclass(frozen=True)
class BesideConfig:
    """A second server, for the chat page's two columns; url "" means there is none."""
    url: str = ""       # as in --beside
    model: str = ""     # "" takes the one model that is served there
    api_key_env: str = "EASYLM_IMITATION_BESIDE_API_KEY"    # environment variable that holds that server's key

    def __post_init__(self):
        if self.url:
            base_url(self.url)


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """Size and habits of a server. Empty tuples and "auto" are resolved from the model and the device by `shapes`."""
    slots: int = 16                             # answers generated side by side
    context: int | None = None                  # tokens of prompt and answer; None: the model's, at most 2048
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"          # auto: float32 on CPU, bfloat16 elsewhere
    quantize: Literal["none", "int8", "int4"] = "none"      # weights in fewer bits, multiplied in `dtype`
    layers: Literal["auto", "stacked", "unstacked"] = "auto"        # auto: unstacked on one CPU device
    mesh: str = ""                              # devices, as in "data:2,tensor:4"; "": one
    prefill_chunks: tuple[int, ...] = ()        # tokens of a prompt read in one go
    live_lengths: tuple[int, ...] = ()          # lengths of cache that a decode step may read
    decode_rows: tuple[int, ...] = ()           # answers a decode step works on; (): all (on CPU 1 and 4 too, if large)
    score_lengths: tuple[int, ...] = ()         # row lengths for scoring; longer texts are read in pieces
    score_tokens: int | None = None             # tokens a group of devices scores in one go; None: by model and device
    prefixes: int = 4                           # common beginnings of scored texts that are kept; each costs one slot
    decode_steps: int = 8                       # at most, between two looks at the queue; 1 while somebody streams
    api_key_env: str = "EASYLM_IMITATION_API_KEY"   # environment variable that holds the key; unset or empty: no key
    limits: Limits = Limits()
    beside: BesideConfig = BesideConfig()

    def __post_init__(self):
        for name in ("slots", "context", "score_tokens", "prefixes", "decode_steps"):
            if getattr(self, name) is not None:
                _at_least_1(name, getattr(self, name))
        for name in ("prefill_chunks", "live_lengths", "decode_rows", "score_lengths"):
            for size in getattr(self, name):
                _at_least_1(name, size)

    def dtype_on(self, platform: str) -> str:
        """The dtype of weights and cache on a platform ("cpu", "gpu", "tpu")."""
        return {"auto": "float32" if platform == "cpu" else "bfloat16"}.get(self.dtype, self.dtype)

    def unstacked_on(self, platform: str, devices: int) -> bool:
        """Whether layers are apart on so many devices of a platform."""
        return platform == "cpu" and devices == 1 if self.layers == "auto" else self.layers == "unstacked"


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Every program of an engine, as (rows, tokens) pairs. Hashable: a key under which compiled programs are shared."""
    slots: int
    context: int
    steps: int
    prefill: tuple[tuple[int, int], ...]    # (prompts, chunk)
    decode: tuple[tuple[int, int], ...]     # (slots, live cache length), both ascending
    read: tuple[int, ...]                   # pieces in which a beginning that texts share is read, ascending
    score: tuple[tuple[int, int], ...]      # (rows, row length), by ascending area
    prefixes: int
    head_chunk: int                         # positions whose logits exist at a time while scoring

    def count(self) -> int:
        """How many programs there are to compile."""
        return len(self.prefill) + 1 + len(self.decode) + len(self.read) + len(self.score)      # 1: copy


def shapes(config: ServeConfig, *, model_context: int, vocab_size: int, parameters: int, platform: str,
           ways: int = 1) -> Shapes:
    """The shapes for one model on a platform ("cpu", "gpu", "tpu"), whose slots, and rows of texts to score, are spread
    over `ways` groups of devices. Raises UserError where the config cannot be met.
    """
    if ways > 1 and config.decode_rows not in ((), (config.slots,)):
        raise UserError(f"decode_rows {config.decode_rows}: slots that are spread over {ways} groups of devices are "
                        "advanced all at a time; leave decode_rows out")
    context = config.context or min(model_context, DEFAULT_CONTEXT)
    check_context(context, model_context)
    small = parameters < SMALL
    lengths = _score_lengths(config, context)
    budget = config.score_tokens or (8192 if platform != "cpu" else 2048 if small else 512)
    return Shapes(
        slots=config.slots, context=context, steps=config.decode_steps,
        prefill=_prefill(config, context, small),
        # A row more costs a CPU time, an accelerator nothing: it waits for the weights.
        decode=_decode(config, context, _few(config.slots) if platform == "cpu" and not small and ways == 1 else ()),
        read=_read(lengths[-1]), score=_score(lengths, budget, ways), prefixes=config.prefixes,
        head_chunk=max(16, min(512, (1 << 24) // vocab_size)))   # at most 64 MB of float32 logits


def check_context(context: int, model_context: int) -> None:
    """Raises UserError for a context that a model does not hold."""
    if context > model_context:
        raise UserError(f"context {context}: the model holds {model_context} tokens; set context to at most that")


def _ladder(smallest: int, largest: int, factor: int) -> tuple[int, ...]:
    """`largest`, divided by `factor` while that stays at or above `smallest`; ascending."""
    steps = [largest]
    while steps[-1] // factor >= smallest:
        steps.append(steps[-1] // factor)
    return tuple(reversed(steps))


def _within(sizes: tuple[int, ...], largest: int, name: str) -> tuple[int, ...]:
    """`sizes` ascending, with `largest` (the context, or the slots) at the end."""
    if min(sizes) < 1 or max(sizes) > largest:
        raise UserError(f"{name} {sizes}: each must lie between 1 and {largest}")
    return tuple(sorted({*sizes, largest}))


def _prefill(config: ServeConfig, context: int, small: bool) -> tuple[tuple[int, int], ...]:
    chunks = config.prefill_chunks or tuple(sorted({min(32, context), min(256, context)}))
    if min(chunks) < 1 or max(chunks) > context:
        raise UserError(f"prefill_chunks {chunks}: each must lie between 1 and the context of {context}")
    group = min(8, config.slots)
    if small and context <= 256 and not config.prefill_chunks:
        return ((group, chunks[0]),)
    return tuple(sorted({(1, chunk) for chunk in chunks} | {(group, min(chunks))}, key=lambda s: s[0] * s[1]))


def _few(slots: int) -> tuple[int, ...]:
    return tuple(rows for rows in (1, 4) if rows < slots)


def _decode(config: ServeConfig, context: int, rows: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    live = _within(config.live_lengths or _ladder(256, context, 4), context, "live_lengths")
    rows = _within(config.decode_rows or rows or (config.slots,), config.slots, "decode_rows")
    return tuple((row, length) for row in rows for length in live)


def _score_lengths(config: ServeConfig, context: int) -> tuple[int, ...]:
    row = min(context, ROW)
    lengths = config.score_lengths or ((64, row) if row == ROW else (row,))
    if min(lengths) < 1 or max(lengths) > context:
        raise UserError(f"score_lengths {lengths}: each must lie between 1 and the context of {context}")
    return tuple(sorted(set(lengths)))


def _read(row: int) -> tuple[int, ...]:
    """Small pieces fit any beginning, a whole row is read fast."""
    return tuple(size for size in (16, 64, ROW) if size == 16 or 4 * size <= row or size == row)


def _score(lengths: tuple[int, ...], budget: int, ways: int) -> tuple[tuple[int, int], ...]:
    """Full rows, as many for each of `ways` groups of devices, and less of them for what comes alone."""
    row = lengths[-1]
    shapes = {(ways * max(1, budget // row), row), *((1, length) for length in lengths)}
    return tuple(sorted(shapes, key=lambda shape: shape[0] * shape[1]))
