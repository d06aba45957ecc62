"""The real files that may stand beside the checkout build as they are, with the counts that they have."""
import pytest

from easylm_imitation.data import BuildConfig, LoaderConfig, SourceConfig, build_dataset, count_batches

OASST = "oasst_samples/model/model_eval/manual/data/en_100_tree.jsonl.gz"
large = pytest.mark.slow


@pytest.mark.parametrize(("path", "form", "options", "kept", "dropped"), [
    (OASST, "oasst1", {"only": "best"}, 100, {}), pytest.param(OASST, "oasst1", {}, 547, {}, marks=large),
    pytest.param(OASST, "oasst1", {"like": "open-instruct"}, 400, {}, marks=large),
    ("self_instruct/data/seed_tasks.jsonl", "self-instruct", {}, 175, {}),
    ("self_instruct/human_eval/user_oriented_instructions.jsonl", "self-instruct", {"encoding": "tulu"}, 252, {}),
    ("fastchat_bench/data/dummy_conversation.json", "sharegpt", {}, 500, {}),
    pytest.param("llamafactory_demos/kto_en_demo.json.gz", "messages", {}, 300, {}, marks=large),
    ("llamafactory_demos/glaive_toolcall_en_demo.json.gz", "sharegpt", {}, 147, {"unknown role": 153}),
    pytest.param("codealpaca_2k/code_alpaca_2k.json.gz", "code-alpaca", {}, 2015, {"empty turn": 2}, marks=large),
    pytest.param("lima/lima.json.gz", "alpaca", {}, 1029, {}, marks=large),
    pytest.param("flan_cot/*.tsv.gz", "flan-cot", {}, 33_443, {}, marks=large),
    pytest.param("gsm8k/train.jsonl.gz", "pairs", {}, 7473, {}, marks=large),
    pytest.param("gpteacher/*/*.json.gz", "alpaca", {}, 6458, {}, marks=large),
    pytest.param("halueval_general/*.jsonl.gz", "halueval", {}, 4507, {}, marks=large)])
def test_the_real_files_build_without_hand_work(shared_data, tmp_path, tokenizer_folder, path, form, options, kept,
                                                dropped):
    source = SourceConfig(path, form, options=options, dataset="real")
    card = build_dataset(BuildConfig("real", (source,), str(tokenizer_folder), root=str(shared_data), processes=1),
                         tmp_path / "out")
    assert (card.sources[0].kept, card.sources[0].dropped) == (kept, dropped)


@pytest.mark.slow
def test_rules_on_real_dialogues(shared_data, tmp_path, tokenizer_folder):
    """LIMA was written and picked by people: hardly a refusal; fifteen questions are Portuguese, Spanish or German."""
    rules = ("roles", "refusals", "identity", "numbering", "digits", "language", "same-query",
             {"rule": "near-query", "threshold": 0.8}, "diversity", {"rule": "split", "tokens": 4096})
    config = BuildConfig("lima", (SourceConfig("lima/lima.json.gz", "alpaca"),), str(tokenizer_folder),
                         root=str(shared_data), clean=rules, processes=1)
    card = build_dataset(config, tmp_path / "out")
    [source] = card.sources
    assert source.read + source.added == source.kept + source.left + sum(source.dropped.values())
    assert source.dropped == {"identity": 3, "language": 15, "numbering": 1, "refusals": 4}
    assert 0.08 < card.diversity["bleu"] < 0.15


@pytest.mark.slow
def test_rows_of_real_conversations_are_packed_full(shared_data, tmp_path):
    """GPT-2's own tokenizer, so that the lengths are those that one trains on."""
    sources = (SourceConfig("gpteacher/*/*.json.gz", "alpaca", dataset="gpteacher"),
               SourceConfig("halueval_general/*.jsonl.gz", "halueval", dataset="halueval"))
    tokenizer = shared_data / "tokenizers" / "gpt2_hf_json" / "gpt2.json"
    card = build_dataset(BuildConfig("real", sources, str(tokenizer), root=str(shared_data)), tmp_path / "out")
    for context in (1024, 2048):
        rows = count_batches(tmp_path / "out", LoaderConfig(context, batch=1), seed=0, epochs=1)
        assert card.tokens / (rows * context) >= 0.98
