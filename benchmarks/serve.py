"""Scoring: our packed path beside our own naive path, and beside lm-eval's `hf` backend on a real model.

    python benchmarks/serve.py shapes [--model DIR] [--scale 1]
    python benchmarks/serve.py lm-eval --model DIR --mmlu DIR [--items 60]
    python benchmarks/serve.py load|easylm      (serve_http.py says what these are)

`shapes`: pools of random ids shaped as MMLU (5 examples in common, 4 letters), ARC (5 examples, 4 short answers) and
HellaSwag (a context, 4 long endings). The naive path reads every pair whole, in batches of 2,048 cells, longest first,
each as long as its longest pair, and applies the head to the continuations alone. `lm-eval`: 5-shot MMLU of three
subjects from csv files, and HellaSwag-shaped items cut from MMLU's longest questions; both sides read the same texts,
in float32.
"""
import argparse
import csv
import functools
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np
from measure import report
from serve_http import easylm, load

Pair = tuple[list[int], list[int]]
SUBJECTS = ("astronomy", "anatomy", "global_facts")
LETTERS = "ABCD"


def main() -> None:
    """Measures, prints, appends to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("shapes", "lm-eval", "load", "easylm"))
    parser.add_argument("--model", help="a Hugging Face dir; a random LLaMA of 34M parameters unless given")
    parser.add_argument("--mmlu", type=pathlib.Path, help="a dir with dev/ and test/ of csv files")
    parser.add_argument("--items", type=int, default=60, help="of each subject")
    parser.add_argument("--scale", type=float, default=1.0, help="of the pools' numbers of items")
    parser.add_argument("--batch", type=int, default=8, help="of lm-eval's hf backend")
    parser.add_argument("--requests", type=int, default=40, help="of each offered load")
    args = parser.parse_args()
    {"shapes": shapes, "lm-eval": against_lm_eval, "load": load, "easylm": easylm}[args.what](args)


# ---------------------------------------------------------------- ours


def _engine(path: str | None) -> "tuple":
    """(engine, params in the declared form), float32, context 1024."""
    import jax

    from easylm_imitation.models import LlamaConfig, create
    from easylm_imitation.serve import Engine, ServeConfig
    from easylm_imitation.weights import open_model
    if path:
        loaded = open_model(path)
        config, params = loaded.config, loaded.params
    else:
        config = LlamaConfig(8192, 1024, layers=8, d_model=512, heads=8, d_ff=1376)
        params = create(config).init(jax.random.key(0))
    sizes = ServeConfig(slots=1, context=1024, live_lengths=(1024,), decode_rows=(1,), prefill_chunks=(32,),
                        dtype="float32")
    return Engine(config, params, sizes, stop_ids=[0], vocab_size=config.vocab_size), params


class Clock:
    """Seconds of the wall and of this process's CPU time, which other work on the machine moves less."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._start[0]
        self.cpu += time.process_time() - self._start[1]


def _ours(engine: object, pairs: Sequence[Pair]) -> tuple[list[float], Clock, float]:
    """(sums of log-probabilities, time, useful share of the cells)."""
    from easylm_imitation.serve.pool import Pool
    from easylm_imitation.serve.scoring import pair_segments
    found, pool, clock = [None] * len(pairs), Pool(engine), Clock()
    with clock:
        pool.add(pair_segments(pairs, engine.shapes.context, engine.config.vocab_size, found))
        while pool:
            pool.step()
    return [score.logprob for score in found], clock, pool.tokens / pool.cells


