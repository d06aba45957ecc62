"""Each format with a record in its real schema, as it is read by default and as the original pipeline read it."""
import pathlib

import pytest
from data_helpers import convert

from easylm_imitation.data.config import SourceConfig
from easylm_imitation.data.formats import FORMATS
from easylm_imitation.data.public import PUBLIC
from easylm_imitation.data.sources import Drop
from easylm_imitation.schema import UserError, build
from easylm_imitation.teacher.recipes import RECIPES
from easylm_imitation.text import get_template, load_tokenizer, prompt_ids

ROOT = pathlib.Path(__file__).resolve().parents[2]


def made(form, record, **options):
    return convert(record, SourceConfig("f", form, teacher="t", options=options), "set", 7)


def pairs(conversation):
    return [(message.role, message.content) for message in conversation.messages]


def rounds(*texts):
    return [(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]


ALPACA = {"instruction": "Sort.", "input": "2 1", "output": "1 2"}
SHAREGPT = {"id": "QWJhYvA_0", "model": "", "conversations": [
    {"from": "human", "value": "Hi"}, {"from": "chatgpt", "value": "Hello"}]}
HC3 = {"id": "7", "question": "Why?", "source": "open_qa", "human_answers": ["So.", "Thus."],
       "chatgpt_answers": ["Because."]}
UNNATURAL = {"instruction": "Name it.", "instances": [
    {"instruction_with_input": "Name it. A cat", "input": "A cat", "constraints": "None.", "output": "Cat"},
    {"instruction_with_input": "", "input": "A dog", "constraints": "One word.", "output": "Dog"}],
    "reformulations": [{"instruction": "Say its name.", "instruction_with_input": "", "input": "A cow",
                        "output": "Cow"}]}
BAIZE = {"topic": "x", "input": "The conversation between human and AI assistant.\n[|Human|] Hi\n[|AI|] Hello.\n"
                               "[|Human|] Why?\n[|AI|] So.\n[|Human|] "}
BAIZE_BROKEN = {"topic": "x", "input": "The conversation between human and AI assistant.\n[|Human|] Hi\n[|AI|] Hello.\n"
                                      "[|Human|] Why?\n[|Human|] When?\n[|AI|] Now.\n[|Human|] "}
SHAREGPT_SYSTEM = {"id": "x", "conversations": [{"from": "system", "value": "S"}, *SHAREGPT["conversations"]]}
SUPERNI = {"Source": ["x"], "Definition": ["Add."], "Categories": ["Math"], "Negative Examples": [],
           "Positive Examples": [{"input": "1 1", "output": "2", "explanation": ""}],
           "Instances": [{"id": f"task1-{i}", "input": f"{i} 1", "output": [str(i + 1), "more"]} for i in range(5)]}
OIG = {"text": "<human>: Who are you?\n<bot>: I am OIG (Open Instruction Generalist).", "metadata": {"source": "x"}}
HH = {"chosen": "\n\nHuman: Quote \"Human: hi\".\n\nAssistant: Sure.", "rejected": "\n\nHuman: Q\n\nAssistant: No."}
WEBGPT = {"question": {"dataset": "eli5", "id": "1", "full_text": "Why?"}, "answer_0": "Bad [1].", "score_0": -1.0,
          "quotes_0": {"title": ["T"], "extract": ["E"]}, "answer_1": "Good.", "score_1": 1.0,
          "quotes_1": {"title": [], "extract": []}, "tokens_0": {}, "tokens_1": {}}
SUMMARIES = {"info": {"id": "x", "post": "Long.", "title": "T", "subreddit": "s"}, "split": "train", "choice": 1,
             "summaries": [{"text": " Bad.", "policy": "sup", "note": None}, {"text": " Good.", "policy": "ref"}]}
BAD = "An Unhelpful Answer:"


@pytest.mark.parametrize(("form", "record", "options", "expected"), [
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}], "name": "x"},
                               {"role": "assistant", "content": "A", "weight": 1}]}, {}, [rounds("Q", "A")]),
    ("prompt-completion", {"prompt": "Q", "completion": "A"}, {}, [rounds("Q", "A")]),
    ("pairs", {"question": "Q", "answer": "A"}, {}, [rounds("Q", "A")]),
    ("discord", {"instruction": "Q", "output": "A"}, {}, [rounds("Q", "A")]),
    ("sharegpt", SHAREGPT, {}, [rounds("Hi", "Hello")]),
    ("hc3", HC3, {}, [rounds("Why?", "Because.")]),
    ("hc3", HC3, {"human": True, "chatgpt": False}, [rounds("Why?", "So."), rounds("Why?", "Thus.")]),
    ("alpaca", ALPACA, {}, [rounds("Sort.\n\n2 1", "1 2")]),
    ("gpt4-alpaca", ALPACA, {}, [rounds("Sort.\n\n2 1", "1 2")]),
    ("code-alpaca", {**ALPACA, "input": ""}, {}, [rounds("Sort.", "1 2")]),
    ("self-instruct", ALPACA, {}, [rounds("Sort.\n\n2 1", "1 2")]),
    ("self-instruct", {"id": "seed_task_0", "name": "x", "instruction": "Sort.", "is_classification": False,
                       "instances": [{"input": "2 1", "output": "1 2"}, {"input": "", "output": "?"}]}, {},
     [rounds("Sort.\n\n2 1", "1 2"), rounds("Sort.", "?")]),
    ("unnatural", UNNATURAL, {}, [rounds("Name it.\n\nA cat", "Cat"), rounds("Name it.\nOne word.\n\nA dog", "Dog")]),
    ("unnatural", UNNATURAL, {"reformulations": True},
     [rounds("Name it.\n\nA cat", "Cat"), rounds("Name it.\nOne word.\n\nA dog", "Dog"),
      rounds("Say its name.\n\nA cow", "Cow")]),
    ("dolly", {"instruction": "Q", "context": "C", "response": "A", "category": "open_qa"}, {},
     [rounds("Q\n\nC", "A")]),
    ("baize", BAIZE, {}, [rounds("Hi", "Hello.", "Why?", "So.")]),
    ("baize", BAIZE_BROKEN, {}, [rounds("Hi", "Hello.")]),
    ("baize", BAIZE_BROKEN, {"like": "open-instruct"}, [rounds("Hi", "Hello.", "When?", "Now.")]),
    ("sharegpt", SHAREGPT_SYSTEM, {}, [[("system", "S"), *rounds("Hi", "Hello")]]),
    ("superni", SUPERNI, {"few_shot": 0, "zero_shot": 9},
     [rounds(f"Add.\n\nInput:\n{i} 1\nOutput:\n", str(i + 1)) for i in range(5)]),
    ("flan", {"inputs": "Q?", "targets": "A", "task": "x"}, {}, [rounds("Q?", "A")]),
    ("flan", {"inputs": "Q?", "targets": "A"}, {"like": "open-instruct"}, [rounds("Q?\n", "A")]),
    ("flan", {"inputs": "Answer:", "targets": "A"}, {"like": "open-instruct"}, [rounds("Answer:", "A")]),
    ("flan-cot", {"question": "Q", "answer": "(B)", "rationale": "R."}, {}, [rounds("Q", "R.\nSo the answer is (B).")]),
    ("gpt4all", {"source": "laion/unified_chip2", "prompt": {"value": "Q"}, "response": "A"}, {}, [rounds("Q", "A")]),
    ("openorca", {"id": "cot.1", "system_prompt": "S", "question": "Q", "response": "A"}, {},
     [[("system", "S"), *rounds("Q", "A")]]),
    ("openorca", {"id": "cot.1", "system_prompt": "", "question": "Q", "response": "A"}, {}, [rounds("Q", "A")]),
    ("lima", {"conversations": ["Q", "A", "Why?", "So."], "source": "multi_turn"}, {},
     [rounds("Q", "A", "Why?", "So.")]),
    ("lima", {"instruction": "Why?", "input": "", "output": "So.", "history": [["Q", "A"]]}, {},
     [rounds("Q", "A", "Why?", "So.")]),
    ("halueval", {"id": "1", "user_query": "Q", "chatgpt_response": "A"}, {}, [rounds("Q", "A")]),
    ("flan", {"inputs": "Q?", "targets": "A", "template_type": "fs_opt"}, {"templates": ["zs_opt"]}, []),
    ("koala", {"human_0": "Q", "gpt_1": "A", "human_2": "Why?", "gpt_3": "So.", "fields": "x", "marker_gpt": "GPT:"},
     {}, [rounds("Q", "A", "Why?", "So.")]),
    ("koala", {"human_0": "Q", "gpt_bad_1": "A", "fields": "x"}, {}, [rounds(f"Q\n\n{BAD}", "A")]),
    ("oig", OIG, {}, [rounds("Who are you?", "I am a language model.")]),
    ("oig", OIG, {"like": "koala"}, [rounds("Who are you?", "I am OIG (Open Instruction Generalist).")]),
    ("hh", HH, {"answers": "good"}, [rounds('Quote "Human: hi".', "Sure.")]),
    ("hh", HH, {}, [rounds('Quote "Human: hi".', "Sure."), rounds(f"Q\n\n{BAD}", "No.")]),
    ("webgpt", WEBGPT, {"quotes": False}, [rounds("Why?", "Good."), rounds(f"Why?\n\n{BAD}", "Bad [1].")]),
    ("webgpt", WEBGPT, {"answers": "bad"}, [rounds(f"Why?\n\nSources:\n[1] T: E\n\n{BAD}", "Bad [1].")]),
    ("summaries", SUMMARIES, {"answers": "good-bad"},
     [rounds("Summarize this post:\n\nLong.", "Good.", BAD, "Bad.")]),
    ("summaries", SUMMARIES, {"answers": "bad-good", "task": "Short:"},
     [rounds(f"Short:\n\nLong.\n\n{BAD}", "Bad.", "GPT:", "Good.")])])
