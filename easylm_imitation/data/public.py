"""The public imitation and instruction datasets: what each file is called, where it is to be had, who wrote the answers
and under which licence. Configs take their sources from here.

Outputs of OpenAI's models fall under OpenAI's terms too, whatever the licence of a collection says.
"""
from collections.abc import Sequence
from typing import Any

from easylm_imitation.schema import UserError, nearest

_HF, _GITHUB = "hf://datasets", "https://raw.githubusercontent.com"
_CHATGPT, _DAVINCI, _GPT4 = "gpt-3.5-turbo", "text-davinci-003", "gpt-4"


_OPENAI = (_CHATGPT, _DAVINCI, _GPT4, "text-davinci-002", "davinci", "webgpt", "openai-summarizers")
TERMS_OF_OPENAI = ("outputs of a model of OpenAI's, whose terms of use speak of training other models on them, "
                   "whatever the collection's licence says: look them up before you train, or hand a model on")


def _entry(path: str, form: str, origin: str, licence: str, teacher: str = "", **more: Any) -> dict[str, Any]:
    terms = {"terms": TERMS_OF_OPENAI} if teacher in _OPENAI else {}
    return {"path": path, "format": form, "origin": origin, "licence": licence, "teacher": teacher, **terms, **more}


_SHAREGPT = "anon8231489123/ShareGPT_Vicuna_unfiltered/HTML_cleaned_raw_dataset/sg_90k_part{}_html_cleaned.json"
_SHAREGPT_HTML = "RyokoAI/ShareGPT52K/sg_90k_part{}.json"

