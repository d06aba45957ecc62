"""Every kind of model against transformers and torch, in float32, random weights; makes the table in docs/models.md.

transformers makes each model from the config.json that we write, and saves it with its own: both are read and compared.
"""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import parity_table
import pytest
import safetensors.numpy
from jax.sharding import NamedSharding
from parity_table import check
from tiny_models import CONFIGS, logits, packed
from tiny_tokenizers import trained

from easylm_imitation.cli.main import main
from easylm_imitation.models import PRESETS, create, family_of, unstack
from easylm_imitation.models.rope import frequencies
from easylm_imitation.records import Lineage
from easylm_imitation.sharding import BATCH, make_mesh, shardings
from easylm_imitation.train import OptimizerConfig
from easylm_imitation.train.optimizer import make_optimizer
from easylm_imitation.train.state import abstract_state, state_from
from easylm_imitation.train.step import make_step
from easylm_imitation.weights import export_hf, open_model

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

VOCABULARY, ROWS, LENGTH = 328, 32, 32      # 1,024 positions; the vocabulary holds the tokenizer's ids
HALVES = {"qwen2_bfloat16": ("qwen2", torch.bfloat16), "gpt2_float16": ("gpt2", torch.float16)}


def config_of(name):
    return dataclasses.replace(CONFIGS[HALVES.get(name, (name,))[0]], vocab_size=VOCABULARY)


def theirs(name):
    """The torch model of a kind, every number random, attention computed in plain sight."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM
    mapping = family_of(config_of(name)).config_to_hf(config_of(name))
    config = CONFIG_MAPPING[mapping["model_type"]](**mapping)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.to(HALVES[name][1]) if name in HALVES else model.eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A function: (dir as transformers saves it, the model that it reads back in float32, ours as we read it)."""
    made = {}

    def write(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("transformers") / name
            model = theirs(name)
            model.save_pretrained(folder)
            trained().save(folder)
            # read back, because casting a whole model in place would round its rotary tables too
            back = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
            made[name] = folder, back, open_model(folder)
        return made[name]
    return write


def plain_rows(seed=0):
    """tokens, positions [32, 32] of whole rows; without token 1, which torch's OPT gives no gradient (padding_idx)."""
    tokens = np.random.default_rng(seed).integers(2, VOCABULARY, (ROWS, LENGTH)).astype(np.int32)
    return tokens, np.broadcast_to(np.arange(LENGTH, dtype=np.int32), tokens.shape)


def as_long(tokens):
    return torch.tensor(np.asarray(tokens, np.int64))


def their_logits(model, tokens):
    with torch.no_grad():
        return model(as_long(tokens)).logits.numpy()


def their_loss(model, tokens):
    """Mean cross-entropy of every token but each row's first."""
    flat = model(as_long(tokens)).logits[:, :-1].reshape(-1, VOCABULARY)
    return torch.nn.functional.cross_entropy(flat, as_long(tokens)[:, 1:].reshape(-1))


@check("read")
def test_what_transformers_writes_is_read_whole(written, name):
    folder, model, loaded = written(name)
    assert loaded.config == config_of(name)
    assert loaded.config.parameters() == sum(p.numel() for p in model.parameters())
    assert all(np.std(leaf) > 0.1 for leaf in jax.tree.leaves(loaded.params)), "a tensor that was not read"


@check("logits")
def test_logits_equal_transformers(written, name):
    _, model, loaded = written(name)
    tokens, positions = plain_rows()
    got, wanted = logits(create(loaded.config), loaded.params, tokens, positions), their_logits(model, tokens)
    tolerance = 1e-4 * np.abs(wanted).max()
    assert np.abs(wanted).max() > 1
    assert np.abs(got - wanted).max() <= tolerance
    second, first = np.sort(wanted, axis=-1)[..., -2:].transpose(2, 0, 1)
    assert np.all((got.argmax(-1) == wanted.argmax(-1)) | (first - second <= tolerance))


@check("gradients")
def test_gradients_equal_torch(written, name, tmp_path):
    folder, _, loaded = written(name)
    tokens, positions = plain_rows(1)
    _save_their_gradient(folder, tokens, tmp_path / "theirs")
    model = create(loaded.config)

    def loss(params):
        out = model.unembed(params, model.hidden(params, tokens, positions, dtype=jnp.float32))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out[:, :-1], tokens[:, 1:]))
    export_hf(tmp_path / "ours", loaded.config, jax.jit(jax.grad(loss))(loaded.params), None, None,
              Lineage("a", "a", "a", "a"))     # gradients are written as weights are, so their names and forms agree
    ours, wanted = (safetensors.numpy.load_file(tmp_path / who / "model.safetensors") for who in ("ours", "theirs"))
    assert ours.keys() == wanted.keys()
    whole = np.sqrt(sum(np.sum(g**2) for g in wanted.values()))
    for key, value in wanted.items():
        size = np.linalg.norm(value)
        # a bias of keys moves every score of a query alike where nothing is rotated: its gradient is rounding
        assert size > 1e-6 * whole or key.endswith(("k_proj.bias", "query_key_value.bias")), key
        assert np.linalg.norm(ours[key] - value) <= 1e-3 * max(size, 1e-4 * whole), key


