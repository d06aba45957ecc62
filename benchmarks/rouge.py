"""ROUGE-L of each new instruction against all before it: our index, and comparing with every one as Alpaca did.

    python benchmarks/rouge.py --texts 50000 --words FILE

FILE holds seed tasks (`instruction` a line): the texts are drawn from their words, as often as they occur there, so
that common words are common; lengths are those of instructions. 2 % are near-copies. What compares all pairs is timed
on a sample of them and multiplied up. rapidfuzz is taken along where it is installed.
"""
import argparse
import itertools
import json
import pathlib
import random
import sys
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from measure import report

from easylm_imitation.teacher.rouge import SimilarTexts, rouge_l, words

LIMIT = 0.7


def make_texts(count: int, source: pathlib.Path, seed: int = 0) -> list[str]:
    """`count` texts, every fiftieth a near-copy of an earlier one."""
    draw = random.Random(seed)
    vocabulary = [word for line in source.read_text().splitlines() for word in json.loads(line)["instruction"].split()]
    texts: list[str] = []
    for number in range(count):
        if number % 50 == 49:
            made = draw.choice(texts).split()
            made[draw.randrange(len(made))] = draw.choice(vocabulary)
        else:
            made = draw.choices(vocabulary, k=max(4, int(draw.gauss(15, 6))))
        texts.append(" ".join(made))
    return texts


def index_all(texts: list[str]) -> int:
    """How many texts were too similar to one before them."""
    index, similar = SimilarTexts(LIMIT), 0
    for text in texts:
        if index.similar(text) is None:
            index.add(text)
        else:
            similar += 1
    return similar


def seconds(run: Callable[[], object]) -> tuple[float, object]:
    """(CPU seconds, result)."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def rivals(texts: list[str], sample: int) -> list[tuple[str, float]]:
    """(name, CPU seconds for one pair of texts), from `sample` texts against 1,000."""
    lists = [words(text) for text in texts]
    pairs = list(itertools.product(lists[:sample], lists[:1000]))
    found = [("bit-parallel LCS in Python, each pair", lambda: [rouge_l(*pair) for pair in pairs])]
    try:
        from rouge_score import rouge_scorer
        scorer = rouge_scorer._score_lcs
        found.append(("rouge_score, each pair (Alpaca's way)", lambda: [scorer(*pair) for pair in pairs[:20_000]]))
    except ImportError:
        pass
    try:
        from rapidfuzz.distance import LCSseq
        from rapidfuzz.process import cdist
        found.append(("rapidfuzz cdist, each pair", lambda: cdist(lists[:sample], lists[:1000],
                                                                  scorer=LCSseq.similarity)))
    except ImportError:
        pass
    return [(name, seconds(run)[0] / (20_000 if "rouge_score" in name else len(pairs))) for name, run in found]


def main() -> None:
    """Prints and records the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=50_000)
    parser.add_argument("--words", type=pathlib.Path, required=True)
    parser.add_argument("--sample", type=int, default=100)
    args = parser.parse_args()
    texts = make_texts(args.texts, args.words)
    ours, similar = seconds(lambda: index_all(texts))
    pairs = args.texts * (args.texts - 1) / 2
    rows = [["our index, measured in full", ours, 1.0]]
    rows += [[f"{name} (from a sample)", one * pairs, one * pairs / ours] for name, one in rivals(texts, args.sample)]
    report(f"ROUGE-L of {args.texts:,} instructions against all before", ["way", "CPU seconds", "times ours"], rows,
           f"{similar:,} were too similar. CPU seconds of one thread; the machine was busy with other work.")


if __name__ == "__main__":
    main()
