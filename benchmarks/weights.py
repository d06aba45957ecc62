"""Peak host memory and time of reading and writing Hugging Face weights, transformers + torch as the rival.

    python benchmarks/weights.py --model HF_DIR [--scratch DIR]     a real model: HF -> run -> HF, float32 in between
    python benchmarks/weights.py --synthetic 2b [--scratch DIR]     a LLaMA of that size in several files, bfloat16 kept

Every step is a process of its own; its peak is the largest resident memory it ever had, file pages included, less what
it had once everything was imported. Needs disk of three to five times the weights in --scratch, which is emptied again.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

SYNTHETIC = {"100m": (768, 12, 12, 4, 2048), "2b": (2048, 36, 16, 8, 6144)}    # D, L, N, K, F
VOCAB = 50304


def main() -> None:
    """Measures, prints, appends to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=pathlib.Path, help="a Hugging Face dir")
    what.add_argument("--synthetic", choices=SYNTHETIC, help="random weights of about this size")
    what.add_argument("--step", nargs="+", help=argparse.SUPPRESS)      # what the processes of one run are told
    parser.add_argument("--scratch", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()))
    args = parser.parse_args()
    if args.step:
        print(json.dumps(_measured(*args.step)))
        return
    scratch = pathlib.Path(tempfile.mkdtemp(dir=args.scratch))
    try:
        _report(args, scratch)
    finally:
        shutil.rmtree(scratch)


def _report(args: argparse.Namespace, scratch: pathlib.Path) -> None:
    from measure import report
    source = args.model or _write_synthetic(scratch / "source", *SYNTHETIC[args.synthetic])
    steps = _real_steps(source, scratch) if args.model else _synthetic_steps(source, scratch)
    rows = [_run(*step) for step in steps]
    count = _demand_equal(source, scratch / "back")
    report(f"Weights of {args.model.name if args.model else 'a synthetic ' + args.synthetic}: peak host memory",
           ["step", "seconds", "arrays MB", "peak MB above bare", "peak / arrays"], rows,
           f"All {count} tensors of source and export are equal byte for byte; arrays: the weights as the step holds "
           "them.")


def _real_steps(source: pathlib.Path, scratch: pathlib.Path) -> list[tuple[str, str, dict, tuple]]:
    """(title, step, environment, its arguments)."""
    run, back, theirs = scratch / "run", scratch / "back", scratch / "theirs"
    return [("read as float32", "read", {}, (source, "float32", "")),
            ("read as float32, 8 devices (fsdp 4 x tensor 2)", "read", _DEVICES,
             (source, "float32", "fsdp:4,tensor:2")),
            ("convert: Hugging Face -> run", "to_run", {}, (source, run)),
            ("convert: run -> Hugging Face", "to_hf", {}, (run, back)),
            ("transformers: from_pretrained(dtype=float32)", "rival", {}, (source, "float32", "")),
            ("transformers: from_pretrained, save_pretrained", "rival", {}, (source, "float32", theirs))]


def _synthetic_steps(source: pathlib.Path, scratch: pathlib.Path) -> list[tuple[str, str, dict, tuple]]:
    return [("read as bfloat16", "read", {}, (source, "bfloat16", "")),
            ("read as bfloat16, 8 devices (fsdp 4 x tensor 2)", "read", _DEVICES,
             (source, "bfloat16", "fsdp:4,tensor:2")),
            ("read and export as bfloat16", "there_and_back", {}, (source, scratch / "back")),
            ("transformers: from_pretrained(dtype=bfloat16)", "rival", {}, (source, "bfloat16", "")),
            ("transformers: from_pretrained, save_pretrained", "rival", {}, (source, "bfloat16", scratch / "theirs"))]


_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


def _run(title: str, step: str, environment: dict, arguments: tuple) -> list[object]:
    command = [sys.executable, __file__, "--step", step, *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **environment, "JAX_PLATFORMS": "cpu"}, capture_output=True,
                          text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{title}:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    return [title, found["seconds"], found["arrays"] / 1e6, found["peak"] / 1e6, found["peak"] / found["arrays"]]


def _measured(step: str, *arguments: str) -> dict[str, float]:
    """Runs one step in this process. Seconds, bytes of the arrays, bytes at the peak above the bare process."""
    work = {"read": _read, "to_run": _to_run, "to_hf": _to_hf, "there_and_back": _there_and_back,
            "rival": _rival}[step](*arguments)
    bare, start = _memory("VmRSS"), time.perf_counter()
    arrays = work()
    return {"seconds": time.perf_counter() - start, "arrays": arrays, "peak": _memory("VmHWM") - bare}


