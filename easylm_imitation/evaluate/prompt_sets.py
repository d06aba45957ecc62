"""Published sets of prompts, to be answered for comparison and style: their files as our own prompts.

    prompt_set("vicuna", "DATA") -> [Prompt, ...]       answers then go through answer_prompts
"""
import pathlib
from collections.abc import Callable
from typing import Any

from easylm_imitation.evaluate.tasks.files import read_rows
from easylm_imitation.evaluate.tasks.published import locate
from easylm_imitation.files import digest
from easylm_imitation.records import Message, Prompt
from easylm_imitation.schema import UserError, nearest


def _koala(row: dict[str, Any]) -> tuple[str, str]:
    return str(row["id"]), row["prompt"]


def _vicuna(row: dict[str, Any]) -> tuple[str, str]:
    return f"vicuna_{row['question_id']}", row["turns"][0] if "turns" in row else row["text"]


def _self_instruct(row: dict[str, Any]) -> tuple[str, str]:
    text, given = row["instruction"].strip(), row["instances"][0]["input"].strip()
    return str(row["id"]), f"{text}\n\n{given}" if given else text


def _alpaca_eval(row: dict[str, Any]) -> tuple[str, str]:
    return digest(row["instruction"].encode()), row["instruction"]      # the id that read_answers gives such a file


_Read = Callable[[dict[str, Any]], tuple[str, str]]
PROMPT_SETS: dict[str, tuple[int, _Read, tuple[str, ...], str]] = {
    "koala": (180, _koala, ("koala_test_set/koala_test_set.jsonl",), "github.com/arnav-gudibande/koala-test-set"),
    "vicuna": (80, _vicuna, ("vicuna/question.jsonl",
                             "fastchat_bench/fastchat/llm_judge/data/vicuna_bench/question.jsonl"),
               "github.com/lm-sys/FastChat (fastchat/llm_judge/data/vicuna_bench)"),
    "self-instruct": (252, _self_instruct, ("self_instruct/user_oriented_instructions.jsonl",
                                            "self_instruct/human_eval/user_oriented_instructions.jsonl"),
                      "github.com/yizhongw/self-instruct (human_eval)"),
    "alpaca_eval": (805, _alpaca_eval, ("alpaca_eval/alpaca_eval.json",
                                        "alpaca_eval/results/text_davinci_003/model_outputs.json"),
                    "github.com/tatsu-lab/alpaca_eval"),
}
"""Name -> prompts as published, how a row is read, where its file may lie, who has it."""


def prompt_set(name: str, task_data: str) -> tuple[list[Prompt], str]:
    """The prompts of a published set under the folder `task_data`, and "full" or what is missing.

    Raises UserError for an unknown name, an absent file (with the cure), or rows of another form.
    """
    if name not in PROMPT_SETS:
        raise UserError(f"no set of prompts is called '{name}'{nearest(name, PROMPT_SETS)}")
    published, read, paths, origin = PROMPT_SETS[name]
    path = next((file for path in paths if (file := locate(pathlib.Path(task_data), path))), None)
    if path is None:
        raise UserError(f"prompts '{name}': no {paths[0]} under {task_data}; it is to be had from {origin}")
    try:
        asked = [read(row) for row in read_rows(path)]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the prompts of '{name}' ({error!r} is missing); fetch them anew") from None
    prompts = [Prompt(id, (Message("user", text),), name) for id, text in asked]
    have = len(prompts)
    return prompts, "full" if have == published else f"SAMPLE: {have} of {published}; {origin} has all"