def _naive(config: object, params: dict, pairs: Sequence[Pair], cells: int = 2048) -> tuple[list[float], Clock]:
    """Every pair whole, in a row of its own; compiling is not counted."""
    import jax
    import jax.numpy as jnp

    from easylm_imitation.models import create, unstack
    model, params = create(config), unstack(params)

    @functools.partial(jax.jit, static_argnums=4)
    def run(params: dict, tokens: object, starts: object, targets: object, most: int) -> object:
        places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        hidden = model.hidden(params, tokens, places, dtype=jnp.float32)
        hidden = jnp.take_along_axis(hidden, (starts[:, None] + jnp.arange(most))[..., None], 1, mode="clip")
        logits = model.unembed(params, hidden)
        got = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0] - jax.nn.logsumexp(logits, -1)
        return jnp.where(targets >= 0, got, 0).sum(-1)

    order = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i])))
    batches = []
    while order:
        length = -(-(sum(map(len, pairs[order[0]])) - 1) // 32) * 32
        count = max(1, cells // length)
        batches.append((length, order[:count]))
        order = order[count:]
    out, clock = np.zeros(len(pairs)), Clock()
    compiled = {}
    for length, members in batches:
        most = max(len(pairs[i][1]) for i in members)
        rows = np.zeros((max(1, cells // length), length), np.int32)
        starts, targets = np.zeros(len(rows), np.int32), np.full((len(rows), most), -1, np.int32)
        for r, i in enumerate(members):
            before, after = pairs[i]
            rows[r, :len(before) + len(after) - 1] = [*before, *after[:-1]]
            starts[r], targets[r, :len(after)] = len(before) - 1, after
        key = rows.shape, most
        if key not in compiled:
            compiled[key] = run.lower(params, rows, starts, targets, most).compile()
        with clock:
            out[members] = np.asarray(compiled[key](params, rows, starts, targets))[:len(members)]
    return out.tolist(), clock


# ---------------------------------------------------------------- shapes


def shapes(args: argparse.Namespace) -> None:
    """Random pools, ours and the naive path."""
    engine, params = _engine(args.model)
    rng = np.random.default_rng(0)

    def ids(low: int, high: int) -> list[int]:
        return rng.integers(10, engine.config.vocab_size, rng.integers(low, high)).tolist()

    def few_shot(count: int, examples: tuple[int, int], question: tuple[int, int], answer: tuple[int, int]) -> list:
        pairs, letters = [], [ids(1, 2) for _ in range(4)]
        for _ in range(3):
            shown = ids(*examples)
            for _ in range(max(1, round(count * args.scale))):
                before = [*shown, *ids(*question)]
                pairs += [(before, letters[i] if answer == (1, 2) else ids(*answer)) for i in range(4)]
        return pairs

    pools = {"MMLU, 5-shot": few_shot(20, (400, 700), (40, 140), (1, 2)),
             "ARC, 5-shot": few_shot(20, (250, 350), (20, 60), (3, 12)),
             "HellaSwag": [(before, ids(15, 35)) for before in
                           (ids(60, 130) for _ in range(max(1, round(60 * args.scale)))) for _ in range(4)]}
    rows = []
    for name, pairs in pools.items():
        ours, seconds, useful = _ours(engine, pairs)
        naive, slow = _naive(engine.config, params, pairs)
        rows.append([name, len(pairs), len(pairs) / seconds.wall, len(pairs) / slow.wall, slow.wall / seconds.wall,
                     slow.cpu / seconds.cpu, f"{useful:.1%}",
                     float(np.abs(np.subtract(ours, naive)).max())])
    report("Scoring of shaped pools, float32: packed, and each pair whole",
           ["pool", "pairs", "pairs/s", "naive pairs/s", "ratio", "ratio of CPU time", "useful cells",
            "largest difference"], rows,
           f"Model: {_name(args.model)}. Difference of a pair's log-probability.")


def _name(path: str | None) -> str:
    return pathlib.Path(path).name if path else "a random LLaMA of 34M parameters"


# ---------------------------------------------------------------- lm-eval


def against_lm_eval(args: argparse.Namespace) -> None:
    """The same items by lm-eval's hf backend: torch first, ours after it has let go of its memory."""
    from easylm_imitation.weights import open_model
    encode = open_model(args.model).tokenizer.encode
    tasks = {"MMLU, 5-shot": _mmlu(args.mmlu, args.items), "HellaSwag-shaped": _endings(args.mmlu, args.items)}
    theirs = _by_lm_eval(args.model, tasks, args.batch)
    engine, _ = _engine(args.model)
    rows = []
    for name, items in tasks.items():
        pairs = [_encode(encode, before, after) for before, choices, _ in items for after in choices]
        ours, seconds, useful = _ours(engine, pairs)
        logprobs, slow = theirs[name]
        rows.append([name, len(items), len(items) / seconds.wall, len(items) / slow.wall, slow.wall / seconds.wall,
                     slow.cpu / seconds.cpu, f"{useful:.1%}",
                     _accuracy(items, ours), _accuracy(items, logprobs),
                     float(np.abs(np.subtract(ours, logprobs)).max())])
    report("Scoring beside lm-eval's hf backend, float32",
           ["items", "number", "items/s", "hf items/s", "ratio", "ratio of CPU time", "useful cells", "accuracy",
            "hf accuracy", "largest difference"], rows, f"Model: {_name(args.model)}; hf with batches of {args.batch}.")


def _encode(encode: Callable[[str], list[int]], before: str, after: str) -> Pair:
    """As lm-eval splits a pair."""
    ids = encode(before)
    return ids, encode(before + after)[len(ids):]


def _accuracy(items: Sequence[tuple], logprobs: Sequence[float]) -> float:
    table = iter(logprobs)
    return float(np.mean([int(np.argmax([next(table) for _ in choices])) == gold for _, choices, gold in items]))


def _rows(path: pathlib.Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _mmlu(folder: pathlib.Path, count: int) -> list[tuple[str, list[str], int]]:
    """(prompt, choices, gold) in the form of lm-eval's own task."""
    items = []
    for subject in SUBJECTS:
        head = "The following are multiple choice questions (with answers) about " + subject.replace("_", " ") + ".\n\n"
        shown = "".join(f"{_question(row)} {LETTERS[int(row['answer'])]}\n\n"
                        for row in _rows(folder / "dev" / f"{subject}_dev.csv")[:5])
        items += [(head + shown + _question(row), [f" {letter}" for letter in LETTERS], int(row["answer"]))
                  for row in _rows(folder / "test" / f"{subject}_test.csv")[:count]]
    return items


def _question(row: dict) -> str:
    choices = "".join(f"\n{letter}. {row[f'choice{i}']}" for i, letter in enumerate(LETTERS))
    return f"{row['question'].strip()}{choices}\nAnswer:"


def _endings(folder: pathlib.Path, count: int) -> list[tuple[str, list[str], int]]:
    """A passage of about 96 tokens and four endings of about 24, the first of them its own."""
    passages = [row["question"].split() for row in _rows(folder / "test" / "high_school_us_history_test.csv")]
    passages = [words for words in passages if len(words) >= 90][:count]
    cut = [(" ".join(words[:70]), " " + " ".join(words[70:88])) for words in passages]
    return [(before, [cut[(i + j) % len(cut)][1] for j in range(4)], 0) for i, (before, _) in enumerate(cut)]


def _by_lm_eval(path: str, tasks: dict[str, list], batch: int) -> dict[str, tuple[list[float], Clock]]:
    """Task -> (log-probabilities, time)."""
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    torch.set_grad_enabled(False)
    model = HFLM(pretrained=path, dtype="float32", device="cpu", batch_size=batch)
    found = {}
    for name, items in tasks.items():
        requests = [Instance("loglikelihood", {}, (before, after), i)
                    for i, (before, choices, _) in enumerate(items) for after in choices]
        clock = Clock()
        with clock:
            values = [value for value, _ in model.loglikelihood(requests)]
        found[name] = values, clock
    return found


if __name__ == "__main__":
    main()
