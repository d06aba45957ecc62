"""`plan`: what a training config would need on a named pod, before it is paid for."""
import argparse
import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from easylm_imitation.cli import flags
from easylm_imitation.schema import UserError

if TYPE_CHECKING:
    from easylm_imitation.models import ModelConfig
    from easylm_imitation.plan import Plan, Pod
    from easylm_imitation.train import TrainConfig

HELP = "what a training config needs on a pod that is not here: memory, time, money"
EXAMPLE = "easylm-imitation plan --config configs/train/base.py:llama-2-7b --topology v5e-64"
INTERRUPTED = "nothing was written"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    flags.add_config(parser)
    parser.add_argument("--serving", action="store_true", help="what `serve` would need: --config is one of `serve` "
                        "(default: its own), --init the model")
    parser.add_argument("--topology", metavar="NAME,...", required=True,
                        help="the machine, or several: v5e-64, v4-128, v5p-64, v6e-16, v5e-64x2 (two slices), h100x8")
    parser.add_argument("--init", metavar="X", help="the model: a run dir or Hugging Face dir (default: config.model)")
    parser.add_argument("--data", metavar="DIR", help="a dataset of `build`: hours and dollars of a run of epochs")
    parser.add_argument("--mesh", metavar="AXES", help="devices, as in 'fsdp:-1,tensor:2' (default: the config's)")
    parser.add_argument("--search", action="store_true", help="find the fastest mesh, remat and accumulate that fit")
    parser.add_argument("--explain", action="store_true", help="say what dominates and what to change")
    parser.add_argument("--analytic", action="store_true", help="by formula alone, in seconds, without the compiler")
    parser.add_argument("--price", metavar="DOLLARS", type=float, help="of a chip an hour (default: the list price)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Plans each topology in turn, and says what fits."""
    from easylm_imitation import console
    from easylm_imitation.config import load
    from easylm_imitation.plan import ASSUMPTIONS, find_pod, plan, search
    from easylm_imitation.train import TrainConfig
    pods = [find_pod(name) for name in args.topology.split(",")]
    if args.price is not None and not 0 <= args.price < float("inf"):
        raise UserError(f"--price {args.price:g}: dollars of a chip and hour, 0 or more")
    if args.serving:
        return {"plans": [_served(args, pod) for pod in pods]}
    if not args.config:
        raise UserError("plan: --config is missing: what shall be trained (or --serving: what shall be served)")
    config = load(TrainConfig, args.config, args.overrides)
    config = dataclasses.replace(config, mesh=args.mesh) if args.mesh else config
    model, tokens = _model(args, config), _tokens(args, config)
    found = []
    for pod in pods:
        compiler = _ask_compiler(args, pod)
        if args.search:
            plans = search(config, model, pod, compiler, console.say)
        else:
            plans = [plan(config, model, pod, compiler)]
        if not plans:
            console.say(f"{pod.name}: no setting fits; take a larger pod, a smaller data.batch, or another optimizer")
        found += [_shown(made, tokens, args) for made in plans[:1]]
        if len(plans) > 1:
            _others(plans)
    console.say("assumed: " + "; ".join(ASSUMPTIONS))
    return {"plans": found}


def _served(args: argparse.Namespace, pod: "Pod") -> dict[str, Any]:
    """Prints what a server needs on one pod; returns it."""
    from easylm_imitation import console
    from easylm_imitation.config import load
    from easylm_imitation.plan import plan_serving
    from easylm_imitation.serve import ServeConfig
    from easylm_imitation.weights import describe
    unused = [name for name in ("search", "data", "explain") if getattr(args, name)]
    if unused or not args.init:
        raise UserError(f"--serving has no use for --{unused[0]}" if unused else "--serving needs --init, the model")
    config = load(ServeConfig, args.config, args.overrides)
    config = dataclasses.replace(config, mesh=args.mesh) if args.mesh else config
    made = plan_serving(config, describe(args.init)[0], pod)
    price = (args.price if args.price is not None else pod.chip.dollars) * pod.chips
    dollars = price / (made.tokens_per_second * 3600) * 1e6
    axes = ",".join(f"{axis}:{size}" for axis, size in made.axes.items() if size > 1) or "one device"
    rows = [["weights, GB a device", _giga(made.weights)], [f"cache: {made.slots} slots of {made.context}, GB a device",
                                                            _giga(made.cache)],
            ["programs (formula), GB a device", _giga(made.working)], ["together", _giga(made.peak)],
            ["capacity", _giga(pod.memory)], ["tokens/s, at most, all slots busy", f"{made.tokens_per_second:,.0f}"],
            ["seconds a token of one answer, at least", made.seconds_a_token],
            ["dollars a million tokens, at that", dollars]]
    console.table(f"{pod.name}: {pod.described}; {axes}; by formula", ["serving", "value"], rows)
    console.say(f"{pod.name}: {'fits' if made.fits else 'DOES NOT FIT: fewer slots, a shorter context, more tensor'}")
    return {"topology": pod.name, "chips": pod.chips, "mesh": dict(made.axes), "fits": made.fits,
            "weights": made.weights, "cache": made.cache, "working": made.working, "peak_bytes": made.peak,
            "capacity_bytes": pod.memory, "tokens_per_second": made.tokens_per_second,
            "seconds_a_token": made.seconds_a_token, "dollars_a_million_tokens": dollars, "compiled": False}


def _ask_compiler(args: argparse.Namespace, pod: "Pod") -> bool:
    from easylm_imitation import console
    from easylm_imitation.plan import available
    if args.analytic:
        return False
    if not pod.topology:
        console.say(f"{pod.name}: no compiler for it runs here, so this is an estimate by formula")
        return False
    if not available():
        raise UserError("the TPU compiler is not installed: pip install libtpu==0.0.52 (no TPU is needed), or "
                        "--analytic for an estimate without it")
    return True


def _model(args: argparse.Namespace, config: "TrainConfig") -> "ModelConfig":
    from easylm_imitation.models import model_config
    from easylm_imitation.weights import describe
    if args.init:
        return describe(args.init)[0]
    if not config.model:
        raise UserError("nothing says which model to plan for: give config.model (a preset or a family), or --init")
    vocabulary = {}
    if args.data:
        from easylm_imitation.text import load_tokenizer
        vocabulary = {"vocab_size": -(-load_tokenizer(pathlib.Path(args.data) / "tokenizer").vocab_size // 8) * 8}
    return model_config(vocabulary | config.model, "config.model")


def _tokens(args: argparse.Namespace, config: "TrainConfig") -> float | None:
    """Tokens of the whole run, padding included; None when nothing says."""
    from easylm_imitation.data import read_card
    if config.steps is not None:
        return config.steps * config.data.batch * config.data.context
    if config.tokens is not None:
        return config.tokens
    return read_card(pathlib.Path(args.data)).tokens * config.epochs if args.data else None


def _shown(made: "Plan", tokens: float | None, args: argparse.Namespace) -> dict[str, Any]:
    """Prints one plan; returns it."""
    from easylm_imitation import console
    from easylm_imitation.plan import advice, described
    pod, memory, seconds = made.pod, made.memory, made.seconds
    price = args.price if args.price is not None else pod.chip.dollars
    rows = [["weights", _giga(memory.weights)], ["optimizer", _giga(memory.optimizer)],
            ["gradients (formula)", _giga(memory.gradients)], ["remembered activations (formula)",
                                                               _giga(memory.activations)],
            ["gathered weights, one layer at work (formula)", _giga(memory.working)],
            ["peak, by the compiler" if made.compiled else "peak, by formula",
             _giga(made.peak) if made.peak else "more than there is"], ["capacity", _giga(pod.memory)]]
    console.table(f"{pod.name}: {pod.described}; {described(made.work)}", ["memory a device", "GB"], rows)
    console.say(f"{pod.name}: {'fits' if made.fits else 'DOES NOT FIT'}" + (f" ({made.needed})" if made.needed else ""))
    result = {"topology": pod.name, "chips": pod.chips, "devices": made.devices, "setting": described(made.work),
              "mesh": dict(made.work.axes), "remat": made.work.config.remat, "accumulate": made.work.config.accumulate,
              "fits": made.fits, "peak_bytes": made.peak, "capacity_bytes": pod.memory,
              "memory": dataclasses.asdict(memory), "compiled": made.compiled}
    if made.fits:
        result |= _speed(made, tokens, price)
        _exchanged(made)
    result["collectives"] = [dataclasses.asdict(found) for found in made.collectives]
    result["seconds"] = dataclasses.asdict(seconds) | {"step": seconds.step}
    if args.explain or not made.fits:
        result["advice"] = advice(made)
        for line in result["advice"]:
            console.say(f"  {line}")
    return result


def _exchanged(made: "Plan") -> None:
    """What goes over which network: sums of gradients inside a slice, and what is left of them between slices."""
    from easylm_imitation import console
    from easylm_imitation.plan import between_slices, exchange_seconds
    rows = [[found.kind, ",".join(found.axes) or "?",
             "between slices" if between_slices(made.work.axes, found.axes, made.pod) else "links of the pod",
             "beside" if found.beside else "alone", _giga(found.moved),
             exchange_seconds(made.work.axes, found.axes, found.moved, made.pod)] for found in made.collectives]
    if rows:
        console.table("exchanged, " + ("as compiled" if made.exchanged_as_compiled else "by formula"),
                      ["what", "over", "network", "work", "GB sent a device", "s"], rows)


def _speed(made: "Plan", tokens: float | None, price: float) -> dict[str, Any]:
    from easylm_imitation import console
    from easylm_imitation.plan.estimate import model_flops
    rate, seconds = made.tokens_per_second, made.seconds
    rows = [["FLOPs that count for MFU", f"{model_flops(made.work):.3g}"],
            ["arithmetic, s" + (" (compiler's cycles)" if made.cycles else " (formula)"), seconds.arithmetic],
            ["exchange beside it, s", seconds.beside], ["exchange after it, s", seconds.after],
            ["an update, s", seconds.step], ["MFU", f"{made.mfu:.1%}"],
            ["tokens/s/device", f"{rate / made.devices:,.0f}"], ["tokens a day", f"{rate * 86400:.3g}"]]
    result = {"mfu": made.mfu, "tokens_per_second": rate, "flops": model_flops(made.work), "price": price}
    if tokens:
        hours = tokens / rate / 3600
        result |= {"hours": hours, "dollars": hours * made.pod.chips * price}
        rows += [["hours for the run", hours], [f"dollars, at ${price:g} a chip and hour", result["dollars"]]]
    console.table("an update, predicted", ["what", "value"], rows)
    return result


def _others(plans: "list[Plan]") -> None:
    from easylm_imitation import console
    from easylm_imitation.plan import described
    console.table("what else fits, fastest first", ["setting", "peak GB", "s an update", "MFU"],
                  [[described(p.work), _giga(p.peak), p.seconds.step, f"{p.mfu:.1%}"] for p in plans[1:9]])


def _giga(size: float) -> str:
    return f"{size / 1e9:.2f}"
