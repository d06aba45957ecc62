"""What the tests of recipes share: small inputs of our own, and a teacher whose answers follow from the request."""
import json
import random
from collections import Counter

from endpoint import answer

from easylm_imitation.files import digest, read_jsonl
from easylm_imitation.records import Conversation, LedgerEntry
from easylm_imitation.teacher import RECIPES, collect_from

SUBJECTS = "river cheese violin planet train garden novel winter market harbour lantern orchard engine letter".split()
VERBS = "Describe Compare Summarize Rewrite Explain Name Invent Order Translate Judge Shorten Sort".split()
MATTERS = "softly old tall for children with humour in verse before dawn slowly again twice as news".split()
SEED_TASKS = [
    {"id": f"s{i}", "instruction": f"{VERBS[i]} the {SUBJECTS[i]} in {i + 2} words for a friend.",
     "instances": [{"input": f"about {SUBJECTS[i]}", "output": "warm" if i % 2 else f"A {SUBJECTS[i]}, well told."}],
     "is_classification": bool(i % 2)} for i in range(10)]
PAIRS = [{"question": f"who built the {subject}", "answer": [f"Builder {subject}", "nobody"]} for subject in SUBJECTS]


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def collect(recipe, endpoint, inputs, out, **settings):
    config = RECIPES[recipe](**{"attempts": 3, "timeout": 5.0, "longest_wait": 0.02, **settings})
    return collect_from(config, [endpoint.url], inputs, out)


def ledger_of(out):
    return read_jsonl(LedgerEntry, f"{out}.ledger.jsonl")


def rows_of(out):
    return read_jsonl(Conversation, out)


def bodies(endpoint):
    """How often each request came."""
    return Counter(json.dumps(body, sort_keys=True) for body in endpoint.requests)


def text_of(body):
    return body["messages"][-1]["content"]


def invents(body):
    """The answer of a teacher that knows all recipes; it follows from the request, and some of it is no use."""
    draw = random.Random(digest(body))
    return answer(body, text=_invented(text_of(body), draw))


def _invented(text, draw):
    if draw.random() < 0.1:
        return draw.choice(["", "I'm sorry, but I can't help with that."])
    if text.startswith("I want you to generate"):
        return "\n".join(f"Q: {_question(draw)}\nA: {draw.choice(SUBJECTS)}" for _ in range(6))
    if text.startswith("Write a list of"):
        return "\n###\n".join(f"{i}. Instruction: {_instruction(draw)}\n{i}. Input:\n<noinput>\n{i}. Output:\n"
                              f"{draw.choice(MATTERS)}" for i in range(4, 10))
    if text.startswith("Go on with this list"):
        return "\n".join(f"{i}. {_instruction(draw)}" for i in range(9, 15))
    if text.startswith("Does a task ask"):
        return draw.choice(["Yes", "No"])
    if text.startswith("Each task below"):
        return f"warm\nInput: {_question(draw)}\nLabel: cold\nInput: {_question(draw)}"
    if text.startswith("Write up to"):
        return f"Input: {_question(draw)}\nOutput: {draw.choice(SUBJECTS)}\nExample 2\nOutput: {draw.choice(MATTERS)}"
    return f"{draw.choice(SUBJECTS)}, {draw.randint(0, 999)}"


def _question(draw):
    return " ".join(["who", *draw.choices(SUBJECTS, k=4)])


def _instruction(draw):
    return " ".join([draw.choice(VERBS), "the", *draw.choices(SUBJECTS + MATTERS, k=draw.randint(2, 9))])
