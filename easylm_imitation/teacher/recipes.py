"""The recipes by name, and the file that each of them reads as `--prompts`."""
import os
from collections.abc import Callable, Sequence

from easylm_imitation.records import read_prompts
from easylm_imitation.schema import UserError
from easylm_imitation.teacher.alpaca import Alpaca, AlpacaConfig
from easylm_imitation.teacher.answers import Answers, CollectConfig
from easylm_imitation.teacher.explanations import Explanations, ExplanationsConfig
from easylm_imitation.teacher.inputs import read_pairs, read_queries, read_seed_tasks
from easylm_imitation.teacher.nq_synthetic import NqConfig, NqSynthetic
from easylm_imitation.teacher.recipe import AskConfig, Recipe
from easylm_imitation.teacher.runner import CollectResult, collect
from easylm_imitation.teacher.self_chat import SelfChat, SelfChatConfig
from easylm_imitation.teacher.self_instruct import SelfInstruct, SelfInstructConfig

RECIPES: dict[str, type[AskConfig]] = {
    "answers": CollectConfig, "nq-synthetic": NqConfig, "alpaca": AlpacaConfig, "self-instruct": SelfInstructConfig,
    "explanations": ExplanationsConfig, "self-chat": SelfChatConfig}
"""Name of a recipe (`config.recipe`) -> its config."""

_READS: dict[type, tuple[Callable, Callable]] = {
    CollectConfig: (Answers, read_prompts), AlpacaConfig: (Alpaca, read_seed_tasks),
    SelfInstructConfig: (SelfInstruct, read_seed_tasks), ExplanationsConfig: (Explanations, read_queries),
    SelfChatConfig: (SelfChat, read_prompts)}


def collect_from(config: AskConfig, urls: Sequence[str], inputs: str | os.PathLike | None,
                 out: str | os.PathLike) -> CollectResult:
    """Carries out the recipe of `config` on the file `inputs`: see `collect`. UserError for a bad file, at once."""
    return collect(config, make_recipe(config, inputs), urls, out, inputs)


def make_recipe(config: AskConfig, inputs: str | os.PathLike | None) -> Recipe:
    """The recipe, with its file read. Raises UserError for a file that is missing or of another form."""
    if isinstance(config, NqConfig):
        pairs = read_pairs(inputs) if inputs else config.seeds
        if len(pairs) < config.shots:
            raise UserError(f"{len(pairs)} seed pairs, but shots={config.shots} are shown in a request; take "
                            "configs/collect/nq_synthetic.py, or give a file of pairs as --prompts")
        return NqSynthetic(config, pairs)
    if inputs is None:
        raise UserError(f"the recipe '{config.recipe}' needs --prompts FILE; docs/collect.md says what is in it")
    made, read = _READS[type(config)]
    return made(config, read(inputs))
