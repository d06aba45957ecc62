"""Schedules against numbers worked out by hand; each optimizer against its published update in float64, on one device
and on eight, with layers stacked and one by one; AdamW against torch's."""
import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import optimizer_references
import pytest
from jax.sharding import NamedSharding
from train_helpers import make_batch

from easylm_imitation.models import create, model_config
from easylm_imitation.schema import UserError, build
from easylm_imitation.sharding import BATCH, make_mesh
from easylm_imitation.train.optimizer import OptimizerConfig, decay_mask, make_optimizer
from easylm_imitation.train.schedule import make_schedule
from easylm_imitation.train.state import abstract_state, state_from
from easylm_imitation.train.step import make_step

_NAMES = ("adamw", "scaled_adamw", "adafactor", "lion", "muon")
_RATE = {"adamw": 0.01, "scaled_adamw": 0.1, "adafactor": 0.1, "lion": 0.003, "muon": 0.03}


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


def test_warm_up_then_stable_then_decay():
    assert _rates(8, warmup=2, schedule="wsd", decay=4) == [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.2929, 0.134]
    assert _rates(8, warmup=2, schedule="wsd", decay=0.5) == _rates(8, warmup=2, schedule="wsd", decay=4)
    assert _rates(10, warmup=0, schedule="wsd", final=0.5)[7:] == [1.0, 1.0, 0.6464]        # a fifth, unless told
    assert _rates(5, warmup=4, schedule="wsd", decay=4) == [0.25, 0.5, 0.75, 1.0, 1.0]      # no room but for one


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_warm_up_longer_than_the_run_is_obeyed(schedule):
    assert _rates(3, warmup=10, schedule=schedule) == [0.1, 0.2, 0.3]


def test_decay_goes_by_name_because_stacked_norms_have_two_dims():
    two = jnp.zeros((2, 4))
    params = {"embed": {"embedding": two}, "layers": {"norm": {"scale": two}, "up": {"kernel": two, "bias": two}}}
    assert decay_mask(params) == {"embed": {"embedding": True},
                                  "layers": {"norm": {"scale": False}, "up": {"kernel": True, "bias": False}}}
    with pytest.raises(ValueError, match="no rule says whether weight decay applies to a 'gate'"):
        decay_mask({"gate": two})


@pytest.mark.parametrize(("keys", "match"), [
    ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
    ({"clip": 0.0}, "clip is 0.0"),
    ({"beta2": 1.5}, "beta2 is 1.5"),
    ({"warmup": -1.0}, "warmup is -1.0"),
    ({"spike_factor": 1.0}, "spike_factor is 1.0; it must be above 1"),
    ({"name": "adam"}, "adam"),
    ({"name": "lion", "eps": 1e-8}, "eps is 1e-08, which lion has no use for; leave it out .lion knows weight_decay"),
    ({"name": "adafactor", "moment_dtype": "bfloat16"}, "moment_dtype is bfloat16, which adafactor has no use for"),
    ({"name": "scaled_adamw", "beta2": 0.95}, "beta2 is 0.95, .* beta2_exponent"),
    ({"momentum": 0.95}, "momentum is 0.95, which adamw has no use for"),
    ({"decay": 0.1}, "decay is 0.1, which the schedule 'cosine' has no use for"),
    ({"schedule": "constant", "final": 0.1}, "final is 0.1, which a constant schedule never falls to"),
])
def test_senseless_values_are_refused_by_name(keys, match):
    with pytest.raises(UserError, match=match):
        build(OptimizerConfig, keys, "config.optimizer")


def test_what_is_left_out_becomes_the_published_value():
    paper = OptimizerConfig(name="scaled_adamw")
    assert (paper.beta1, paper.beta2_exponent, paper.moment_dtype) == (0.9, 0.95, "bfloat16")
    assert (paper.weight_decay, paper.decay_norms_and_biases) == (1e-4, True)
    assert (paper.beta2, paper.eps, paper.momentum) == (None, None, None)
    assert (OptimizerConfig().beta2, OptimizerConfig().weight_decay) == (0.95, 0.0)


# ---- The published updates

