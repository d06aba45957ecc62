"""What rounding costs: perplexity on held-out conversations, and how often the likeliest next token stays the same.
benchmarks/gguf_llama_cpp.py asks llama.cpp the same.

    python benchmarks/quantised.py --data DATA --models BASE BASE:int8 BASE:int4 RUN FILE.gguf

The first model is what the others are compared with. BITS behind a colon pack its weights as `serve --quantize` does.
Arithmetic is float32 throughout, so differences are those of the weights; sizes count what is not packed as bfloat16,
but a GGUF file's own.
"""
import argparse
import itertools
import os
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from measure import report

from easylm_imitation.data import LoaderConfig, held_out_datasets, open_loader
from easylm_imitation.models import Quantised, create
from easylm_imitation.weights import open_model, quantised


def rows_of(data, config, count):
    """`count` rows of held-out conversations, of all datasets in turn."""
    loaders = [open_loader(data, config, seed=0, epochs=1, rows=slice(0, config.batch), held_out=name)
               for name in held_out_datasets(data, config)]
    return [batch for batches in itertools.zip_longest(*loaders) for batch in batches if batch][:count // config.batch]


class Measured(NamedTuple):
    """What one model says of the rows, place by place, in the rows' order."""
    size: int                   # bytes
    loss: float                 # mean
    best: np.ndarray            # the likeliest tokens
    margin: np.ndarray          # by how much their logits are above the next ones
    seconds: float


def measured(name, rows, dtype=jnp.float32):
    """Runs one model with arithmetic in `dtype`."""
    path, _, bits = name.rpartition(":") if name.endswith((":int8", ":int4")) else (name, "", "none")
    loaded = open_model(path, dtype=jnp.bfloat16 if os.path.isdir(path) else jnp.float32)
    model = create(loaded.config)
    few = quantised(loaded.params, bits)
    size = os.path.getsize(path) if os.path.isfile(path) else sum(map(bytes_of, jax.tree.leaves(
        few, is_leaf=lambda leaf: isinstance(leaf, Quantised))))

    @jax.jit
    def run(params, batch):
        hidden = model.hidden(params, batch["tokens"], batch["positions"], batch["segment_ids"], dtype=dtype)
        logits = model.unembed(params, hidden[:, :-1])
        picked = jnp.take_along_axis(logits, batch["tokens"][:, 1:][..., None], axis=-1)[..., 0]
        best = jnp.argmax(logits, axis=-1)      # no top_k: for it XLA sorts the vocabulary on a CPU
        others = jnp.where(jnp.arange(logits.shape[-1]) == best[..., None], -jnp.inf, logits)
        return jax.nn.logsumexp(logits, axis=-1) - picked, best, jnp.max(logits, axis=-1) - jnp.max(others, axis=-1)

    start, found = time.monotonic(), []
    for batch in rows:
        said = run(few, {key: jnp.asarray(value) for key, value in batch.items()})
        found.append([np.asarray(part)[counted(batch)] for part in said])
    nll, best, margin = map(np.concatenate, zip(*found))
    return Measured(size, float(np.mean(nll, dtype=np.float64)), best, margin, time.monotonic() - start)


def counted(batch):
    """Places [B, T - 1] whose next token belongs to the same conversation."""
    segments = np.asarray(batch["segment_ids"])
    return (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)


def bytes_of(leaf):
    """Of a packed kernel its own, of all else two a number."""
    return sum(part.nbytes for part in jax.tree.leaves(leaf)) if isinstance(leaf, Quantised) else 2 * leaf.size


def main():
    """Measures each model in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--holdout", type=float, default=0.02)
    args = parser.parse_args()
    config = LoaderConfig(context=args.context, batch=2, holdout=args.holdout, too_long="truncate", shuffle=False)
    rows = rows_of(args.data, config, args.rows)
    table, first = [], None
    for name in args.models:
        found = measured(name, rows)
        first = first or found
        shown = os.path.basename(name.rstrip("/"))
        table.append([shown, found.size / 1e6, found.size / first.size, found.loss, float(np.exp(found.loss)),
                      f"{np.expm1(found.loss - first.loss):+.2%}", f"{np.mean(found.best == first.best):.2%}"])
        print(shown, f"{found.seconds:.0f} s", table[-1], flush=True)
    report("Perplexity of weights in fewer bits", ["model", "MB", "of the first", "loss", "perplexity", "change",
                                                   "same likeliest token"], table,
           f"{len(first.best):,} places of held-out conversations, rows of {args.context} tokens.")


if __name__ == "__main__":
    main()
