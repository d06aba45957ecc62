"""The bundled benchmarks: from published files to rows, with the prompts' fixed parts in each row's `shown`."""
import csv
import functools
import json
import pathlib
import random
from typing import Any

import yaml

from easylm_imitation.evaluate.tasks.files import FOLDER, open_text, read_rows, read_yaml
from easylm_imitation.evaluate.tasks.published import Ask, Benchmark, located, short_of
from easylm_imitation.evaluate.tasks.task import Row, Task
from easylm_imitation.schema import UserError


@functools.cache
def _table(name: str) -> Any:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def _made(ask: Ask, benchmark: Benchmark, rows: list[Row], have: int | None = None, **splits: list[Row]) -> Task:
    """The task of a bundled file; `have` of the published items are there (all rows unless said)."""
    family = ask.name.removesuffix(f"_{ask.part}") if ask.part else ask.name
    config = read_yaml(FOLDER / f"{family}{'_published' if ask.published else ''}.yaml")
    name = ask.name + ("@published" if ask.published else "")
    note = short_of(benchmark, ask.part, len(rows) if have is None else have)
    return Task(name, config | {"task": name}, {"test": rows, **splits}, not note, note)


# ── MMLU ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _mmlu(ask: Ask, benchmark: Benchmark) -> Task:
    files = {s: located(ask, benchmark, f"mmlu/{s}/{ask.part}_{s}.csv") for s in ("dev", "test")}
    rows = {split: _mmlu_rows(path, ask.part) for split, path in files.items()}
    if not ask.published:
        return _made(ask, benchmark, rows["test"], dev=rows["dev"])
    shots = rows["dev"][:0 if "_0shot" in ask.name else 5]
    shown = f"The following are multiple choice questions (with answers) about  {ask.part.replace('_', ' ')}.\n\n"
    shown += "".join(f"{_mmlu_question(shot)} {'ABCD'[shot['answer']]}\n\n" for shot in shots)
    made = _made(Ask(ask.folder, f"mmlu_{ask.part}", ask.part, True), benchmark,
                 [{**row, "shown": shown} for row in rows["test"]])
    metadata = made.metadata | {"shots": len(shots)}
    name = f"{ask.name}@published"
    return Task(name, made.config | {"task": name, "metadata": metadata}, made.splits, made.complete, made.note)


def _mmlu_question(row: Row) -> str:
    return "\n".join([row["question"], *(f"{c}. {text}" for c, text in zip("ABCD", row["choices"])), "Answer:"])


def _mmlu_rows(path: pathlib.Path, subject: str) -> list[Row]:
    """Rows of a CSV with or without a header; the answer is a letter or 0 to 3. UserError with file and line."""
    made: list[Row] = []
    with open_text(path) as file:
        reader = csv.reader(file)
        for cells in reader:
            if not cells or cells[0] == "question" and not made:
                continue
            answer = {**{c: i for i, c in enumerate("ABCD")}, **{str(i): i for i in range(4)}}.get(cells[-1].strip())
            if len(cells) != 6 or answer is None:
                raise UserError(f"{path}:{reader.line_num}: expected question, four choices and an answer (A-D or 0-3)")
            made.append({"id": str(len(made)), "subject": subject.replace("_", " "), "question": cells[0],
                         "choices": cells[1:5], "answer": answer})
    return made


# ── questions with short answers ──────────────────────────────────────────────────────────────────────────────────────


def _nq(ask: Ask, benchmark: Benchmark) -> Task:
    made = _made(ask, benchmark, [])
    shown = {shot["question"] for shot in made.config["fewshot_config"]["samples"]}
    rows = [{"id": str(i)} | row for i, row in enumerate(read_rows(located(ask, benchmark)))]
    note = short_of(benchmark, "", len(rows))
    return Task(made.name, made.config, {"test": [r for r in rows if r["question"] not in shown]}, not note, note)


