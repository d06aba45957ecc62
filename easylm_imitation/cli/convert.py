"""`convert`: Hugging Face dir, Meta's checkpoint or GGUF file to run dir; any of these to Hugging Face dir or GGUF;
adapters merged, or to PEFT's files."""
import argparse
import os
from typing import Any

from easylm_imitation import console
from easylm_imitation.schema import UserError

HELP = "weights between Hugging Face dirs, run dirs, GGUF files and adapters"
EXAMPLE = "easylm-imitation convert --from RUN --to DIR --format hf --dtype same"
INTERRUPTED = "nothing was written; the same command starts anew"

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    parser.add_argument("--from", dest="source", metavar="X", required=True,
                        help="a Hugging Face dir, a run dir, a GGUF file, Meta's params.json and consolidated.*.pth, "
                        "or adapters (a run of config.lora, PEFT's files, BASE+ADAPTER), which are merged")
    parser.add_argument("--to", metavar="Y", required=True, help="a new folder: a run dir, or what --format says")
    parser.add_argument("--format", choices=("run", "hf", "gguf", "peft"), default="run",
                        help="what to write (default: a run dir); peft: the adapters alone")
    parser.add_argument("--template", metavar="NAME", default=None,
                        help="chat template that the model was trained with, e.g. chatml; default: as the source says")
    parser.add_argument("--dtype", default="same", metavar="D",
                        help="of exported weights: float32, bfloat16, float16, or same (default): as they came in; of "
                        "a GGUF file: f16 (default), q8_0, q4_0")
    parser.add_argument("--lossy", choices=("dtype",), action="append", default=[],
                        help="what an export may lose: dtype, the digits that --dtype has no room for")
    parser.add_argument("--largest-file", metavar="SIZE", default=None,
                        help="of an export: weights are cut into files of at most this size, e.g. 500MB (default: 5GB)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Converts; returns what was written. Raises UserError before anything is written, or writes nothing."""
    from easylm_imitation.folders import demand_absent
    from easylm_imitation.weights import RunDir, export_gguf, export_hf, open_model, save_run_model, with_template

    target = demand_absent(args.to)
    if target.is_relative_to(os.path.realpath(args.source)):
        raise UserError(f"--to {args.to}: lies in {args.source}, which it is made of; choose another place")
    _check_flags(args)
    if args.format == "peft":
        from easylm_imitation.weights import export_adapter
        tensors = export_adapter(args.source, args.to)
        console.say(f"{args.source} -> {args.to} (peft, {tensors} tensors)")
        return {"from": args.source, "to": args.to, "format": "peft", "tensors": tensors}
    loaded = open_model(args.source)
    if args.template is not None:
        loaded = with_template(loaded, args.template)
    parts = (loaded.config, loaded.params, loaded.tokenizer, loaded.template, loaded.lineage)
    lineage, dtype = loaded.lineage, args.dtype
    if args.format == "hf":
        dtype = loaded.stored_dtype if args.dtype == "same" else args.dtype
        source = RunDir(args.source)
        export_hf(args.to, *parts, dtype, _bytes(args.largest_file or "5GB"), lossy=args.lossy,
                  training=source.read_config(), trained_on=source.read_cards(), extras=loaded.extras)
    elif args.format == "gguf":
        dtype = "f16" if args.dtype == "same" else args.dtype
        lineage = export_gguf(args.to, *parts, dtype, loaded.extras)
    else:
        dtype = "float32"
        save_run_model(args.to, *parts, stored_dtype=loaded.stored_dtype, extras=loaded.extras)
    if loaded.extras.chat_template is not None:
        kept = "is kept: chats are served in it, and an export has it; --template would name one of ours instead"
        fate = f"gives way to '{loaded.template.name}'" if loaded.template else kept
        console.say(f"{args.source}: its own chat template {fate}")
    if loaded.dropped:
        console.say(f"{args.source}: left out {len(loaded.dropped)} tensors that hold no weights of their own, such as "
                    f"{loaded.dropped[0]}")
    console.say(f"{args.source} ({loaded.config.family}, {loaded.config.parameters():,} parameters) -> "
                f"{args.to} ({args.format}, {dtype})")
    return {"from": args.source, "to": args.to, "format": args.format, "family": loaded.config.family, "dtype": dtype,
            "parameters": loaded.config.parameters(), "id": lineage.id, "template": lineage.template,
            "dropped": list(loaded.dropped)}


def _bytes(size: str) -> int:
    """Bytes of "500MB" or "5GB". Raises UserError."""
    number, unit = size[:-2], size[-2:].upper()
    if not (number.isdigit() and int(number) > 0 and unit in _UNITS):
        raise UserError(f"--largest-file {size}: expected a size such as 500MB or 5GB")
    return int(number) * _UNITS[unit]


def _check_flags(args: argparse.Namespace) -> None:
    """Raises UserError for flags that do not go with the format, before any weight is read."""
    from easylm_imitation.weights.gguf_export import TYPES
    from easylm_imitation.weights.hf_export import check_dtype

    if args.format == "gguf":
        if args.dtype not in ("same", *TYPES):
            raise UserError(f"--dtype {args.dtype}: a GGUF file is written as {', '.join(TYPES)}")
    elif args.format == "peft" and args.dtype != "same":
        raise UserError(f"--dtype {args.dtype}: adapters are written as they are, in float32; leave it out")
    else:
        check_dtype(args.dtype)
    if args.format != "hf" and (args.lossy or args.largest_file):
        raise UserError("--lossy and --largest-file are for an export; say --format hf, or leave them out")
    _bytes(args.largest_file or "5GB")
    if args.format == "run":
        _demand_possible(args)


def _demand_possible(args: argparse.Namespace) -> None:
    """Raises UserError for what a run dir as the target cannot be."""
    from easylm_imitation.weights import RunDir

    run = RunDir(args.source)
    if run.holds_model() and not run.adapter.is_file():
        raise UserError(f"{args.source} is a run dir already; to export it say --format hf")
    if args.dtype not in ("same", "float32"):
        raise UserError(f"--dtype {args.dtype}: a run dir holds float32; the dtype is for --format hf")
