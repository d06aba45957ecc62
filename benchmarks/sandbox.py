"""Verdicts on HumanEval's canonical solutions: behind walls, without, and in a fresh interpreter each, as others do it.

    python benchmarks/sandbox.py --problems HumanEval.jsonl.gz [--workers 2]
"""
import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable

from measure import report

from easylm_imitation.evaluate.sandbox import check_all, read_problems
from easylm_imitation.evaluate.sandbox.pool import in_parallel


def main() -> None:
    """Measures, prints, appends to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", required=True)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    problems = read_problems(args.problems)
    right = [(name, problem["canonical_solution"]) for name, problem in problems.items()]
    empty = [(name, "    pass\n") for name in problems]

    def fresh(samples: list[tuple[str, str]]) -> int:
        """Program and tests in one new interpreter, the exit status believed, nothing held back."""
        def passed(sample: tuple[str, str]) -> bool:
            problem = problems[sample[0]]
            text = f"{problem['prompt']}{sample[1]}\n{problem['test']}\ncheck({problem['entry_point']})"
            return not subprocess.run([sys.executable, "-S", "-c", text], capture_output=True, timeout=30).returncode
        return sum(in_parallel(passed, samples, args.workers))

    def ours(unsafe: bool) -> Callable[[list[tuple[str, str]]], int]:
        return lambda samples: sum(v.passed for v in check_all(problems, samples, unsafe=unsafe, workers=args.workers))

    rows, ways = [], {"sandbox": ours(False), "the same without walls (unsafe)": ours(True), "fresh interpreter": fresh}
    for what, samples in (("canonical solutions", right), ("empty bodies", empty)):
        seconds = {}
        for way, run in ways.items():
            started = time.perf_counter()
            passed = run(samples)
            seconds[way] = time.perf_counter() - started
            rows.append([what, way, passed, seconds[way], 1000 * seconds[way] * args.workers / len(samples),
                         seconds[way] / seconds["sandbox"]])
    report("HumanEval's verdicts", ["programs", "way", "passed", "seconds", "ms a verdict and worker", "x sandbox"],
           rows, f"{args.workers} workers; load at the end {os.getloadavg()[0]:.0f}.")


if __name__ == "__main__":
    main()
