"""A run that trains adapters beside frozen weights: the same step, the same files, the same promises."""
import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from train_helpers import LENGTH, VOCAB, history, make_batch, tiny_config, weights

from easylm_imitation.models import Adapters, LoraConfig, merged
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import leaf_paths, make_mesh
from easylm_imitation.train import OptimizerConfig, abstract_state, init_state, make_optimizer, make_step, train
from easylm_imitation.train.skip import skipping
from easylm_imitation.weights import RunDir, describe, open_model

LORA = LoraConfig("layers/(attention/(q|v)|mlp/up)/kernel", rank=4, alpha=8.0, dropout=0.25)


def lora_config(**keys):
    keys = {"model": {}, "lora": LORA, "steps": 6, "optimizer": OptimizerConfig(learning_rate=0.02)} | keys
    return tiny_config(**keys)


@pytest.fixture(scope="module")
def adapted(data, whole, tmp_path_factory):
    """(a finished LoRA run, its base, which may be moved)."""
    folder = tmp_path_factory.mktemp("lora")
    base = shutil.copytree(whole, folder / "base")
    result = train(lora_config(), data_dir=data, workdir=folder / "run", init=f"{base}@3")
    assert result.step == 6
    return folder / "run", base


@pytest.mark.slow
def test_adapters_learn_and_are_all_that_is_saved(adapted):
    run, base = adapted
    losses = [line["loss"] for line in history(run)]
    assert losses[-1] < losses[0] - 0.02
    step = RunDir(run).checkpoints / "6"
    before, after = (leaf_paths(open_model(path).params) for path in (f"{base}@3", run))
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved == {"layers/attention/q/kernel", "layers/attention/v/kernel", "layers/mlp/up/kernel"}
    size = sum(file.stat().st_size for file in step.rglob("*") if file.is_file())
    assert size < sum(f.stat().st_size for f in (RunDir(base).checkpoints / "3").rglob("*") if f.is_file()) / 2
    assert RunDir(run).read_lineage().init == RunDir(base).read_lineage(3).id
    assert describe(run)[1] == open_model(run).lineage == RunDir(run).read_lineage()


@pytest.mark.slow
def test_an_interrupted_run_on_another_split_of_its_batches_goes_on_as_it_was(data, adapted, tmp_path):
    run, base = adapted
    config = lora_config(checkpoint_every=100)
    for _ in range(2):
        train(config, data_dir=data, workdir=tmp_path / "run", init=f"{base}@3", stop_after=2)
    assert history(tmp_path / "run") == history(run)[:4]
    train(lora_config(accumulate=2, mesh="fsdp:2,tensor:2"), data_dir=data, workdir=tmp_path / "run",
          init=f"{base}@3")
    np.testing.assert_allclose([line["loss"] for line in history(tmp_path / "run")],
                               [line["loss"] for line in history(run)], rtol=2e-5)      # the same entries are dropped


