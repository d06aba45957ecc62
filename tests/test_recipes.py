"""The published training recipes: every name is read, the page's table is what `plan` says, a twin of each trains."""
import dataclasses
import importlib.util
import json
import pathlib
import re

import pytest
from tiny_tokenizers import control_tokenizer

from easylm_imitation.config import load
from easylm_imitation.data import BuildConfig, LoaderConfig, SourceConfig, build_dataset
from easylm_imitation.models import PRESETS, model_config
from easylm_imitation.schema import UserError
from easylm_imitation.train import TrainConfig, read_metrics, train

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPES = ROOT / "configs" / "recipes"
spec = importlib.util.spec_from_file_location("recipes_table", ROOT / "benchmarks" / "recipes.py")
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)

# What each system is trained with here; the pages of the papers are named in the recipes' headers.
TEMPLATES = {"false_promise": "paper", "alpaca": "alpaca", "vicuna": "vicuna", "koala": "koala", "orca": "vicuna",
             "tulu": "tulu", "gpt4all": "gpt4all"}


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


@pytest.mark.slow
@pytest.mark.parametrize("name", tables.RECIPES)
def test_a_twin_takes_ten_updates(name, tmp_path):
    system = name.partition(".py")[0]
    talk = [{"dataset": "d", "id": str(i), "messages": [{"role": "user", "content": "ask " * (1 + i % 3)},
                                                       {"role": "assistant", "content": "answer " * (1 + i % 5)}]}
            for i in range(90)]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(line) + "\n" for line in talk))
    control_tokenizer().save(tmp_path / "tokenizer")
    build_dataset(BuildConfig("d", (SourceConfig("raw.jsonl"),), str(tmp_path / "tokenizer"), TEMPLATES[system],
                              root=str(tmp_path)), tmp_path / "data")
    config = recipe(name)
    family = re.match(r"gpt2|[a-z]+", config.model["preset"]).group()
    twin = dataclasses.replace(
        config, model={"preset": f"{family}-debug", "context": 512}, epochs=None, steps=10, checkpoint_every=10,
        log_every=1, data=dataclasses.replace(config.data, context=512, batch=8))
    assert isinstance(twin.data, LoaderConfig)
    base = None
    if twin.lora:       # adapters need a model to stand beside
        fresh = dataclasses.replace(twin, lora=None, steps=1, optimizer=dataclasses.replace(twin.optimizer, warmup=0.0))
        train(fresh, data_dir=str(tmp_path / "data"), workdir=str(tmp_path / "base"))
        twin, base = dataclasses.replace(twin, model={}), str(tmp_path / "base")
    made = train(twin, data_dir=str(tmp_path / "data"), workdir=str(tmp_path / "run"), init=base)
    losses = [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert made.step == 10
    assert len(losses) == 10
    # warm-ups of 100 or 1,000 updates have hardly begun after ten
    assert losses[-1] < losses[0] or config.optimizer.warmup >= 100.0
