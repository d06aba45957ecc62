"""`logits`: a local teacher's best tokens at every place of a dataset, for `train --teacher`."""
import argparse
import dataclasses
from typing import Any

HELP = "ask a local teacher for its likeliest tokens at every place of a dataset, to distil from"
EXAMPLE = "easylm-imitation logits --model TEACHER --data DATA --top-k 32 --out CACHE"
INTERRUPTED = "what the teacher said is kept, and the same command continues"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    parser.add_argument("--model", metavar="X", required=True, help="the teacher: a run dir or a Hugging Face dir")
    parser.add_argument("--data", metavar="DIR", required=True, help="a dataset written by `build`, in its tokenizer")
    parser.add_argument("--out", metavar="CACHE", required=True, help="a new folder, or an unfinished one of the same")
    parser.add_argument("--top-k", metavar="K", type=int, default=32, help="tokens kept at each place (default: 32)")
    parser.add_argument("--context", metavar="T", type=int,
                        help="tokens of a conversation that are covered (default: all of the longest)")
    parser.add_argument("--batch", metavar="B", type=int, default=8, help="rows at a time (default: 8)")
    parser.add_argument("--mesh", metavar="AXES", default="fsdp:-1", help="devices (default: fsdp:-1)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16",
                        help="of the teacher's arithmetic (default: bfloat16)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the cache; returns its card."""
    import jax.numpy as jnp

    from easylm_imitation import console
    from easylm_imitation.train.best_tokens import cache_best_tokens

    card = cache_best_tokens(args.model, args.data, args.out, top_k=args.top_k, batch=args.batch, context=args.context,
                             mesh=args.mesh, dtype=jnp.dtype(args.dtype))
    megabytes = card.tokens * card.top_k * 6 / 1e6
    console.say(f"{args.out}: the {card.top_k} likeliest tokens of {card.teacher.label} at {card.tokens:,} places, "
                f"{megabytes:,.1f} MB")
    return {"out": args.out, **dataclasses.asdict(card)}
