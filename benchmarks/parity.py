"""A real model against transformers and torch, both in float32: logits, gradients, a training curve.

    python benchmarks/parity.py --model HF_DIR [--text FILE] [--updates 20]

Takes 16 bytes of memory a parameter, twice 4 of disk in --scratch. Torch runs first, in a process of its own; what it
found lies in files that are then compared, tensor by tensor. Exits with status 1 when a figure is above what it may be.
"""
import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

ROWS, LENGTH, BATCH = 8, 128, 2         # 1,024 positions of text; the first two rows are trained on
ADAMW = {"lr": 1e-5, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
LOGITS, GRADIENTS, CURVE = 1e-4, 1e-3, 1e-3     # the largest differences: of the largest logit, of a norm, in nats
_ONE_FILE = 10**15
TEXT = pathlib.Path(__file__).resolve().parents[1] / "docs" / "models.md"


def main() -> None:
    """Runs both, prints, appends to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="a Hugging Face dir with its tokenizer")
    parser.add_argument("--text", type=pathlib.Path, default=TEXT, help="what the model reads")
    parser.add_argument("--updates", type=int, default=20, help="of AdamW")
    parser.add_argument("--scratch", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()))
    parser.add_argument("--theirs", type=pathlib.Path, help=argparse.SUPPRESS)      # what the first process is told
    args = parser.parse_args()
    if args.theirs:
        _theirs(args, args.theirs)
        return
    scratch = pathlib.Path(tempfile.mkdtemp(dir=args.scratch))
    try:
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--theirs", scratch], check=True)
        rows = list(_ours(args, scratch))
    finally:
        shutil.rmtree(scratch)
    _report(args, rows)


def _report(args: argparse.Namespace, rows: list[tuple]) -> None:
    from measure import report
    report(f"Parity of {args.model.name} with transformers and torch, float32",
           ["figure", "found", "at most"], [(name, found, "" if most is None else most) for name, found, most in rows],
           f"{ROWS * LENGTH} positions of text; gradients and {args.updates} updates on {BATCH} rows of {LENGTH}.")
    if any(most is not None and not found <= most for _, found, most in rows):
        raise SystemExit(1)


def _theirs(args: argparse.Namespace, scratch: pathlib.Path) -> None:
    """tokens.npy, logits.npy, gradient/ (as weights are saved) and curve.npy of transformers and torch."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    ids = AutoTokenizer.from_pretrained(args.model)(args.text.read_text())["input_ids"]
    if len(ids) < ROWS * LENGTH:
        raise SystemExit(f"{args.text}: {len(ids)} tokens; give a --text of {ROWS * LENGTH} or more")
    tokens = np.array(ids[:ROWS * LENGTH], np.int32).reshape(ROWS, LENGTH)
    np.save(scratch / "tokens.npy", tokens)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        np.save(scratch / "logits.npy", np.stack([model(torch.tensor(row[None])).logits[0].numpy() for row in tokens]))
    optimizer = torch.optim.AdamW(model.parameters(), **ADAMW)
    losses, batch = [], torch.tensor(tokens[:BATCH].astype(np.int64))
    for update in range(args.updates):
        start = time.perf_counter()
        optimizer.zero_grad()
        logits = model(batch).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch[:, 1:].reshape(-1))
        loss.backward()
        if not update:
            model.save_pretrained(scratch / "gradient", max_shard_size=_ONE_FILE,
                                  state_dict={n: p.grad for n, p in model.named_parameters()})
        optimizer.step()
        losses.append((loss.item(), time.perf_counter() - start))
    np.save(scratch / "curve.npy", np.array(losses))


def _ours(args: argparse.Namespace, scratch: pathlib.Path) -> Iterator[tuple]:
    """(figure, what was found, what it may be or None)."""
    from easylm_imitation.models import create
    from easylm_imitation.weights import open_model
    loaded, tokens = open_model(args.model), np.load(scratch / "tokens.npy")
    model = create(loaded.config)
    batch = {"tokens": tokens[:BATCH], "positions": np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (BATCH, LENGTH)),
             "segment_ids": np.ones((BATCH, LENGTH), np.int32)}
    batch["loss_weights"] = np.float32(batch["positions"] > 0)
    yield from _logits(model, loaded.params, tokens, np.load(scratch / "logits.npy", mmap_mode="r"))
    yield from _gradients(model, loaded, batch, scratch)
    yield from _curve(model, loaded, batch, np.load(scratch / "curve.npy"))


