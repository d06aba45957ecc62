"""The mixtures' configs: they load, name where everything comes from, and build from files in the real schemas."""
import gzip
import json
import pathlib
import re

import pyarrow
import pyarrow.parquet
import pytest

from easylm_imitation.config import load
from easylm_imitation.data import BuildConfig, build_dataset
from easylm_imitation.data.public import PUBLIC, cot, public
from easylm_imitation.data.shards import open_shards
from easylm_imitation.schema import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = ["sharegpt_mix.py", "koala.py", "tulu_human.py", "tulu.py", "gpt4all.py", "orca.py"]


def loaded(name, *overrides):
    return load(BuildConfig, str(ROOT / "configs/data" / name), overrides)


@pytest.mark.parametrize("name", [*CONFIGS, *(f"source.py:{name}" for name in PUBLIC)])
def test_missing_files_are_all_named_with_where_to_get_them(name, tmp_path, tokenizer_folder):
    config = loaded(name, f"--config.root={tmp_path}", f"--config.tokenizer={tokenizer_folder}")
    assert all(source.origin and source.licence for source in config.sources)
    with pytest.raises(UserError) as caught:
        build_dataset(config, tmp_path / "out")
    for source in config.sources:
        assert f"{tmp_path}/{source.path}: no such file; get it from {source.origin}" in str(caught.value)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_header_names_every_file(name):
    """By its folder at least; a mixture that builds on another's may point to that one's header."""
    header = (ROOT / "configs/data" / name).read_text().split('"""')[1]
    header += (ROOT / "configs/data/tulu_human.py").read_text().split('"""')[1] if "tulu_human.py" in header else ""
    for source in loaded(name).sources:
        assert re.search(rf"\b{source.path.split('/')[0]}/", header), source.path


def test_the_header_of_source_lists_every_name():
    header = (ROOT / "configs/data/source.py").read_text().split('"""')[1]
    assert [name for name in PUBLIC if not re.search(rf"[ \n]{re.escape(name)}[,.]", header)] == []


@pytest.mark.parametrize(("size", "drawn"), [(10, {"zs_opt": 5, "fs_opt": 5}), (1, {"fs_opt": 1})])
def test_chains_of_thought_are_drawn_by_half(size, drawn):
    assert {entry["options"]["templates"][0]: entry["sample"] for entry in cot(size, {})} == drawn


@pytest.mark.parametrize("name", ["tulu.py", "tulu_human.py"])
def test_tulus_mixtures_take_half_of_their_chains_of_thought_without_examples(name):
    assert {source.options["templates"][0]: source.sample for source in loaded(name).sources
            if source.dataset == "cot"} == {"zs_opt": 50_000, "fs_opt": 50_000}


def test_an_unknown_dataset_names_the_nearest():
    with pytest.raises(UserError, match="no public dataset 'doly'; did you mean 'dolly'"):
        public("doly")


@pytest.mark.parametrize(("file", "meant"), [("sharegpt_mix.py:publik", "public"), ("koala.py:distil", "distill")])
def test_an_unknown_variant_of_a_mixture_names_the_nearest(file, meant):
    with pytest.raises(UserError, match=f"no variant '{file.partition(':')[2]}' .* did you mean '{meant}'"):
        loaded(file)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
    else:
        text = json.dumps(content) if path.suffix == ".json" else "".join(json.dumps(one) + "\n" for one in content)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def sharegpt(i):
    return {"id": f"s{i}", "conversations": [{"from": "human", "value": f"What is the number after {i}, and why so?"},
                                             {"from": "gpt", "value": f"<p>It is {i + 1}, as everybody knows.</p>"}]}


def tree(i):
    answer = {"message_id": f"a{i}", "text": "Yes.", "role": "assistant", "replies": []}
    return {"message_tree_id": f"t{i}", "prompt": {"message_id": f"p{i}", "text": "Q?", "role": "prompter",
                                                   "replies": [answer]}}


