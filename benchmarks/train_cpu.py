"""The whole training step on a CPU against transformers + torch: forward, backward, clipping, AdamW, of a 34M LLaMA.

    python benchmarks/train_cpu.py [--rounds 5]

Every side is a process of its own, so that no thread pool disturbs another; they take turns of three steps, of which
the last two count: in a virtual machine fresh memory that another process had before costs a step of ours up to 6 of 15
CPU seconds, and in training there is no other. What counts is CPU time (user + system, all threads) of the process
within a step, which other work on the machine moves far less than the clock. Medians over all steps that count.

`plain` is the plainest JAX program of the same model: what XLA does by itself here. A side that is called `kept` runs
with malloc told to keep freed memory (see docs/train.md), and is compared with torch's side of the same kind.
"""
import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

VOCAB, WIDTH, LAYERS, HEADS, D_FF, LENGTH, ROWS = 8192, 512, 8, 8, 1376, 512, 8
SIDES = ("ours float32", "plain float32", "torch float32", "ours float32 kept", "plain float32 kept",
         "torch float32 kept", "ours bfloat16", "torch bfloat16")
_KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_ARENA_MAX": "1"}
_TURN, _COUNTED = 3, 2     # steps


def main() -> None:
    """Measures, prints, appends to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", default=",".join(SIDES), help="which to run; ratios need both of a dtype")
    parser.add_argument("--side", help=argparse.SUPPRESS)       # this process is one of the sides
    args = parser.parse_args()
    if args.side:
        return _serve(args.side)
    from measure import report
    sides = args.sides.split(",")
    measured = _take_turns(sides, args.rounds)
    report("Training step on a CPU, LLaMA of 34M parameters",
           ["side", "tokens per CPU-second", "tokens/s", "tokens per CPU-second / torch's", "peak MB",
            "loss of the last step"], [_row(side, measured) for side in sides],
           f"{ROWS} rows of {LENGTH} tokens; medians of {args.rounds} alternating turns. bfloat16: torch by autocast.")


def _row(side: str, measured: dict[str, list[dict]]) -> list[object]:
    tokens, mine = ROWS * LENGTH, measured[side]
    cpu, wall = (statistics.median(m[what] for m in mine) for what in ("cpu", "wall"))
    rival = measured.get(" ".join(["torch", *side.split()[1:]]))
    ratio = statistics.median(m["cpu"] for m in rival) / cpu if rival else "not run"
    return [side, tokens / cpu, tokens / wall, ratio, mine[-1]["peak"], mine[-1]["loss"]]


def _take_turns(sides: list[str], rounds: int) -> dict[str, list[dict]]:
    command = [sys.executable, __file__, "--side"]
    workers = {side: subprocess.Popen([*command, side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                      env=os.environ | (_KEPT if side.endswith(" kept") else {})) for side in sides}

    def step(side: str) -> dict:
        print("step", file=workers[side].stdin, flush=True)
        return json.loads(workers[side].stdout.readline())
    for side in sides:
        step(side)      # compiles
    measured = {side: [] for side in sides}
    for turn in range(rounds):
        for side in sides if turn % 2 == 0 else reversed(sides):
            measured[side] += [step(side) for _ in range(_TURN)][-_COUNTED:]
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return measured


def _serve(side: str) -> None:
    """One step for each line of stdin; answers with what it took."""
    stack, dtype = side.split()[:2]
    run = {"ours": _ours, "plain": _plain, "torch": _torch}[stack](dtype)
    for _ in sys.stdin:
        before, start = _cpu_seconds(), time.perf_counter()
        loss = run()
        print(json.dumps({"cpu": _cpu_seconds() - before, "wall": time.perf_counter() - start, "loss": loss,
                          "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}), flush=True)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCAB, (ROWS, LENGTH), np.int32)


def _ours(dtype: str) -> Callable[[], float]:
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding

    from easylm_imitation.models import LlamaConfig, create
    from easylm_imitation.sharding import BATCH, make_mesh
    from easylm_imitation.train.optimizer import OptimizerConfig, make_optimizer
    from easylm_imitation.train.state import abstract_state, init_state
    from easylm_imitation.train.step import make_step
    model = create(LlamaConfig(VOCAB, LENGTH, layers=LAYERS, d_model=WIDTH, heads=HEADS, d_ff=D_FF))
    optimizer, rate = make_optimizer(OptimizerConfig(warmup=0.0, schedule="constant", weight_decay=0.01), 1000)
    mesh = make_mesh("fsdp:1")
    jax.set_mesh(mesh)
    abstract = abstract_state(model, optimizer, mesh)
    update = make_step(model, optimizer, rate, mesh, abstract, dtype=jnp.dtype(dtype), remat="none", loss_chunk=VOCAB)
    state = init_state(model, optimizer, abstract, seed=0)
    ones = np.ones((ROWS, LENGTH), np.int32)
    places = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), ones.shape)
    batch = {"tokens": _tokens(), "segment_ids": ones, "positions": places, "loss_weights": np.float32(places > 0)}
    batch = jax.device_put(batch, NamedSharding(mesh, BATCH))

    def run() -> float:
        nonlocal state
        state, metrics = update(state, batch)
        return float(metrics["loss"])
    return run


def _plain(dtype: str) -> Callable[[], float]:
    """Unrolled layers, whole scores and logits, optax's AdamW; rows as one dim, as kernels' gradients want it here."""
    import jax
    import jax.numpy as jnp
    import optax
    if dtype != "float32":
        raise ValueError(f"the plain program is float32, not {dtype}")
    head, shapes = WIDTH // HEADS, {"q": (WIDTH, WIDTH), "k": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "o": (WIDTH, WIDTH),
                                    "gate": (WIDTH, D_FF), "up": (WIDTH, D_FF), "down": (D_FF, WIDTH)}
    keys = iter(jax.random.split(jax.random.key(0), 7 * LAYERS + 2))

    def normal(*shape: int) -> jax.Array:
        return 0.02 * jax.random.normal(next(keys), shape)
    layers = [{"norms": jnp.ones((2, WIDTH))} | {name: normal(*shapes[name]) for name in shapes} for _ in range(LAYERS)]
    params = {"embed": normal(VOCAB, WIDTH), "head": normal(WIDTH, VOCAB), "norm": jnp.ones(WIDTH), "layers": layers}
    angles = np.arange(LENGTH)[:, None, None] * 10000.0 ** (-np.arange(0, head, 2) / head)
    cos, sin, seen = np.float32(np.cos(angles)), np.float32(np.sin(angles)), np.tri(LENGTH, dtype=bool)

    def norm(x: jax.Array, scale: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * scale

    def turn(x: jax.Array) -> jax.Array:
        first, second = jnp.split(x, 2, -1)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    def layer(x: jax.Array, w: dict) -> jax.Array:
        y = norm(x, w["norms"][0])
        q, k, v = ((y @ w[name]).reshape(ROWS, LENGTH, HEADS, head) for name in "qkv")
        scores = jnp.einsum("bthd,bshd->bhts", turn(q), turn(k)) * head**-0.5
        weights = jax.nn.softmax(jnp.where(seen, scores, -1e30), -1)
        x = x + jnp.einsum("bhts,bshd->bthd", weights, v).reshape(-1, WIDTH) @ w["o"]
        y = norm(x, w["norms"][1])
        return x + (jax.nn.silu(y @ w["gate"]) * (y @ w["up"])) @ w["down"]

    def loss(params: dict, tokens: jax.Array) -> jax.Array:
        x = params["embed"][tokens.reshape(-1)]
        for w in params["layers"]:
            x = layer(x, w)
        logits = (norm(x, params["norm"]) @ params["head"]).reshape(ROWS, LENGTH, VOCAB)[:, :-1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-4, 0.9, 0.95, weight_decay=0.01))

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: tuple, tokens: jax.Array) -> tuple:
        value, grads = jax.value_and_grad(loss)(state[0], tokens)
        updates, after = optimizer.update(grads, state[1], state[0])
        return (optax.apply_updates(state[0], updates), after), value
    state = params, optimizer.init(params)

    def run() -> float:
        nonlocal state
        state, value = update(state, _tokens())
        return float(value)
    return run


def _torch(dtype: str) -> Callable[[], float]:
    import contextlib

    import torch
    import transformers
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=D_FF, max_position_embeddings=LENGTH, tie_word_embeddings=False)).float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.01)
    tokens = torch.from_numpy(_tokens()).long()
    low = torch.autocast("cpu", torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()

    def run() -> float:
        with low:
            loss = model(tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())
    return run


if __name__ == "__main__":
    main()
