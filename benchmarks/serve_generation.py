"""Greedy generation beside transformers' `generate`, the same prompts and weights, float32 on a CPU.

    python benchmarks/serve_generation.py --model DIR [--prompts 16] [--tokens 64] [--interval 1 2]

At once: all prompts together; `generate` runs them as one batch. Staggered: one more every `--interval` seconds (one
load for each that is given), with answers of 16 to 256 tokens; `generate` takes whatever waits as a batch and runs it
until its longest answer is there. Ours goes through the scheduler, as requests of a server do. Answers that differ are
listed with the distance of the two likeliest logits where they part.
"""
import argparse
import pathlib
import queue
import time
from collections.abc import Callable, Sequence

import numpy as np
from measure import report

Request = tuple[float, list[int], int]      # arrival in seconds, prompt, tokens to generate
LENGTH = 64


def main() -> None:
    """Measures, prints, appends to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face dir")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--longest", type=int, default=256)
    parser.add_argument("--interval", type=float, nargs="+", default=[1.0, 2.0])
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1000, 100_000, LENGTH).tolist() for _ in range(args.prompts)]
    lengths = np.linspace(16, args.longest, args.prompts).astype(int)[rng.permutation(args.prompts)].tolist()
    loads = {"at once": [(0.0, prompt, args.tokens) for prompt in prompts]}
    for interval in args.interval:
        loads[f"one every {interval:g} s"] = [(i * interval, *one) for i, one in enumerate(zip(prompts, lengths))]
    theirs, gap = _theirs(args.model, loads)
    ours = _ours(args.model, loads, args.prompts, LENGTH + args.longest)
    rows, notes = [], []
    for name, requests in loads.items():
        (mine, seconds, cpu), (other, slow, slow_cpu) = ours[name], theirs[name]
        made = sum(map(len, mine))
        parted = [next((j for j, (a, b) in enumerate(zip(x, y)) if a != b), None) for x, y in zip(mine, other)]
        notes += [f"{name}: answer {i} parts at token {j}, logits {gap(requests[i][1] + mine[i][:j]):.1e} apart"
                  for i, j in enumerate(parted) if j is not None]
        rows.append([name, len(requests), made, made / seconds, made / slow, slow / seconds, slow_cpu / cpu,
                     parted.count(None)])
    report("Greedy generation beside transformers' generate, float32",
           ["load", "requests", "tokens", "tokens/s", "generate tokens/s", "ratio", "ratio of CPU time",
            "same answers"], rows,
           f"Model: {pathlib.Path(args.model).name}, prompts of {LENGTH} random tokens. {'; '.join(notes)}")


def _theirs(path: str, loads: dict[str, Sequence[Request]]) -> tuple[dict, Callable[[list[int]], float]]:
    """Load -> (answers, seconds, CPU-seconds); and the distance of the two likeliest logits after some ids."""
    import torch
    import transformers
    torch.set_grad_enabled(False)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    def batch(requests: Sequence[Request]) -> list[list[int]]:
        most = max(count for _, _, count in requests)
        ids = torch.tensor([prompt for _, prompt, _ in requests])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, min_new_tokens=most,
                             do_sample=False, repetition_penalty=1.0, temperature=None, top_p=None, top_k=None)
        return [row[LENGTH:LENGTH + count].tolist() for row, (_, _, count) in zip(out, requests)]

    def gap(ids: list[int]) -> float:
        best = model(torch.tensor([ids])).logits[0, -1].topk(2).values
        return float(best[0] - best[1])

    def run(requests: Sequence[Request]) -> tuple[list, float, float]:
        answers, start, cpu = [], time.perf_counter(), time.process_time()
        while len(answers) < len(requests):
            now = time.perf_counter() - start
            ready = [r for r in requests[len(answers):] if r[0] <= now]
            if ready:
                answers += batch(ready)
            else:
                time.sleep(0.01)
        return answers, time.perf_counter() - start, time.process_time() - cpu
    batch([(0.0, [5] * LENGTH, 2)])
    return {name: run(requests) for name, requests in loads.items()}, gap


def _ours(path: str, loads: dict[str, Sequence[Request]], slots: int, context: int) -> dict[str, tuple]:
    """Load -> (answers, seconds, CPU-seconds)."""
    from easylm_imitation.serve import Engine, ServeConfig
    from easylm_imitation.serve.answer import AnswerText
    from easylm_imitation.serve.jobs import Answer, Sampling
    from easylm_imitation.serve.scheduler import Scheduler
    from easylm_imitation.weights import open_model
    loaded = open_model(path)
    sizes = ServeConfig(slots=slots, context=context, dtype="float32", prefixes=1, score_lengths=(16,), score_tokens=16,
                        live_lengths=(LENGTH * 2, context), prefill_chunks=(LENGTH,))
    # No end token, as generate has none here: both make as many tokens as were asked for.
    engine = Engine(loaded.config, loaded.params, sizes, stop_ids=[], vocab_size=loaded.config.vocab_size)
    scheduler = Scheduler(engine, 512)
    scheduler.start()

    def run(requests: Sequence[Request]) -> tuple[list, float, float]:
        news: queue.SimpleQueue = queue.SimpleQueue()
        jobs, start, cpu = [], time.perf_counter(), time.process_time()
        for arrival, prompt, count in requests:
            time.sleep(max(0.0, arrival - (time.perf_counter() - start)))
            jobs.append(Answer(prompt, count, Sampling(), AnswerText(loaded.tokenizer), news.put, stop_ids=frozenset()))
            scheduler.submit(jobs[-1:])
        for _ in requests:
            update = news.get()
            if isinstance(update, Exception):
                raise update
        return [job.made for job in jobs], time.perf_counter() - start, time.process_time() - cpu
    run([(0.0, [5] * LENGTH, 2)])
    made = {name: run(requests) for name, requests in loads.items()}
    scheduler.close()
    return made


if __name__ == "__main__":
    main()
