"""Stacked (scanned) against unstacked (looped) layers, transformers + torch as the rival: train step, scoring, decode.

    python benchmarks/layer_layout.py [--width 512] [--layers 8]
"""
import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
from measure import best_seconds, report

from easylm_imitation.models import LlamaConfig, create, unstack

VOCAB = 8192


def main() -> None:
    """Measures, prints, appends to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    args = parser.parse_args()
    config = LlamaConfig(vocab_size=VOCAB, context=1024, layers=args.layers, d_model=args.width, heads=args.width // 64,
                         d_ff=args.width * 11 // 4 // 32 * 32)
    rows = [_row(*case, config) for case in (
        ("train step", 8, 256), ("score", 8, 256), ("decode", 1, 512), ("decode", 16, 512))]
    report(f"Layer layout, LLaMA of {config.parameters() / 1e6:.0f}M parameters, float32",
           ["work", "rows", "length", "scanned tokens/s", "looped tokens/s", "torch tokens/s", "looped / scanned",
            "looped / torch"], rows,
           "Train step: gradients of a cross-entropy of full logits; decode: one token a row, cache of that length.")


def _row(work: str, rows: int, length: int, config: LlamaConfig) -> list[object]:
    tokens = rows * (1 if work == "decode" else length)
    ours = {"train step": _train, "score": _score, "decode": _decode}[work]
    scanned, looped = (tokens / best_seconds(ours(config, rows, length, stacked)) for stacked in (True, False))
    rival = tokens / best_seconds(_torch(work, config, rows, length))
    return [work, rows, length, scanned, looped, rival, looped / scanned, looped / rival]


def _params(config: LlamaConfig, stacked: bool) -> dict:
    params = create(config).init(jax.random.key(0))
    return params if stacked else unstack(params)


def _inputs(rows: int, length: int) -> tuple[jax.Array, jax.Array]:
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, (rows, length)), jnp.int32)
    return tokens, jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))


def _forward(config: LlamaConfig, params: dict, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    model = create(config)
    return model.unembed(params, model.hidden(params, tokens, positions, dtype=jnp.float32))


def _train(config: LlamaConfig, rows: int, length: int, stacked: bool):
    params, (tokens, positions) = _params(config, stacked), _inputs(rows, length)

    def loss(params: dict) -> jax.Array:
        logits = _forward(config, params, tokens, positions)[:, :-1]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], -1))
    step = jax.jit(jax.grad(loss))
    return lambda: jax.block_until_ready(step(params))


def _score(config: LlamaConfig, rows: int, length: int, stacked: bool):
    params, (tokens, positions) = _params(config, stacked), _inputs(rows, length)
    step = jax.jit(functools.partial(_forward, config))
    return lambda: jax.block_until_ready(step(params, tokens, positions))


def _decode(config: LlamaConfig, rows: int, length: int, stacked: bool):
    model, params, tokens = create(config), _params(config, stacked), _inputs(rows, 1)[0]
    positions = jnp.full((rows, 1), length - 1, jnp.int32)

    @functools.partial(jax.jit, donate_argnums=1)
    def step(params: dict, cache: dict) -> tuple[jax.Array, dict]:
        hidden, cache = model.extend(params, tokens, positions, cache, dtype=jnp.float32)
        return jnp.argmax(model.unembed(params, hidden), -1), cache
    state = {"cache": model.init_cache(rows, length, jnp.float32, stacked)}

    def run() -> None:
        chosen, state["cache"] = step(params, state["cache"])
        jax.block_until_ready(chosen)
    return run


def _torch(work: str, config: LlamaConfig, rows: int, length: int):
    import torch
    import transformers
    sizes = dict(vocab_size=VOCAB, hidden_size=config.d_model, num_hidden_layers=config.layers,
                 num_attention_heads=config.heads, intermediate_size=config.d_ff,
                 max_position_embeddings=config.context, tie_word_embeddings=False)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).float()
    tokens = torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(0))
    if work == "train step":
        return lambda: (model.zero_grad(), model(tokens, labels=tokens).loss.backward())
    if work == "score":
        return lambda: _no_grad(torch, model, tokens)
    return _torch_decode(torch, model, tokens, length)


def _no_grad(torch, model, tokens) -> object:
    with torch.no_grad():
        return model(tokens).logits


def _torch_decode(torch, model, tokens, length: int):
    with torch.no_grad():
        cache = model(tokens[:, :length - 1], use_cache=True).past_key_values

    def run() -> None:
        with torch.no_grad():
            model(tokens[:, -1:], past_key_values=cache, use_cache=True)
        cache.crop(-1)
    return run


if __name__ == "__main__":
    main()
