"""`build`: raw files to a dataset of tokenized shards."""
import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from easylm_imitation import console
from easylm_imitation.cli import flags
from easylm_imitation.config import load
from easylm_imitation.records import DataCard, RuleCount
from easylm_imitation.schema import Incomplete, UserError, plain

if TYPE_CHECKING:
    from easylm_imitation.data import BuildConfig

HELP = "turn raw conversation files into a dataset of tokenized shards and a data card"
EXAMPLE = ("easylm-imitation build --config configs/data/gpteacher.py --config.root=DIR --config.tokenizer=TOKENIZER "
           "--out DATA")
INTERRUPTED = "nothing was written; the same command starts anew"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    flags.add_config(parser, required=True)
    flags.add_out(parser, "folder of the dataset; must be new, empty, or hold the same dataset")
    parser.add_argument("--runner", metavar="NAME",
                        help="read, clean and tokenize in an Apache Beam pipeline (extra `beam`): DirectRunner, "
                             "DataflowRunner, FlinkRunner, ...; the dataset is the same")
    parser.add_argument("--runner-option", metavar="NAME=VALUE", action="append", default=[],
                        help="an option of Beam's own, such as temp_location=gs://BUCKET/DIR; may be repeated")
    parser.add_argument("--look-for", metavar="TASK,SUITE", default="", help="evaluation tasks, task files and suites "
                        "whose items are looked for in the rows; the card counts them, nothing is removed")
    parser.add_argument("--task-data", metavar="DIR", help="folder of the published files of evaluation tasks that "
                        "--look-for or the config's rules (task:mmlu) name, as `evaluate` takes it")
    parser.add_argument("--show", metavar="N", type=int, default=0,
                        help="print N rows of the dataset, tokens with loss coloured")


class _Tasks:
    """Evaluation tasks by name: bundled ones, and those of files that were named by their paths."""

    def __init__(self, task_data: str | None):
        self._data, self._files = task_data, dict[str, str]()

    def names(self, asked: Sequence[str], already: Sequence[str]) -> list[str]:
        """Of tasks, task files and suites, without what is looked for `already`; a variant of a bundled task that is
        there too (gsm8k_cot beside gsm8k) has its items."""
        from easylm_imitation.evaluate import SUITES, TASKS, find_suite, find_tasks
        names: list[str] = []
        for one in map(str.strip, asked):
            suite = find_suite(one, self._data) if one in SUITES else None
            of_file = [task.name for task in find_tasks([one])] if one.endswith(".yaml") else []
            self._files |= dict.fromkeys(of_file, one)
            names += [task.whole or task.name for task in suite.tasks] if suite else of_file or [
                one.removesuffix("@published")]
        known = dict.fromkeys([*already, *names])
        bundled = [name for name in known if name in TASKS and name not in self._files]
        same = {name for name in bundled if any(name.startswith(f"{other}_") for other in bundled)}
        return [name for name in known if name not in same and name not in already]

    def items(self, task: str) -> list[dict[str, Any]]:
        """The items of one, read and called as by `evaluate`, each with a text to look for."""
        from easylm_imitation.evaluate import find_tasks, item_id
        parts = find_tasks([self._files.get(task, task)], self._data)
        return [_with_text({**row, "id": item_id(part, str(row["id"] if part.has_ids else i))})
                for part in parts if part.name == task or task not in self._files for i, row in enumerate(part.rows)]