def _some(seed: int, scale: float = 1.0) -> dict:
    """Tensors of all kinds as models stack them, float32 and of very different sizes: [3, ...] is three layers'."""
    random = np.random.default_rng(seed)
    shapes = {"embed/embedding": (140, 130), "layers/up/kernel": (3, 130, 150), "layers/up/bias": (3, 150),
              "layers/qkv/kernel": (3, 130, 2, 136), "layers/norm/scale": (3, 130), "unembed/kernel": (130, 140)}
    made: dict = {}
    for number, (path, shape) in enumerate(shapes.items()):
        values = scale * 3.0**-number * random.normal(size=shape)
        if path.startswith("layers"):
            values *= np.array([1.0, 0.1, 1e-5]).reshape(3, *[1] * (len(shape) - 1))    # the last below the least RMS
        *folders, name = path.split("/")
        place = made
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = values.astype(np.float32)
    return made


def _unstacked(tree: dict) -> dict:
    return {**tree, "layers": tuple(jax.tree.map(lambda x, i=i: x[i], tree["layers"]) for i in range(3))}


def _updated(config: OptimizerConfig, params: dict, gradients: list[dict]) -> tuple[dict, dict]:
    """(weights, optimizer state) after all updates, on wherever `params` lie."""
    optimizer, _ = make_optimizer(config, len(gradients))

    @jax.jit
    def step(params, state, gradient, i):
        updates, state = optimizer.update(gradient, state, params, step=i, loss=jnp.float32(1))
        return optax.apply_updates(params, updates), state

    params, state = jax.tree.map(jnp.asarray, params), jax.jit(optimizer.init)(params)
    for i, gradient in enumerate(gradients):
        params, state = step(params, state, gradient, jnp.int32(i))
    return params, state


def _config(name: str, **keys) -> OptimizerConfig:
    keys = {"learning_rate": _RATE[name], "warmup": 3, "schedule": "linear", "weight_decay": 0.1, "clip": None} | keys
    return OptimizerConfig(name=name, **keys)


def _expected(config: OptimizerConfig, params: dict, gradients: list[dict]) -> dict:
    """By the references in float64, tensor by tensor; stacked again."""
    rates = [float(make_schedule(config, len(gradients))(i)) for i in range(len(gradients))]

    def tensor(path: str, start: np.ndarray, steps: list[np.ndarray]) -> np.ndarray:
        decayed = config.decay_norms_and_biases or path.endswith(("kernel", "embedding"))
        decay, name = config.weight_decay if decayed else 0.0, config.name
        if name == "muon" and path.endswith("kernel") and "layers" in path:
            if start.ndim == 3:     # q and k in one kernel [D, 2, H]
                parts = [tensor(path, start[:, i], [g[:, i] for g in steps]) for i in range(start.shape[1])]
                return np.stack(parts, axis=1)
            return optimizer_references.muon(start, steps, rates, decay)
        return getattr(optimizer_references, "adamw" if name == "muon" else name)(start, steps, rates, decay)

    def leaf(keys: tuple, start: np.ndarray, *steps: np.ndarray) -> np.ndarray:
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        start, steps = start.astype(np.float64), [g.astype(np.float64) for g in steps]
        if path.startswith("layers"):
            return np.stack([tensor(path, start[i], [g[i] for g in steps]) for i in range(len(start))])
        return tensor(path, start, steps)

    return jax.tree_util.tree_map_with_path(leaf, params, *gradients)


def _assert_moved_alike(ours: dict, theirs: dict, start: dict, error: float) -> None:
    """Each layer's tensor: the difference is at most `error` of the way that it went."""
    for path, expected in jax.tree_util.tree_leaves_with_path(theirs):
        found, before = (np.asarray(_at(tree, path), np.float64) for tree in (ours, start))
        axes = tuple(range(1, expected.ndim)) if path[0].key == "layers" else None
        far = np.sqrt(np.sum((expected - before)**2, axis=axes))
        assert np.all(np.sqrt(np.sum((found - expected)**2, axis=axes)) <= error * far), jax.tree_util.keystr(path)


def _at(tree: dict, path: tuple):
    for key in path:
        tree = tree[key.key]
    return tree


@pytest.mark.parametrize("name", _NAMES)
def test_many_updates_equal_the_published_ones_in_float64(name):
    start, gradients = _some(0), [_some(seed, 0.01) for seed in range(1, 4 if name == "muon" else 31)]
    config = _config(name) if name == "adafactor" else _config(name, moment_dtype="float32")
    ours, _ = _updated(config, start, gradients)
    # Lion moves by a sign, which rounding may turn where a momentum is next to 0
    _assert_moved_alike(ours, _expected(config, start, gradients), start, 3e-3 if name == "lion" else 1e-4)


