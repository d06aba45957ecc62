"""The way of real conversations into batches: tokenize + mask + pack beside the bare tokenizer, the loader alone, and
what a training step waits for it.

    python benchmarks/data.py --data DIR [--seconds 20]

DIR holds gpteacher/, codealpaca_2k/, lima/, oasst_samples/, halueval_general/ and tokenizers/gpt2_hf_json/. The bare
tokenizer gets all texts of the conversations, messages as they are, in one `encode_batch_fast` on all cores, a Rust
call that does nothing else. Ours gets the raw records: parses, converts, checks, tokenizes turn by turn with weights,
and plans packed rows of them all. Each is timed alone, `--repeats` times, the two in turn; the best counts.
"""
import argparse
import dataclasses
import os
import pathlib
import tempfile
import time

import numpy as np
from measure import report

from easylm_imitation import console
from easylm_imitation.data import BuildConfig, LoaderConfig, SourceConfig, build_dataset, open_loader
from easylm_imitation.data.files import dataset_of, find
from easylm_imitation.data.packing import best_fit
from easylm_imitation.data.pool import processes
from easylm_imitation.text import get_template, load_tokenizer

SOURCES = (("gpteacher/*/*.json.gz", "alpaca"), ("codealpaca_2k/code_alpaca_2k.json.gz", "code-alpaca"),
           ("lima/lima.json.gz", "alpaca"), ("halueval_general/*.jsonl.gz", "halueval"),
           ("oasst_samples/model/model_eval/manual/data/en_100_tree.jsonl.gz", "oasst1"))
CONTEXT = 2048
_BARE = "tokenizers, encode_batch_fast"
MODEL = {"family": "llama", "layers": 4, "d_model": 256, "heads": 4, "d_ff": 688, "vocab_size": 50264}


