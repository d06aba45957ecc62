"""AdamW against torch's, the schedules against numbers worked out by hand, and the rule of what is decayed."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from easylm_imitation.schema import UserError, build
from easylm_imitation.train.optimizer import OptimizerConfig, decay_mask, make_optimizer, make_schedule


def _rates(steps: int, **keys) -> list[float]:
    schedule = make_schedule(OptimizerConfig(learning_rate=1.0, **keys), steps)
    return [round(float(schedule(jnp.int32(i))), 4) for i in range(steps)]


def test_warm_up_then_linear_decay_never_wastes_an_update():
    assert _rates(6, warmup=2, schedule="linear") == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]


def test_warm_up_below_one_is_a_share_of_the_run_and_constant_stays():
    assert _rates(8, warmup=0.5, schedule="constant") == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_cosine_falls_towards_its_final_share():
    rates = _rates(4, warmup=0, schedule="cosine", final=0.2)
    assert rates == [1.0, 0.8828, 0.6, 0.3172]      # 0.2 + 0.8 (1 + cos(i π / 4)) / 2


def test_a_warm_up_longer_than_the_run_is_obeyed():
    assert _rates(3, warmup=10, schedule="cosine") == [0.1, 0.2, 0.3]


def test_decay_goes_by_name_because_stacked_norms_have_two_dims():
    two = jnp.zeros((2, 4))
    params = {"embed": {"embedding": two}, "layers": {"norm": {"scale": two}, "up": {"kernel": two, "bias": two}}}
    assert decay_mask(params) == {"embed": {"embedding": True},
                                  "layers": {"norm": {"scale": False}, "up": {"kernel": True, "bias": False}}}
    with pytest.raises(ValueError, match="no rule says whether weight decay applies to a 'gate'"):
        decay_mask({"gate": two})


@pytest.mark.parametrize(("key", "value"), [("learning_rate", 0.0), ("clip", 0.0), ("beta2", 1.5), ("warmup", -1.0)])
def test_senseless_values_are_refused_by_name(key, value):
    with pytest.raises(UserError, match=key):
        build(OptimizerConfig, {key: value}, "config.optimizer")


@pytest.mark.torch
def test_twenty_updates_equal_torch_adamw():
    import torch
    config = OptimizerConfig(learning_rate=0.02, warmup=5, schedule="linear", weight_decay=0.1, beta1=0.9, beta2=0.95,
                             eps=1e-6, clip=0.5)
    random = np.random.default_rng(0)
    start = {"kernel": random.normal(size=(4, 3)).astype(np.float32), "bias": random.normal(size=3).astype(np.float32)}
    gradients = [{k: random.normal(size=v.shape).astype(np.float32) for k, v in start.items()} for _ in range(20)]

    optimizer, rate = make_optimizer(config, 20)
    ours = jax.tree.map(jnp.asarray, start)
    state = optimizer.init(ours)
    theirs = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in start.items()}
    torch_optimizer = torch.optim.AdamW(
        [{"params": [theirs["kernel"]], "weight_decay": 0.1}, {"params": [theirs["bias"]], "weight_decay": 0.0}],
        lr=1.0, betas=(0.9, 0.95), eps=1e-6)
    for i, gradient in enumerate(gradients):
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, gradient), state, ours)
        ours = optax.apply_updates(ours, updates)
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(gradient[name])
        torch.nn.utils.clip_grad_norm_(list(theirs.values()), 0.5)
        for group in torch_optimizer.param_groups:
            group["lr"] = min((i + 1) / 5, (20 - i) / 15) * 0.02
        torch_optimizer.step()
        assert float(rate(jnp.int32(i))) == pytest.approx(torch_optimizer.param_groups[0]["lr"], rel=1e-6)
        for name, parameter in theirs.items():
            np.testing.assert_allclose(ours[name], parameter.detach().numpy(), rtol=2e-5, atol=1e-6)