def _save_their_gradient(folder, tokens, path):
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    their_loss(model, tokens).backward()
    for parameter in model.parameters():
        parameter.data = parameter.grad
    model.save_pretrained(path)


@check("20 updates of AdamW")
def test_the_loss_curve_of_adamw_follows_torch(written, name):
    folder, _, loaded = written(name)
    batches = [plain_rows()[0][:8]] * 20
    settings = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    np.testing.assert_allclose(_our_curve(loaded, batches, settings), _their_curve(folder, batches, settings), rtol=0,
                               atol=1e-3)


def _their_curve(folder, batches, settings):
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    optimizer, losses = torch.optim.AdamW(model.parameters(), **settings), []
    for tokens in batches:
        optimizer.zero_grad()
        loss = their_loss(model, tokens)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3
    return losses


def _our_curve(loaded, batches, settings):
    """The losses that the training step itself reports."""
    beta1, beta2 = settings["betas"]
    optimizer, rate = make_optimizer(OptimizerConfig(
        learning_rate=settings["lr"], warmup=0.0, schedule="constant", weight_decay=settings["weight_decay"],
        decay_norms_and_biases=True, beta1=beta1, beta2=beta2, eps=settings["eps"], clip=None), 20)
    model, mesh = create(loaded.config), make_mesh("fsdp:1", jax.devices()[:1])
    abstract = abstract_state(model, optimizer, mesh)
    step = make_step(model, optimizer, rate, mesh, abstract, dtype=jnp.float32, remat="none", loss_chunk=VOCABULARY)
    positions, losses = plain_rows()[1][:8], []
    with jax.set_mesh(mesh):
        params = jax.tree.map(lambda x, a: jnp.array(jax.device_put(x, a.sharding)), loaded.params, abstract.params)
        state = state_from(params, optimizer, abstract)
        for tokens in batches:
            batch = {"tokens": tokens, "positions": positions, "segment_ids": np.ones_like(tokens),
                     "loss_weights": np.float32(positions > 0)}
            state, metrics = step(state, jax.device_put(batch, NamedSharding(mesh, BATCH)))
            losses.append(float(metrics["loss"]))
    return losses


@check("decode = full forward")
def test_prefill_and_decode_equal_the_full_forward(written, name):
    loaded = written(name)[2]
    model, prompt = create(loaded.config), 8
    tokens, positions = plain_rows()
    wanted = logits(model, loaded.params, tokens, positions)
    run = jax.jit(lambda params, *rest: _extended(model, params, *rest), donate_argnums=3)
    params, parts = unstack(loaded.params), []
    cache = model.init_cache(ROWS, LENGTH, stacked=False)
    for start, end in ((0, prompt), *((t, t + 1) for t in range(prompt, LENGTH))):
        out, cache = run(params, tokens[:, start:end], positions[:, start:end], cache)
        parts.append(np.asarray(out))
    assert np.abs(np.concatenate(parts, axis=1) - wanted).max() <= 1e-5 * np.abs(wanted).max()


def _extended(model, params, tokens, positions, cache):
    hidden, cache = model.extend(params, tokens, positions, cache, dtype=jnp.float32)
    return model.unembed(params, hidden), cache