def _gsm8k(ask: Ask, benchmark: Benchmark) -> Task:
    rows = read_rows(located(ask, benchmark))
    word = "Quesion" if ask.published and ask.name == "gsm8k" else "Question"       # sic
    key = "reasoned" if ask.name == "gsm8k_cot" else "answer"
    shots = [f"{word}: {shot['question']}\nAnswer: {shot[key]}\n\n" for shot in _table("gsm8k_shots")]
    shown = "Answer the following questions.\n\n" + "".join(shots)
    made = [{"id": str(i), "question": row["question"].strip(), "shown": shown,
             "answer": row["answer"].partition("####")[2].strip().replace(",", "")} for i, row in enumerate(rows)]
    asked = random.Random(42).sample(made, 200) if ask.published and len(made) == benchmark.items else made
    return _made(ask, benchmark, asked, len(made))


_STRICT = ("dyck_languages", "multistep_arithmetic_two")


def _bbh(ask: Ask, benchmark: Benchmark) -> Task:
    prompts = located(ask, benchmark, f"bbh/cot-prompts/{ask.part}.txt")
    with open_text(prompts) as file:
        paragraphs = "".join(file.readlines()[2:]).strip().split("\n\n")
    if ask.name.startswith("bbh_0shot"):
        paragraphs = paragraphs[:1]
    elif not ask.name.startswith("bbh_cot"):
        paragraphs = [_direct(paragraph) for paragraph in paragraphs]
    shown = "\n\n".join(paragraphs)
    path = located(ask, benchmark)
    try:
        with open_text(path) as file:
            rows = [{"id": str(i), "input": row["input"], "target": row["target"], "shown": shown,
                     "strict": ask.part in _STRICT}
                    for i, row in enumerate(json.load(file)["examples"])]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a task of BIG-Bench Hard ({error!r}); fetch it anew") from None
    return _made(ask, benchmark, rows)


def _direct(paragraph: str) -> str:
    """A solved example reduced to its answer; other paragraphs as they are."""
    if not paragraph.startswith("Q:"):
        return paragraph
    return f"{paragraph.partition(chr(10) + 'A:')[0].strip()}\nA: {paragraph.rpartition('So the answer is')[2].strip()}"


def _tydiqa(ask: Ask, benchmark: Benchmark) -> Task:
    closed, language = ask.name.startswith("tydiqa_closed"), ask.part
    test, train = (_tydiqa_rows(str(located(ask, benchmark, f"tydiqa/tydiqa-goldp-v1.1-{split}.json")), language)
                   for split in ("dev", "train"))
    told, passage, asks, answers_with, told_closed = _table("tydiqa_words")[language]
    words = {"asks": asks, "answers_with": answers_with}

    def read(row: Row) -> str:
        return "" if closed else f"{passage} {' '.join(row['context'].split(' ')[:512])}\n"
    if not train:
        raise UserError(f"task '{ask.name}': the training file has no example in {language}; {benchmark.cure}")
    shot = random.Random(42).choice(train)
    shown = f"{told_closed if closed else told}\n\n{read(shot)}{asks} {shot['question']}\n{answers_with} "
    shown += f"{shot['answers'][0]}\n\n"
    return _made(ask, benchmark, [{"id": row["id"], "question": row["question"], "answer": row["answers"],
                                   "passage": read(row), "shown": shown, **words} for row in test])


@functools.lru_cache(maxsize=2)
def _tydiqa_file(path: str) -> Any:
    with open_text(pathlib.Path(path)) as file:
        return json.load(file)


def _tydiqa_rows(path: str, language: str) -> list[Row]:
    try:
        paragraphs = [paragraph for article in _tydiqa_file(path)["data"] for paragraph in article["paragraphs"]]
        return [{"id": qa["id"], "context": paragraph["context"], "question": qa["question"],
                 "answers": [answer["text"] for answer in qa["answers"]]}
                for paragraph in paragraphs for qa in paragraph["qas"] if qa["id"].startswith(f"{language}-")]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a file of TyDiQA's gold passages ({error!r}); fetch it anew") from None


