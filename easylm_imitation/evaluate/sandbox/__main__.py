"""Says whether this machine can hold model-written code; scores a file of HumanEval completions.

    python -m easylm_imitation.evaluate.sandbox
    python -m easylm_imitation.evaluate.sandbox --problems HumanEval.jsonl.gz --samples samples.jsonl --out out.jsonl

A sample is a line with `task_id` and `completion`, as OpenAI's human-eval reads them.
"""
import argparse
import sys
import time

from easylm_imitation.evaluate.sandbox import Limits, Sandbox, check_all, read_problems
from easylm_imitation.files import iter_jsonl, write_jsonl
from easylm_imitation.schema import UserError


def main() -> int:
    """The exit code: 0 done, 2 something the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m easylm_imitation.evaluate.sandbox", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--problems", metavar="FILE", help="HumanEval.jsonl or .jsonl.gz")
    parser.add_argument("--samples", metavar="FILE", help="completions to score (JSONL)")
    parser.add_argument("--out", metavar="FILE", help="the samples again, with passed and reason")
    parser.add_argument("--workers", metavar="N", type=int, help="at a time (default: one for each core)")
    parser.add_argument("--unsafe-code", action="store_true",
                        help="run without walls, as you, with your files and network: only what you trust")
    args = parser.parse_args()
    try:
        if bool(args.problems) != bool(args.samples):
            raise UserError("--problems and --samples go together")
        return _score(args) if args.samples else _look()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _look() -> int:
    with Sandbox() as sandbox:
        kind = {"root": "as root, through capabilities", "user": "through a user namespace"}[sandbox.walls]
        print(f"model-written code can run here, {kind}; every wall was tried and holds")
        print(f"limits of a program: {Limits()}")
    return 0


def _score(args: argparse.Namespace) -> int:
    problems, samples = read_problems(args.problems), []
    for number, row in iter_jsonl(args.samples):
        if not isinstance(row.get("task_id"), str) or not isinstance(row.get("completion"), str):
            raise UserError(f"{args.samples}:{number}: a sample needs the texts 'task_id' and 'completion'")
        samples.append((row["task_id"], row["completion"]))
    if not samples:
        raise UserError(f"{args.samples}: no samples in it")
    started = time.monotonic()
    verdicts = check_all(problems, samples, unsafe=args.unsafe_code, workers=args.workers)
    if args.out:
        write_jsonl(args.out, [{"task_id": task, "completion": text, "passed": v.passed, "reason": v.reason}
                               for (task, text), v in zip(samples, verdicts, strict=True)])
    passed = sum(verdict.passed for verdict in verdicts)
    print(f"{passed} of {len(samples)} completions passed ({passed / len(samples):.1%}), "
          f"{time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
