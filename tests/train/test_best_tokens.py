"""A teacher's best tokens: equal to its logits, whole after an interruption, brought by the loader to their places."""
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from easylm_imitation.cli.main import main
from easylm_imitation.data import IDS, LOGPROBS, CacheWriter, LoaderConfig, TeacherCache, open_loader, starts_of
from easylm_imitation.data.shards import open_shards
from easylm_imitation.models import create, model_config
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError
from easylm_imitation.text import load_tokenizer
from easylm_imitation.train.best_tokens import cache_best_tokens
from easylm_imitation.weights import save_run_model

MODEL = create(model_config({"preset": "llama-debug", "vocab_size": 264}))
K = 6


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    """(run dir, its params) of a teacher with a tokenizer of 259 ids and a vocabulary of 264."""
    params = jax.tree.map(lambda x: 5 * x, jax.jit(MODEL.init)(jax.random.key(2)))
    run = save_run_model(tmp_path_factory.mktemp("teacher") / "run", MODEL.config, params,
                         load_tokenizer(data / "tokenizer"), None, Lineage("a" * 16, "big", "a" * 16, "big"))
    return run.path, params


@pytest.fixture(scope="module")
def cache(data, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "cache"
    cache_best_tokens(teacher[0], data, folder, top_k=K, batch=8, chunk=50, dtype=jnp.float32)
    return folder


@jax.jit
def forward(params, tokens):
    row = jnp.arange(64)[None]
    hidden = MODEL.hidden(params, tokens[None], row, jnp.ones_like(row), dtype=jnp.float32)
    return jax.nn.log_softmax(MODEL.unembed(params, hidden)[0, :, :259])


def said(params, tokens):
    """The teacher's log-probabilities at each place of one conversation, [T, 259]."""
    return np.asarray(forward(params, np.pad(tokens, (0, 64 - len(tokens)))))[:len(tokens)]


def test_it_holds_the_best_tokens_of_every_place(data, teacher, cache):
    shards, starts = open_shards(data / "shards"), starts_of(data)
    ids, logprobs = (np.load(cache / name) for name in ("ids.npy", "logprobs.npy"))
    assert ids.shape == logprobs.shape == (starts[-1], K)
    for number in range(len(shards)):
        wanted = said(teacher[1], shards[number]["tokens"])
        here = slice(starts[number], starts[number + 1])
        best = np.sort(wanted, axis=-1)[:, ::-1][:, :K]
        np.testing.assert_allclose(logprobs[here], best, rtol=2e-3, atol=2e-3)      # float16
        np.testing.assert_allclose(np.take_along_axis(wanted, ids[here], axis=-1), best, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("packing", ["first_fit", "none"])
def test_the_loader_brings_them_to_their_places(data, teacher, cache, packing):
    config = LoaderConfig(context=48, batch=4, packing=packing, too_long="truncate")
    for batch in open_loader(data, config, seed=1, epochs=1, teacher=TeacherCache(cache, data, 48)):
        assert {batch[name].shape for name in (IDS, LOGPROBS)} == {(4, 48, K)}
        for row, segments in enumerate(batch["segment_ids"]):
            for segment in range(1, segments.max() + 1):
                here = segments == segment
                wanted = said(teacher[1], batch["tokens"][row][here])
                found = np.take_along_axis(wanted, batch[IDS][row][here], axis=-1)
                np.testing.assert_allclose(batch[LOGPROBS][row][here], found, rtol=2e-3, atol=2e-3)
        assert np.isfinite(batch[LOGPROBS]).all()


@pytest.mark.parametrize("mesh", ["fsdp:8", "fsdp:2,tensor:4"])
def test_every_mesh_writes_the_same(data, teacher, cache, tmp_path, mesh):
    cache_best_tokens(teacher[0], data, tmp_path / "c", top_k=K, batch=8, chunk=50, dtype=jnp.float32, mesh=mesh)
    np.testing.assert_allclose(np.load(tmp_path / "c" / "logprobs.npy"), np.load(cache / "logprobs.npy"), rtol=2e-3)


def test_an_interrupted_one_is_continued(data, teacher, cache, tmp_path, monkeypatch):
    written, write = [], CacheWriter.write

    def until(count):
        def stopping(self, start, *values):
            written.append(int(start))
            if len(written) == count:
                raise KeyboardInterrupt
            write(self, start, *values)
        return stopping

    def ask():
        return cache_best_tokens(teacher[0], data, tmp_path / "c", top_k=K, batch=2, chunk=50, dtype=jnp.float32,
                                 mesh="fsdp:2")

    monkeypatch.setattr("easylm_imitation.train.best_tokens._COMMIT", 3)
    monkeypatch.setattr(CacheWriter, "write", until(30))
    with pytest.raises(KeyboardInterrupt):
        ask()
    with pytest.raises(UserError, match=r"no whole cache .* finish it with `easylm-imitation logits`"):
        TeacherCache(tmp_path / "c", data, 48)
    first = list(written)
    monkeypatch.setattr(CacheWriter, "write", until(-1))
    ask()
    again = written[len(first):]
    assert len(again) < 60      # of the 60 conversations, those that were on disk are not asked for again
    assert {*first[:-1], *again} == set(starts_of(data)[:-1].tolist())
    np.testing.assert_allclose(np.load(tmp_path / "c" / "logprobs.npy"), np.load(cache / "logprobs.npy"), rtol=2e-3)
    with pytest.raises(UserError, match="holds something else"):
        ask()


def test_what_does_not_belong_together_is_refused(data, teacher, cache, tmp_path, capsys):
    def refused(match, *args):
        with pytest.raises(UserError, match=match):
            TeacherCache(*args)

    card = json.loads((cache / "card.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    for name in ("ids.npy", "logprobs.npy"):
        (other / name).symlink_to(cache / name)
    refused("no whole cache of a teacher's tokens", other, data, 48)
    (other / "card.json").write_text(json.dumps({**card, "data": "f" * 16}))
    refused("are of the dataset ffffffffffffffff, but .* ask the teacher again", other, data, 48)
    (other / "card.json").write_text(json.dumps({**card, "context": 30}))
    refused("covers the first 30 tokens .* data.context is 48; .* with --context 42", other, data, 48)
    TeacherCache(other, data, 30)
    (other / "card.json").write_text(json.dumps({**card, "top_k": 7}))
    refused(r"ids.npy: holds int32\[\d+, 6\], the card says int32\[\d+, 7\]", other, data, 48)
    (other / "card.json").write_text(json.dumps(card))
    (other / "ids.npy").unlink()
    (other / "ids.npy").write_bytes(b"x")
    refused("ids.npy: not a readable part", other, data, 48)

    with pytest.raises(UserError, match="--batch is 6, which does not split over the 8 devices"):
        cache_best_tokens(teacher[0], data, tmp_path / "new", batch=6)
    with pytest.raises(UserError, match="--top-k 300: between 1 and the 259 tokens"):
        cache_best_tokens(teacher[0], data, tmp_path / "new", top_k=300)
    loaded = save_run_model(tmp_path / "bare", MODEL.config, teacher[1], None, None, Lineage("b", "b", "b", "b"))
    with pytest.raises(UserError, match="the teacher's tokenizer is None, the data's"):
        cache_best_tokens(loaded.path, data, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_verb_says_what_it_wrote(data, teacher, tmp_path, capsys):
    code = main(["logits", "--model", str(teacher[0]), "--data", str(data), "--out", str(tmp_path / "c"),
                 "--top-k", "3", "--context", "40", "--dtype", "float32", "--json"])
    out, err = capsys.readouterr()
    card = json.loads(out.splitlines()[-1])
    assert (code, card["top_k"], card["context"], card["teacher"]["name"]) == (0, 3, 40, "big")
    assert "the 3 likeliest tokens of big@aaaaaaaaaaaaaaaa at" in " ".join(err.split())
    TeacherCache(tmp_path / "c", data, 40)
    assert dataclasses.asdict(TeacherCache(tmp_path / "c", data, 40).card)["tokens"] == card["tokens"]
