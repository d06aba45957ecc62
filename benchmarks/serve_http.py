"""A server as its clients see it: an offered load that grows, and EasyLM's own requests. Run by serve.py.

    python benchmarks/serve.py load [--model DIR] [--requests 40]
    python benchmarks/serve.py easylm

`load`: first 16 clients that ask again as soon as they have an answer, which finds what the server can do; then
requests that arrive by chance (Poisson) at shares of that rate, whether or not the others are answered. Each asks for
64 tokens behind 64, as a stream. `easylm`: one POST each of 64 pairs of 150 + 50 tokens, of 16 prompts of 64 tokens to
be continued by 64, and of the same greedily until a text that never comes; then the same as so many POSTs at once.
EasyLM's figures are those measured with its server on a quiet machine of this kind, with the same shape of model: one
POST at a time is let in and filled up to 16, so separate ones get a sixteenth. Client and server share this process.
"""
import argparse
import asyncio
import json
import time
from collections.abc import Callable, Sequence

import httpx
import numpy as np
from measure import report

TOKENS = 64             # of a prompt, and of an answer
SHARES = (0.25, 0.5, 0.75, 1.0, 1.25)
EASYLM = {"/loglikelihood": 8.3, "/generate": 288.0, "/greedy-until": 68.0}     # pairs/s, tokens/s, tokens/s
Timing = tuple[float, float, int]       # seconds to the first text, from there to the end, tokens


