"""One tiny model behind real servers, and small task files about nothing in particular."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from evaluate_helpers import CONTEXT, QUESTIONS, SERVE, make_model

from easylm_imitation.models import create
from easylm_imitation.serve import open_server


@pytest.fixture(scope="session")
def tiny():
    return make_model("chatml")


@pytest.fixture(scope="session")
def server(tiny):
    with open_server(tiny, SERVE) as running:
        yield running


@pytest.fixture(scope="session")
def plain():
    """The same model under a template whose answers open with a space."""
    return make_model("plain")


@pytest.fixture(scope="session")
def plain_server(plain):
    with open_server(plain, SERVE) as running:
        yield running


@pytest.fixture(scope="session")
def logprobs(tiny):
    """ids -> log-probabilities [len(ids), V] by one full forward pass: what the servers are compared with."""
    model = create(tiny.config)

    @jax.jit
    def forward(tokens):
        row = jnp.arange(CONTEXT)[None]
        hidden = model.hidden(tiny.params, tokens[None], row, jnp.ones_like(row), dtype=jnp.float32)
        return jax.nn.log_softmax(model.unembed(tiny.params, hidden)[0])

    return lambda ids: np.asarray(forward(np.pad(np.asarray(ids, np.int32), (0, CONTEXT - len(ids)))))[:len(ids)]


@pytest.fixture(scope="session")
def likelihood(logprobs):
    """(context ids, continuation ids) -> summed log-probability of the continuation."""
    def score(context, continuation):
        ids = [*context, *continuation]
        table = logprobs(ids)
        return float(sum(table[t - 1, ids[t]] for t in range(len(context), len(ids))))
    return score


@pytest.fixture(scope="session")
def greedy(logprobs):
    """(ids, n, stop ids) -> at most n likeliest tokens, one full forward pass each, up to a stop id."""
    def generate(ids, n, stops):
        made = []
        for _ in range(n):
            token = int(logprobs([*ids, *made])[-1].argmax())
            if token in stops:
                break
            made.append(token)
        return made
    return generate


@pytest.fixture
def task_files(tmp_path):
    """(choices task, generation task), each as the path of a YAML file with relative data files."""
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    (tmp_path / "shots.jsonl").write_text("".join(json.dumps(row | {"question": row["question"] + "!"}) + "\n"
                                                  for row in QUESTIONS[:2]))
    shared = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "test.jsonl", "shots": "shots.jsonl"}},
              "test_split": "test", "fewshot_split": "shots", "fewshot_config": {"sampler": "first_n"},
              "num_fewshot": 2,
              "doc_to_text": "Q: {{question}}\nA:", "target_delimiter": " ", "fewshot_delimiter": "\n\n",
              "metadata": {"version": 1.0}}
    choices = {"task": "colours", "output_type": "multiple_choice", "doc_to_choice": "options", "doc_to_target": "gold",
               "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]}
    answers = {"task": "answers", "output_type": "generate_until", "doc_to_target": "answer",
               "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 6},
               "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]}
    for task in (choices, answers):
        (tmp_path / f"{task['task']}.yaml").write_text(yaml.safe_dump(shared | task))
    return str(tmp_path / "colours.yaml"), str(tmp_path / "answers.yaml")
