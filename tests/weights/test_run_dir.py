import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_tokenizers import byte_tokenizer
from weights.conftest import LINEAGE

from easylm_imitation.models import create
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import make_mesh, shardings
from easylm_imitation.text import get_template
from easylm_imitation.weights import RunDir, describe, open_model, save_run_model, with_template


@pytest.fixture
def saved(wide, tokenizer, tmp_path):
    config, params = wide["llama"]
    return save_run_model(tmp_path / "run", config, params, tokenizer, get_template("chatml"), LINEAGE, step=7,
                          stored_dtype="bfloat16")


def test_a_saved_model_opens_as_it_was(saved, wide, tokenizer):
    loaded = open_model(saved.path)
    assert (loaded.config, loaded.lineage, loaded.stored_dtype) == (wide["llama"][0], LINEAGE, "bfloat16")
    assert (loaded.template.name, loaded.tokenizer.id, loaded.path) == ("chatml", tokenizer.id, str(saved.path))
    jax.tree.map(np.testing.assert_array_equal, loaded.params, wide["llama"][1])
    assert describe(saved.path) == (loaded.config, loaded.lineage)
    assert saved.steps() == [7]


@pytest.mark.slow
@pytest.mark.parametrize("a_turn", [1, 3000])
def test_weights_that_are_read_in_turns_are_the_same(saved, wide, monkeypatch, a_turn):
    monkeypatch.setattr("easylm_imitation.weights.run_dir._A_TURN", a_turn)
    jax.tree.map(np.testing.assert_array_equal, open_model(saved.path).params, wide["llama"][1])


def test_it_opens_on_a_mesh_and_in_another_dtype(saved, wide):
    mesh = make_mesh("fsdp:2,tensor:4")
    loaded = open_model(saved.path, dtype=jnp.bfloat16, mesh=mesh)
    model = create(loaded.config)
    assert jax.tree.map(lambda x: x.sharding, loaded.params) == shardings(mesh, model.rules(), model.abstract())
    jax.tree.map(lambda got, wanted: np.testing.assert_array_equal(got, wanted.astype(jnp.bfloat16)),
                 loaded.params, wide["llama"][1])


def test_the_newest_finished_checkpoint_is_taken(saved, wide, tokenizer, tmp_path):
    config, params = wide["llama"]
    more = jax.tree.map(lambda x: x + 1, params)
    later = save_run_model(tmp_path / "later", config, more, tokenizer, None, LINEAGE, step=12)
    (later.checkpoints / "12").rename(saved.checkpoints / "12")
    (saved.checkpoints / "13").mkdir()                                  # a name without a commit
    (saved.checkpoints / "14.orbax-checkpoint-tmp").mkdir()
    assert saved.steps() == [7, 12]
    jax.tree.map(np.testing.assert_array_equal, open_model(saved.path).params, more)


def test_a_run_without_template_gets_one_only_if_it_is_writable(wide, tokenizer, saved, tmp_path):
    config, params = wide["gpt2"]
    save_run_model(tmp_path / "bare", config, params, tokenizer, None, LINEAGE)
    loaded = open_model(tmp_path / "bare")
    assert loaded.template is None
    named = with_template(loaded, "chatml")
    assert (named.template.name, named.lineage.template) == ("chatml", get_template("chatml").id)
    with pytest.raises(UserError, match="did you mean 'chatml'"):
        with_template(loaded, "chatlm")
    with pytest.raises(UserError, match="has no tokenizer"):
        with_template(dataclasses.replace(loaded, tokenizer=None), "chatml")
    with pytest.raises(UserError, match="im_start"):
        with_template(dataclasses.replace(loaded, tokenizer=byte_tokenizer(("<eos>",))), "chatml")
    with pytest.raises(UserError, match="was made with chatml@"):
        with_template(open_model(saved.path), "plain")


def test_a_template_that_changed_since_is_refused(saved):
    saved.template.write_text(json.dumps({"name": "chatml", "id": "chatml@00000000"}))
    with pytest.raises(UserError, match="made with template chatml@00000000, but 'chatml' is now chatml@"):
        open_model(saved.path)


@pytest.mark.parametrize(("break_it", "message"), [
    (lambda run: run.model.write_text('{"family": "llama", "vocab_size": 8}'), "the key 'context' is missing"),
    (lambda run: run.model.write_text("[]"), "model.json: expected a JSON object"),
    (lambda run: run.lineage.unlink(), "lineage.json: no such file"),
    (lambda run: run.checkpoints.rename(run.path / "away"), "the run has no finished checkpoint yet"),
    (lambda run: run.model.write_text(run.model.read_text().replace('"d_model": 16', '"d_model": 32')),
     "7: the weights of"),
    (lambda run: run.model.write_text(run.model.read_text().replace('"qkv_bias": false', '"qkv_bias": true')),
     "7: the weights of"),
    (lambda run: (run.checkpoints / "7" / "params" / "manifest.ocdbt").write_bytes(b""), "7: the weights of"),
])
def test_a_damaged_run_is_one_clear_line(saved, break_it, message):
    break_it(saved)
    with pytest.raises(UserError) as error:
        open_model(saved.path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_saving_is_all_or_nothing(wide, tokenizer, tmp_path):
    config, params = wide["llama"]
    with pytest.raises(AttributeError):
        save_run_model(tmp_path / "run", config, params, "no tokenizer", None, LINEAGE)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match="already exists"):
        save_run_model(tmp_path / "run", config, params, tokenizer, None, LINEAGE)
    assert not RunDir(tmp_path / "run").holds_model()