def _with_text(row: dict[str, Any]) -> dict[str, Any]:
    """Own tasks call their fields as they like: where none is known, all that is said in the row is looked for."""
    from easylm_imitation.data.overlap import TEXTS
    said = (value for key, value in row.items() if key != "id" and isinstance(value, str))
    return row if any(key in TEXTS for key in row) else {**row, "text": "\n".join(said)}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Builds, shows a table of sources, returns the card. Raises Incomplete when records were malformed."""
    from easylm_imitation.data import MALFORMED, BuildConfig, Runner, build_dataset
    from easylm_imitation.data.clean import named_tasks
    from easylm_imitation.data.show import show_rows

    if args.show < 0:
        raise UserError(f"--show {args.show}: a number of rows, at least 0")
    if args.runner_option and not args.runner:
        raise UserError(f"--runner-option {args.runner_option[0]}: belongs to a --runner")
    config = load(BuildConfig, args.config, args.overrides)
    tasks = _Tasks(args.task_data)
    config = _looking(config, args.look_for.split(","), tasks) if args.look_for else config
    if args.task_data is not None and not args.look_for and not named_tasks(config.clean):
        raise UserError(f"--task-data {args.task_data}: nothing looks for a task; name some with --look-for, or leave "
                        "the flag out")
    card = build_dataset(config, args.out, Runner(args.runner, tuple(args.runner_option)) if args.runner else None,
                         tasks.items)
    _show(card)
    console.say(f"{card.conversations} conversations, {card.tokens} tokens, {card.loss_tokens} of them with loss; the "
                f"longest has {card.longest}")
    console.say(f"{args.out}: card {card.hash}, template {card.template}, tokenizer {card.tokenizer}")
    show_rows(args.out, args.show)
    broken = sum(n for source in card.sources for reason, n in source.dropped.items() if reason in MALFORMED)
    if broken:
        read = sum(source.read for source in card.sources)
        raise Incomplete(f"{broken} of {read} records are malformed; the rest is built, and {args.out}/dropped.jsonl "
                         "names the file and line of each", plain(card))
    return plain(card)


def _looking(config: "BuildConfig", names: Sequence[str], tasks: _Tasks) -> "BuildConfig":
    """`config` with a rule more: `overlap`, which tells of the items of those tasks and suites."""
    from easylm_imitation.data.clean import named_tasks
    against = [f"task:{name}" for name in tasks.names(names, named_tasks(config.clean))]
    rule = {"rule": "overlap", "against": against, "remove": False}
    return dataclasses.replace(config, clean=(*config.clean, rule)) if against else config


def _reports(rule: RuleCount) -> bool:
    """Whether it drops nothing whatever it meets."""
    return rule.rule in ("diversity", "held-out") or (rule.rule == "overlap" and not rule.options.get("remove"))


def _show(card: DataCard) -> None:
    """Tables of sources and, where there are any, of cleaning rules with a few of what each met."""
    rows = [[s.dataset, s.read, s.kept, s.tokens, ", ".join(f"{n} {reason}" for reason, n in s.dropped.items()) or "0"]
            for s in card.sources]
    console.table(card.name, ["source", "read", "kept", "tokens", "dropped"], rows)
    if any(s.added or s.left or s.copies for s in card.sources):
        rows = [[s.dataset, s.added, s.left, s.copies] for s in card.sources]
        console.table("mixture", ["source", "added by splitting", "left out of the mixture", "copies by weight"], rows)
    if not card.rules:
        return
    rows = [[r.rule, r.dataset or "all", r.seen, r.changed, "reports alone" if _reports(r) else r.dropped, r.added]
            for r in card.rules]
    console.table("cleaning", ["rule", "source", "seen", "changed", "dropped", "added"], rows)
    for rule in card.rules:
        for sample in rule.samples:
            did = f"-> {sample.after}" if sample.after else f"dropped ({sample.detail})"
            console.say(f"{rule.rule}: {sample.id}: {sample.before}\n  {did}")
    for name, found in card.overlaps.items():
        fate = "removed" if found["removed"] else "left in"
        fate = f"{found['rows_removed']} of them removed" if "rows_removed" in found else fate
        console.say(f"{found['items_found']} of {found['items']} items of {name} stand in {found['rows_found']} "
                    f"conversations, {fate}; overlap.json names them")
    for name, found in card.held_out.items():
        console.say(f"{found['too_near']} of {found['prompts']} prompts of {name} have a BLEU above {found['most']} "
                    f"to a query (mean to the nearest: {found['mean_bleu']:.3f}); held_out/{name}.jsonl holds the "
                    "others")
    if card.diversity:
        console.say(f"mean BLEU of a query to its nearest other query: {card.diversity['bleu']:.3f}, standard error "
                    f"{card.diversity['error']:.3f}, over {card.diversity['sampled']} of {card.diversity['queries']}")
