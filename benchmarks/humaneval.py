"""HumanEval, greedy, in chat: our engine beside transformers on the same prompts, token ids and sandbox.

    python benchmarks/humaneval.py --model HF_DIR --task-data DATA [--limit 40] [--rival 12] [--keep ANSWERS]

`--ours` names the same model for us where HF_DIR has no chat template of ours (a run dir, made by `convert`). The
request is that of the task `humaneval` in chat; `--rival` takes the first so many problems through transformers too,
float32 both. Texts are kept in the folder `--keep`, so that the same command continues; answers of another model are
refused. Prints and appends pass@1 and how many texts are equal.
"""
import argparse
import dataclasses
import json
import pathlib

from measure import report

from easylm_imitation.evaluate import find_tasks
from easylm_imitation.evaluate.after import completion_of
from easylm_imitation.evaluate.sandbox import check_all
from easylm_imitation.records import Message
from easylm_imitation.serve import LocalModel, ServeConfig
from easylm_imitation.text import prompt_ids
from easylm_imitation.weights import LoadedModel, describe, open_model

TOKENS = 1024       # of an answer, as in the task
BATCH = 12          # of transformers' `generate`


class Kept:
    """Texts by problem in a file, whose first line is `of`: what they are answers of and to."""

    def __init__(self, folder: str | None, name: str, of: dict[str, str | int]):
        self._path = pathlib.Path(folder) / f"{name}.jsonl" if folder else None
        self.texts: dict[str, str] = {}
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():
            self._path.write_text(json.dumps(of) + "\n")
        first, *rest = map(json.loads, self._path.read_text().splitlines())
        if first != of:
            raise SystemExit(f"{self._path}: answers of another model or to other requests; name another --keep")
        self.texts = dict(rest)

    def add(self, name: str, text: str) -> None:
        """Writes one down."""
        self.texts[name] = text
        if self._path:
            with self._path.open("a") as file:
                file.write(json.dumps([name, text]) + "\n")


def ours(path: str, asked: dict[str, str], kept: Kept, slots: int) -> LoadedModel:
    """Answers by the function of /v1/chat/completions, all at once. Returns the model without its weights."""
    loaded = open_model(path)
    words, model = dataclasses.replace(loaded, params={}), LocalModel(loaded, ServeConfig(slots=slots, context=2048))
    del loaded      # the engine has weights of its own
    with model:
        waiting = {name: model.post("/v1/chat/completions", {
            "messages": [{"role": "user", "content": text}], "max_tokens": TOKENS, "temperature": 0})
            for name, text in asked.items() if name not in kept.texts}
        for name, future in waiting.items():
            kept.add(name, future.result()["choices"][0]["message"]["content"])
    return words


def theirs(path: str, words: LoadedModel, asked: dict[str, str], kept: Kept, lengths: dict[str, int]) -> None:
    """The same ids through `generate`, padded on the left, BATCH at a time. `lengths`, of our own answers, puts
    together what ends about together."""
    import torch
    import transformers
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    left = sorted((name for name in asked if name not in kept.texts), key=lengths.__getitem__)
    ends = words.end_ids()
    for start in range(0, len(left), BATCH):
        names = left[start:start + BATCH]
        rows = [prompt_ids(words.template, words.tokenizer, [Message("user", asked[name])]) for name in names]
        width = max(map(len, rows))
        ids = torch.tensor([[ends[0]] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with torch.inference_mode():
            made = model.generate(ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, top_p=None,
                                  top_k=None, temperature=None, repetition_penalty=1.0, eos_token_id=list(ends),
                                  pad_token_id=ends[0])
        for name, row in zip(names, made[:, width:].tolist()):
            end = next((i for i, token in enumerate(row) if token in ends), len(row))
            kept.add(name, words.tokenizer.decode(row[:end]))


def passed(rows: dict[str, dict], texts: dict[str, str]) -> set[str]:
    """Names of the problems whose program passes."""
    problems = {name: {k: rows[name][k] for k in ("prompt", "entry_point", "test")} for name in texts}
    verdicts = check_all(problems, [(name, completion_of(rows[name], text)) for name, text in texts.items()])
    return {name for name, verdict in zip(texts, verdicts) if verdict.passed}


def main() -> None:
    """Measures, prints, appends to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the Hugging Face dir that transformers reads")
    parser.add_argument("--ours", help="the same model for us, a run dir say (default: --model)")
    parser.add_argument("--task-data", required=True, help="the folder that holds human_eval/")
    parser.add_argument("--limit", type=int, default=164)
    parser.add_argument("--rival", type=int, default=12)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--keep")
    args = parser.parse_args()
    task, = find_tasks(["humaneval"], args.task_data)
    request = task.asked("chat").config["doc_to_text"]
    rows = {row["id"]: row for row in task.rows[:args.limit]}
    asked = {name: request.replace("{{prompt}}", row["prompt"]) for name, row in rows.items()}
    of = {"model": describe(args.model)[1].id, "ours": describe(args.ours or args.model)[1].id, "request": request,
          "max_tokens": TOKENS}
    mine, other = Kept(args.keep, "ours", of), Kept(args.keep, "transformers", of)
    words = ours(args.ours or args.model, asked, mine, args.slots)
    theirs(args.model, words, dict(list(asked.items())[:args.rival]), other, {k: len(t) for k, t in mine.texts.items()})
    right = {"ours": passed(rows, mine.texts), "transformers": passed(rows, other.texts)}
    both = [name for name in other.texts if name in mine.texts]
    here = right["ours"] & set(both)
    table = [["ours", len(mine.texts), len(right["ours"]), len(right["ours"]) / len(mine.texts)],
             ["ours, on these", len(both), len(here), len(here) / len(both)],
             ["transformers", len(both), len(right["transformers"]), len(right["transformers"]) / len(both)]]
    same = sum(mine.texts[name] == other.texts[name] for name in both)
    report("HumanEval, greedy, in chat, beside transformers", ["side", "problems", "passed", "pass@1"], table,
           f"{same} of {len(both)} texts are equal; verdicts differ on "
           f"{sorted((right['ours'] ^ right['transformers']) & set(both)) or 'none'}.")


if __name__ == "__main__":
    main()