def test_a_record_in_its_real_schema(form, record, options, expected):
    conversations = made(form, record, **options)
    assert sorted(map(pairs, conversations)) == sorted(expected)
    assert len({conversation.id for conversation in conversations}) == len(conversations)


def node(name, role, text, *replies, **more):
    return {"message_id": name, "parent_id": None, "text": text, "role": role, "lang": "en", "review_count": 3,
            "review_result": True, "deleted": False, "rank": None, "synthetic": False, "model_name": None,
            "replies": list(replies), **more}


TREE = {"message_tree_id": "r", "tree_state": "ready_for_export", "prompt": node(
    "r", "prompter", "Q", node("a", "assistant", "A1", node("b", "prompter", "Why?", node("c", "assistant", "So."))),
    node("d", "assistant", "A0", node("e", "prompter", "And?"), rank=0),
    node("f", "assistant", "A2", node("g", "prompter", "Left?"),
         node("h", "prompter", "More?", node("i", "assistant", "Yes.")), rank=1, synthetic=True, model_name="chip20b"),
    node("x", "assistant", "spam", deleted=True), node("y", "assistant", "bad", review_result=False))}


def test_trees_give_a_path_for_each_last_answer_and_lose_none():
    paths = made("oasst1", TREE)
    assert sorted((c.id, *[text for _, text in pairs(c)]) for c in paths) == [
        ("set_7_c", "Q", "A1", "Why?", "So."), ("set_7_d", "Q", "A0"), ("set_7_i", "Q", "A2", "More?", "Yes.")]
    assert {c.teacher for c in paths} == {""}      # people wrote the last answers
    original = made("oasst1", TREE, like="open-instruct")       # a path that ends in a question is left out
    assert {c.id for c in original} == {"set_7_c", "set_7_i"}
    assert [c.id for c in made("oasst1", TREE, only="best")] == ["set_7_d"]
    with pytest.raises(Drop, match="other language"):
        made("oasst1", TREE, lang="de")


