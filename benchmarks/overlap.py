"""Training rows against evaluation items: time of each overlap rule, and what it finds of planted copies.

    python benchmarks/overlap.py [--rows 500000] [--items 30000] [--rival 5000]

Rows (some 200 words) and items (8 to 120) are made of a Zipf-like vocabulary. One row in fifty holds an item: word for
word, or rephrased (one word in eight replaced, the rest in another order). Each rule by itself sees a quarter of the
rows, all rules together see all; the index of the items is made with the first. The rival does what the 13-gram rule
needs in plain Python, with sets of tuples, on the first `--rival` rows.
"""
import argparse
import random
import resource
import time
from collections.abc import Iterator

from measure import report

from easylm_imitation.data.overlap import RULES, EvaluationSet, Overlap


def main() -> None:
    """Measures, prints, appends to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--items", type=int, default=30_000)
    parser.add_argument("--rival", type=int, default=5_000)
    args = parser.parse_args()
    words = text_words(6_000_000)
    items = test_items(args.items, words)
    planted: dict[int, tuple[str, int]] = {}
    size = sum(len(row) for row in rows(args.rows, items, words, planted))
    table = [_measure([rule], args.rows // 4, items, words, planted) for rule in RULES]
    table.append(_measure(list(RULES), args.rows, items, words, planted))
    wall, cpu = time.perf_counter(), time.process_time()
    plain_13_grams(items, rows(args.rival, items, words, {}))
    table.append(["13-gram, plain Python", args.rival, time.perf_counter() - wall, time.process_time() - cpu,
                  "", "", ""])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report("Overlap of training rows with evaluation items",
           ["rule", "rows", "seconds", "CPU µs a row", "copies found", "rephrased found", "other rows found"],
           [[*row[:3], row[3] / row[1] * 1e6, *row[4:]] for row in table],
           f"{args.items} items, {size / 1e6:.0f} MB of rows, made while they are matched; two threads; peak "
           f"{peak:.0f} MB.")


def _measure(rules: list[str], count: int, items: list[str], words: list[str],
             planted: dict[int, tuple[str, int]]) -> list[object]:
    overlap = Overlap([EvaluationSet("made", {str(i): item for i, item in enumerate(items)})], rules)
    wall, cpu = time.perf_counter(), time.process_time()
    matches = overlap.match(rows(count, items, words, {}), threads=2)
    seconds, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found = {(match.row, int(match.item)) for match in matches}
    share = {}
    for kind in ("copy", "rephrased"):
        wanted = {(row, item) for row, (made, item) in planted.items() if made == kind and row < count}
        share[kind] = len(wanted & found) / len(wanted)
    return [" + ".join(rules), count, seconds, cpu, share["copy"], share["rephrased"],
            len({row for row, _ in found} - set(planted))]


def text_words(count: int) -> list[str]:
    """Words of running text."""
    draw = random.Random(0)
    letters = "eeeetttaaooiinnsshhrrddllucmwfgypbvk"
    vocabulary = ["".join(draw.choices(letters, k=draw.randint(2, 10))) for _ in range(50_000)]
    return draw.choices(vocabulary, [1 / (rank + 3) for rank in range(len(vocabulary))], k=count)


def test_items(count: int, words: list[str]) -> list[str]:
    """Items from text of their own (the last million words)."""
    draw = random.Random(1)
    starts = [draw.randrange(len(words) - 1_000_000, len(words) - 120) for _ in range(count)]
    return [" ".join(words[start:start + draw.choice((8, 12, 20, 40, 60, 120))]) for start in starts]


def rows(count: int, items: list[str], words: list[str], planted: dict[int, tuple[str, int]]) -> Iterator[str]:
    """Rows, from the other words; `planted` fills with row -> (kind, item)."""
    draw = random.Random(2)
    for row in range(count):
        start = draw.randrange(len(words) - 1_000_400)
        text = words[start:start + draw.randint(20, 400)]
        if row % 50 == 0:
            kind, item = draw.choice(("copy", "rephrased")), draw.randrange(len(items))
            planted[row] = kind, item
            held = items[item].split()
            if kind == "rephrased":
                held = [word if draw.random() > 0.125 else draw.choice(words) for word in held]
                parts = [held[i:i + 5] for i in range(0, len(held), 5)]
                draw.shuffle(parts)
                held = [word for part in parts for word in part]
            text = [*text[:10], *held, *text[10:]]
        yield " ".join(text)


def plain_13_grams(items: list[str], texts: Iterator[str]) -> set[int]:
    """The rival: rows that share a run of 13 words with any item."""
    known = {tuple(words[i:i + 13]) for words in map(str.split, items) for i in range(len(words) - 12)}
    return {row for row, text in enumerate(texts)
            for words in [text.lower().split()] if any(tuple(words[i:i + 13]) in known for i in range(len(words) - 12))}


if __name__ == "__main__":
    main()