@pytest.mark.slow
def test_a_base_that_moved_is_named_by_hand_and_must_be_the_one(data, adapted, whole, tmp_path):
    run, base = adapted
    moved, copy = shutil.copytree(base, tmp_path / "moved"), shutil.copytree(run, tmp_path / "run")
    note = RunDir(copy).adapter
    note.write_text(note.read_text().replace(str(base), "/gone/base"))
    with pytest.raises(UserError, match=r"/gone/base@3.*which is no folder here; name both, as in BASE\+"):
        open_model(copy)
    found = open_model(f"{moved}@3+{copy}@6")
    for ours, theirs in zip(jax.tree.leaves(found.params), weights(run), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(UserError, match="trained beside the weights .* but the base named holds"):
        open_model(f"{moved}+{copy}")
    with pytest.raises(UserError, match="holds no adapters"):
        open_model(f"{moved}+{base}")


def test_what_cannot_be_trained_is_refused_before_anything_is_written(data, whole, tmp_path):
    with pytest.raises(UserError, match="name it with --init"):
        train(lora_config(model={"preset": "llama-debug"}), data_dir=data, workdir=tmp_path / "run")
    wrong = lora_config(lora=LoraConfig("layers/attention/qkv/kernel"))
    with pytest.raises(UserError, match="matches no parameter; those that can be adapted: layers/attention/k/kernel"):
        train(wrong, data_dir=data, workdir=tmp_path / "run", init=str(whole))
    assert not (tmp_path / "run").exists()


def test_the_optimizer_knows_the_adapters_alone_and_the_base_gets_no_gradient(tiny_llama):
    model, base = tiny_llama
    adapters, mesh = Adapters(model, LORA), make_mesh("fsdp:8")
    optimizer, rate = make_optimizer(OptimizerConfig(learning_rate=0.1, warmup=0, schedule="constant"), 10)
    abstract = abstract_state(adapters, optimizer, mesh)
    moments = sum(leaf.size for leaf in jax.tree.leaves(abstract.optimizer) if leaf.ndim)
    assert moments == 2 * sum(leaf.size for leaf in jax.tree.leaves(abstract.params)) < 0.3 * model.config.parameters()
    with jax.set_mesh(mesh):
        step = make_step(model, optimizer, rate, mesh, abstract, adapters=adapters, dtype=jnp.float32, loss_chunk=32)
        state = init_state(adapters, optimizer, abstract, 0)
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), base)       # frozen weights may be in few digits
        for _ in range(3):
            state, metrics = step(state, make_batch(8), None, half)
    assert float(metrics["grad_norm"]) > 0
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")       # PEFT's and its imports'
@pytest.mark.parametrize("family", ["llama-debug", "gpt2-debug"])
def test_gradients_and_twenty_updates_equal_those_of_peft_and_torch(family, tmp_path):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    import transformers

    from easylm_imitation.models import create, model_config
    from easylm_imitation.weights import export_hf
    from easylm_imitation.weights.peft import export_peft
    model = create(model_config({"preset": family, "vocab_size": VOCAB}))
    base = jax.jit(model.init)(jax.random.key(0))
    named = "layers/(attention/qkv|mlp/down)/kernel" if family == "gpt2-debug" else LORA.targets
    adapters = Adapters(model, dataclasses.replace(LORA, targets=named, dropout=0.0))
    rng = np.random.default_rng(1)      # B is not zero, so A learns; nor constant, which GPT-2's norms would take away
    numbers = jax.tree.map(lambda leaf: leaf + 0.02 * rng.standard_normal(leaf.shape, np.float32),
                           adapters.init(jax.random.key(3)))
    lineage = Lineage(id="b", name="b", base="b", base_name="b")
    export_hf(tmp_path / "base", model.config, base, None, None, lineage)
    export_peft(tmp_path / "adapter", adapters, numbers, str(tmp_path / "base"), lineage, lineage)
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter", is_trainable=True)
    rows = np.random.default_rng(0).integers(1, VOCAB, (20, 8, LENGTH)).astype(np.int32)
    places = np.tile(np.arange(LENGTH, dtype=np.int32), (8, 1))
    rest = {"segment_ids": np.ones_like(places), "positions": places, "loss_weights": np.float32(places > 0)}

    mesh = make_mesh("", jax.devices()[:1])
    keys = OptimizerConfig(learning_rate=0.01, warmup=0, schedule="constant", clip=None, beta2=0.999, weight_decay=0.01)
    optimizer, rate = make_optimizer(keys, 20)
    abstract = abstract_state(adapters, optimizer, mesh)
    state = dataclasses.replace(init_state(adapters, optimizer, abstract, 0), params=numbers)
    trained = [p for p in theirs.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == sum(leaf.size for leaf in jax.tree.leaves(numbers))
    torch_adamw = torch.optim.AdamW(trained, lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    huge = 2.0**40      # the size of one plain step, beside which the weights before it are nothing
    with jax.set_mesh(mesh):
        plain_sgd = skipping(optax.scale(-huge), None)
        shapes = abstract_state(adapters, plain_sgd, mesh)
        once = make_step(model, plain_sgd, lambda _: 1.0, mesh, shapes, adapters=adapters, dtype=jnp.float32,
                         loss_chunk=32)
        own = jax.tree.map(jnp.copy, numbers)       # the step gives its state away
        begun = dataclasses.replace(init_state(adapters, plain_sgd, shapes, 0), params=own)
        after = once(begun, {"tokens": rows[0], **rest}, None, base)[0].params
    taken = jax.tree.map(lambda x, y: (x - y) / huge, numbers, after)
    export_peft(tmp_path / "gradients", adapters, taken, "", lineage, lineage)
    gradients = safetensors.numpy.load_file(tmp_path / "gradients" / "adapter_model.safetensors")
    theirs(torch.tensor(rows[0]).long(), labels=torch.tensor(rows[0]).long()).loss.backward()
    wanted = {name.replace(".default", ""): p.grad.numpy() for name, p in theirs.named_parameters() if p.requires_grad}
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        np.testing.assert_allclose(gradients[name], gradient, atol=1e-3 * np.abs(gradient).max(), err_msg=name)

    curves, norms = ([], []), ([], [])
    with jax.set_mesh(mesh):
        step = make_step(model, optimizer, rate, mesh, abstract, adapters=adapters, dtype=jnp.float32, loss_chunk=32)
        for tokens in rows:
            state, metrics = step(state, {"tokens": tokens, **rest}, None, base)
            loss = theirs(torch.tensor(tokens).long(), labels=torch.tensor(tokens).long()).loss
            torch_adamw.zero_grad()
            loss.backward()
            norm = torch.sqrt(sum((p.grad.double()**2).sum() for p in trained))
            torch_adamw.step()
            curves[0].append(float(metrics["loss"]))
            curves[1].append(float(loss))
            norms[0].append(float(metrics["grad_norm"]))
            norms[1].append(float(norm))
    np.testing.assert_allclose(*curves, atol=1e-3)
    np.testing.assert_allclose(*norms, rtol=1e-3)
    logits = theirs.merge_and_unload()(torch.tensor(rows[0]).long()).logits.detach().numpy()
    whole = merged(adapters.attach(base, state.params))
    ours = model.unembed(whole, model.hidden(whole, rows[0], rest["positions"], dtype=jnp.float32))
    np.testing.assert_allclose(ours, logits, atol=1e-2)     # twenty updates later