PUBLIC: dict[str, list[dict[str, Any]]] = {
    "sharegpt": [_entry(f"sharegpt/sg_90k_part{i}_html_cleaned.json", "sharegpt", f"{_HF}/{_SHAREGPT.format(i)}",
                        "none: users' own texts", _CHATGPT, dataset="sharegpt") for i in (1, 2)],
    "sharegpt-html": [_entry(f"sharegpt/sg_90k_part{i}.json", "sharegpt", f"{_HF}/{_SHAREGPT_HTML.format(i)}",
                             "none: users' own texts", _CHATGPT, dataset="sharegpt", clean=["html"]) for i in (1, 2)],
    "hc3": [_entry("hc3/all.jsonl", "hc3", f"{_HF}/Hello-SimpleAI/HC3/all.jsonl", "CC BY-SA 4.0", _CHATGPT,
                   dataset="hc3")],
    "discord": [_entry("discord/pairs.jsonl", "discord", "nowhere public: the paper's 10K pairs of two Discord bots; "
                       "put your own here as {\"prompt\", \"completion\"} lines, or leave the source out", "unknown",
                       _CHATGPT, dataset="discord")],
    "alpaca": [_entry("alpaca/alpaca_data.json", "alpaca", f"{_GITHUB}/tatsu-lab/stanford_alpaca/main/alpaca_data.json",
                      "CC BY-NC 4.0", _DAVINCI, dataset="alpaca")],
    "gpt4-alpaca": [_entry("gpt4_alpaca/alpaca_gpt4_data.json", "gpt4-alpaca",
                           f"{_GITHUB}/Instruction-Tuning-with-GPT-4/GPT-4-LLM/main/data/alpaca_gpt4_data.json",
                           "CC BY-NC 4.0", _GPT4, dataset="gpt4-alpaca")],
    "code-alpaca": [_entry("code_alpaca/code_alpaca_20k.json", "code-alpaca",
                           f"{_GITHUB}/sahil280114/codealpaca/master/data/code_alpaca_20k.json", "CC BY-NC 4.0",
                           _DAVINCI, dataset="code-alpaca")],
    "self-instruct": [_entry("self_instruct/all_instances_82K.jsonl", "self-instruct",
                             f"{_GITHUB}/yizhongw/self-instruct/main/data/gpt3_generations/batch_221203/"
                             "all_instances_82K.jsonl", "Apache-2.0", "davinci", dataset="self-instruct")],
    "unnatural": [_entry("unnatural/core_data.jsonl", "unnatural", "https://github.com/orhonovich/"
                         "unnatural-instructions (unpack data/core_data.zip)", "MIT", "text-davinci-002",
                         dataset="unnatural")],
    "dolly": [_entry("dolly/databricks-dolly-15k.jsonl", "dolly",
                     f"{_HF}/databricks/databricks-dolly-15k/databricks-dolly-15k.jsonl", "CC BY-SA 3.0",
                     dataset="dolly")],
    "oasst1": [_entry("oasst1/2023-04-12_oasst_ready.trees.jsonl.gz", "oasst1",
                      f"{_HF}/OpenAssistant/oasst1/2023-04-12_oasst_ready.trees.jsonl.gz", "Apache-2.0",
                      dataset="oasst1")],
    "baize": [_entry(f"baize/{name}_chat_data.json", "baize",
                     f"{_GITHUB}/project-baize/baize-chatbot/main/data/{name}_chat_data.json",
                     "research; the code is GPL-3", _CHATGPT, dataset="baize")
              for name in ("alpaca", "medical", "quora", "stackoverflow")],
    "superni": [_entry("natural-instructions/tasks/*.json", "superni",
                       "https://github.com/allenai/natural-instructions (tasks/)", "Apache-2.0", dataset="superni")],
    "flan": [_entry(f"flan/{name}/data/*.parquet", "flan", f"{_HF}/DataProvenanceInitiative/{name}_submix_original",
                    "Apache-2.0 (its tasks have licences of their own)", dataset="flan_v2")
             for name in ("flan2021", "t0", "niv2", "cot", "dialog")],
    "flan-cot": [_entry("flan_cot/*.tsv", "flan-cot",
                        "https://github.com/google-research/FLAN (flan/v2/cot_data/)", "Apache-2.0", dataset="cot")],
    "gpt4all": [_entry("gpt4all/data/*.parquet", "gpt4all", f"{_HF}/nomic-ai/gpt4all_prompt_generations",
                       "Apache-2.0", _CHATGPT, dataset="gpt4all")],
    "openorca-gpt3.5": [_entry("openorca/3_5M-GPT3_5-Augmented.parquet", "openorca",
                               f"{_HF}/Open-Orca/OpenOrca/3_5M-GPT3_5-Augmented.parquet", "MIT", _CHATGPT,
                               dataset="openorca-gpt3.5")],
    "openorca-gpt4": [_entry("openorca/1M-GPT4-Augmented.parquet", "openorca",
                             f"{_HF}/Open-Orca/OpenOrca/1M-GPT4-Augmented.parquet", "MIT", _GPT4,
                             dataset="openorca-gpt4")],
    "lima": [_entry("lima/train.jsonl", "lima", f"{_HF}/GAIR/lima/train.jsonl", "CC BY-NC-SA", dataset="lima")],
    "oig": [_entry(f"oig/unified_{name}.jsonl", "oig", f"{_HF}/laion/OIG/unified_{name}.jsonl", "Apache-2.0",
                   dataset="oig") for name in ("basic", "grade_school_math_instructions",
                                               "plot_screenplay_books_dialog", "poetry_2_song", "hc3_human")],
    "hh": [_entry(f"hh/{name}/train.jsonl.gz", "hh", f"{_HF}/Anthropic/hh-rlhf/{name}/train.jsonl.gz", "MIT",
                  "anthropic-lm", dataset="hh")
           for name in ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")],
    "webgpt": [_entry("webgpt/*.parquet", "webgpt", f"{_HF}/openai/webgpt_comparisons (its Parquet files)",
                      "not stated", "webgpt", dataset="webgpt")],
    "summaries": [_entry("summaries/*.json", "summaries", "https://openaipublic.blob.core.windows.net/"
                         "summarize-from-feedback/dataset/comparisons/", "MIT", "openai-summarizers",
                         dataset="summaries")],
    "koala-identity": [_entry("koala/hard_coded_train.jsonl", "koala", "process_hard_coded_data.py of "
                              "https://github.com/young-geng/koala_data_pipeline", "not stated",
                              dataset="koala-identity")],
}
"""Name -> the sources (SourceConfig's keys) that it consists of."""

_OASST = "model/model_eval/manual/data/en_100_tree.jsonl.gz"
_DEMOS = "https://github.com/hiyouga/LLaMA-Factory (data/)"
_SELF_INSTRUCT = "https://github.com/yizhongw/self-instruct"

SAMPLES: dict[str, list[dict[str, Any]]] = {
    "gpteacher": [_entry(f"gpteacher/{folder}/*.json.gz", "alpaca", "https://github.com/teknium1/GPTeacher", "MIT",
                         _GPT4, dataset=f"gpteacher-{folder.lower()}") for folder in ("Codegen", "Roleplay")],
    "halueval": [_entry("halueval_general/*.jsonl.gz", "halueval", "https://github.com/RUCAIBox/HaluEval (data/)",
                        "MIT", _CHATGPT, dataset="halueval")],
    "code-alpaca": [_entry("codealpaca_2k/code_alpaca_2k.json.gz", "code-alpaca",
                           "https://github.com/sahil280114/codealpaca (data/)", "CC BY-NC 4.0", _DAVINCI,
                           dataset="code-alpaca")],
    "lima": [_entry("lima/lima.json.gz", "lima", f"{_HF}/GAIR/lima, as LLaMA-Factory wrote it", "CC BY-NC-SA",
                    dataset="lima")],
    "flan-cot": [{**PUBLIC["flan-cot"][0], "path": "flan_cot/*.tsv.gz"}],
    "oasst1": [_entry(f"oasst_samples/{_OASST}", "oasst1", "https://github.com/LAION-AI/Open-Assistant", "Apache-2.0",
                      dataset="oasst1")],
    "self-instruct": [_entry("self_instruct/data/seed_tasks.jsonl", "self-instruct", f"{_SELF_INSTRUCT} (data/)",
                             "Apache-2.0", dataset="self-instruct-seeds")],
    "self-instruct-user": [_entry("self_instruct/human_eval/user_oriented_instructions.jsonl", "self-instruct",
                                  f"{_SELF_INSTRUCT} (human_eval/)", "Apache-2.0", dataset="self-instruct-user")],
    "dummy-sharegpt": [_entry("fastchat_bench/data/dummy_conversation.json", "sharegpt",
                              "https://github.com/lm-sys/FastChat (data/)", "Apache-2.0", dataset="dummy-sharegpt")],
    "llamafactory": [_entry("llamafactory_demos/alpaca_en_demo.json.gz", "alpaca", _DEMOS, "CC BY-NC 4.0",
                            dataset="llamafactory-alpaca")],
    "llamafactory-identity": [_entry("llamafactory_demos/identity.json", "alpaca", _DEMOS, "Apache-2.0",
                                     dataset="llamafactory-identity")],
    "llamafactory-kto": [_entry("llamafactory_demos/kto_en_demo.json.gz", "messages", _DEMOS, "Apache-2.0",
                                dataset="llamafactory-kto")],
    "llamafactory-toolcall": [_entry("llamafactory_demos/glaive_toolcall_en_demo.json.gz", "sharegpt", _DEMOS,
                                     "Apache-2.0", dataset="llamafactory-toolcall")],
    "gsm8k": [_entry("gsm8k/train.jsonl.gz", "pairs", "https://github.com/openai/grade-school-math", "MIT",
                     dataset="gsm8k")],
}
"""Name -> the sources of small real files that repositories hold, as they lie there."""


def public(name: str, **changes: Any) -> list[dict[str, Any]]:
    """The sources of a public dataset, with other keys set or replaced. A `sample`, a `cap` and a `limit` are each
    file's own. Raises UserError for an unknown name."""
    if name not in PUBLIC:
        raise UserError(f"no public dataset '{name}'{nearest(name, PUBLIC)}")
    return [{**entry, **changes} for entry in PUBLIC[name]]


def sample(name: str) -> list[dict[str, Any]]:
    """The sources of a small real file. Raises UserError for an unknown name."""
    if name not in SAMPLES:
        raise UserError(f"no sample '{name}'{nearest(name, SAMPLES)}")
    return [dict(entry) for entry in SAMPLES[name]]


def variant(name: str, known: Sequence[str]) -> str:
    """`name`, the word behind ":" in `--config FILE.py:name`. Raises UserError unless it is `known`."""
    if name not in known:
        raise UserError(f"no variant '{name}' of this mixture{nearest(name, known)}")
    return name


# open-instruct's shares of the FLAN v2 collection: of each submix and template, of the whole.
_FLAN_SHARES = {"flan2021": (.1, ("zs_opt", "zs_noopt", "fs_opt", "fs_noopt")),
                "t0": (.08, ("zs_opt", "zs_noopt", "fs_opt", "fs_noopt")), "niv2": (.1, ("zs_opt", "fs_opt")),
                "cot": (.025, ("zs_opt", "fs_opt")), "dialog": (.015, ("zs_opt", "fs_opt"))}


def flan_v2(size: int, options: dict[str, Any]) -> list[dict[str, Any]]:
    """`size` conversations of FLAN v2 in open-instruct's proportions; a source for each submix and template."""
    entries = {entry["path"].split("/")[1]: entry for entry in PUBLIC["flan"]}
    return [{**entries[name], "sample": round(share * size), "options": {**options, "templates": [template]}}
            for name, (share, templates) in _FLAN_SHARES.items() for template in templates]


def cot(size: int, options: dict[str, Any]) -> list[dict[str, Any]]:
    """`size` conversations of FLAN v2's chains of thought, half of them with worked examples, as in Tülu's mixtures.

    open-instruct's code leaves out those without examples where none with examples are wanted; half and half, it draws
    the same.
    """
    wanted = {"zs_opt": size // 2, "fs_opt": size - size // 2}
    entry = next(entry for entry in PUBLIC["flan"] if "/cot/" in entry["path"])
    return [{**entry, "dataset": "cot", "sample": count, "options": {**options, "templates": [template]}}
            for template, count in wanted.items() if count]
