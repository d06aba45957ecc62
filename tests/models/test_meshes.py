import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from tiny_models import CONFIGS, logits, made, packed

from easylm_imitation.models import create, unstack
from easylm_imitation.models.attention import attention
from easylm_imitation.sharding import BATCH, leaf_paths, make_mesh, shardings, specs

MESHES = ("fsdp:8", "data:4,tensor:2", "fsdp:2,tensor:2,sequence:2", "replica:2,fsdp:2,tensor:2")


def on_mesh(mesh, model, params, batch):
    placed = jax.device_put(params, shardings(mesh, model.rules(), model.abstract()))
    rows = jax.device_put(tuple(np.concatenate([x] * 4) for x in batch), NamedSharding(mesh, BATCH))
    return placed, rows


@pytest.mark.parametrize(("text", "name"), [*((text, "qwen2") for text in MESHES), (MESHES[2], "gpt2")])
def test_every_mesh_gives_the_forward_of_one_device(text, name):
    model, params = made(name)
    mesh = make_mesh(text)
    placed, rows = on_mesh(mesh, model, params, packed())
    with jax.set_mesh(mesh):
        got = logits(model, placed, *rows)
    wanted = logits(model, params, *packed())
    np.testing.assert_allclose(got, np.concatenate([wanted] * 4), atol=2e-5)


def test_gradients_come_back_in_the_parameters_shardings():
    model, params = made("llama")
    mesh = make_mesh("fsdp:2,tensor:2,sequence:2")
    where = shardings(mesh, model.rules(), model.abstract())
    placed, rows = on_mesh(mesh, model, params, packed())

    def gradient(params, rows):
        return jax.grad(lambda p: jnp.sum(jnp.sin(model.hidden(p, *rows, dtype=jnp.float32, remat="full"))))(params)

    with jax.set_mesh(mesh):
        got = jax.jit(gradient, out_shardings=where)(placed, rows)
    assert jax.tree.map(lambda x: x.sharding, got) == where
    wanted = jax.jit(gradient)(params, tuple(np.concatenate([x] * 4) for x in packed()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), got, wanted)


def test_the_sequence_axis_shares_work_and_memory_of_attention_evenly():
    """Each chunk of queries is spread over the devices, so none has more of the causal triangle than the others."""
    def compiled(devices):
        mesh = make_mesh(f"sequence:{devices}")
        rows = [jax.ShapeDtypeStruct((1, 2048, heads, 32), jnp.float32, sharding=NamedSharding(mesh, BATCH))
                for heads in (4, 2, 2)]
        segments = jax.ShapeDtypeStruct((1, 2048), jnp.int32, sharding=NamedSharding(mesh, BATCH))

        def gradient(q, k, v, segments):
            return jax.grad(lambda *x: attention(*x, segments, backend="chunked").sum(), argnums=(0, 1, 2))(q, k, v)
        with jax.set_mesh(mesh):
            program = jax.jit(gradient).lower(*rows, segments).compile()
        return program.cost_analysis()["flops"], program.memory_analysis().temp_size_in_bytes
    (flops, memory), (flops_one, memory_one) = compiled(4), compiled(1)
    assert flops < 0.26 * flops_one
    assert memory < 0.35 * memory_one


def test_a_fresh_model_is_the_same_on_every_mesh():
    model = create(CONFIGS["gpt2"])
    mesh = make_mesh("fsdp:4,tensor:2")
    where = shardings(mesh, model.rules(), model.abstract())
    sharded = jax.jit(model.init, out_shardings=where)(jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, sharded, jax.jit(model.init)(jax.random.key(3)))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_rules_name_every_parameter_and_nothing_else(name):
    model = create(CONFIGS[name])
    stacked = leaf_paths(specs(model.rules(), model.abstract()))
    apart = leaf_paths(specs(model.rules(stacked=False), jax.eval_shape(unstack, model.abstract())))
    kernel = "layers/mlp/down/kernel"
    assert stacked[kernel] == jax.P(None, "tensor", "fsdp")
    assert apart[kernel.replace("layers", "layers/1")] == jax.P("tensor", "fsdp")
    assert ("unembed/kernel" in stacked) != CONFIGS[name].tie_embeddings


def test_a_vocabulary_that_no_tensor_axis_divides_still_fits_every_mesh():
    config = type(CONFIGS["gpt2"])(50257, 64, layers=1, d_model=16, heads=4, d_ff=32)
    model = create(config)
    shardings(make_mesh("fsdp:4,tensor:2"), model.rules(), model.abstract())
