"""Validation and samples: against the definition, dataset by dataset, on any mesh."""
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_tokenizers import byte_tokenizer

from easylm_imitation.data import (
    BuildConfig,
    LoaderConfig,
    SourceConfig,
    build_dataset,
    held_out_examples,
)
from easylm_imitation.models import create, model_config
from easylm_imitation.sharding import make_mesh, shardings
from easylm_imitation.train.config import TrainConfig, ValidationConfig
from easylm_imitation.train.place import BatchPlace
from easylm_imitation.train.validation import Samples, Validation

MODEL = create(model_config({"preset": "llama-debug", "vocab_size": 264}))
CONFIG = TrainConfig(steps=1, data=LoaderConfig(context=80, batch=8, holdout=0.3), compute_dtype="float32",
                     validation=ValidationConfig(batches=None, samples=3, sample_tokens=8))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A dataset of 20 conversations from "a" and 10 from "b"; some have two answers."""
    folder = tmp_path_factory.mktemp("two")
    turns = [("user", "question"), ("assistant", "answer")]
    records = [{"dataset": "ab"[i % 3 == 0], "id": f"c{i}", "messages": [
        {"role": role, "content": f"{text[:4]}{'x' * (i % 5)}"} for role, text in turns * (1 + i % 2)]}
        for i in range(30)]
    (folder / "raw.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    byte_tokenizer().save(folder / "tokenizer")
    build_dataset(BuildConfig("two", (SourceConfig(str(folder / "raw.jsonl")),), str(folder / "tokenizer"), "plain"),
                  folder / "data")
    return folder / "data"


@functools.cache
def on(mesh):
    """Fresh weights on a mesh."""
    where = shardings(make_mesh(mesh), MODEL.rules(), MODEL.abstract())
    return jax.device_put(jax.jit(MODEL.init)(jax.random.key(1)), where)


@jax.jit
def _forward(params, tokens):
    row = jnp.arange(80)[None]
    return MODEL.unembed(params, MODEL.hidden(params, tokens[None], row, jnp.ones_like(row), dtype=jnp.float32))[0]


def logits_of(tokens):
    """[T, V] of one conversation by itself; what fills the row up behind it changes nothing."""
    return _forward(on("fsdp:1"), np.pad(np.asarray(tokens, np.int32), (0, 80 - len(tokens))))[:len(tokens)]


def losses(folder, dataset):
    """Of each held-out conversation by itself: (Σ weight · nll, Σ weight)."""
    found = []
    for example in held_out_examples(folder, CONFIG.data, dataset):
        logprobs = jax.nn.log_softmax(logits_of(example.tokens))[:-1]
        nll = -np.take_along_axis(np.asarray(logprobs), example.tokens[1:, None], axis=1)[:, 0]
        found.append((float((nll * example.loss_weights[1:]).sum()), float(example.loss_weights[1:].sum())))
    return np.array(found)


@pytest.mark.parametrize("mesh", ["fsdp:1", "fsdp:4,tensor:2"])
def test_the_loss_of_each_dataset_is_that_of_its_conversations_one_by_one(two, mesh):
    with jax.set_mesh(make_mesh(mesh)):
        found = Validation(MODEL, CONFIG, two, BatchPlace(make_mesh(mesh), 8, 80))(on(mesh))
    parts = {name: losses(two, name) for name in "ab"}
    assert found["datasets"].keys() == parts.keys()
    for name, part in parts.items():
        assert len(part) == {"a": 6, "b": 3}[name]
        np.testing.assert_allclose(found["datasets"][name], part[:, 0].sum() / part[:, 1].sum(), rtol=1e-5)
    whole = np.concatenate(list(parts.values()))
    np.testing.assert_allclose(found["loss"], whole[:, 0].sum() / whole[:, 1].sum(), rtol=1e-5)


def test_a_dataset_whose_conversations_are_all_too_long_is_left_out(two):
    short = max(len(example.tokens) for example in held_out_examples(two, CONFIG.data, "b")) - 1
    data = dataclasses.replace(CONFIG.data, context=short, too_long="drop")
    validate = Validation(MODEL, dataclasses.replace(CONFIG, data=data), two, BatchPlace(make_mesh("fsdp:1"), 8, short))
    none = two, data, "nothing of this name"
    some = validate.datasets["b"]
    validate.datasets = {"b": some, "none": none}
    with jax.set_mesh(make_mesh("fsdp:1")):
        found = validate(on("fsdp:1"))
    assert found["datasets"] == {"b": found["loss"]}
    validate.datasets = {"none": none, "mix: b": some}
    assert validate(on("fsdp:1")) == {}, "a loss over what is mixed in alone, or over nothing"


def test_no_more_batches_are_read_than_asked_for(two):
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, batch=1, packing="none"),
                                 validation=dataclasses.replace(CONFIG.validation, batches=2))
    with jax.set_mesh(make_mesh("fsdp:1")):
        found = Validation(MODEL, config, two, BatchPlace(make_mesh("fsdp:1"), 1, 80))(on("fsdp:1"))
    first = losses(two, "a")[:2]
    np.testing.assert_allclose(found["datasets"]["a"], first[:, 0].sum() / first[:, 1].sum(), rtol=1e-5)


@pytest.mark.parametrize("mesh", ["fsdp:1", "fsdp:2,tensor:4"])
def test_samples_are_the_greedy_answers_to_the_questions(two, mesh):
    tokenizer = byte_tokenizer()
    with jax.set_mesh(make_mesh(mesh)):
        samples = Samples(MODEL, tokenizer, CONFIG, two, end_ids=[])
        records = samples(on(mesh))
    firsts = [next(iter(held_out_examples(two, CONFIG.data, name))).id for name in "ab"]
    assert [record["id"] for record in records][:2] == firsts       # in turn from each dataset
    for question, record in zip(samples.questions, records, strict=True):
        ids = question.prompt.tolist()
        for _ in range(8):
            ids.append(int(logits_of(ids)[-1].argmax()))
        assert record["answer"] == tokenizer.decode(ids[len(question.prompt):])
        assert record["prompt"].endswith("Assistant:")
        assert record["reference"].startswith(" answ")


def test_answers_stop_at_an_end_id(two):
    with jax.set_mesh(make_mesh("fsdp:1")):
        whole = Samples(MODEL, byte_tokenizer(), CONFIG, two, end_ids=[])(on("fsdp:1"))
        ends = Samples(MODEL, byte_tokenizer(), CONFIG, two, end_ids=range(264))(on("fsdp:1"))
    assert {record["answer"] for record in ends} == {""} != {record["answer"] for record in whole}


def test_a_question_without_room_for_an_answer_is_passed_over(two):
    validation = dataclasses.replace(CONFIG.validation, sample_tokens=79)
    assert Samples(MODEL, byte_tokenizer(), dataclasses.replace(CONFIG, validation=validation), two, []).questions == []


@pytest.mark.parametrize(("keys", "match"), [
    ({"validation": ValidationConfig(keep_best=True)}, "validation.keep_best needs a validation"),
    ({"validation": ValidationConfig(sample_tokens=64), "data": LoaderConfig(context=64, holdout=0.1)},
     "sample_tokens=64 leaves no room for questions in data.context=64")])
def test_a_validation_that_cannot_be_is_refused(keys, match):
    with pytest.raises(ValueError, match=match):
        TrainConfig(steps=1, **keys)


@pytest.mark.parametrize("keys", [{"every": 0}, {"batches": 0}, {"samples": -1}, {"sample_tokens": 0}])
def test_numbers_that_mean_nothing_are_refused(keys):
    with pytest.raises(ValueError, match=f"{next(iter(keys))} is .*; it must be at least"):
        ValidationConfig(**keys)