def _logits(model, params: dict, tokens: np.ndarray, wanted: np.ndarray) -> Iterator[tuple]:
    import jax
    import jax.numpy as jnp

    @jax.jit
    def forward(params, row):
        hidden = model.hidden(params, row[None], jnp.arange(LENGTH)[None], dtype=jnp.float32)
        return model.unembed(params, hidden)[0]
    largest, worst, moved, near = np.abs(wanted).max(), 0.0, 0, 0
    for row, theirs in zip(tokens, wanted, strict=True):
        ours = np.asarray(forward(params, row))
        worst = max(worst, np.abs(ours - theirs).max())
        second, first = np.partition(theirs, -2, axis=-1)[:, -2:].T
        other = ours.argmax(-1) != theirs.argmax(-1)
        moved += int(np.sum(other & (first - second > LOGITS * largest)))
        near += int(np.sum(other))
    yield "largest difference of a logit / the largest logit", float(worst / largest), LOGITS
    yield "positions with another best token, where theirs is ahead by more than that", moved, 0
    yield "positions with another best token at all", near, None


def _gradients(model, loaded, batch: dict, scratch: pathlib.Path) -> Iterator[tuple]:
    import jax
    import jax.numpy as jnp
    from safetensors import safe_open

    from easylm_imitation.train.loss import loss_sums
    from easylm_imitation.weights import export_hf

    def loss(params):
        sums = loss_sums(model, params, batch, dtype=jnp.float32)
        return sums.nll / sums.weight
    export_hf(scratch / "ours", loaded.config, jax.jit(jax.grad(loss))(loaded.params), None, None, loaded.lineage,
              largest_file=_ONE_FILE)
    worst, squares, whole = (0.0, ""), 0.0, 0.0
    with safe_open(scratch / "ours" / "model.safetensors", "np") as ours, \
            safe_open(scratch / "gradient" / "model.safetensors", "np") as theirs:
        if sorted(ours.keys()) != sorted(theirs.keys()):
            raise SystemExit(f"other tensors have gradients: {set(ours.keys()) ^ set(theirs.keys())}")
        norms = {name: float(np.linalg.norm(theirs.get_tensor(name))) for name in theirs.keys()}
        whole = sum(norm**2 for norm in norms.values())
        for name, norm in norms.items():
            difference = float(np.linalg.norm(ours.get_tensor(name) - theirs.get_tensor(name)))
            squares += difference**2
            worst = max(worst, (difference / max(norm, 1e-4 * whole**0.5), name))
    yield "norm of the gradients' difference / norm of theirs", (squares / whole) ** 0.5, GRADIENTS
    yield f"the same of the worst tensor, {worst[1]}", worst[0], GRADIENTS


def _curve(model, loaded, batch: dict, wanted: np.ndarray) -> Iterator[tuple]:
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding

    from easylm_imitation.sharding import BATCH as SPEC
    from easylm_imitation.sharding import make_mesh
    from easylm_imitation.train import OptimizerConfig
    from easylm_imitation.train.optimizer import make_optimizer
    from easylm_imitation.train.state import abstract_state, state_from
    from easylm_imitation.train.step import make_step
    settings = OptimizerConfig(
        learning_rate=ADAMW["lr"], warmup=0.0, schedule="constant", weight_decay=ADAMW["weight_decay"],
        decay_norms_and_biases=True, beta1=ADAMW["betas"][0], beta2=ADAMW["betas"][1], eps=ADAMW["eps"], clip=None)
    optimizer, rate = make_optimizer(settings, len(wanted))
    mesh = make_mesh("fsdp:1", jax.devices()[:1])
    abstract, found = abstract_state(model, optimizer, mesh), []
    step = make_step(model, optimizer, rate, mesh, abstract, dtype=jnp.float32, remat="none")
    with jax.set_mesh(mesh):
        state = state_from(jax.device_put(loaded.params, jax.tree.map(lambda a: a.sharding, abstract.params)),
                           optimizer, abstract)
        placed = jax.device_put(batch, NamedSharding(mesh, SPEC))
        for _ in wanted:
            start = time.perf_counter()
            state, metrics = step(state, placed)
            found.append((float(metrics["loss"]), time.perf_counter() - start))
    ours = np.array(found)
    yield "largest difference of a loss on the curve, in nats", float(np.abs(ours[:, 0] - wanted[:, 0]).max()), CURVE
    yield "loss before the first update, and before the last", " to ".join(f"{x:.4f}" for x in wanted[[0, -1], 0]), None
    yield "seconds of an update, ours / theirs (fastest of each)", float(ours[:, 1].min() / wanted[:, 1].min()), None


if __name__ == "__main__":
    main()