def test_tulus_mixture_builds_in_its_proportions(tmp_path, tokenizer_folder):
    for name in ("flan2021", "t0", "niv2", "cot", "dialog"):
        write(tmp_path / f"flan/{name}/data/train-0.parquet", [
            {"inputs": f"{name} {template} {i}?", "targets": "A", "template_type": template}
            for template in ("zs_opt", "zs_noopt", "fs_opt", "fs_noopt") for i in range(3)])
    write(tmp_path / "dolly/databricks-dolly-15k.jsonl", [{"instruction": f"I{i}", "context": "", "response": "R"}
                                                          for i in range(4)])
    write(tmp_path / "oasst1/2023-04-12_oasst_ready.trees.jsonl.gz", [tree(i) for i in range(2)])
    for file in ("gpt4_alpaca/alpaca_gpt4_data.json", "code_alpaca/code_alpaca_20k.json"):
        write(tmp_path / file, [{"instruction": "I", "input": "", "output": "O"}])
    for part in (1, 2):
        write(tmp_path / f"sharegpt/sg_90k_part{part}_html_cleaned.json", [sharegpt(part)])
    config = loaded("tulu.py", f"--config.root={tmp_path}", f"--config.tokenizer={tokenizer_folder}")
    card = build_dataset(config, tmp_path / "out")
    kept = {}
    for source in card.sources:
        kept[source.dataset] = kept.get(source.dataset, 0) + source.kept
    # three rows of each template that the proportions ask for
    assert kept == {"flan_v2": 3 * (4 + 4 + 2 + 2 + 2), "cot": 6, "dolly": 4, "oasst1": 2, "gpt4-alpaca": 1,
                    "code-alpaca": 1, "sharegpt": 2}
    assert card.teachers == ("gpt-3.5-turbo", "gpt-4", "text-davinci-003")
    wanted = {(s.path.split("/")[1], s.options["templates"][0]): s.sample for s in config.sources
              if s.dataset == "flan_v2"}
    assert sum(wanted.values()) == 100_000
    assert (wanted["t0", "zs_noopt"], wanted["cot", "fs_opt"]) == (8000, 2500)


def test_sharegpt_mix_cleans_and_nests_its_budgets(tmp_path, tokenizer_folder):
    rows = [sharegpt(i) for i in range(20)]
    write(tmp_path / "sharegpt/sg_90k_part1.json", rows)
    write(tmp_path / "sharegpt/sg_90k_part2.json", [{**rows[0], "id": "again"}, {"id": "de", "conversations": [
        {"from": "human", "value": "Wie heißt die Hauptstadt von Frankreich, und warum?"},
        {"from": "gpt", "value": "<p>Sie heißt Paris, wie jeder weiß.</p>"}]}])
    write(tmp_path / "hc3/all.jsonl", [{"question": "Why is the sky blue?", "human_answers": ["So."],
                                        "chatgpt_answers": ["Because of the air.", "Because."], "source": "open_qa"}])
    write(tmp_path / "discord/pairs.jsonl", [{"prompt": "Tell me a joke, please.", "completion": "No, thank you."}])
    flags = f"--config.root={tmp_path}", f"--config.tokenizer={tokenizer_folder}"
    card = build_dataset(loaded("sharegpt_mix.py", *flags), tmp_path / "all")
    assert [(s.kept, s.dropped) for s in card.sources] == [
        (20, {}), (0, {"language": 1, "same-query": 1}), (2, {}), (1, {})]
    assert card.rules[0].rule == "html"
    assert card.rules[0].changed == 20
    part = build_dataset(loaded("sharegpt_mix.py:public", *flags, "--config.budget=1000"), tmp_path / "part")
    assert 0 < part.tokens <= 1000 < card.tokens