def test_the_papers_optimizer_as_it_was_keeps_its_momentum_in_bfloat16(monkeypatch):
    start, gradients = _some(0), [_some(seed, 0.01) for seed in range(1, 31)]
    config = _config("scaled_adamw", weight_decay=None)
    ours, state = _updated(config, start, gradients)
    monkeypatch.setattr(optimizer_references, "scaled_adamw", functools.partial(
        optimizer_references.scaled_adamw, kept=ml_dtypes.bfloat16))
    _assert_moved_alike(ours, _expected(config, start, gradients), start, 2e-3)
    assert {x.dtype for x in jax.tree.leaves(state.inner) if x.dtype == jnp.bfloat16 and x.size > 3}
    held = sum(x.nbytes for x in jax.tree.leaves(state)) / sum(x.size for x in jax.tree.leaves(start))
    assert held == pytest.approx(6, abs=0.01)       # bytes a parameter: a second moment, and a momentum of two bytes


@pytest.mark.parametrize("name", _NAMES)
def test_stacked_layers_are_trained_as_layers_one_by_one(name):
    start, gradients = _some(0), [_some(seed, 0.01) for seed in range(1, 5)]
    config = _config(name, clip=1.0)
    stacked, _ = _updated(config, start, gradients)
    alone, _ = _updated(config, _unstacked(start), [_unstacked(gradient) for gradient in gradients])
    _assert_moved_alike(_unstacked_again(alone), stacked, start, 1e-4)


def _unstacked_again(tree: dict) -> dict:
    return {**tree, "layers": jax.tree.map(lambda *layers: np.stack(layers), *tree["layers"])}


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "wsd"])
def test_the_learning_rate_is_that_of_the_step_and_scales_the_whole_update(name, schedule):
    optimizer, rate = make_optimizer(_config(name, schedule=schedule), 10)
    params, gradient = (jax.tree.map(lambda x: jnp.asarray(x[:1, :3]), _some(seed)["layers"]["up"]) for seed in (0, 1))
    params, gradient = {"embed": params}, {"embed": gradient}
    state = optimizer.init(params)
    update = jax.jit(lambda i: optimizer.update(gradient, state, params, step=i, loss=jnp.float32(1))[0])
    again = update(jnp.int32(4))
    for i in (0, 2, 5, 9):
        updates = update(jnp.int32(i))
        for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(again), strict=True):
            np.testing.assert_allclose(a * float(rate(4)), b * float(rate(i)), rtol=1e-5, atol=1e-9)
            assert np.all(np.asarray(b) != 0)


# ---- On meshes

@pytest.mark.parametrize("name", [      # adamw: test_train_step.py
    "muon", *(pytest.param(name, marks=pytest.mark.slow) for name in ("scaled_adamw", "adafactor", "lion"))])
def test_eight_devices_update_as_one_and_hold_their_share(name):
    model = create(model_config({"preset": "gpt2-debug", "vocab_size": 256, "d_model": 128, "d_ff": 256}))
    start = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    gradients = [jax.tree.map(lambda x, i=i: x[::-1] * (i + 1) + 1e-3, start) for i in range(2)]
    config = _config(name)
    one, _ = _updated(config, start, gradients)
    mesh, (optimizer, _) = make_mesh("fsdp:2,tensor:2,data:2"), make_optimizer(config, 2)
    abstract = abstract_state(model, optimizer, mesh)
    step = jax.jit(lambda p, s, g, i: optimizer.update(g, s, p, step=i, loss=jnp.float32(1)),
                   out_shardings=jax.tree.map(lambda x: x.sharding, (abstract.params, abstract.optimizer)))
    with jax.set_mesh(mesh):
        place = lambda tree: jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), tree, abstract.params)  # noqa: E731
        state = state_from(place(start), optimizer, abstract)
        params, opt_state = state.params, state.optimizer
        for i, gradient in enumerate(gradients):
            updates, opt_state = step(params, opt_state, place(gradient), jnp.int32(i))
            params = optax.apply_updates(params, updates)
    _assert_moved_alike(jax.device_get(params), jax.device_get(one), start, 1e-3)
    large = [x for x in jax.tree.leaves(opt_state) if x.size > 128 * 128]
    assert all(x.addressable_shards[0].data.size <= x.size / 4 for x in large)
    assert len(large) >= {"adafactor": 0, "lion": 5}.get(name, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", _NAMES)
def test_training_on_eight_devices_follows_the_curve_of_one(tiny_llama, name):
    config = _config(name, learning_rate=_RATE[name] / 3, clip=1.0)
    curves = [_curve(tiny_llama[0], config, mesh) for mesh in ("fsdp:1", "fsdp:2,tensor:2,data:2")]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-3)
    assert curves[0][-1] < curves[0][0] - 0.1


