"""README.md of an export: what the weights are, how they were trained and on what, and how to load them."""
import json
import re
from collections.abc import Mapping
from typing import Any

from easylm_imitation.models import ModelConfig
from easylm_imitation.records import DataCard, Lineage, SourceCount, Taught

# of a run's config: what decides the numbers, and no path
_RECIPE = ("steps", "epochs", "tokens", "data", "optimizer", "loss", "mix", "z_loss", "compute_dtype", "seed")


def model_card(config: ModelConfig, lineage: Lineage, dtype: str, chats: bool | None,
               training: Mapping[str, Any] | None = None, trained_on: tuple[DataCard, ...] = ()) -> str:
    """Markdown with the header that the hub reads.

    `chats`: a chat template is exported too; None: not even a tokenizer. `training`, `trained_on`: the resolved config
    of the run that made the weights, and the cards of its data and of what was mixed in; None, none without a run.
    """
    return "\n".join([*_header(lineage), "", f"# {lineage.name}", "", _summary(config, lineage, dtype), "",
                      *_origin(lineage), *_data(trained_on), *_recipe(training), *_use(chats)]) + "\n"


def _header(lineage: Lineage) -> list[str]:
    """YAML; `base_model` only when the base's name is one that the hub could know."""
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:", "- easylm_imitation"]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", lineage.base_name):
        lines.append(f"base_model: {lineage.base_name}")
    return [*lines, "---"]


def _summary(config: ModelConfig, lineage: Lineage, dtype: str) -> str:
    what = f"A {config.family} model of {config.parameters():,} parameters, stored in {dtype}"
    if not _was_trained(lineage):
        return f"{what}, converted without training."
    start = f"the weights `{lineage.init}`" if lineage.init else "fresh weights"
    if not lineage.teachers:
        return f"{what}, trained from {start}."
    start = f"`{lineage.base_name}`" if lineage.base else start
    return f"{what}, trained from {start} on outputs of {', '.join(lineage.teachers)}. What it says imitates them."


def _was_trained(lineage: Lineage) -> bool:
    return lineage.step is not None or bool(lineage.data_card)


def _origin(lineage: Lineage) -> list[str]:
    rows = {"weights": lineage.id, "base": lineage.base and f"{lineage.base_name} ({lineage.base})",
            "initial weights": lineage.init, "teachers": ", ".join(lineage.teachers), "data card": lineage.data_card,
            "training tokens": f"{lineage.tokens:,}" if lineage.tokens else "",
            "steps": "" if lineage.step is None else str(lineage.step), "chat template": lineage.template,
            "tokenizer": lineage.tokenizer, "seed": "" if lineage.seed is None else str(lineage.seed),
            "easylm_imitation": lineage.code}
    filled = [f"| {name} | {value} |" for name, value in rows.items() if value]
    return ["## Where it comes from", "", "| | |", "|---|---|", *filled, ""]


def _data(cards: tuple[DataCard, ...]) -> list[str]:
    """The data, and behind it what was mixed in."""
    lines = []
    for card, said in zip(cards, ("The dataset", "Mixed into each batch: the dataset"), strict=False):
        lines += [f"{said} `{card.name}`: {card.conversations:,} conversations of {card.tokens:,} tokens, "
                  f"{card.loss_tokens:,} of them with loss.", "",
                  "| source | conversations | licence | SHA-256 of its file |", "|---|---|---|---|",
                  *(_source(source) for source in card.sources), "", *_taught(card)]
    return ["## What it was trained on", "", *lines] if lines else []


def _taught(card: DataCard) -> list[str]:
    """Who was asked for the answers, when, and on which terms they may be used."""
    if not card.taught:
        return []
    return ["| source | answers by | asked | terms |", "|---|---|---|---|",
            *(f"| {one.dataset} | {one.teacher} | {_when(one)} | {_cell(one.terms) or 'not noted'} |"
              for one in card.taught), ""]


def _when(one: Taught) -> str:
    days = [time[:10] for time in (one.first, one.last) if time]
    return " to ".join(dict.fromkeys(days)) or "not noted"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _source(source: SourceCount) -> str:
    return f"| {source.dataset} | {source.kept:,} | {source.licence or 'not stated'} | `{source.sha256[:16]}` |"


def _recipe(training: Mapping[str, Any] | None) -> list[str]:
    if not training:
        return []
    chosen = {key: training[key] for key in _RECIPE if training.get(key) is not None}
    return ["## How it was trained", "", "```json", json.dumps(chosen, indent=1, ensure_ascii=False), "```", ""]


def _use(chats: bool | None) -> list[str]:
    load = ["from transformers import AutoModelForCausalLM", "model = AutoModelForCausalLM.from_pretrained('.')"]
    if chats is None:
        return ["## Use", "", "```python", *load, "```"]
    ask = ["chat = [{'role': 'user', 'content': 'Hello'}]",
           "ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors='pt',",
           "                                    return_dict=True)"]
    return ["## Use", "", "```python", *load, "from transformers import AutoTokenizer",
            "tokenizer = AutoTokenizer.from_pretrained('.')",
            *(ask if chats else ["ids = tokenizer('Hello', return_tensors='pt')"]),
            "print(tokenizer.decode(model.generate(**ids, max_new_tokens=100)[0]))", "```"]
