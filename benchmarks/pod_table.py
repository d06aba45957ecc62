"""Recommended settings for pods: the table of docs/pods.md, found by `plan`'s search and written between its marks.

    python benchmarks/pod_table.py                          all by formula: minutes
    python benchmarks/pod_table.py --compile llama-7b:v5e-64        these by the TPU compiler (extra `plan`)

What the compiler has said before is kept in benchmarks/pod_table.json, and used again.
"""
import argparse
import json
import pathlib
import resource
import time

from easylm_imitation.data import LoaderConfig
from easylm_imitation.models import model_config
from easylm_imitation.plan import CHIPS, Plan, find_pod, plan, search
from easylm_imitation.train import OptimizerConfig, TrainConfig

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE, KEPT = ROOT / "docs/pods.md", ROOT / "benchmarks/pod_table.json"
BEGIN, END = "<!-- pod table: python benchmarks/pod_table.py -->", "<!-- end of pod table -->"
MODELS = ("llama-7b", "llama-13b", "llama-30b", "llama-65b", "gpt2-xl")
KINDS = ("v4", "v5e", "v5p", "v6e")
ROWS_A_CHIP = (8, 4, 2, 1)     # of 2048 tokens (GPT-2: 1024), the first that fits at the highest MFU


def pods(kind: str) -> list[str]:
    """Names of the pods of a chip, the smallest first."""
    chip = CHIPS[kind]
    sizes = []
    for shape in chip.shapes:
        chips = 1
        for side in shape.split("x"):
            chips *= int(side)
        if 4 <= chips <= 256:
            sizes.append(chips * chip.counted)
    return [f"{kind}-{size}" for size in sizes]


def best(model_name: str, pod_name: str, compiler: bool) -> dict | None:
    """The setting of the highest MFU that fits, over sizes of the batch; None when none does."""
    pod, model = find_pod(pod_name), model_config({"preset": model_name})
    context, found = min(2048, model.context), []
    for rows in ROWS_A_CHIP:
        config = TrainConfig(model={"preset": model_name}, steps=1000, mesh="fsdp:-1", optimizer=OptimizerConfig(),
                             data=LoaderConfig(context=context, batch=rows * pod.devices))
        plans = search(config, model, pod, compiler=False)
        found += plans[:1]
    if not found:
        return None
    made = max(found, key=lambda one: one.mfu)
    if compiler:
        made = compiled(found)
        if made is None:
            return None
    axes = ",".join(f"{axis}:{size}" for axis, size in made.work.axes.items() if size > 1)
    return {"model": model_name, "pod": pod_name, "chips": pod.chips, "mesh": axes, "remat": made.work.config.remat,
            "batch": made.work.config.data.batch, "accumulate": made.work.config.accumulate, "context": context,
            "peak": made.peak, "capacity": pod.memory, "mfu": made.mfu, "by": "compiler" if made.compiled
            else "formula"}


def compiled(found: list[Plan]) -> Plan | None:
    """The first of the settings, the highest MFU by formula first, that fits as the compiler says; None when none of
    three does."""
    for candidate in sorted(found, key=lambda one: -one.mfu)[:3]:
        made = plan(candidate.work.config, candidate.work.model, candidate.pod, compiler=True)
        if made.fits:
            return made
    return None


def smallest(model_name: str, kind: str) -> dict | None:
    """On the smallest pod where anything fits."""
    return next((row for name in pods(kind) if (row := best(model_name, name, False))), None)


def shown(row: dict) -> str:
    """A line of the table."""
    return (f"| {row['model']} | `{row['pod']}` | {row['chips']} | `{row['mesh']}` | {row['remat']} | {row['batch']} / "
            f"{row['accumulate']} | {row['peak'] / 1e9:.1f} of {row['capacity'] / 1e9:.1f} | {row['mfu']:.0%} | "
            f"{row['by']} |")


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", nargs="*", default=[], metavar="MODEL:POD", help="ask the compiler for these")
    args = parser.parse_args()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for name in args.compile:
        since, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        row = best(*name.split(":"), compiler=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{name}: {time.monotonic() - since:.0f} s, {cpu:.0f} CPU s of the compiler: {row}", flush=True)
        if row:
            kept[name] = row
    KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    lines = ["| model | pod | chips | mesh | remat | rows / accumulate | GB a device | MFU | by |",
             "|---|---|---|---|---|---|---|---|---|"]
    for model in MODELS:
        for kind in KINDS:
            small, whole = smallest(model, kind), f"{kind}-{64 * CHIPS[kind].counted}"
            rows = [small] if small and small["pod"] != whole else []
            large = best(model, whole, False)
            for row in [*rows, *([large] if large else [])]:
                lines.append(shown(kept.get(f"{row['model']}:{row['pod']}", row)))
                print(lines[-1], flush=True)
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
