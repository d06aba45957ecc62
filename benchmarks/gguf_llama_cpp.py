"""Our GGUF files in llama.cpp: the same ids, the same likeliest tokens, and what q4_0 costs beside llama.cpp's own.

    python benchmarks/gguf_llama_cpp.py --data DATA --model HF_DIR --folder DIR --rows 6

DATA is built with the model's tokenizer; DIR takes the files (3 GB for half a billion weights) and keeps them. Text is
held-out conversations, as benchmarks/quantised.py has them. What all are compared with is our bfloat16, weights and
arithmetic; our float32 stands beside it, which says how much of a difference is bfloat16's own.
"""
import argparse
import ctypes
import json
import os
import pathlib
import time

import jax.numpy as jnp
import numpy as np
from measure import report
from quantised import Measured, counted, measured, rows_of

from easylm_imitation.data import LoaderConfig
from easylm_imitation.weights import describe, export_gguf, open_model

TYPES = ("f16", "q8_0", "q4_0")


def opened(file, context, threads=2):
    """llama.cpp with a file, ready to say its logits at every place."""
    import llama_cpp
    return llama_cpp.Llama(str(file), n_ctx=context, n_batch=context, n_ubatch=context, n_threads=threads,
                           n_threads_batch=threads, logits_all=True, verbose=False)


def logits_of(llama, tokens):
    """float32 [T, V] behind each of `tokens`, teacher-forced."""
    llama.reset()
    llama.eval([int(token) for token in tokens])
    return llama.scores[:len(tokens)]


def of_llama_cpp(file, rows):
    """`Measured` of llama.cpp; each conversation of a row is read by itself."""
    llama, start, found = opened(file, rows[0]["tokens"].shape[1]), time.monotonic(), []
    for tokens in conversations(rows):
        logits = logits_of(llama, tokens)[:-1].astype(np.float64)
        two = np.partition(logits, -2, axis=-1)[:, -2:]
        nll = np.log(np.sum(np.exp(logits - two[:, 1:]), axis=-1)) + two[:, 1]
        found.append((nll - np.take_along_axis(logits, tokens[1:, None], axis=-1)[:, 0], np.argmax(logits, axis=-1),
                      two[:, 1] - two[:, 0]))
    nll, best, margin = map(np.concatenate, zip(*found))
    return Measured(os.path.getsize(file), float(np.mean(nll)), best, margin, time.monotonic() - start)


def conversations(rows):
    """The tokens of each conversation in turn, in the order of `counted`."""
    for batch in rows:
        for tokens, segments in zip(batch["tokens"], batch["segment_ids"]):
            for segment in range(1, segments.max(initial=0) + 1):
                yield np.asarray(tokens[segments == segment])


def same_ids(file, tokenizer, rows):
    """Of how many conversations llama.cpp's tokenizer gives our ids; of how many."""
    llama = opened(file, 64)
    texts = [tokenizer.decode(tokens, skip_special=False) for tokens in conversations(rows)]
    theirs = [llama.tokenize(text.encode(), add_bos=False, special=True) for text in texts]
    return sum(ids == tokenizer.encode(text, parse_special=True) for ids, text in zip(theirs, texts)), len(texts)


def quantise_there(source, target):
    """llama.cpp's own q4_0 of a file."""
    import llama_cpp
    asked = llama_cpp.llama_model_quantize_default_params()
    asked.ftype, asked.nthread = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, 2
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(asked)):
        raise RuntimeError(f"llama.cpp could not quantise {source}")


def check_whose(note, model):
    """Notes whose files a folder holds, once; ends the program where they are another model's."""
    if not note.exists():
        if list(note.parent.glob("*.gguf")):
            raise SystemExit(f"{note.parent}: GGUF files and no {note.name} that says whose; name another --folder")
        note.write_text(json.dumps({"id": model}))
    if json.loads(note.read_text()) != {"id": model}:
        raise SystemExit(f"{note.parent}: its files are another model's; name another --folder")


def write(model, folder):
    """{type: file}: ours of each type, and "q4_0 of llama.cpp"; those that are there stay, if they are this model's."""
    check_whose(folder / "model.json", describe(model)[1].id)
    files = {kind: folder / f"{kind}.gguf" for kind in TYPES}
    loaded = None
    for kind, file in files.items():
        if not file.exists():
            loaded = loaded or open_model(model, dtype=jnp.float32)
            export_gguf(file, loaded.config, loaded.params, loaded.tokenizer, loaded.template, loaded.lineage, kind)
    theirs = folder / "theirs_q4_0.gguf"
    if not theirs.exists():
        quantise_there(files["f16"], theirs)
    return files | {"q4_0 of llama.cpp": theirs}


def line(name, found, first, second):
    """A row of the table."""
    apart = found.best != first.best
    return [name, found.size / 1e6, float(np.exp(found.loss)), f"{np.expm1(found.loss - first.loss):+.2%}",
            f"{1 - np.mean(apart):.2%}", f"{np.mean(found.best == second.best):.2%}",
            float(np.median(first.margin[apart])) if apart.any() else 0.0]


def main():
    """Writes the files, measures each, prints and keeps the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--context", type=int, default=448)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    config = LoaderConfig(context=args.context, batch=2, holdout=0.02, too_long="truncate", shuffle=False)
    rows = rows_of(args.data, config, args.rows)
    files = write(args.model, args.folder)
    ids = same_ids(files["f16"], open_model(args.model, dtype=jnp.bfloat16).tokenizer, rows)
    places = f"{sum(int(counted(batch).sum()) for batch in rows):,} places of held-out conversations"
    same = f"llama.cpp's tokenizer gives our ids for {ids[0]} of {ids[1]} of them"
    print(f"{places}; {same}", flush=True)
    first, second = measured(args.model, rows, jnp.bfloat16), measured(args.model, rows)
    table = [line("ours, bfloat16", first, first, second), line("ours, float32", second, first, second)]
    for name, file in files.items():
        table.append(line(f"llama.cpp, {name}", of_llama_cpp(file, rows), first, second))
        print(table[-1], flush=True)
    report("GGUF files in llama.cpp", ["model", "MB", "perplexity", "change", "same likeliest token",
                                       "as our float32's", "median margin where not"], table,
           f"{places}; {same}. Change and likeliest token are against our bfloat16; the margin is that of its two "
           "likeliest tokens' logits.")


if __name__ == "__main__":
    main()
