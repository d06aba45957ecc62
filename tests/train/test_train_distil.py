"""Divergences against torch and the definition, in parts of the vocabulary, on packed rows and on meshes."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_helpers import VOCAB, make_batch

from easylm_imitation.models import create, model_config
from easylm_imitation.sharding import make_mesh, shardings
from easylm_imitation.train.distil import IDS, LOGPROBS, Distil, DistilConfig, distil_sum

TEACHER = create(model_config({"preset": "gpt2-debug", "vocab_size": VOCAB + 7}))       # pads its vocabulary otherwise
divergences = pytest.mark.parametrize("divergence", ["forward", "reverse"])


@pytest.fixture(scope="module")
def teacher():
    return jax.tree.map(lambda x: 6 * x, jax.jit(TEACHER.init)(jax.random.key(5)))


def states(model, params, batch):
    return model.hidden(params, batch["tokens"], batch["positions"], batch["segment_ids"], dtype=jnp.float32)


def weights_of(batch):
    return jnp.pad(batch["loss_weights"][:, 1:], ((0, 0), (0, 1)))


def divergence_sum(student, distil, params, teacher, batch, chunk=16):
    hidden = states(student, params, batch)
    return distil_sum(distil, teacher, batch, hidden, student.head(params), weights_of(batch), chunk)


def torch_divergence(student_logits, teacher_logits, weights, config):
    """Σ w·KL by torch, and its gradient by the student's logits; float64."""
    torch = pytest.importorskip("torch")
    s = torch.tensor(np.asarray(student_logits), dtype=torch.float64, requires_grad=True)
    t = torch.tensor(np.asarray(teacher_logits), dtype=torch.float64)
    log_s, log_t = (torch.log_softmax(x / config.temperature, -1) for x in (s, t))
    p, q = (log_t, log_s) if config.divergence == "forward" else (log_s, log_t)
    kl = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    total = config.temperature**2 * (kl * torch.tensor(np.asarray(weights), dtype=torch.float64)).sum()
    total.backward()
    return total.item(), s.grad.numpy()


@pytest.mark.torch
@divergences
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("chunk", [1000, 16, 10])
def test_divergence_and_gradient_are_torchs(tiny_llama, teacher, divergence, temperature, chunk):
    student, params = tiny_llama
    batch, config = make_batch(4), DistilConfig(divergence=divergence, temperature=temperature)
    hidden, head = states(student, params, batch), student.head(params)
    logits = student.unembed(params, hidden)
    theirs = TEACHER.unembed(teacher, states(TEACHER, teacher, batch))[..., :VOCAB]
    wanted, by_logits = torch_divergence(logits, theirs, weights_of(batch), config)

    def ours(hidden, head):
        return distil_sum(Distil(config, VOCAB, TEACHER), teacher, batch, hidden, head, weights_of(batch), chunk)

    found, (by_hidden, by_head) = jax.value_and_grad(ours, argnums=(0, 1))(hidden, head)
    np.testing.assert_allclose(found, wanted, rtol=2e-5)
    np.testing.assert_allclose(by_hidden, np.einsum("btv,dv->btd", by_logits, head), rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(by_head, np.einsum("btv,btd->dv", by_logits, hidden), rtol=1e-3, atol=2e-5)


@divergences
def test_a_student_that_is_its_teacher_has_nothing_to_learn(tiny_llama, divergence):
    student, params = tiny_llama
    distil = Distil(DistilConfig(divergence=divergence), VOCAB, student)
    batch = make_batch(4)
    found, grads = jax.value_and_grad(
        lambda ours: divergence_sum(student, distil, ours, params, batch))(params)
    assert abs(found) < 1e-3
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads)) < 1e-3


@divergences
def test_no_gradient_flows_into_the_teacher(tiny_llama, teacher, divergence):
    student, params = tiny_llama
    distil = Distil(DistilConfig(divergence=divergence), VOCAB, TEACHER)
    grads = jax.grad(lambda theirs: divergence_sum(student, distil, params, theirs, make_batch(2)))(teacher)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(grads))


def best_of(batch, teacher, k):
    """The batch with the teacher's best `k` tokens."""
    logprobs = jax.nn.log_softmax(TEACHER.unembed(teacher, states(TEACHER, teacher, batch))[..., :VOCAB])
    best, ids = jax.lax.top_k(logprobs, k)
    return {**batch, IDS: ids, LOGPROBS: best}, logprobs


@divergences
@pytest.mark.parametrize("chunk", [1000, 16])
def test_all_tokens_cached_are_the_teacher_itself(tiny_llama, teacher, divergence, chunk):
    student, params = tiny_llama
    config = DistilConfig(divergence=divergence)
    batch = make_batch(4)
    cached, _ = best_of(batch, teacher, VOCAB)
    whole = divergence_sum(student, Distil(config, VOCAB, TEACHER), params, teacher, batch, chunk)
    best = divergence_sum(student, Distil(config, VOCAB), params, None, cached, chunk)
    np.testing.assert_allclose(best, whole, rtol=1e-3)


@pytest.mark.torch
@divergences
def test_the_best_tokens_and_the_rest_are_a_distribution_of_their_own(tiny_llama, teacher, divergence):
    torch = pytest.importorskip("torch")
    student, params = tiny_llama
    batch, k = make_batch(4), 5
    cached, theirs = best_of(batch, teacher, k)
    ids = torch.tensor(np.asarray(cached[IDS]), dtype=torch.int64)

    def coarse(logprobs):
        p = torch.tensor(np.asarray(logprobs), dtype=torch.float64).exp()
        best = p.gather(-1, ids)
        return torch.cat([best, 1 - best.sum(-1, keepdim=True)], -1)

    p, q = coarse(theirs), coarse(jax.nn.log_softmax(student.unembed(params, states(student, params, batch))))
    if divergence == "reverse":
        p, q = q, p
    wanted = ((p * (p / q).log()).sum(-1) * torch.tensor(np.asarray(weights_of(batch)))).sum().item()
    distil = Distil(DistilConfig(divergence=divergence), VOCAB)
    found, grads = jax.value_and_grad(lambda ours: divergence_sum(student, distil, ours, None, cached))(params)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


@divergences
@pytest.mark.parametrize("mesh", ["fsdp:8", "data:2,fsdp:2,tensor:2", "fsdp:2,sequence:4"])
def test_every_mesh_gives_what_one_device_gives(teacher, divergence, mesh):
    student = create(model_config({"preset": "llama-debug", "vocab_size": 104}))
    theirs = create(model_config({"preset": "llama-debug", "vocab_size": 104, "d_ff": 96}))
    distil, batch = Distil(DistilConfig(divergence=divergence), 99, theirs), make_batch(8)
    weights = [jax.jit(model.init)(jax.random.key(i)) for i, model in enumerate((student, theirs))]
    run = jax.jit(functools.partial(divergence_sum, student, distil), static_argnames="chunk")
    wanted = run(*weights, batch, chunk=16)
    with jax.set_mesh(make_mesh(mesh)):
        placed = [jax.device_put(tree, shardings(make_mesh(mesh), model.rules(), model.abstract()))
                  for model, tree in zip((student, theirs), weights, strict=True)]
        np.testing.assert_allclose(run(*placed, batch, chunk=16), wanted, rtol=1e-5)


@pytest.mark.parametrize(("keys", "match"), [
    ({"weight": 0}, "weight is 0; it must be above 0 and at most 1"), ({"weight": 1.5}, "weight is 1.5"),
    ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
    ({"temperature": float("inf")}, "temperature is inf")])
def test_numbers_that_mean_nothing_are_refused(keys, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(DistilConfig(), **keys)