def _memory(key: str) -> int:
    """Bytes: VmRSS now, VmHWM at most so far."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _bytes(params: object) -> int:
    import jax
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def _started() -> None:
    """Imports everything and wakes the devices, so that this counts as the bare process."""
    import jax

    import easylm_imitation.weights
    jax.block_until_ready(jax.jit(lambda x: x + 1)(easylm_imitation.weights is not None))


def _read(source: str, dtype: str, mesh: str = ""):
    _started()
    from easylm_imitation.models import create
    from easylm_imitation.sharding import make_mesh, shardings
    from easylm_imitation.weights import open_hf

    def work() -> int:
        model = open_hf(source)
        network = create(model.config)
        placed = shardings(make_mesh(mesh), network.rules(), network.abstract()) if mesh else None
        return _bytes(model.read(np.dtype(dtype) if dtype == "float32" else None, placed))
    return work


def _to_run(source: str, target: str):
    _started()
    from easylm_imitation.weights import open_model, save_run_model

    def work() -> int:
        loaded = open_model(source)
        save_run_model(target, loaded.config, loaded.params, loaded.tokenizer, loaded.template, loaded.lineage,
                       stored_dtype=loaded.stored_dtype)
        return _bytes(loaded.params)
    return work


def _to_hf(source: str, target: str):
    _started()
    from easylm_imitation.weights import export_hf, open_model

    def work() -> int:
        loaded = open_model(source)
        export_hf(target, loaded.config, loaded.params, loaded.tokenizer, loaded.template, loaded.lineage,
                  loaded.stored_dtype)
        return _bytes(loaded.params)
    return work


def _there_and_back(source: str, target: str):
    _started()
    from easylm_imitation.weights import export_hf, open_hf
    from easylm_imitation.weights.hf_import import identify_hf

    def work() -> int:
        model = open_hf(source)
        params = model.read(None)
        export_hf(target, model.config, params, None, None, identify_hf(model), "bfloat16")
        return _bytes(params)
    return work


def _rival(source: str, dtype: str, target: str = ""):
    import torch
    import transformers
    torch.ones(2).sum()

    def work() -> int:
        model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype))
        if target:
            model.save_pretrained(target)
        return sum(p.numel() * p.element_size() for p in model.parameters())
    return work


def _write_synthetic(folder: pathlib.Path, d: int, layers: int, heads: int, kv: int, ff: int) -> pathlib.Path:
    """A LLaMA in bfloat16, one file for each few layers, as the hub's large models come."""
    import ml_dtypes
    import safetensors.numpy
    folder.mkdir()
    rng, kv_dim = np.random.default_rng(0), d // heads * kv
    shapes = {"self_attn.q_proj": (d, d), "self_attn.k_proj": (kv_dim, d), "self_attn.v_proj": (kv_dim, d),
              "self_attn.o_proj": (d, d), "mlp.gate_proj": (ff, d), "mlp.up_proj": (ff, d), "mlp.down_proj": (d, ff),
              "input_layernorm": (d,), "post_attention_layernorm": (d,)}
    ends = {"model.embed_tokens.weight": (VOCAB, d), "model.norm.weight": (d,), "lm_head.weight": (VOCAB, d)}
    groups = [ends, *({f"model.layers.{i}.{name}.weight": shape for i in range(first, min(first + 6, layers))
                       for name, shape in shapes.items()} for first in range(0, layers, 6))]
    homes = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors"
        tensors = {name: (rng.standard_normal(shape, np.float32) * 0.02).astype(ml_dtypes.bfloat16)
                   for name, shape in group.items()}
        safetensors.numpy.save_file(tensors, folder / file, metadata={"format": "pt"})
        homes.update(dict.fromkeys(group, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": homes}))
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": d,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv, "intermediate_size": ff,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "torch_dtype": "bfloat16"}))
    return folder


def _demand_equal(one: pathlib.Path, other: pathlib.Path) -> int:
    """How many tensors two dirs hold, when these are equal byte for byte; read by the safetensors library."""
    here, there = _tensors(one), _tensors(other)
    if here.keys() != there.keys():
        raise SystemExit(f"{other} holds other tensors than {one}: {sorted(here.keys() ^ there.keys())[:3]}")
    for name in here:
        a, b = (home.get_tensor(name) for home in (here[name], there[name]))
        if (a.dtype, a.shape) != (b.dtype, b.shape) or a.tobytes() != b.tobytes():
            raise SystemExit(f"{name} differs")
    return len(here)


def _tensors(folder: pathlib.Path) -> dict[str, object]:
    import ml_dtypes  # noqa: F401  numpy knows bfloat16 from then on
    import safetensors
    files = [safetensors.safe_open(path, framework="np") for path in sorted(folder.glob("*.safetensors"))]
    return {name: file for file in files for name in file.keys()}


if __name__ == "__main__":
    main()