def test_orca_keeps_its_curriculum(tmp_path, tokenizer_folder):
    for name, answer in (("3_5M-GPT3_5", "short"), ("1M-GPT4", "long")):
        write(tmp_path / f"openorca/{name}-Augmented.parquet", [
            {"id": f"{answer}.{i}", "system_prompt": "Explain.", "question": "Q", "response": answer}
            for i in range(9)])
    config = loaded("orca.py", f"--config.root={tmp_path}", f"--config.tokenizer={tokenizer_folder}")
    build_dataset(config, tmp_path / "out")
    shards = open_shards(tmp_path / "out/shards")
    order = [shards[i]["id"].decode() for i in range(18)]
    assert [name.partition(".")[0] for name in order] == ["short"] * 9 + ["long"] * 9
    assert order != sorted(order, key=lambda name: (name[0] != "s", name))


def test_koalas_mixture_builds_with_its_markers(tmp_path, tokenizer_folder):
    for part in (1, 2):
        write(tmp_path / f"sharegpt/sg_90k_part{part}.json", [sharegpt(part), {
            "id": f"x{part}", "conversations": [{"from": "human", "value": "Who made you, ChatGPT?"},
                                                {"from": "gpt", "value": "OpenAI."}]}])
    write(tmp_path / "hc3/all.jsonl", [{"question": "Why?", "human_answers": ["So."], "chatgpt_answers": ["Air."]}])
    write(tmp_path / "alpaca/alpaca_data.json", [{"instruction": "I", "input": "", "output": "O"}])
    for name in ("basic", "grade_school_math_instructions", "plot_screenplay_books_dialog", "poetry_2_song",
                 "hc3_human"):
        write(tmp_path / f"oig/unified_{name}.jsonl", [{"text": "<human>: Q <bot>: A"}])
    for name in ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled"):
        write(tmp_path / f"hh/{name}/train.jsonl.gz", [{"chosen": "\n\nHuman: Q\n\nAssistant: A",
                                                        "rejected": "\n\nHuman: Q\n\nAssistant: B"}])
    write(tmp_path / "webgpt/train.parquet", [{
        "question": {"dataset": "eli5", "id": "1", "full_text": "Why?"}, "answer_0": "A", "answer_1": "B",
        "score_0": 1.0, "score_1": -1.0, "quotes_0": {"title": ["T"], "extract": ["E"]},
        "quotes_1": {"title": [], "extract": []}}])
    write(tmp_path / "summaries/batch3.json", [{"info": {"post": "P"}, "choice": 0,
                                                "summaries": [{"text": "A"}, {"text": "B"}]}])
    (tmp_path / "summaries/batch3.json").write_text((tmp_path / "summaries/batch3.json").read_text()[1:-1] + "\n")
    write(tmp_path / "koala/hard_coded_train.jsonl", [{"human_0": "Who are you?", "gpt_1": "Koala.", "fields": "x"}])
    config = loaded("koala.py", f"--config.root={tmp_path}", f"--config.tokenizer={tokenizer_folder}")
    card = build_dataset(config, tmp_path / "out")
    kept = [(s.dataset, s.kept) for s in card.sources]
    assert kept == [("sharegpt", 1), ("sharegpt", 1), ("hc3", 2), ("alpaca", 1), *[("oig", 1)] * 5, *[("hh", 2)] * 4,
                    ("webgpt", 2), ("summaries", 2), ("koala-identity", 1)]
    assert card.sources[0].dropped == {"identity": 1}


def test_gpt4all_leaves_out_refusals(tmp_path, tokenizer_folder):
    write(tmp_path / "gpt4all/data/train-0.parquet", [
        {"source": source, "prompt": "Q?", "response": response} for source, response in (
            ("laion/unified_chip2", "Fine."), ("bigscience/p3", "Fine."),
            ("pacovaldez/stackoverflow-questions", "As an AI language model, I cannot."))])
    config = loaded("gpt4all.py", f"--config.root={tmp_path}", f"--config.tokenizer={tokenizer_folder}")
    assert build_dataset(config, tmp_path / "out").sources[0].dropped == {"refusals": 1, "unwanted source": 1}