def test_superni_draws_the_same_instances_in_every_build_and_shows_examples():
    one, two = (made("superni", SUPERNI, zero_shot=1, few_shot=2) for _ in range(2))
    assert [c.id for c in one] == [c.id for c in two]
    asked = [pairs(c)[0][1] for c in one]
    assert ["Input:\n1 1\nOutput:\n2\n\n" in text for text in asked] == [False, True, True]


@pytest.mark.parametrize(("template", "given", "prompt"), [
    ("alpaca", "2 1", "Below is an instruction that describes a task, paired with an input that provides further "
     "context. Write a response that appropriately completes the request.\n\n### Instruction:\nSort.\n\n### Input:\n2 1"
     "\n\n### Response:"),
    ("alpaca", "", "Below is an instruction that describes a task. Write a response that appropriately completes the "
     "request.\n\n### Instruction:\nSort.\n\n### Response:"),
    ("dolly", "2 1", "Below is an instruction that describes a task. Write a response that appropriately completes the "
     "request.\n\n### Instruction:\nSort.\n\nInput:\n2 1\n\n### Response:\n")])
def test_an_input_stands_where_the_original_prompt_has_it(template, given, prompt, tokenizer_folder):
    tokenizer = load_tokenizer(tokenizer_folder)
    for form, key in (("alpaca", "input"), ("self-instruct", "input"), ("dolly", "context")):
        record = {"instruction": "Sort.", key: given, "output": "1 2", "response": "1 2"}
        [conversation] = made(form, record, encoding=template)
        ids = prompt_ids(get_template(template), tokenizer, conversation.messages[:-1])
        assert tokenizer.decode(ids).removesuffix(" ") == prompt