def main() -> None:
    """Measures, prints, appends to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--copies", type=int, default=4, help="how often the files are read, as that many datasets")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="of training")
    parser.add_argument("--seconds", type=float, default=20.0, help="of loading")
    args = parser.parse_args()
    tokenizer = pathlib.Path(args.data) / "tokenizers" / "gpt2_hf_json" / "gpt2.json"
    sources = tuple(SourceConfig(path, form, dataset=f"{form}{copy}") for copy in range(args.copies)
                    for path, form in SOURCES)
    config = BuildConfig("bench", sources, str(tokenizer), root=args.data, template="tulu")
    rows, note = tokenizing(config, args.repeats)
    report("Tokenize, mask and pack, beside the bare tokenizer",
           ["who", "processes or threads", "seconds", "million tokens/s", "of the bare tokenizer's speed",
            "CPU seconds", "of its tokens a CPU second"], rows, note)
    with tempfile.TemporaryDirectory() as folder:
        with console.quiet():
            build_dataset(dataclasses.replace(config, seed=0), f"{folder}/data")
        report("Loader, from shards", ["packing", "batch", "context", "batches", "million tokens/s", "slots filled",
                                       "CPU seconds"], loading(f"{folder}/data", args.seconds))
        report("What a training step on a CPU waits for its batch", ["rows", "context", "steps", "seconds a step",
                                                                     "of these waited", "share"],
               [waiting(f"{folder}/data", pathlib.Path(folder) / "run", args.steps)],
               "A LLaMA of 29M parameters, all cores; the reader's thread shares them. The first three steps are left "
               "out.")


def tokenizing(config: BuildConfig, repeats: int) -> tuple[list[list[object]], str]:
    """(rows of the table, a note): the bare tokenizer and ours, by one process and by one a core."""
    tokenizer = load_tokenizer(config.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        files = find(config, pathlib.Path(folder))
        tokenizer.save(f"{folder}/tokenizer")
        texts = texts_of(config, files)
        cores = os.cpu_count() or 1
        counts: dict[str, int] = {}

        def bare() -> None:
            backend = tokenizer._literal
            counts["bare"] = sum(len(found) for found in backend.encode_batch_fast(texts, add_special_tokens=False))

        def read() -> None:
            backend = tokenizer._literal
            made = [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]
            counts["read"] = sum(map(len, made))

        def ours(count: int) -> None:
            lengths = list(tokenized(dataclasses.replace(config, processes=count), files, tokenizer, folder))
            best_fit(np.asarray(lengths), np.arange(len(lengths)), CONTEXT * 4, 32)
            counts["ours"] = sum(lengths)
        runs = {(_BARE, cores): bare, ("the same, its ids read out as lists", cores): read,
                ("ours", 1): lambda: ours(1),
                ("ours", cores): lambda: ours(cores)}
        best = best_in_turn(runs, repeats)
    rows, reference = [], counts["bare"] / best[_BARE, cores]
    for (who, count), spent in best.items():
        speed = counts["ours" if who == "ours" else "bare"] / spent
        (seconds, cpu), (of_time, of_cpu) = spent.tolist(), (speed / reference).tolist()
        rows.append([who, count, seconds, float(speed[0]) / 1e6, of_time, cpu, of_cpu])
    return rows, (f"{len(texts)} texts, {counts['bare']} tokens; ours has {counts['ours']} with the template's. Ours "
                  "reads and parses the gzipped files, the bare tokenizer is handed its texts. Starting processes "
                  "counts.")


def best_in_turn(runs: dict, repeats: int) -> dict:
    """(seconds, CPU seconds), the least of `repeats` runs of each, made in turn so that all meet the same machine."""
    best: dict = {}
    for _ in range(repeats):
        for name, run in runs.items():
            start, cpu = time.perf_counter(), sum(os.times()[:4])       # of ended processes too
            run()
            spent = np.array([time.perf_counter() - start, sum(os.times()[:4]) - cpu])
            best[name] = np.minimum(best.get(name, np.inf), spent)
    return best


def texts_of(config: BuildConfig, files: list) -> list[str]:
    """The contents of all messages of all conversations."""
    from easylm_imitation.data.convert import Reader
    from easylm_imitation.data.sources import iter_records
    texts = []
    for source, found in zip(config.sources, files, strict=True):
        reader = Reader(source, source.dataset)
        for path in found.paths:
            for record in iter_records(path):
                for conversation in reader.conversations(record.parse(), record.number):
                    texts += [message.content for message in getattr(conversation, "messages", ())]
    return texts


def tokenized(config: BuildConfig, files: list, tokenizer: object, folder: str):
    """The lengths of all examples."""
    datasets = [dataset_of(source, found) for source, found in zip(config.sources, files, strict=True)]
    template = get_template(config.template, tokenizer)
    with processes(config, files, datasets, tokenizer, pathlib.Path(folder) / "tokenizer", template) as made:
        for i in range(len(files)):
            for _, _, outcomes in made(i):
                yield from (len(outcome.example.tokens) for outcome in outcomes if outcome.example is not None)


def loading(folder: str, seconds: float) -> list[list[object]]:
    """Rows of the table: the loader alone, nothing done with its batches."""
    rows = []
    for packing, context, batch in (("best_fit", CONTEXT, 32), ("best_fit", CONTEXT, 8), ("first_fit", CONTEXT, 32),
                                    ("none", CONTEXT, 32)):
        loader = open_loader(folder, LoaderConfig(context, batch, packing, too_long="truncate"), seed=0, epochs=None)
        next(loader)
        batches = filled = 0
        start, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - start < seconds:
            filled += np.count_nonzero(next(loader)["segment_ids"])
            batches += 1
        passed, cpu = time.perf_counter() - start, time.process_time() - cpu
        rows.append([packing, batch, context, batches, filled / passed / 1e6, filled / (batches * batch * context),
                     cpu])
    return rows


def waiting(folder: str, run: pathlib.Path, steps: int) -> list[object]:
    """A row of the table: the time that `train` spends in `next(loader)`, which is all that it can wait for."""
    from easylm_imitation.data import Loader
    from easylm_imitation.train import TrainConfig, train
    data = LoaderConfig(512, 8, too_long="truncate")
    config = TrainConfig(model={**MODEL, "context": data.context}, steps=steps, data=data, compute_dtype="float32",
                         checkpoint_every=10**9, log_every=10)
    calls, plain = [], Loader.__next__

    def timed(loader: Loader) -> dict:
        start = time.perf_counter()
        batch = plain(loader)
        calls.append((start, time.perf_counter()))
        return batch
    Loader.__next__ = timed
    try:
        train(config, data_dir=folder, workdir=run)
    finally:
        Loader.__next__ = plain
    calls = calls[3:]
    passed, waited = calls[-1][0] - calls[0][0], sum(end - start for start, end in calls[:-1])
    each = len(calls) - 1
    return [data.batch, data.context, each, passed / each, waited / each, waited / passed]


if __name__ == "__main__":
    main()