def _curve(model, config, mesh_text: str, updates: int = 12) -> list[float]:
    mesh = make_mesh(mesh_text, jax.devices()[:1] if mesh_text == "fsdp:1" else None)
    optimizer, rate = make_optimizer(config, updates)
    abstract = abstract_state(model, optimizer, mesh)
    step = make_step(model, optimizer, rate, mesh, abstract, dtype=jnp.float32, loss_chunk=32)
    with jax.set_mesh(mesh):
        params = jax.tree.map(lambda x, a: jax.device_put(np.asarray(x), a.sharding),
                              jax.jit(model.init)(jax.random.key(0)), abstract.params)
        state, losses = state_from(params, optimizer, abstract), []
        batch = jax.device_put(make_batch(8), NamedSharding(mesh, BATCH))
        for _ in range(updates):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
    return losses


# ---- torch

@pytest.mark.slow
@pytest.mark.torch
def test_a_curve_of_a_hundred_steps_follows_torch(tmp_path):
    """A LLaMA in float32, new batches each step: transformers and torch.optim.AdamW against our training step."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from easylm_imitation.weights import open_model
    torch.manual_seed(0)
    sizes = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=False)
    theirs = LlamaForCausalLM(sizes).float()
    theirs.save_pretrained(tmp_path)
    config = OptimizerConfig(learning_rate=3e-3, warmup=10, schedule="cosine", final=0.1, weight_decay=0.1, clip=1.0)
    random = np.random.default_rng(0)
    batches = [np.cumsum(random.integers(0, 3, (8, 32)), axis=1) % 64 for _ in range(100)]
    ours = _our_curve(open_model(tmp_path), config, batches)
    curve = _their_curve(theirs, config, batches)
    np.testing.assert_allclose(ours, curve, rtol=0, atol=2e-4)
    assert curve[-1] < curve[0] - 2


def _our_curve(loaded, config: OptimizerConfig, batches: list[np.ndarray]) -> list[float]:
    model, mesh = create(loaded.config), make_mesh("fsdp:1", jax.devices()[:1])
    optimizer, rate = make_optimizer(config, len(batches))
    abstract = abstract_state(model, optimizer, mesh)
    step = make_step(model, optimizer, rate, mesh, abstract, dtype=jnp.float32, loss_chunk=64)
    positions = np.broadcast_to(np.arange(32, dtype=np.int32), (8, 32))
    fixed = {"positions": positions, "segment_ids": np.ones_like(positions), "loss_weights": np.float32(positions > 0)}
    losses = []
    with jax.set_mesh(mesh):
        params = jax.tree.map(lambda x, a: jnp.array(jax.device_put(x, a.sharding)), loaded.params, abstract.params)
        state = state_from(params, optimizer, abstract)
        for tokens in batches:
            batch = fixed | {"tokens": np.int32(tokens)}
            state, metrics = step(state, jax.device_put(batch, NamedSharding(mesh, BATCH)))
            losses.append(float(metrics["loss"]))
    return losses


def _their_curve(model, config: OptimizerConfig, batches: list[np.ndarray]) -> list[float]:
    import torch
    named = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [p for n, p in named.items() if "norm" not in n], "weight_decay": config.weight_decay},
         {"params": [p for n, p in named.items() if "norm" in n], "weight_decay": 0.0}],
        betas=(config.beta1, config.beta2), eps=config.eps)
    losses = []
    for i, tokens in enumerate(batches):
        done = max(i - 10, 0) / 90
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * ((i + 1) / 10 if i < 10 else 0.1 + 0.9 * (0.5 + 0.5 * np.cos(np.pi * done)))
        optimizer.zero_grad()
        tokens = torch.tensor(tokens)
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


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
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, gradient), state, ours,
                                          step=jnp.int32(i), loss=jnp.float32(1))
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
