"""GGUF files: out, in, read by others, and refused when they are hostile."""
import dataclasses
import struct

import jax
import numpy as np
import pytest
from tiny_models import CONFIGS, made
from tiny_tokenizers import byte_tokenizer

from easylm_imitation.cli.main import main
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError
from easylm_imitation.text import get_template
from easylm_imitation.weights import describe, export_gguf, open_model
from easylm_imitation.weights.gguf_file import open_gguf_file

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed (pip install -e '.[gguf]')")

LINEAGE = Lineage(id="0f0f", name="student", base="aaaa", base_name="base", teachers=("gpt-4",), code="0.1.0")
SIZES = {"d_model": 64, "d_ff": 96, "vocab_size": 264}      # rows of whole blocks
KINDS = ("llama", "llama3", "llama_bias", "qwen2", "qwen3", "gpt2")


def write(path, name, kind="f16", **changes):
    """Writes a tiny model; returns its numbers."""
    sizes = SIZES | ({"head_dim": 16, "heads": 4} if hasattr(CONFIGS[name], "rope_theta") else {}) | changes
    model, params = made(name, **sizes)
    template = get_template("chatml")
    export_gguf(path, model.config, params, byte_tokenizer(), template, LINEAGE, kind)
    return model, params


@pytest.mark.parametrize("name", [
    name if name in ("llama3", "gpt2") else pytest.param(name, marks=pytest.mark.slow) for name in KINDS])