# ── choices ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _truthfulqa(ask: Ask, benchmark: Benchmark) -> Task:
    rows, shown = [], _table("truthfulqa_shown")["shown"]
    path = located(ask, benchmark)
    with open_text(path) as file:
        for i, row in enumerate(csv.DictReader(file)):
            try:
                best, right, wrong = (_answers(row[key]) for key in ("Best Answer", "Correct Answers",
                                                                     "Incorrect Answers"))
            except (KeyError, AttributeError):
                raise UserError(f"{path}: row {i + 1} has no best, correct and incorrect answers") from None
            right = best if ask.name.endswith("mc1") else right
            rows.append({"id": str(i), "question": row["Question"].strip(), "options": right + wrong,
                         "right": len(right), "shown": shown})
    return _made(ask, benchmark, rows)


def _answers(cell: str) -> list[str]:
    """The answers of a cell, each with a full stop, as the original closes them."""
    return [part if part.endswith(".") else f"{part}." for part in map(str.strip, cell.split(";")) if part]


def _agieval(ask: Ask, benchmark: Benchmark) -> Task:
    rows = read_rows(located(ask, benchmark))
    made = [{"id": str(i), "passage": row["passage"] or "", "question": row["question"],
             "options": " ".join(row["options"]), "answer": row["label"],
             "letters": "ABCDEFG"[:len(row["options"]) if len(row["options"]) > 1 else 5]}
            for i, row in enumerate(rows)]
    return _made(ask, benchmark, made)


# ── programs and continuations ────────────────────────────────────────────────────────────────────────────────────────


def _humaneval(ask: Ask, benchmark: Benchmark) -> Task:
    rows = read_rows(located(ask, benchmark))
    keys = ("prompt", "entry_point", "test")
    return _made(ask, benchmark, [{"id": row["task_id"], **{key: row[key] for key in keys}} for row in rows])


def _toxigen(ask: Ask, benchmark: Benchmark) -> Task:
    path = located(ask, benchmark)
    with open_text(path) as file:
        texts = [line.strip().replace("\\\\", "\\").replace("\\n", "\n") for line in file if line.strip()]
    rows = [{"id": str(i), "group": ask.part, "text": text} for i, text in enumerate(texts)]
    return _made(ask, benchmark, rows[:500], min(len(rows), 500))


def _realtoxicityprompts(ask: Ask, benchmark: Benchmark) -> Task:
    rows = read_rows(located(ask, benchmark))
    return _made(ask, benchmark, [{"id": str(i), "text": row["prompt"]["text"]} for i, row in enumerate(rows)])


# ── the table ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_MMLU_CURE = ("it expects mmlu/dev/SUBJECT_dev.csv and mmlu/test/SUBJECT_test.csv in there, from the data archive of "
              "github.com/hendrycks/test")
_NQ_CURE = ("it expects nq_open/NQ-open.dev.jsonl in there, from github.com/google-research-datasets/natural-questions "
            "(folder nq_open)")
_GSM8K_CURE = ("it expects gsm8k/test.jsonl in there, from github.com/openai/grade-school-math "
               "(grade_school_math/data)")
_BBH_CURE = ("it expects bbh/bbh/TASK.json and bbh/cot-prompts/TASK.txt in there, from "
             "github.com/suzgunmirac/BIG-Bench-Hard")
_TYDIQA_CURE = ("it expects tydiqa/tydiqa-goldp-v1.1-train.json and tydiqa/tydiqa-goldp-v1.1-dev.json in there, from "
                "github.com/google-research-datasets/tydiqa (the gold passage task)")
_TRUTHFULQA_CURE = "it expects truthfulqa/TruthfulQA.csv in there, from github.com/sylinrl/TruthfulQA"
_AGIEVAL_CURE = "it expects agieval/v1/EXAM.jsonl in there, from github.com/ruixiangcui/AGIEval (data/v1)"
_HUMANEVAL_CURE = "it expects human_eval/HumanEval.jsonl.gz in there, from github.com/openai/human-eval (data)"
_TOXIGEN_CURE = "it expects toxigen/hate_GROUP_1k.txt in there, from github.com/microsoft/TOXIGEN (prompts)"
_RTP_CURE = ("it expects realtoxicityprompts/prompts.jsonl in there, from "
             "huggingface.co/datasets/allenai/real-toxicity-prompts")


def _bbh_like(what: str, published: str = "") -> Benchmark:
    return Benchmark(what, _BBH_CURE, _bbh, _table("bbh_tasks"), "bbh/bbh/{part}.json", macro=True, published=published)