def _words(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return ["".join(word) for word in rng.choice(list("abcdefghijklmnopqrstuvwxyz"), (count, 5))]


def _small_model() -> object:
    """A random LLaMA of 34M parameters, and a tokenizer that has a token for each of `_words` with its space."""
    import jax

    from easylm_imitation.models import LlamaConfig, create
    from easylm_imitation.records import Lineage
    from easylm_imitation.text import TEMPLATES, train_bpe
    from easylm_imitation.weights import LoadedModel
    config = LlamaConfig(8192, 1024, layers=8, d_model=512, heads=8, d_ff=1376)
    tokenizer = train_bpe([" " + " ".join(_words(400))] * 8, 4096, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    lineage = Lineage(id="c" * 16, name="random", base="c" * 16, base_name="random")
    params = create(config).init(jax.random.key(0))
    return LoadedModel(config, params, tokenizer, TEMPLATES["chatml"], lineage, "random")


def _texts(count: int, tokens: int, seed: int = 0) -> list[str]:
    """Texts of so many words, which are as many tokens of the small model."""
    rng, words = np.random.default_rng(seed), _words(400)
    return [" " + " ".join(rng.choice(words, tokens)) for _ in range(count)]


# ---------------------------------------------------------------- load

def load(args: argparse.Namespace) -> None:
    """Time to the first text and between tokens, at shares of what the server can do."""
    from easylm_imitation.serve import ServeConfig, open_server
    from easylm_imitation.weights import open_model
    loaded = open_model(args.model) if args.model else _small_model()
    with open_server(loaded, ServeConfig(slots=16, context=256, api_key_env="")) as server:
        rows = asyncio.run(_sweep(server.url, args.requests))
    name = loaded.lineage.name if args.model else "a random LLaMA of 34M parameters"
    report("Offered load", ["load", "requests/s", "tokens/s", "first text p50, ms", "p99, ms", "a token p50, ms",
                            "p99, ms"], rows, f"Model: {name}, 16 slots; {args.requests} requests a row, streamed.")


async def _sweep(url: str, count: int) -> list[list]:
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=httpx.Limits(max_connections=None)) as http:
        await _request(http, _texts(1, TOKENS)[0])
        texts, started = _texts(count, TOKENS), time.perf_counter()
        waiting = list(texts)

        async def one_after_the_other() -> list[Timing]:
            times = []
            while waiting:
                times.append(await _request(http, waiting.pop()))
            return times
        found = sum(await asyncio.gather(*(one_after_the_other() for _ in range(16))), [])
        rows = [_row("16 clients", found, time.perf_counter() - started)]
        most, rng = rows[0][1], np.random.default_rng(2)
        for share in SHARES:
            started = time.perf_counter()
            arrivals = np.cumsum(rng.exponential(1 / (share * most), count))
            found = await asyncio.gather(*(_later(http, text, at) for text, at in zip(texts, arrivals)))
            rows.append(_row(f"{share:.0%} of that", found, time.perf_counter() - started))
    return rows


async def _later(http: httpx.AsyncClient, text: str, seconds: float) -> Timing:
    await asyncio.sleep(seconds)
    return await _request(http, text)


async def _request(http: httpx.AsyncClient, text: str) -> Timing:
    body = {"prompt": text, "max_tokens": TOKENS, "temperature": 1.0, "seed": 1, "stream": True,
            "stream_options": {"include_usage": True}}
    started, first, made = time.perf_counter(), 0.0, 0
    async with http.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                first = first or time.perf_counter()
                made = json.loads(line[6:]).get("usage", {}).get("completion_tokens", made)
    return first - started, time.perf_counter() - first, made


def _row(name: str, found: Sequence[Timing], seconds: float) -> list:
    firsts = np.percentile([1e3 * first for first, _, _ in found], (50, 99))
    gaps = np.percentile([1e3 * rest / (made - 1) for _, rest, made in found if made > 1], (50, 99))
    made = sum(made for _, _, made in found)
    return [name, len(found) / seconds, made / seconds, *map(float, firsts), *map(float, gaps)]


# ---------------------------------------------------------------- EasyLM's requests

def easylm(args: argparse.Namespace) -> None:
    """EasyLM's three requests; CPU time counts the client's too."""
    from easylm_imitation.serve import ServeConfig, open_server
    rows = []

    def pairs(seed: int) -> dict:
        return {"prefix_text": _texts(64, 150, seed), "text": _texts(64, 50, 100 + seed)}

    def prompts(seed: int) -> dict:
        return {"prefix_text": _texts(16, TOKENS, seed)}

    def until(seed: int) -> dict:
        return {**prompts(seed), "until": ["\0"] * 16}

    with open_server(loaded := _small_model(), ServeConfig(slots=1, context=256, api_key_env="")) as server:
        rows += [_easylm_row("/loglikelihood", server, pairs, lambda counts: 64, "pairs", apart) for apart in (1, 64)]
    with open_server(loaded, ServeConfig(slots=16, context=2 * TOKENS, api_key_env="")) as server:
        for path, make in (("/generate", prompts), ("/greedy-until", until)):
            rows += [_easylm_row(path, server, make, lambda counts: counts["generated_tokens"], "tokens", apart)
                     for apart in (1, 16)]
    report("EasyLM's requests",
           ["request", "POSTs", "of", "a second", "a CPU-second", "EasyLM's, a second (reference)", "ratio"], rows,
           "A random LLaMA of 34M parameters, float32, 16 slots. The fastest of three, by the clock; EasyLM's figures "
           "are from a quiet machine.")


def _easylm_row(path: str, server: object, make: Callable[[int], dict], count: Callable[[dict], int], unit: str,
                posts: int) -> list:
    counts, best = server.service.scheduler.counts, (0.0, 0.0)
    for seed in range(3):       # new texts each time: nothing of them is known
        before, body = dict(counts), make(3 * posts + seed)
        parts = [{key: values[i::posts] for key, values in body.items()} for i in range(posts)]
        wall, cpu = time.perf_counter(), time.process_time()
        asyncio.run(_post_all(server.url + path, parts))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        made = count({key: counts[key] - before.get(key, 0) for key in counts})
        best = max(best, (made / wall, made / cpu))
    padded = posts > 1 and path != "/greedy-until"      # where EasyLM reads one prompt at a time in any case
    rival = EASYLM[path] / (16 if padded else 1)
    return [path, posts, unit, *best, rival, best[0] / rival]


async def _post_all(url: str, bodies: Sequence[dict]) -> None:
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None)) as client:
        for answer in await asyncio.gather(*(client.post(url, json=body) for body in bodies)):
            answer.raise_for_status()