def test_open_instructs_wordings_are_drawn_by_weight():
    seen = {}
    for i in range(4000):
        question = pairs(made("dolly", {"instruction": f"I{i}", "context": "", "response": "A"}, encoding="tulu")[0])
        form = question[0][1].replace(f"I{i}", "{i}") + "|" + question[1][1]
        seen[form] = seen.get(form, 0) + 1
    assert len(seen) == 14
    assert abs(seen["{i}\n\n|A"] / 4000 - .2) < .03
    assert abs(seen["{i}|\nA"] / 4000 - .1) < .03
    assert abs(seen["{i}\nResponse:|A"] / 4000 - .05) < .02
    with_input = pairs(made("alpaca", {"instruction": "{x}", "input": "{i}", "output": "A"}, encoding="tulu")[0])
    assert with_input[0][1].count("{x}") == with_input[0][1].count("{i}") == 1


@pytest.mark.parametrize(("form", "record", "options", "reason"), [
    ("sharegpt", {**SHAREGPT, "plugins": ["web"]}, {}, "with plugins"),
    ("sharegpt", {"conversations": [{"from": "bing", "value": "x"}]}, {}, "unknown role"),
    ("sharegpt", SHAREGPT_SYSTEM, {"like": "open-instruct"}, "with a system turn"),
    ("hc3", {**HC3, "chatgpt_answers": "x"}, {}, "wrong shape"), ("lima", {"conversations": ["Q"]}, {}, "no answer"),
    ("gpt4all", {"source": "bigscience/p3", "prompt": "Q", "response": "A"}, {"without": ["bigscience/p3"]},
     "unwanted source"),
    ("gpt4all", {"source": "x", "prompt": "Q", "response": ""}, {}, "empty turn"),
    ("baize", {"input": "nothing"}, {}, "no messages"), ("webgpt", {**WEBGPT, "score_0": 1.0}, {}, "a tie"),
    ("summaries", {**SUMMARIES, "choice": 2}, {}, "wrong shape"), ("oasst1", {"prompt": 3}, {}, "wrong shape"),
    ("superni", {**SUPERNI, "Definition": 3}, {}, "wrong shape")])
def test_what_a_format_leaves_out(form, record, options, reason):
    with pytest.raises(Drop) as caught:
        made(form, record, **options)
    assert caught.value.reason == reason


def test_teachers_stand_where_a_model_wrote():
    assert made("alpaca", ALPACA)[0].teacher == "t"
    assert made("dolly", {"instruction": "Q", "response": "A"})[0].teacher == ""
    both = made("hc3", HC3, human=True)
    assert [c.teacher for c in both] == ["t", "", ""]


@pytest.mark.parametrize(("change", "message"), [
    ({"format": "shargpt"}, "'shargpt' is no format; did you mean 'sharegpt'\\?; known, the nearest first: sharegpt, "),
    ({"format": "oasst1", "options": {"onyl": "best"}}, "unknown option 'onyl'; did you mean 'only'"),
    ({"format": "oasst1", "options": {"only": "first"}}, "'first' .* is not one of all, best"),
    ({"format": "oig", "options": {"like": "koala", "name": "Bob"}},
     "source 'x': options.name: 'Bob' says nothing beside like='koala', .*; leave out name, or like"),
    ({"options": {"x": 1}}, "unknown option 'x'; known: none"),
    ({"clean": ["refusal"]}, "'refusal' is no rule; did you mean 'refusals'"),
    ({"clean": [{"rule": "split", "token": 3}]}, "rule 'split': unknown option 'token'; did you mean 'tokens'"),
    ({"clean": [{"rule": "overlap"}]}, "rule 'overlap': the option 'against' is missing"),
    ({"clean": [{"tokens": 3}]}, "names no rule"), ({"clean": ["near-query"]}, "belongs to the build's own")])
def test_mistakes_in_a_source_are_told_before_anything_is_read(change, message):
    with pytest.raises(UserError, match=message):
        build(SourceConfig, {"path": "x", **change}, "config")


def test_the_docs_name_every_format():
    page = (ROOT / "docs/build.md").read_text()
    assert [name for name in FORMATS if f"| `{name}` |" not in page] == []


def test_the_page_of_sources_names_every_format_dataset_config_and_recipe():
    page = (ROOT / "docs/data.md").read_text()
    assert [name for name in FORMATS if f"| `{name}` |" not in page] == []
    assert [name for name in PUBLIC if f"source.py:{name}`" not in page] == []
    configs = [path for kind in ("data", "collect") for path in (ROOT / "configs" / kind).glob("*.py")]
    assert [path.name for path in configs if f"configs/{path.parent.name}/{path.name}" not in page] == []
    assert [name for name in RECIPES if f"| `{name}`" not in page] == []
