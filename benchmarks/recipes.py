"""Every training recipe on a pod that holds it, by `plan`: rewrites the table of docs/recipes.md.

    python benchmarks/recipes.py        # by formula, in seconds; `easylm-imitation plan` asks the compiler for one

Tokens an epoch are what the papers say or what follows from them; docs/recipes.md says which.
"""
import dataclasses
import pathlib
import sys

from easylm_imitation.config import load
from easylm_imitation.models import model_config
from easylm_imitation.plan import described, find_pod, plan
from easylm_imitation.train import TrainConfig

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "recipes.md"
BEGIN, END = "<!-- made by benchmarks/recipes.py -->\n", "<!-- end -->\n"

# recipe: the pod, what is set for it, tokens of an epoch
RECIPES = {
    "false_promise.py:gpt2-xl": ("v5e-16", {}, 150e6),
    "false_promise.py:llama-7b": ("v5e-16", {}, 150e6),
    "false_promise.py:llama-13b": ("v5e-32", {}, 150e6),
    "alpaca.py:llama-7b": ("v5e-16", {}, 8e6),
    "alpaca.py:llama-13b": ("v5e-32", {}, 8e6),
    "vicuna.py:llama-7b": ("v5e-32", {}, 230e6),
    "vicuna.py:llama-13b": ("v5e-32", {}, 230e6),
    "koala.py:llama-13b": ("v5e-32", {}, 138e6),
    "gpt4all.py:llama-7b": ("v5e-16", {}, 437_605 * 1024),
    "orca.py:stage1": ("v5e-64", {}, 4.6e9),
    "orca.py:stage2": ("v5e-64", {}, 0.92e9),
    "tulu.py:llama-7b": ("v5e-32", {}, 330e6),
    "tulu.py:llama-13b": ("v5e-32", {}, 330e6),
    "tulu.py:llama-30b": ("v5e-128", {}, 330e6),
    "tulu.py:llama-65b": ("v5p-128", {}, 330e6),
    "tulu.py:opt-6.7b": ("v5e-32", {}, 330e6),
    "tulu.py:pythia-6.9b": ("v5e-32", {}, 330e6),
}
COLUMNS = ("recipe", "pod", "setting", "tokens an epoch", "GB a device", "of", "MFU", "hours", "$")


def row(recipe: str) -> list[str]:
    """One recipe's line; raises SystemExit where it does not fit."""
    name, leaves, tokens = RECIPES[recipe]
    config = load(TrainConfig, f"{PAGE.parents[1]}/configs/recipes/{recipe}")
    config, pod = dataclasses.replace(config, **leaves), find_pod(name)
    made = plan(config, model_config(config.model, "model"), pod, compiler=False)
    if not made.fits:
        sys.exit(f"{recipe} does not fit on {name}: {made.peak / 1e9:.1f} of {pod.memory / 1e9:.1f} GB")
    hours = tokens * config.epochs / made.tokens_per_second / 3600
    return [recipe, name, described(made.work), f"{tokens / 1e6:,.0f}M", f"{made.peak / 1e9:.1f}",
            f"{pod.memory / 1e9:.1f}", f"{made.mfu:.0%}", f"{hours:.2g}",
            f"{hours * pod.chips * pod.chip.dollars:,.0f}"]


def table() -> str:
    """The table, between its markers."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(["`" + cells[0] + "`", *cells[1:]]) + " |" for cells in map(row, RECIPES)]
    return BEGIN + "\n".join(lines) + "\n" + END


def main() -> None:
    """Puts the table into the page."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + table() + rest.split(END)[1])
    print(table())


if __name__ == "__main__":
    main()
