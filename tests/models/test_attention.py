import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from easylm_imitation.models import attention, attention_cudnn
from easylm_imitation.models.attention import BACKENDS
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import make_mesh

XLA = ("reference", "chunked")
MODULE = importlib.import_module("easylm_imitation.models.attention")   # its name in the package is the function


@pytest.fixture(params=BACKENDS)
def attend(request, monkeypatch):
    """`attention` with one backend, jitted. Of cuDNN's all but the kernel runs: what it is asked for, XLA computes."""
    name = request.param
    if name != "cudnn":
        return jax.jit(functools.partial(attention, backend=name), static_argnames="window")
    monkeypatch.setattr(attention_cudnn, "_IMPLEMENTATION", "xla")

    def cudnn(q, k, v, segment_ids, window=0):
        return attention_cudnn.cudnn(q, k, v, segment_ids, window, "gpu")
    return jax.jit(cudnn, static_argnames="window")


def by_hand(q, k, v, positions, segments, window=0):
    """The definition, one query at a time, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    group = q.shape[2] // k.shape[2]
    for b, t, n in np.ndindex(q.shape[:3]):
        seen = [s for s in range(k.shape[1]) if segments[b, s] == segments[b, t]
                and 0 <= positions[b, t] - positions[b, s] < (window or 10**9)]
        scores = np.array([q[b, t, n] @ k[b, s, n // group] for s in seen]) / np.sqrt(q.shape[3])
        weights = np.exp(scores - scores.max())
        out[b, t, n] = sum(w * v[b, s, n // group] for w, s in zip(weights / weights.sum(), seen, strict=True))
    return out


def packed_row(lengths, padding):
    positions = np.concatenate([*[np.arange(n) for n in lengths], np.zeros(padding, int)])
    segments = np.repeat([*range(1, len(lengths) + 1), 0], [*lengths, padding])
    return positions[None].astype(np.int32), segments[None].astype(np.int32)


def random_qkv(length, heads=4, kv_heads=2, head_dim=8, seed=0, rows=1):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((rows, length, n, head_dim), np.float32) for n in (heads, kv_heads, kv_heads)]


def value_and_grads(attend, q, k, v, segments, window):
    """The output at all tokens that are no padding, and the gradients of a function of it."""
    real = 1.0 if segments is None else np.float32(segments > 0)[:, :, None, None]

    def loss(q, k, v):
        out = attend(q, k, v, segments, window=window) * real
        return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape))), out
    (_, out), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return out, *grads


@pytest.mark.parametrize(("window", "kv_heads"), [(0, 2), (0, 1), (4, 4), (1, 2)])
def test_backend_equals_the_definition_on_a_packed_row(attend, window, kv_heads):
    positions, segments = packed_row([6, 1, 9], padding=4)
    q, k, v = random_qkv(20, kv_heads=kv_heads)
    got = attend(q, k, v, segments, window=window)
    wanted = by_hand(q, k, v, positions, segments, window)
    np.testing.assert_allclose(got[:, :16], wanted[:, :16], atol=2e-5)


@pytest.mark.parametrize("window", [0, 7])
def test_without_segments_a_row_is_one_conversation(attend, window):
    q, k, v = random_qkv(20)
    positions = np.arange(20, dtype=np.int32)[None]
    wanted = by_hand(q, k, v, positions, np.ones((1, 20), int), window)
    np.testing.assert_allclose(attend(q, k, v, None, window=window), wanted, atol=2e-5)


@pytest.mark.parametrize("window", [0, 100])
def test_backend_equals_reference_forward_and_gradient_over_many_chunks(attend, window):
    _, segments = packed_row([300, 1, 261, 40], padding=28)     # three chunks, segments across their borders
    reference = functools.partial(attention, backend="reference")
    found = value_and_grads(attend, *random_qkv(630), segments, window)
    for got, wanted in zip(found, value_and_grads(reference, *random_qkv(630), segments, window), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.mark.parametrize("backend", XLA)
@pytest.mark.parametrize("window", [0, 3])
def test_keys_of_another_length_are_seen_by_their_positions(backend, window):
    q, _, _ = random_qkv(3)
    _, k, v = random_qkv(8, seed=1)
    positions = np.array([[4, 5, 6]], np.int32)
    got = attention(q, k, v, None, window=window, positions=positions, key_positions=np.arange(8)[None],
                    backend=backend)
    padded = np.concatenate([np.zeros((1, 4, 4, 8)), q, np.zeros((1, 1, 4, 8))], 1)
    ones = np.ones((1, 8), np.int32)
    np.testing.assert_allclose(got, by_hand(padded, k, v, np.arange(8)[None], ones, window)[:, 4:7], atol=1e-5)


def test_no_token_reaches_another_conversation(attend):
    positions, segments = packed_row([6, 5, 7], padding=2)
    q, k, v = random_qkv(20)
    other_k, other_v = (np.concatenate([x[:, :6], x[:, 6:11] + 3, x[:, 11:]], 1) for x in (k, v))
    before = attend(q, k, v, segments)
    after = attend(q, other_k, other_v, segments)
    changed = np.abs(np.asarray(before) - np.asarray(after)).max(axis=(0, 2, 3)) > 0
    np.testing.assert_array_equal(changed, (segments == 2)[0])


def test_chunks_skip_what_the_window_hides():
    def multiplications(window):
        q, k, v = random_qkv(2048)
        _, segments = packed_row([2048], 0)
        run = jax.jit(functools.partial(attention, backend="chunked", window=window))
        return run.lower(q, k, v, segments).compile().cost_analysis()["flops"]
    # eight chunks of 256 queries see 256, 512, ... 2,048 keys, or at most 256 + 255 within a window of 256
    assert multiplications(256) < 0.5 * multiplications(0)


@pytest.mark.parametrize("text", ["fsdp:2,tensor:2,sequence:2", "fsdp:8", "tensor:8"])
def test_splash_on_a_mesh_equals_the_reference(text):
    segments = np.concatenate([packed_row([200, 51], padding=5)[1]] * 4)
    q, k, v = random_qkv(256, rows=4)      # tensor:8 divides no heads and fsdp:8 no rows: those are repeated
    wanted = attention(q, k, v, segments, backend="reference", window=90)
    with jax.set_mesh(make_mesh(text)):
        got = jax.jit(functools.partial(attention, backend="splash", window=90))(q, k, v, segments)
    np.testing.assert_allclose(got[:, :251], wanted[:, :251], atol=2e-5)


def test_bfloat16_keeps_its_dtype_and_sums_in_float32():
    positions, segments = packed_row([40], padding=0)
    q, k, v = random_qkv(40)
    narrow = attention(*(x.astype(jnp.bfloat16) for x in (q, k, v)), segments)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype(np.float32), by_hand(q, k, v, positions, segments), atol=0.03)


@pytest.mark.parametrize("half", ["positions", "key_positions", "segment_ids"])
def test_half_of_what_a_cache_needs_is_refused(half):
    q, k, v = random_qkv(4)
    at = {"positions": np.arange(4)[None], "key_positions": np.arange(4)[None], "segment_ids": None}
    at[half] = None if half != "segment_ids" else np.ones((1, 4), np.int32)
    with pytest.raises(ValueError, match="keys of a cache need positions and key_positions, and have no segments"):
        attention(q, k, v, **at)


@pytest.mark.parametrize(("window", "kv_heads"), [(-3, 2), (0, 3)])
def test_impossible_shapes_are_refused(window, kv_heads):
    q, k, v = random_qkv(4, kv_heads=kv_heads)
    said = f"window={window} must not be negative, and 4 heads a multiple of the {kv_heads}"
    with pytest.raises(ValueError, match=said):
        attention(q, k, v, None, window=window)


def test_an_unknown_backend_is_refused():
    q, k, v = random_qkv(4)
    with pytest.raises(ValueError, match="attention backend 'flash' is not one of auto, reference, chunked"):
        attention(q, k, v, packed_row([4], 0)[1], backend="flash")


@pytest.mark.parametrize(("backend", "platform", "dtype", "length", "head_dim", "cached", "message"), [
    ("splash", "tpu", np.float32, 8, 8, True, "'splash' wants keys and queries of the same row"),
    ("splash", "gpu", np.float32, 8, 8, False, "'splash' runs on TPUs, not on gpu; choose auto"),
    ("cudnn", "cpu", np.float16, 8, 8, False, "'cudnn' runs on NVIDIA GPUs, not on cpu"),
    ("cudnn", "gpu", np.float32, 8, 8, False, "'cudnn' computes in bfloat16 or float16, not in float32"),
    ("cudnn", "gpu", np.float16, 8, 12, False, "multiple of 8 up to 128, not 12"),
    ("cudnn", "gpu", np.float16, 8, 256, False, "multiple of 8 up to 128, not 256"),
    ("cudnn", "gpu", np.float16, 7, 8, False, "packed rows of an even length, not 7"),
    ("cudnn", "gpu", np.float16, 8, 8, True, "'cudnn' wants keys and queries of the same row"),
])
def test_what_a_kernel_cannot_honour_is_refused(monkeypatch, backend, platform, dtype, length, head_dim, cached,
                                                message):
    monkeypatch.setattr(MODULE, "platform", lambda: platform)
    q, k, v = (x.astype(dtype) for x in random_qkv(length, head_dim=head_dim))
    positions, segments = packed_row([length], 0)
    at = {"positions": positions, "key_positions": positions} if cached else {}
    with pytest.raises(UserError) as error:
        attention(q, k, v, None if cached else segments, backend=backend, **at)
    assert message in str(error.value)


def test_cudnn_refuses_rows_split_over_a_mesh(monkeypatch):
    monkeypatch.setattr(MODULE, "platform", lambda: "gpu")
    q, k, v = (x.astype(np.float16) for x in random_qkv(8))
    with jax.set_mesh(make_mesh("sequence:8")), pytest.raises(UserError, match="cannot split a row over the axis"):
        attention(q, k, v, packed_row([8], 0)[1], backend="cudnn")


@pytest.mark.parametrize(("platform", "dtype", "length", "cached", "chosen", "said"), [
    ("cpu", np.float32, 8, False, "reference", "attention: reference on cpu"),
    ("cpu", np.float32, 512, False, "chunked", "attention: chunked on cpu, rows of 512 tokens or more"),
    ("tpu", np.float32, 8, False, "splash", "attention: splash on tpu"),
    ("tpu", np.float32, 8, True, "reference", None),
    ("gpu", np.float16, 8, False, "cudnn", "attention: cudnn on gpu"),
    ("gpu", np.float32, 512, False, "chunked", "attention: chunked on gpu: cudnn computes in bfloat16 or float16"),
])
def test_auto_takes_what_fits_device_and_request_and_says_so_once(monkeypatch, platform, dtype, length, cached, chosen,
                                                                  said):
    lines, taken = [], []
    monkeypatch.setattr(MODULE, "say_once", lines.append)
    monkeypatch.setattr(MODULE, "platform", lambda: platform)
    monkeypatch.setattr(MODULE, "BACKENDS", {
        name: type(b)(lambda q, *_, name=name, **__: taken.append(name) or q, b.refuses) for name, b in
        BACKENDS.items()})
    q, k, v = (x.astype(dtype) for x in random_qkv(length))
    positions, segments = packed_row([length], 0)
    at = {"positions": positions, "key_positions": positions} if cached else {}
    attention(q, k, v, None if cached else segments, **at)
    assert taken == [chosen]
    assert [line[:len(said or "")] for line in lines] == ([said] if said else [])