@check("tensor-parallel = one device")
def test_eight_tensor_parallel_devices_equal_one(written, name):
    loaded = written(name)[2]
    model, mesh = create(loaded.config), make_mesh("tensor:8")
    placed = jax.device_put(loaded.params, shardings(mesh, model.rules(), model.abstract()))
    assert all(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(placed["layers"]["mlp"]["down"]
                                                                                 ["kernel"]))
    tokens, positions = plain_rows()
    with jax.set_mesh(mesh):
        got = logits(model, placed, tokens, positions)
    wanted = logits(model, loaded.params, tokens, positions)
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


@check("write")
def test_transformers_to_run_to_transformers_is_equal_byte_for_byte(written, name, tmp_path):
    _there_and_back(written(name), tmp_path)


@pytest.mark.parametrize("name", HALVES)
def test_half_precision_comes_back_as_it_was(written, name, tmp_path):
    folder, model, loaded = written(name)
    assert loaded.stored_dtype == name.partition("_")[2]
    tokens, positions = plain_rows()
    got, wanted = logits(create(loaded.config), loaded.params, tokens, positions), their_logits(model, tokens)
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())
    _there_and_back((folder, model, loaded), tmp_path)


def _there_and_back(source, tmp_path):
    folder, model, _ = source
    assert main(["convert", "--from", str(folder), "--to", str(tmp_path / "run"), "--template", "chatml"]) == 0
    assert main(["convert", "--from", str(tmp_path / "run"), "--to", str(tmp_path / "out"), "--format", "hf"]) == 0
    before = safetensors.numpy.load_file(folder / "model.safetensors")
    after = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert (value.dtype, value.shape) == (after[key].dtype, after[key].shape), key
        assert value.tobytes() == after[key].tobytes(), key
    _transformers_reads(tmp_path / "out", model)


def _transformers_reads(folder, original):
    """As a user would load it: same logits, same tokens, the chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tokens = plain_rows()[0]
    np.testing.assert_allclose(their_logits(again, tokens), their_logits(original, tokens), atol=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.encode("The cat is in the house.") == trained().encode("The cat is in the house.")
    assert tokenizer.chat_template
    assert set(again.generation_config.eos_token_id) == {trained().special_id("<|im_end|>"), trained().eos_id}


@pytest.mark.parametrize("name", ["qwen2", "pythia"])
def test_packed_rows_give_each_conversation_the_logits_of_transformers(written, name):
    _, model, loaded = written(name)
    tokens, positions, segments = packed()
    got = logits(create(loaded.config), loaded.params, tokens, positions, segments)
    for segment in (1, 2, 3):
        own = segments[0] == segment
        np.testing.assert_allclose(got[:, own], their_logits(model, tokens[:, own]), atol=1e-4)


@pytest.mark.parametrize("preset", ["llama-3.1-8b", "llama-3.2-1b", "pythia-6.9b"])
def test_rotary_frequencies_of_published_models_equal_transformers(preset):
    from transformers import CONFIG_MAPPING
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    config = PRESETS[preset]
    mapping = family_of(config).config_to_hf(config)
    theirs = CONFIG_MAPPING[mapping["model_type"]](**mapping)
    if config.rope_scaling:
        wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](theirs, torch.device("cpu"))
    else:
        from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
        wanted, _ = GPTNeoXRotaryEmbedding.compute_default_rope_parameters(theirs, torch.device("cpu"))
    dims = getattr(config, "rotary_dims", config.head_dim)
    np.testing.assert_allclose(frequencies(dims, config.rope_theta, config.rope_scaling), wanted, rtol=1e-6)


def test_every_parameter_matters_to_the_logits(written):
    """Guards the parity test itself: moving any one parameter moves the logits by more than the tolerance."""
    loaded = written("qwen2")[2]
    model = create(loaded.config)
    base = logits(model, loaded.params, *plain_rows())
    leaves, tree = jax.tree.flatten(loaded.params)
    for i, leaf in enumerate(leaves):
        moved = jax.tree.unflatten(tree, [*leaves[:i], leaf * np.float32(1.1), *leaves[i + 1:]])
        assert np.abs(logits(model, moved, *plain_rows()) - base).max() > 1e-3


def test_the_table_in_the_docs_is_whole_and_green():
    assert parity_table.is_green(parity_table.DOCS.read_text()), f"renew it: WRITE_DOCS=1 pytest {__file__}"
