import jax
import jax.numpy as jnp
import optax
import pytest
from jax import P
from jax.sharding import NamedSharding

from easylm_imitation.schema import UserError
from easylm_imitation.sharding import Rule, like_params, make_mesh, shardings, specs

TREE = {"a": {"kernel": jax.ShapeDtypeStruct((8, 4), jnp.float32), "bias": jax.ShapeDtypeStruct((4,), jnp.float32)},
        "layers": (jax.ShapeDtypeStruct((2, 6), jnp.float32),)}
RULES = (Rule("a/kernel", P("fsdp", "tensor")), Rule("a/.*", P("tensor")), Rule(r"layers/\d+", P()))


def test_the_first_match_wins():
    assert specs(RULES, TREE) == {"a": {"kernel": P("fsdp", "tensor"), "bias": P("tensor")}, "layers": (P(),)}


@pytest.mark.parametrize(("rules", "message"), [
    (RULES[:2], "parameter 'layers/0' (2, 6): no sharding rule names it"),
    ((*RULES, Rule("b/kernel", P())), "sharding rule 'b/kernel' names no parameter"),
    ((Rule("a/.*", P("tensor")), *RULES), "sharding rule 'a/kernel' names no parameter"),     # hidden by an earlier one
    ((Rule("kernel", P()), *RULES[1:]), "sharding rule 'kernel' names no parameter"),         # whole paths only
    ((Rule("a/.*", P(None, None)), RULES[2]), "parameter 'a/bias' (4,): the rule 'a/.*' gives"),
])
def test_rules_are_strict_both_ways(rules, message):
    with pytest.raises(UserError) as error:
        specs(rules, TREE)
    assert message in str(error.value)


def test_a_dim_that_its_axis_does_not_divide_is_named():
    with pytest.raises(UserError) as error:
        shardings(make_mesh("tensor:8"), RULES, TREE)
    assert "'a/bias' (4,): dim 0 of size 4 cannot be split over the mesh axis tensor of size 8" in str(error.value)


def test_optimizer_state_follows_its_parameter():
    mesh = make_mesh("fsdp:4,tensor:2")
    where = shardings(mesh, RULES, TREE)
    adam = like_params(where, jax.eval_shape(optax.adamw(1e-3).init, TREE))
    assert adam[0].mu == where
    assert adam[0].nu == where
    assert adam[0].count == NamedSharding(mesh, P())


def test_factored_moments_are_replicated_and_can_be_made():
    mesh = make_mesh("fsdp:4,tensor:2")
    params = {"kernel": jax.ShapeDtypeStruct((256, 128), jnp.float32)}
    where = shardings(mesh, [Rule("kernel", P("fsdp", "tensor"))], params)
    init = optax.adafactor(1e-3).init
    state = like_params(where, jax.eval_shape(init, params))
    placed = jax.jit(init, out_shardings=state)({"kernel": jnp.ones((256, 128))})
    assert {leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(placed)} == {True}