def _gsm8k_like(what: str, published: str) -> Benchmark:
    return Benchmark(what, _GSM8K_CURE, _gsm8k, {"": 1319}, "gsm8k/test.jsonl", sample="gsm8k/test_150.jsonl",
                     published=published)


def _program_like(what: str, published: str = "") -> Benchmark:
    return Benchmark(what, _HUMANEVAL_CURE, _humaneval, {"": 164}, "human_eval/HumanEval.jsonl", published=published)


@functools.cache
def benchmarks() -> dict[str, Benchmark]:
    """The bundled benchmarks by name."""
    mmlu, tydiqa = _table("mmlu_subjects"), _table("tydiqa_languages")
    begun = "in chat the assistant has begun \"The answer is:\""
    return {
        "mmlu": Benchmark("MMLU, 5-shot", _MMLU_CURE, _mmlu, mmlu, "mmlu/test/{part}_test.csv", published=begun),
        "mmlu_0shot": Benchmark("MMLU, no shots", _MMLU_CURE, _mmlu, mmlu, "mmlu/test/{part}_test.csv",
                                published=begun),
        "nq_open": Benchmark("Natural Questions, 3-shot, exact match", _NQ_CURE, _nq, {"": 3610},
                             "nq_open/NQ-open.dev.jsonl"),
        "nq_open_0shot": Benchmark("Natural Questions, no shots, exact match", _NQ_CURE, _nq, {"": 3610},
                                   "nq_open/NQ-open.dev.jsonl"),
        "gsm8k": _gsm8k_like("GSM8K, 8-shot, answers alone", "the last number without its sign, as text; 200 items"),
        "gsm8k_cot": _gsm8k_like("GSM8K, 8-shot, reasoned", "the last number without its sign, as text; 200 items"),
        "bbh": _bbh_like("BIG-Bench Hard, 3-shot, answers alone", "no punctuation counts"),
        "bbh_cot": _bbh_like("BIG-Bench Hard, 3-shot, reasoned", "no punctuation, nothing after a blank line"),
        "bbh_0shot": _bbh_like("BIG-Bench Hard, no shots"),
        "tydiqa": Benchmark("TyDiQA, gold passage, 1-shot, F1", _TYDIQA_CURE, _tydiqa, tydiqa,
                            "tydiqa/tydiqa-goldp-v1.1-dev.json", macro=True),
        "tydiqa_closed": Benchmark("TyDiQA without passages, 1-shot, F1", _TYDIQA_CURE, _tydiqa, tydiqa,
                                   "tydiqa/tydiqa-goldp-v1.1-dev.json", macro=True),
        "agieval": Benchmark("AGIEval, English exams, no shots", _AGIEVAL_CURE, _agieval, _table("agieval_exams"),
                             "agieval/v1/{part}.jsonl", macro=True, published="the first capital from A to F counts"),
        "truthfulqa_mc1": Benchmark("TruthfulQA, one right answer", _TRUTHFULQA_CURE, _truthfulqa, {"": 817},
                                    "truthfulqa/TruthfulQA.csv"),
        "truthfulqa_mc2": Benchmark("TruthfulQA, probability of the right answers", _TRUTHFULQA_CURE, _truthfulqa,
                                    {"": 817}, "truthfulqa/TruthfulQA.csv"),
        "humaneval": _program_like("HumanEval, no shots, greedy, pass@1", "in chat the assistant has begun"),
        "codex_eval_pass1": _program_like("HumanEval, 20 samples at 0.1, pass@1"),
        "codex_eval_pass10": _program_like("HumanEval, 20 samples at 0.8, pass@10"),
        "toxigen": Benchmark("ToxiGen, share of continuations not toxic", _TOXIGEN_CURE, _toxigen,
                             dict.fromkeys(_table("toxigen_groups"), 500), "toxigen/hate_{part}_1k.txt"),
        "realtoxicityprompts": Benchmark("RealToxicityPrompts, mean non-toxicity of continuations", _RTP_CURE,
                                         _realtoxicityprompts, {"": 99442}, "realtoxicityprompts/prompts.jsonl"),
    }
