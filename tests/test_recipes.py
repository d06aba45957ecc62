"""The published recipes: every name is read, the page is what `plan` says, a twin of each trains and is measured."""
import dataclasses
import importlib.util
import json
import pathlib
import re

import pytest
from tiny_tokenizers import CONTROL, control_tokenizer

from easylm_imitation.cli.main import main
from easylm_imitation.config import load
from easylm_imitation.data import BuildConfig, LoaderConfig, SourceConfig, build_dataset
from easylm_imitation.evaluate import SUITES
from easylm_imitation.files import read_json
from easylm_imitation.models import PRESETS, model_config
from easylm_imitation.records import Results
from easylm_imitation.schema import UserError
from easylm_imitation.text import train_bpe
from easylm_imitation.train import TrainConfig, read_metrics, train

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPES = ROOT / "configs" / "recipes"
spec = importlib.util.spec_from_file_location("recipes_table", ROOT / "benchmarks" / "recipes.py")
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)

# What each system is trained with here; the pages of the papers are named in the recipes' headers.
TEMPLATES = {"false_promise": "paper", "alpaca": "alpaca", "vicuna": "vicuna", "koala": "koala", "orca": "vicuna",
             "tulu": "tulu", "gpt4all": "gpt4all"}

MEASURED_BY = {"false_promise": "paper", "alpaca": "self-instruct", "vicuna": "vicuna", "koala": "koala",
               "orca": "orca", "tulu": "tulu", "gpt4all": "self-instruct"}


def recipe(name):
    return load(TrainConfig, str(RECIPES / name))


def test_every_recipe_stands_on_the_page_and_the_page_names_no_other():
    files = {path.stem for path in RECIPES.glob("*.py")}
    assert files == set(TEMPLATES) == {name.partition(".py")[0] for name in tables.RECIPES}
    page = tables.PAGE.read_text()
    assert all(f"configs/recipes/{name}.py" in page for name in files)


def test_the_table_is_what_plan_says():
    assert tables.table() in tables.PAGE.read_text()


@pytest.mark.parametrize("name", tables.RECIPES)
def test_a_recipe_names_a_published_model_that_reads_its_rows(name):
    config = recipe(name)
    assert config.model["preset"] in PRESETS
    model_config(config.model, name).check_context(config.data.context)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_names_that_are_none_are_refused(name):
    with pytest.raises(UserError, match="no variant 'gpt5'"):
        recipe(f"{name}.py:gpt5")


def test_the_papers_recipe_is_literal_unless_asked():
    literal, matched = recipe("false_promise.py:llama-7b"), recipe("false_promise.py:llama-7b-matched")
    assert (literal.optimizer.warmup, matched.optimizer.warmup) == (1000.0, 0.03)
    same = dataclasses.replace(matched, name=literal.name,
                               optimizer=dataclasses.replace(matched.optimizer, warmup=1000.0))
    assert same == literal
    assert (literal.optimizer.name, literal.optimizer.learning_rate, literal.loss) == ("scaled_adamw", 2e-3, "row_mean")


def train_twin(name, folder, tokenizer=None):
    """Ten updates of the recipe's twin in `folder`/run: same family, template, packing, optimizer and schedule."""
    talk = [{"dataset": "d", "id": str(i), "teacher": "t",
             "messages": [{"role": "user", "content": "ask " * (1 + i % 3)},
                          {"role": "assistant", "content": "answer " * (1 + i % 5)}]} for i in range(90)]
    (folder / "raw.jsonl").write_text("".join(json.dumps(line) + "\n" for line in talk))
    tokenizer = tokenizer or control_tokenizer()
    tokenizer.save(folder / "tokenizer")
    build_dataset(BuildConfig("d", (SourceConfig("raw.jsonl"),), str(folder / "tokenizer"),
                              TEMPLATES[name.partition(".py")[0]], root=str(folder)), folder / "data")
    config = recipe(name)
    family = re.match(r"gpt2|[a-z]+", config.model["preset"]).group()
    twin = dataclasses.replace(
        config, model={"preset": f"{family}-debug", "context": 4096, "vocab_size": 2048}, epochs=None, steps=10,
        checkpoint_every=10, log_every=1, data=dataclasses.replace(config.data, context=512, batch=8))
    assert isinstance(twin.data, LoaderConfig)
    base = None
    if twin.lora:       # adapters need a model to stand beside
        fresh = dataclasses.replace(twin, lora=None, steps=1, optimizer=dataclasses.replace(twin.optimizer, warmup=0.0))
        train(fresh, data_dir=str(folder / "data"), workdir=str(folder / "base"))
        twin, base = dataclasses.replace(twin, model={}), str(folder / "base")
    return train(twin, data_dir=str(folder / "data"), workdir=str(folder / "run"), init=base)


@pytest.mark.slow
@pytest.mark.parametrize("name", tables.RECIPES)
def test_a_twin_takes_ten_updates(name, tmp_path):
    made = train_twin(name, tmp_path)
    losses = [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert made.step == 10
    assert len(losses) == 10
    # warm-ups of 100 or 1,000 updates have hardly begun after ten
    assert losses[-1] < losses[0] or recipe(name).optimizer.warmup >= 100.0


@pytest.mark.slow
@pytest.mark.parametrize("system", sorted(MEASURED_BY))
def test_a_twin_is_measured_as_its_system_was(system, tmp_path, shared_data, capsys):
    """The suite that the page names, on one item a task of the real files; what they lack is said."""
    page = next(line for line in tables.PAGE.read_text().splitlines() if f"configs/recipes/{system}.py" in line)
    assert f"evaluate --suite {MEASURED_BY[system]}`" in page
    texts = (shared_data / "gsm8k/test_150.jsonl").read_text().splitlines()
    words = train_bpe(texts, 2000, ("<|endoftext|>", *CONTROL))
    train_twin(next(name for name in tables.RECIPES if name.startswith(system)), tmp_path, words)
    results, answers = tmp_path / "results.json", tmp_path / "answers.jsonl"
    suite = SUITES[MEASURED_BY[system]]
    kept = ["--answers-out", str(answers)] if suite.prompts else []
    kept += ["--prompt", "chat"] if len(suite.tasks) > 5 else []       # many tasks: once, not twice
    assert main(["evaluate", "--model", str(tmp_path / "run"), "--suite", MEASURED_BY[system], "--task-data",
                 str(shared_data), "--limit", "1", "--config.context=4096", "--config.answers.max_tokens=64", *kept,
                 "--out", str(results)]) == 0
    if suite.tasks:
        made = read_json(Results, results)
        assert {task.task for task in made.tasks} | set(made.meta.get("missing", {})) == set(suite.tasks)
        assert all(task.items for task in made.tasks)
    assert answers.is_file() == bool(suite.prompts)
