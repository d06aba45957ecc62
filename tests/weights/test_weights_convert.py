import json
import subprocess

import jax
import numpy as np
import pytest
import safetensors.numpy

from easylm_imitation.cli.main import main
from easylm_imitation.text import get_template
from easylm_imitation.weights import open_model


def convert(*args, capsys):
    """(exit code, JSON result, stderr) of the verb."""
    code = main(["convert", *map(str, args), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out.splitlines()[-1]) if code == 0 else None, err


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_hugging_face_to_run_and_back(exported, name, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    code, result, err = convert("--from", exported[name], "--to", run, capsys=capsys)
    assert code == 0, err
    assert (result["id"], result["dtype"]) == ("0f0f", "float32")
    assert result["parameters"] == open_model(run).config.parameters()
    code, result, err = convert("--from", run, "--to", out, "--format", "hf", capsys=capsys)
    assert (code, result["dtype"]) == (0, "bfloat16" if name == "qwen2" else "float32"), err
    assert (out / "model.safetensors").read_bytes() == (exported[name] / "model.safetensors").read_bytes()


def test_a_template_and_a_dtype_may_be_chosen(own_copy, tmp_path, capsys):
    folder = own_copy("gpt2")
    (folder / "easylm_imitation.json").unlink()
    code, result, _ = convert("--from", folder, "--to", tmp_path / "run", "--template", "chatml", capsys=capsys)
    assert (code, result["template"]) == (0, get_template("chatml").id)
    assert open_model(tmp_path / "run").template.name == "chatml"
    to_half = ("--from", tmp_path / "run", "--to", tmp_path / "half", "--format", "hf", "--dtype", "float16")
    code, _, err = convert(*to_half, capsys=capsys)
    assert code == 2
    assert "float16 would change numbers of 'transformer.wte.weight'; export in float32" in " ".join(err.split())
    assert not (tmp_path / "half").exists()
    assert convert(*to_half, "--lossy", "dtype", capsys=capsys)[0] == 0
    tensors = safetensors.numpy.load_file(tmp_path / "half" / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {np.dtype(np.float16)}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == "float16"


@pytest.mark.parametrize(("flags", "message"), [
    ({"--from": "{missing}"}, "no such folder; give a run dir or a Hugging Face dir"),
    ({"--to": "{source}"}, "already exists and is not an empty folder"),
    ({"--template": "chatlm"}, "did you mean 'chatml'"),
    ({"--template": "plain"}, "was made with chatml@"),
    ({"--format": "hf", "--dtype": "int8"}, "--dtype int8: choose float32, bfloat16, float16, or same"),
    ({"--lossy": "dtype"}, "--lossy and --largest-file are for an export"),
    ({"--largest-file": "1GB"}, "--lossy and --largest-file are for an export"),
    ({"--format": "hf", "--largest-file": "many"}, "--largest-file many: expected a size such as 500MB or 5GB"),
    ({"--dtype": "bfloat16"}, "a run dir holds float32; the dtype is for --format hf"),
])
def test_a_wrong_wish_is_one_clear_line_and_nothing_is_written(exported, tmp_path, capsys, flags, message):
    places = {"{missing}": tmp_path / "missing", "{source}": exported["llama"]}
    wanted = {"--from": exported["llama"], "--to": tmp_path / "out", **flags}
    args = [places.get(part, part) for pair in wanted.items() for part in pair]
    code, _, err = convert(*args, capsys=capsys)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("to", "message"), [
    ("{source}/inside", "lies in"), ("x" * 201, "the name is longer than 200 bytes"),
    ("{source}/config.json/x", "config.json is no folder that can be written to")])
def test_a_target_that_cannot_be_is_one_clear_line(exported, tmp_path, capsys, monkeypatch, to, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in exported["llama"].iterdir())
    code, _, err = convert("--from", exported["llama"], "--to", to.format(source=exported["llama"]), capsys=capsys)
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert message in err
    assert sorted(path.name for path in exported["llama"].iterdir()) == before
    assert list(tmp_path.iterdir()) == []


def test_the_current_folder_and_a_link_to_an_empty_one_are_targets(exported, tmp_path, capsys, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "here")
    assert convert("--from", exported["llama"], "--to", ".", "--format", "hf", capsys=capsys)[0] == 0
    assert convert("--from", exported["llama"], "--to", tmp_path / "link", "--format", "hf", capsys=capsys)[0] == 0
    for name in ("here", "there"):
        assert (tmp_path / name / "model.safetensors").is_file()


@pytest.mark.parametrize("form", ["run", "hf"])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(exported, tmp_path, capsys, form):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        target = small / "a" / "out"
        code, _, err = convert("--from", exported["llama"], "--to", target, "--format", form, capsys=capsys)
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert "No space left on device" in err
        assert f"{target}: cannot be written" in err
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_run_is_not_converted_to_a_run(exported, tmp_path, capsys):
    convert("--from", exported["llama"], "--to", tmp_path / "run", capsys=capsys)
    code, _, err = convert("--from", tmp_path / "run", "--to", tmp_path / "again", capsys=capsys)
    assert (code, "is a run dir already; to export it say --format hf" in err) == (2, True)
    assert not (tmp_path / "again").exists()


def test_an_export_is_cut_at_the_size_that_is_asked_for(exported, tmp_path, capsys):
    code, _, err = convert("--from", exported["llama"], "--to", tmp_path / "out", "--format", "hf", "--largest-file",
                           "10KB", capsys=capsys)
    assert code == 0, err
    files = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(files) > 2
    assert all(file.stat().st_size < 12_000 for file in files if len(safetensors.numpy.load_file(file)) > 1)
    jax.tree.map(np.testing.assert_array_equal, open_model(tmp_path / "out").params,
                 open_model(exported["llama"]).params)


def test_weights_without_a_tokenizer_come_with_a_note(own_copy, tmp_path, capsys):
    folder = own_copy("llama")
    (folder / "tokenizer.json").unlink()
    (folder / "easylm_imitation.json").unlink()
    code, _, err = convert("--from", folder, "--to", tmp_path / "run", capsys=capsys)
    assert code == 0
    assert "no tokenizer in it; put tokenizer.json or tokenizer.model beside the weights" in " ".join(err.split())
    loaded = open_model(tmp_path / "run")
    assert loaded.tokenizer is None
    jax.tree.map(np.testing.assert_array_equal, loaded.params, open_model(folder).params)


def test_a_chat_template_is_spoken_of_where_there_is_a_foreign_one(own_copy, tmp_path, capsys):
    folder = own_copy("llama")
    note = "its own chat template is kept: chats are served in it"
    assert note not in convert("--from", folder, "--to", tmp_path / "known", capsys=capsys)[2]
    (folder / "easylm_imitation.json").unlink()
    assert note in " ".join(convert("--from", folder, "--to", tmp_path / "run", capsys=capsys)[2].split())
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}')
    assert note not in convert("--from", folder, "--to", tmp_path / "none", capsys=capsys)[2]


def test_buffers_that_are_left_out_are_listed(own_copy, tmp_path, capsys):
    path = own_copy("gpt2") / "model.safetensors"
    old = safetensors.numpy.load_file(path)
    old["transformer.h.0.attn.bias"] = np.ones((1, 1, 64, 64), np.uint8)
    old["transformer.h.1.attn.masked_bias"] = np.array(-1e4, np.float32)
    safetensors.numpy.save_file(old, path)
    code, result, err = convert("--from", path.parent, "--to", tmp_path / "run", capsys=capsys)
    assert (code, sorted(result["dropped"])) == (0, ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"])
    assert "left out 2 tensors that hold no weights of their own" in err


def test_a_tied_copy_that_is_left_out_is_listed(own_copy, tmp_path, capsys):
    path = own_copy("qwen2") / "model.safetensors"
    tied = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file({**tied, "lm_head.weight": tied["model.embed_tokens.weight"]}, path)
    code, result, err = convert("--from", path.parent, "--to", tmp_path / "run", capsys=capsys)
    assert (code, result["dropped"]) == (0, ["lm_head.weight"]), err