def test_a_model_comes_back_as_it_was_but_for_float16(name, tmp_path):
    model, params = write(tmp_path / "m.gguf", name)
    found = open_model(tmp_path / "m.gguf")
    assert found.config == model.config
    for ours, theirs in zip(jax.tree.leaves(found.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)
    assert (found.template.name, found.lineage.base, found.lineage.teachers) == ("chatml", "aaaa", ("gpt-4",))
    assert found.lineage == describe(tmp_path / "m.gguf")[1] != LINEAGE
    own = byte_tokenizer()
    texts = ["Hello, world!\n\n  12345 <|im_end|> naïve 日本語", " a  b", "'ll x\r\n"]
    assert [found.tokenizer.encode(t) for t in texts] == [own.encode(t) for t in texts]
    assert (found.tokenizer.eos_id, found.tokenizer.bos_id) == (own.eos_id, own.bos_id)


@pytest.mark.parametrize("begins", [True, False])
def test_whether_texts_begin_with_a_token_comes_back(begins, tmp_path):
    model, params = made("llama3", **SIZES, heads=4, head_dim=16)
    tokenizer = byte_tokenizer(("<eos>", "<bos>"), bos="<bos>").beginning(begins)
    export_gguf(tmp_path / "m.gguf", model.config, params, tokenizer, None, LINEAGE, "f16")
    found = open_model(tmp_path / "m.gguf").tokenizer
    assert (found.begins, found.bos_id) == (begins, tokenizer.bos_id)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_blocks_of_few_bits_are_those_of_the_package(kind, tmp_path):
    _, params = write(tmp_path / "m.gguf", "llama", kind)
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    found = open_model(tmp_path / "m.gguf").params
    down = np.asarray(params["layers"]["mlp"]["down"]["kernel"][1]).T
    expected = gguf.quants.quantize(np.ascontiguousarray(down), gguf.GGMLQuantizationType[kind.upper()])
    np.testing.assert_array_equal(np.asarray(reader["blk.1.ffn_down.weight"].data), expected)
    decoded = gguf.quants.dequantize(expected, gguf.GGMLQuantizationType[kind.upper()])
    np.testing.assert_array_equal(found["layers"]["mlp"]["down"]["kernel"][1], decoded.T)
    assert reader["output.weight"].tensor_type.name == "Q8_0"       # the head in eight bits either way
    assert reader["blk.0.attn_norm.weight"].tensor_type.name == "F32"


def test_an_independent_reader_finds_every_tensor_and_key(tmp_path):
    model, params = write(tmp_path / "m.gguf", "llama")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    shapes = {tensor.name: tuple(map(int, tensor.shape)) for tensor in reader.tensors}
    assert len(shapes) == 2 * 9 + 3
    assert shapes["blk.1.attn_k.weight"] == (64, 32)
    assert shapes["token_embd.weight"] == (64, 264)
    said = {key: field.contents() for key, field in reader.fields.items()}
    assert (said["general.architecture"], said["llama.block_count"], said["llama.attention.head_count_kv"]) == (
        "llama", 2, 2)
    assert said["tokenizer.ggml.tokens"][-5] == "[PAD259]"
    assert said["tokenizer.ggml.token_type"][-5] == 5
    assert "<|im_start|>" in said["tokenizer.chat_template"]
    q = np.asarray(params["layers"]["attention"]["q"]["kernel"][0]).T       # [N H, D], halves; in the file, pairs
    paired = q.reshape(4, 2, 8, 64).swapaxes(1, 2).reshape(64, 64)
    np.testing.assert_array_equal(next(t.data for t in reader.tensors if t.name == "blk.0.attn_q.weight"),
                                  paired.astype(np.float16))


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
@pytest.mark.parametrize("name", ["output_norm.weight", "blk.1.attn_q.weight", "token_embd.weight"])
def test_numbers_that_were_changed_since_have_no_lineage_of_ours(name, kind, tmp_path):
    write(tmp_path / "m.gguf", "llama", kind)
    raw = bytearray((tmp_path / "m.gguf").read_bytes())
    tensor = next(tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors if tensor.name == name)
    assert describe(tmp_path / "m.gguf")[1].name == f"student ({kind})"
    raw[tensor.data_offset + 2] ^= 1
    (tmp_path / "other.gguf").write_bytes(raw)
    assert describe(tmp_path / "other.gguf")[1].name == "other.gguf"


@pytest.mark.parametrize("kind", ["I8", "I32", "Q8_1", "Q8_K"])
def test_types_that_nothing_decodes_are_refused_before_the_weights_are_read(kind, tmp_path):
    write(tmp_path / "m.gguf", "llama", "q8_0", d_ff=256)
    content, known = (tmp_path / "m.gguf").read_bytes(), gguf.GGMLQuantizationType
    place = content.index(b"blk.0.ffn_down.weight") + len(b"blk.0.ffn_down.weight") + 4 + 2 * 8
    assert content[place:place + 4] == struct.pack("<I", known.Q8_0)
    # At the end, so that its larger blocks have room.
    changed = content[:place] + struct.pack("<IQ", known[kind], len(content) * 2 // 32 * 32) + content[place + 12:]
    (tmp_path / "m.gguf").write_bytes(changed + bytes(len(content) * 2))
    with pytest.raises(UserError, match=f"'blk.0.ffn_down.weight' of .* is {kind}, which is not read"):
        open_gguf_file(tmp_path / "m.gguf")


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    write(tmp_path / "m.gguf", "llama", "q8_0")
    raw = bytearray((tmp_path / "m.gguf").read_bytes())
    up = next(tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors if tensor.name == "blk.0.ffn_up.weight")
    raw[up.data_offset:up.data_offset + 2] = np.float16(np.nan).tobytes()
    (tmp_path / "m.gguf").write_bytes(raw)
    with pytest.raises(UserError, match="not finite"):
        open_model(tmp_path / "m.gguf")


@pytest.mark.parametrize(("name", "changes", "kind", "said"), [
    ("mistral", {}, "f16", "no sliding window"), ("opt", {}, "f16", "LLaMA's family and GPT-2, not for 'opt'"),
    ("llama", {"d_ff": 48}, "q4_0", "blocks of 32 numbers, and those of 'blk.0.ffn_down.weight' have 48")])
def test_what_the_format_cannot_hold_is_refused_and_nothing_is_written(name, changes, kind, said, tmp_path):
    with pytest.raises(UserError, match=said):
        write(tmp_path / "m.gguf", name, kind, **changes)
    assert list(tmp_path.iterdir()) == []


def test_numbers_beyond_float16_are_refused_and_nothing_is_written(tmp_path):
    model, params = made("llama", **SIZES, head_dim=16)
    params["layers"]["mlp"]["up"]["kernel"][0, 0, 0] = 1e6
    with pytest.raises(UserError, match="'blk.0.ffn_up.weight' has numbers that .* no room"):
        export_gguf(tmp_path / "m.gguf", model.config, params, byte_tokenizer(), None, LINEAGE, "f16")
    assert list(tmp_path.iterdir()) == []


def text(value):
    return struct.pack("<Q", len(value)) + value


def header(tensors=0, keys=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def tensor(name, *dims, kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


HOSTILE = {
    "not one": (b"no GGUF at all", "does not begin with GGUF"),
    "version": (header(version=1), "version 1; versions 2 and 3"),
    "other byte order": (header(version=3 << 24), "other byte order"),
    "short": (header()[:15], "ends after 15 bytes, within its header"),
    "many tensors": (header(tensors=2**60), "1,152,921,504,606,846,976 tensors, more than fit"),
    "many keys": (header(keys=2**60), "keys, more than fit"),
    "long text": (header(keys=1) + struct.pack("<Q", 2**50) + bytes(32), "a text of 1,125,899,906,842,624 bytes"),
    "long list": (header(keys=1) + text(b"k") + struct.pack("<IIQ", 9, 4, 2**61), "entries of 'k', more than fit"),
    "list of lists": (header(keys=1) + text(b"k") + struct.pack("<IIQ", 9, 9, 1) + bytes(32), "a list of type 9"),
    "unknown type": (header(keys=1) + text(b"k") + struct.pack("<IQ", 77, 1), "of type 77, which is not known"),
    "a key twice": (header(keys=2) + 2 * (text(b"k") + struct.pack("<IB", 0, 1)), "'k' comes twice"),
    "alignment": (header(keys=1) + text(b"general.alignment") + struct.pack("<II", 4, 12), "general.alignment is 12"),
    "a tensor twice": (header(tensors=2) + 2 * tensor(b"t", 8), "'t' comes twice"),
    "many dims": (header(tensors=1) + text(b"t") + struct.pack("<I", 2**31) + bytes(32), "has 2147483648 dims"),
    "huge tensor": (header(tensors=1) + tensor(b"t", 2**40, 2**40), "bytes behind the end of the file"),
    "empty dim": (header(tensors=1) + tensor(b"t", 0, 4), "not made of blocks"),
    "broken block": (header(tensors=1) + tensor(b"t", 33, kind=2), "not made of blocks of 32"),
    "type": (header(tensors=1) + tensor(b"t", 32, kind=999), "is of type 999, which is not known"),
    "overlapping": (header(tensors=2) + tensor(b"a", 32) + tensor(b"b", 32, offset=64) + bytes(512),
                    "'a' and 'b' overlap"),
    "crooked": (header(tensors=1) + tensor(b"a", 2, offset=4) + bytes(512), "starts at 4, no multiple of 32"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_before_anything_is_taken(name, tmp_path):
    content, said = HOSTILE[name]
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        open_model(tmp_path / "m.gguf")
    assert "\n" not in str(error.value)


def test_a_file_cut_short_anywhere_is_refused_in_one_line(tmp_path):
    write(tmp_path / "m.gguf", "llama", "q4_0")
    whole = (tmp_path / "m.gguf").read_bytes()
    for size in (*range(0, 600, 29), *range(600, len(whole), len(whole) // 20)):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(UserError, match="not a whole GGUF file|no tensors|missing|general.architecture"):
            open_gguf_file(tmp_path / "cut.gguf")


@pytest.mark.parametrize(("old", "new", "said"), [
    (b"llama.block_count", b"llama.block_cownt", "asks for something that is not computed|block_count is None"),
    (b"blk.1.ffn_up.weight", b"blk.7.ffn_up.weight", "is missing.*'blk.7.ffn_up.weight' has no place"),
    (b"tokenizer.ggml.model", b"tokenizer.ggml.modem", "tokenizer.ggml.model is None")])
def test_another_models_names_are_refused_by_name(old, new, said, tmp_path):
    write(tmp_path / "m.gguf", "llama")
    whole = (tmp_path / "m.gguf").read_bytes()
    assert old in whole
    (tmp_path / "m.gguf").write_bytes(whole.replace(old, new))
    with pytest.raises(UserError, match=said):
        open_model(tmp_path / "m.gguf")


def test_every_family_is_said_or_refused():
    from easylm_imitation.weights.gguf_names import architecture, tensor_name
    for name in KINDS:
        config = dataclasses.replace(CONFIGS[name])
        assert tensor_name(architecture(config), "layers/attention/out/bias") == "blk.{layer}.attn_output.bias"


def convert(*args, capsys):
    """(exit code, stderr) of the verb."""
    code = main(["convert", *map(str, args)])
    return code, capsys.readouterr().err


def test_the_verb_writes_a_file_and_reads_it_and_says_what_it_cannot(exported, tmp_path, capsys):
    file = tmp_path / "m.gguf"
    code, err = convert("--from", exported["llama"], "--to", file, "--format", "gguf", capsys=capsys)
    assert (code, "(gguf, f16)" in err) == (0, True), err
    code, err = convert("--from", file, "--to", tmp_path / "run", capsys=capsys)
    assert code == 0, err
    assert open_model(tmp_path / "run").lineage == open_model(file).lineage
    for flags, said in (
            (("--to", file, "--format", "gguf"), "already exists"),
            (("--to", tmp_path / "x", "--format", "gguf", "--dtype", "bfloat16"), "written as f16, q8_0, q4_0"),
            (("--to", tmp_path / "x", "--format", "gguf", "--lossy", "dtype"), "say --format hf"),
            (("--to", tmp_path / "x", "--format", "gguf", "--dtype", "q4_0"), "choose --dtype f16"),
            (("--to", tmp_path / "x", "--format", "peft"), "holds no adapters"),
            (("--to", tmp_path / "x", "--format", "peft", "--dtype", "float16"), "as they are, in float32")):
        code, err = convert("--from", exported["llama"], *flags, capsys=capsys)
        assert (code, said in err, err.count("\n")) == (2, True, 1), err
    assert not (tmp_path / "x").exists()
