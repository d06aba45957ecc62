"""GGUF files that somebody made to break readers: a model or one line, and never more memory than the file asks for.

One kind of damage is anywhere in the bytes; the other is well-formed, and says what nobody expects.
"""
import array
import contextlib
import functools
import pathlib
import resource
import struct
import tempfile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_gguf import write

from easylm_imitation.schema import UserError
from easylm_imitation.text.gguf_vocabulary import tokenizer_from
from easylm_imitation.weights.gguf_export import NOTE
from easylm_imitation.weights.gguf_import import open_gguf

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed (pip install -e '.[gguf]')")

ROOM = 2**30    # bytes of address space that reading one of these files of 200 KB may take
NAMES = ("llama3", "gpt2")
HUGE = (0, 1, 2, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**61, 2**63, 2**64 - 1)


@functools.cache
def whole(name):
    """(keys, tensors, numbers): the file's parts as bytes, and its keys' names in order."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m.gguf"
        write(path, name)
        raw, reader = path.read_bytes(), gguf.GGUFReader(path)
        keys = {key: joined(field) for key, field in reader.fields.items() if not key.startswith("GGUF.")}
        return keys, [joined(tensor.field) for tensor in reader.tensors], raw[reader.data_offset:]


def joined(field):
    return b"".join(part.tobytes() for part in field.parts)


def file_of(keys, tensors, numbers):
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join([*keys, *tensors])
    return head + bytes(-len(head) % 32) + numbers


def text(value):
    raw = value.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


@contextlib.contextmanager
def little_room():
    """An allocation beyond ROOM fails here with a MemoryError, which no UserError is."""
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def read(content):
    """Reads a file of these bytes: it is a model, or is refused in one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m.gguf"
        path.write_bytes(content)
        said = "a model"
        with little_room():
            try:
                open_gguf(path)
            except UserError as error:
                said = str(error)
    assert said.isprintable(), ascii(said)
    assert len(said) < 1000


@settings(max_examples=60)
@given(st.sampled_from(NAMES), st.lists(min_size=1, max_size=4, elements=st.tuples(
    st.floats(0, 1), st.sampled_from(["byte", "4", "8", "cut", "more"]), st.sampled_from(HUGE))))
def test_bytes_changed_anywhere_end_in_a_model_or_one_line(name, changes):
    keys, tensors, numbers = whole(name)
    raw = bytearray(file_of(keys.values(), tensors, b""))
    for place, kind, value in changes:
        at = int(place * (len(raw) - 9))
        put = struct.pack("<Q", value)[:{"byte": 1, "4": 4, "8": 8, "cut": 0, "more": 8}[kind]]
        raw[at:at + (0 if kind == "more" else 3 if kind == "cut" else len(put))] = put
    read(bytes(raw) + numbers)


@pytest.mark.parametrize(("keys", "says"), [
    ({"unknown_token_id": "x"}, "f: tokenizer.ggml.unknown_token_id is 'x'; it must be a number"),
    ({"tokens": ["a", "b" * 1025]}, "f: tokenizer.ggml.tokens holds one of 1,025 characters; those of up to 1,024 are "
                                    "read"),
    ({"scores": array.array("f", [0.0])}, "f: tokenizer.ggml.scores has 1 entries for 2 tokens"),
    ({"scores": None}, "f: tokenizer.ggml.scores has no list of numbers for 2 tokens")])
def test_a_vocabulary_is_refused_for_the_one_thing_that_is_wrong_with_it(keys, says):
    said = {"model": "llama", "tokens": ["a", "b"], "scores": array.array("f", [0.0, -1.0])} | keys
    with pytest.raises(UserError) as caught:
        tokenizer_from({f"tokenizer.ggml.{key}": value for key, value in said.items() if value is not None}, "f")
    assert str(caught.value) == says


VALUES = st.one_of(
    st.sampled_from(HUGE).map(lambda value: struct.pack("<IQ", 10, value)),
    st.sampled_from(HUGE).map(lambda value: struct.pack("<II", 4, value % 2**32)),
    st.sampled_from([0.0, -1.0, 1e-38, 1e38, float("inf"), float("nan")]).map(lambda v: struct.pack("<If", 6, v)),
    st.booleans().map(lambda value: struct.pack("<I?", 7, value)),
    st.sampled_from(["", "llama", "gpt2", "a\nb", "\x1b[31m", "x" * 9999, "[" * 9999, "{}", "{\"lineage\": 1}"]).map(
        lambda value: struct.pack("<I", 8) + text(value)),
    st.lists(st.sampled_from(["", "a", "a b", "\n", "<0x0A>", "x" * 5000]), max_size=4).map(
        lambda many: struct.pack("<IIQ", 9, 8, len(many)) + b"".join(map(text, many))),
    st.sampled_from([0, 3, 264, 5000]).map(lambda n: struct.pack("<IIQ", 9, 5, n) + bytes(4 * n)),
    st.sampled_from([0, 264]).map(lambda n: struct.pack("<IIQ", 9, 0, n) + b"\x03" * n))
KEYS = sorted({key for name in NAMES for key in (*whole(name)[0], NOTE)} | {
    "general.alignment", "llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.attention.causal",
    "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.scores", "tokenizer.ggml.add_space_prefix"})


@settings(max_examples=60)
@given(st.sampled_from(NAMES), st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
@example("llama3", {"llama.block_count": struct.pack("<II", 4, 2**32 - 1)})
@example("llama3", {"llama.attention.key_length": struct.pack("<II", 4, 2**32 - 2)})
@example("gpt2", {"tokenizer.ggml.model": struct.pack("<I", 8) + text("llama")})
def test_keys_that_say_the_unexpected_end_in_a_model_or_one_line(name, changes):
    keys, tensors, numbers = whole(name)
    changed = {key: text(key) + value for key, value in changes.items()}
    read(file_of((keys | changed).values(), tensors, numbers))
