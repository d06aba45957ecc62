"""MinHash de-duplication of many short prompts: time, memory, and what it finds of planted near-duplicates.

    python benchmarks/near_duplicates.py [--texts 1000000] [--rival 20000]

The prompts are made: words of a Zipf-like vocabulary, openings that many share, 4 to 60 words. Seven in ten are new;
the rest are copies of earlier ones, edited as people edit. With `datasketch` or `rensa` at hand they do the same on the
first `--rival` texts: the same shingles, bands and rows, without comparing the candidates.
"""
import argparse
import collections
import importlib.util
import random
import resource
import time
from collections.abc import Callable

from measure import report

from easylm_imitation.data.near import SHINGLE, banding, near_duplicates

THRESHOLD = 0.7
OPENINGS = ("", "", "", "write a short story about ", "what is the difference between ", "translate to french: ",
            "explain to a child ", "give me five ideas for ", "how do i ", "summarise: ")
Edit = Callable[[list[str], random.Random], list[str]]


def main() -> None:
    """Measures, prints, appends to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--rival", type=int, default=20_000)
    args = parser.parse_args()
    texts, family, kinds = prompts(args.texts)
    rows = []
    for threads in (2, 1):
        wall, cpu = time.perf_counter(), time.process_time()
        found = near_duplicates(texts, THRESHOLD, threads).tolist()
        rows.append([f"ours, {threads} threads", len(texts), time.perf_counter() - wall, time.process_time() - cpu])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows += rivals(texts[:args.rival])
    letters = sum(map(len, texts)) / len(texts)
    report("Near-duplicates among short prompts: time", ["who", "prompts", "seconds", "CPU seconds", "µs of CPU each"],
           [[*row, row[3] / row[1] * 1e6] for row in rows],
           f"{letters:.0f} letters a prompt, threshold {THRESHOLD}; peak {peak:.0f} MB, the prompts included.")
    report("Near-duplicates among short prompts: what is found", ["planted", "how many", "found", "recall"],
           recall(found, kinds), precision(found, family))


def prompts(count: int) -> tuple[list[str], list[int], list[str]]:
    """(texts, which original each comes from, the edit that made it or "")."""
    draw = random.Random(0)
    letters = "eeeetttaaooiinnsshhrrddllucmwfgypbvk"
    vocabulary = ["".join(draw.choices(letters, k=draw.randint(2, 10))) for _ in range(30_000)]
    weights = [1 / (rank + 8) for rank in range(len(vocabulary))]
    words = draw.choices(vocabulary, weights, k=16 * count)
    texts, family, kinds = [], [], []
    for i in range(count):
        if i > 10 and draw.random() < 0.3:
            origin = draw.randrange(i)
            kind = draw.choice([name for name, (least, _) in EDITS.items() if len(texts[origin].split()) >= least])
            texts.append(" ".join(EDITS[kind][1](texts[origin].split(), draw)))
            family.append(family[origin])
        else:
            kind, size = "", min(60, max(4, int(draw.lognormvariate(2.6, 0.5))))
            start = draw.randrange(len(words) - size)
            texts.append(draw.choice(OPENINGS) + " ".join(words[start:start + size]))
            family.append(i)
        kinds.append(kind)
    return texts, family, kinds


def _typo(words: list[str], draw: random.Random) -> list[str]:
    place = draw.randrange(len(words))
    return [*words[:place], words[place][:-1] + "x", *words[place + 1:]]


def _replaced(words: list[str], draw: random.Random) -> list[str]:
    place = draw.randrange(len(words))
    return [*words[:place], "another", *words[place + 1:]]


# name -> (words that the original has at least, the edit). Shorter ones with such an edit are other prompts.
EDITS: dict[str, tuple[int, Edit]] = {
    "the same": (1, lambda words, draw: words),
    "case and signs": (1, lambda words, draw: [words[0].capitalize(), *words[1:-1], words[-1].upper() + "?!"]),
    "a courtesy before": (8, lambda words, draw: ["please", *words]),
    "a typo": (8, _typo),
    "a word replaced (from 15 words)": (15, _replaced),
    "a word less (from 12 words)": (12, lambda words, draw: words[:-1]),
}


def recall(found: list[int], kinds: list[str]) -> list[list[object]]:
    """A copy counts as found when it is called a repetition (of whichever text)."""
    all_of, hits = collections.Counter(kinds), collections.Counter(k for k, first in zip(kinds, found) if first >= 0)
    planted = sum(n for kind, n in all_of.items() if kind)
    rows = [[kind, all_of[kind], hits[kind], hits[kind] / all_of[kind]] for kind in EDITS]
    return [*rows, ["all", planted, planted - sum(f < 0 for f, k in zip(found, kinds) if k),
                    sum(f >= 0 for f, k in zip(found, kinds) if k) / planted]]


def precision(found: list[int], family: list[int]) -> str:
    """How many of the repetitions come from the same original as the text that they are said to repeat."""
    called = [(i, first) for i, first in enumerate(found) if first >= 0]
    right = sum(family[i] == family[first] for i, first in called)
    return (f"Copies of copies included. Precision: {right} of {len(called)} repetitions ({right / len(called):.5f}) "
            "have the same origin as the text that they repeat; all are alike by the threshold, for that is checked.")


def rivals(texts: list[str]) -> list[list[object]]:
    """Rows for the libraries that are installed."""
    rows, bands = banding(THRESHOLD)
    made = []
    for name, run in (("datasketch", _datasketch), ("rensa", _rensa)):
        if importlib.util.find_spec(name) is not None:
            wall, cpu = time.perf_counter(), time.process_time()
            run([{line[i:i + SHINGLE] for i in range(max(1, len(line) - SHINGLE + 1))} for line in texts], rows, bands)
            made.append([name, len(texts), time.perf_counter() - wall, time.process_time() - cpu])
    wall, cpu = time.perf_counter(), time.process_time()
    near_duplicates(texts, THRESHOLD, 1)
    return [*made, ["ours, 1 thread", len(texts), time.perf_counter() - wall, time.process_time() - cpu]]


def _datasketch(sets: list[set[str]], rows: int, bands: int) -> None:
    import datasketch
    lsh = datasketch.MinHashLSH(num_perm=rows * bands, params=(bands, rows))
    for i, shingles in enumerate(sets):
        signature = datasketch.MinHash(rows * bands)
        signature.update_batch([shingle.encode() for shingle in shingles])
        if not lsh.query(signature):
            lsh.insert(i, signature)


def _rensa(sets: list[set[str]], rows: int, bands: int) -> None:
    import rensa
    lsh = rensa.RMinHashLSH(THRESHOLD, rows * bands, bands)
    for i, shingles in enumerate(sets):
        signature = rensa.RMinHash(rows * bands, 1)
        signature.update(list(shingles))
        if not lsh.query(signature):
            lsh.insert(i, signature)


if __name__ == "__main__":
    main()
