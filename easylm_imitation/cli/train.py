"""`train`: a config and a built dataset to a run dir; the same command again continues."""
import argparse
import contextlib
import dataclasses
import os
from collections.abc import Callable
from typing import Any

from easylm_imitation.cli import flags
from easylm_imitation.schema import UserError

HELP = "train a model on a built dataset; restarted with the same command it continues"
EXAMPLE = "easylm-imitation train --config configs/train/llama_10m.py --data DATA --workdir RUN"
INTERRUPTED = "what was saved is kept, the same command continues from the newest checkpoint"
OWN_SIGNALS = True    # the loop's own question, or that of jax's runtime when there are several processes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    flags.add_config(parser, required=True)
    parser.add_argument("--data", metavar="DIR", required=True, help="a dataset written by `build`")
    parser.add_argument("--init", metavar="X", help="initial weights: a run dir or a Hugging Face dir (default: fresh)")
    parser.add_argument("--workdir", metavar="DIR", required=True, help="the run dir to write, or to continue")
    parser.add_argument("--teacher", metavar="X", help="a model to distil, or a cache of `logits`; needs config.distil")
    parser.add_argument("--mix", metavar="DIR", help="a dataset of which each batch takes rows, pre-training text "
                        "say; needs config.mix")
    parser.add_argument("--tasks", metavar="A,B", default="", help="measure these wherever the run validates or saves; "
                        "as in `evaluate`")
    parser.add_argument("--task-data", metavar="DIR", help="folder of the published files of the named tasks")
    parser.add_argument("--prompt", choices=("raw", "chat", "both"), help="how tasks are put (default: raw)")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N items of each task")
    parser.add_argument("--seed", type=int, help="seed of fresh weights and data order (default: the config's)")
    parser.add_argument("--profile", metavar="FIRST:COUNT", help="trace these updates of this call, e.g. 10:3")
    parser.add_argument("--mesh", metavar="AXES", help="devices, as in 'fsdp:-1,tensor:2' (default: the config's)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains, and says where the run stands."""
    from easylm_imitation.sharding import start_processes, together
    start_processes(watched=True)       # before anything asks jax for a device

    import jax

    from easylm_imitation import console
    others = jax.process_index() > 0        # the first alone talks, but for errors
    args.json = args.json and not others
    with console.quiet(args.quiet or others), together():
        return _train(args)


def _train(args: argparse.Namespace) -> dict[str, Any]:
    import jax

    from easylm_imitation import console
    from easylm_imitation.cli.main import terminable
    from easylm_imitation.config import load
    from easylm_imitation.train import TrainConfig, train

    config = load(TrainConfig, args.config, args.overrides)
    evaluate = _evaluation(args)
    given = {key: getattr(args, key) for key in ("seed", "mesh") if getattr(args, key) is not None}
    try:
        # before the first update SIGTERM unwinds; with several processes it is a notice to jax's runtime from the start
        with terminable() if jax.process_count() == 1 else contextlib.nullcontext():
            result = train(dataclasses.replace(config, **given), data_dir=args.data, workdir=args.workdir,
                           init=args.init, teacher=args.teacher, mix=args.mix, evaluate=evaluate, profile=args.profile)
    except KeyboardInterrupt:
        console.error(f"interrupted; {INTERRUPTED}")
        os._exit(130)       # Python would wait for the threads that write a checkpoint, which may take minutes
    state = "interrupted, saved; the same command continues" if result.interrupted else "done"
    console.say(f"{result.workdir}: {state} at update {result.step} of {result.total_steps}, loss {result.loss:.4f}, "
                f"{result.tokens:,} tokens ({result.loss_tokens:,} with loss), {result.seconds:.0f} s")
    return dataclasses.asdict(result)


def _evaluation(args: argparse.Namespace) -> Callable[[Any], dict[str, float]] | None:
    """Measures the tasks of the flags on a model (a LoadedModel) in training; None without any. Raises UserError."""
    if not args.tasks:
        if args.task_data or args.prompt or args.limit is not None:
            raise UserError("--task-data, --prompt and --limit are for --tasks, which says what is measured")
        return None
    from easylm_imitation.evaluate import EvaluateConfig, evaluate_tasks, find_tasks, planned
    from easylm_imitation.serve import own_server, serving
    tasks, config, prompt = find_tasks(args.tasks.split(","), args.task_data), EvaluateConfig(), args.prompt or "raw"
    planned(tasks, prompt, args.limit)      # a look whose tasks make no sense would only say so, hours later

    def evaluate(model: Any) -> dict[str, float]:
        with serving(model, own_server(slots=config.concurrency)) as served:
            results = evaluate_tasks(served.url, tasks, prompt=prompt, limit=args.limit,
                                     config=config.patient(served.request_seconds), encode=served.encode)
        return {f"{task.task}/{task.prompt}": task.score for task in results.tasks}
    return evaluate
