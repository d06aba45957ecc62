"""What a server needs, against arrays that a server would make."""
import json

import jax
import jax.numpy as jnp
import pytest

from easylm_imitation.cli.main import main
from easylm_imitation.models import model_config
from easylm_imitation.models.cache import make_cache
from easylm_imitation.plan import find_pod, plan_serving
from easylm_imitation.schema import UserError
from easylm_imitation.serve import ServeConfig

LLAMA = model_config({"preset": "llama-2-7b"})


def test_weights_and_cache_are_those_of_the_server():
    made = plan_serving(ServeConfig(slots=16, context=1024), LLAMA, find_pod("v5e-1"))
    assert made.weights == 2 * LLAMA.parameters()
    cache = jax.eval_shape(lambda: make_cache(32, 20, 1024, 32, 128, jnp.bfloat16, stacked=True))
    assert made.cache == sum(leaf.size * 2 for leaf in jax.tree.leaves(cache))
    assert not made.fits        # 13.5 GB and 10.7 GB of 16.9


def test_tensor_splits_weights_and_heads_and_data_splits_slots():
    one = plan_serving(ServeConfig(slots=16), LLAMA, find_pod("v5e-8"))
    split = plan_serving(ServeConfig(slots=16, mesh="tensor:8"), LLAMA, find_pod("v5e-8"))
    spread = plan_serving(ServeConfig(slots=16, mesh="data:8"), LLAMA, find_pod("v5e-8"))
    assert split.weights == pytest.approx(one.weights / 8, rel=1e-3)
    assert split.cache == one.cache / 8
    assert spread.weights == one.weights
    assert spread.cache == one.cache * (2 + 4) / (16 + 4)
    assert split.tokens_per_second > 4 * one.tokens_per_second
    assert split.fits


def test_the_bound_is_the_memorys_bandwidth():
    made = plan_serving(ServeConfig(slots=1, context=256, prefixes=1), LLAMA, find_pod("v5e-1"))
    assert made.seconds_a_token == pytest.approx(2 * LLAMA.parameters() / 819e9, rel=0.02)


@pytest.mark.parametrize(("mesh", "words"), [("sequence:8", "no use for the axis"), ("data:8", "does not split"),
                                             ("tensor:16", "does not fit 8 devices")])
def test_what_serve_refuses_is_refused(mesh, words):
    with pytest.raises(UserError, match=words):
        plan_serving(ServeConfig(slots=12, mesh=mesh), LLAMA, find_pod("v5e-8"))


def test_the_verb_plans_a_server(monkeypatch, capsys):
    monkeypatch.setattr("easylm_imitation.weights.describe", lambda path: (LLAMA, None))    # of a folder with weights
    words = ["plan", "--serving", "--topology", "v5e-8", "--mesh", "tensor:8", "--json"]
    assert main([*words, "--init", "HF_DIR", "--config.slots=32"]) == 0, capsys.readouterr().err
    shown = capsys.readouterr()
    assert main(words) == 2
    assert "--serving needs --init" in capsys.readouterr().err
    assert main(["plan", "--topology", "v5e-8"]) == 2
    assert "--config is missing" in capsys.readouterr().err
    (found,) = json.loads(shown.out.splitlines()[-1])["plans"]
    assert found["fits"]
    assert jnp.isfinite(found["dollars_a_million_tokens"])
