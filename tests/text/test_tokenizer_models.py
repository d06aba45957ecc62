"""`tokenizer.model` files against the libraries that define them: SentencePiece, and tiktoken."""
import base64
import functools
import json
import random
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import TEXTS

from easylm_imitation.schema import UserError
from easylm_imitation.text import load_tokenizer
from easylm_imitation.text.tokenizer_tiktoken import special_names

texts = (st.text(max_size=30) | st.text(alphabet=" catdogehousi.\n\t", max_size=40)
         | st.lists(st.sampled_from(["the", " ", "  ", "cat", "house", "é", "東", "🙂", "<s>", "\n", "7", "ﬁ", "<ctl>",
                                      "12345"]), max_size=12).map("".join))
FIXED = ["", " ", "  ", "a", " a", "a ", "  the  cat ", "the\nhouse\n\n by", "naïve 東京 🙂 𝒳", "<s>the</s>",
         "<unk> ▁ cat", "The house is by the sea.", "aaaaaaa tttthe", "\u2028x\u00a0y", "<0x41>",
         "don't I'LL 12345 6 ...!?", "x" * 300, "<ctl>the", "▁", " ▁ ", "the▁ ▁", "▁ cat", "the▁ ▁cat"]

# from Meta's reference code for LLaMA 3
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")

# how the models of the field were trained: LLaMA's way, OpenLLaMA's (spaces collapsed, NFKC), and without byte fallback
WAYS = {
    "llama": dict(normalization_rule_name="identity", remove_extra_whitespaces=False, byte_fallback=True,
                  split_digits=True, allow_whitespace_only_pieces=True),
    "nfkc": dict(byte_fallback=True),
    "no_bytes": dict(normalization_rule_name="identity"),
    "no_prefix": dict(normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
                      byte_fallback=True),
    "control": dict(normalization_rule_name="identity", remove_extra_whitespaces=False, byte_fallback=True,
                    control_symbols=["<ctl>"]),
}


@pytest.fixture(scope="module")
def trained_models(tmp_path_factory):
    """A function: (folder with a tokenizer.model, SentencePiece's own processor)."""
    spm = pytest.importorskip("sentencepiece")
    made = {}

    def train(way, **options):
        if way not in made:
            folder = tmp_path_factory.mktemp(way)
            spm.SentencePieceTrainer.train(
                sentence_iterator=iter([line for text in TEXTS * 4 for line in text.split("\n")]), minloglevel=2,
                model_prefix=str(folder / "tokenizer"), model_type="bpe", character_coverage=0.98,
                vocab_size=400 if WAYS[way].get("byte_fallback") else 120, **WAYS[way])
            made[way] = folder, spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        return made[way]
    return train


@pytest.mark.parametrize("way", WAYS)
def test_ids_and_texts_are_those_of_sentencepiece(trained_models, way):
    folder, reference = trained_models(way)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == reference.get_piece_size()
    assert (tokenizer.bos_id, tokenizer.eos_id) == (reference.bos_id(), reference.eos_id())

    @settings(max_examples=200, deadline=None)
    @given(texts)
    def agrees(text):
        text = text.replace("\0", "")       # SentencePiece's own C strings end there
        ids = reference.encode(text)
        assert tokenizer.encode(text) == ids
        if reference.unk_id() not in ids:   # SentencePiece shows it as "⁇"; special tokens vanish here
            assert tokenizer.decode(ids) == reference.decode(ids)
    agrees()
    for text in FIXED:
        assert tokenizer.encode(text) == reference.encode(text), text


def test_each_stretch_is_marked_unless_the_config_says_otherwise(trained_models, tmp_path):
    folder, reference = trained_models("llama")
    shutil.copytree(folder, tmp_path / "old")
    old = load_tokenizer(tmp_path / "old")
    eos, cat, house = [old.eos_id], reference.encode("the cat"), reference.encode("house")
    assert old.encode("the cat</s>house", parse_special=True) == cat + eos + house
    (tmp_path / "old" / "tokenizer_config.json").write_text('{"legacy": false}')
    new = load_tokenizer(tmp_path / "old")
    assert new.encode("the cat") == cat
    assert new.encode("the cat</s>house", parse_special=True) != cat + eos + house
    assert new.encode("the cat</s> house", parse_special=True) == cat + eos + house


def test_it_is_the_same_as_tokenizer_json_and_for_transformers(trained_models, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder, reference = trained_models("llama")
    tokenizer = load_tokenizer(folder)
    tokenizer.save(tmp_path / "json")
    again = load_tokenizer(tmp_path / "json")
    assert again.id == tokenizer.id
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "json")
    for text in FIXED[1:]:
        assert again.encode(text) == tokenizer.encode(text)
        wanted = [reference.bos_id(), *reference.encode(text)]
        if "<s>" not in text and "<unk>" not in text:
            assert theirs(text)["input_ids"] == wanted


def test_tokens_that_were_added_later_keep_their_ids(trained_models, tmp_path):
    folder, reference = trained_models("llama")
    shutil.copytree(folder, tmp_path / "alpaca")
    size = reference.get_piece_size()
    (tmp_path / "alpaca" / "added_tokens.json").write_text(json.dumps({"[PAD]": size}))
    (tmp_path / "alpaca" / "tokenizer_config.json").write_text('{"pad_token": "[PAD]"}')
    tokenizer = load_tokenizer(tmp_path / "alpaca")
    assert (tokenizer.pad_id, tokenizer.vocab_size) == (size, size + 1)
    (tmp_path / "alpaca" / "added_tokens.json").write_text(json.dumps({"[PAD]": size + 5}))
    with pytest.raises(UserError, match=rf"the added token '\[PAD\]' should have id {size + 5}, but would get {size}"):
        load_tokenizer(tmp_path / "alpaca")


@pytest.mark.parametrize(("change", "message"), [
    (lambda raw: raw[:-3], "not a SentencePiece model"),
    (lambda raw: b"", "not a SentencePiece model"),
    (lambda raw: b"<html></html>", "not a SentencePiece model"),
])
def test_a_damaged_model_file_is_one_clear_line(trained_models, tmp_path, change, message):
    raw = (trained_models("llama")[0] / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(change(raw))
    with pytest.raises(UserError, match=message) as error:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(("options", "fault"), [
    ({"model_type": "unigram"}, "has a model of another type than BPE"),
    ({"model_type": "bpe", "user_defined_symbols": ["[INST]"]}, "has user-defined pieces"),
    ({"model_type": "bpe", "treat_whitespace_as_suffix": True}, "has marks at the end of words"),
])
def test_what_cannot_be_converted_exactly_is_refused(tmp_path, options, fault):
    spm = pytest.importorskip("sentencepiece")
    spm.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS * 4), model_prefix=str(tmp_path / "tokenizer"),
                                   vocab_size=80, minloglevel=2, hard_vocab_limit=False, **options)
    with pytest.raises(UserError, match=f"{fault}, which cannot be converted exactly; bring its tokenizer.json"):
        load_tokenizer(tmp_path)


@functools.cache
def ranked():
    """{token: rank} learned by joining the most frequent neighbours: 256 bytes, then 120 tokens."""
    words = [list(map(lambda b: bytes([b]), word.encode())) for text in (*TEXTS, *["12 123 1234 345 45"] * 9)
             for word in text.split(" ")]
    words += [[b" ", *word] for word in words]
    ranks = {bytes([byte]): i for i, byte in enumerate(random.Random(0).sample(range(256), 256))}
    for _ in range(120):
        pairs = [pair for word in words for pair in zip(word, word[1:])]
        best = max(sorted(set(pairs)), key=pairs.count)
        ranks.setdefault(best[0] + best[1], len(ranks))
        for word in words:
            for i in range(len(word) - 1, 0, -1):
                if i < len(word) and (word[i - 1], word[i]) == best:
                    word[i - 1:i + 1] = [best[0] + best[1]]
    return ranks


@pytest.fixture
def llama3(tmp_path):
    lines = (f"{base64.b64encode(token).decode()} {rank}" for token, rank in ranked().items())
    (tmp_path / "tokenizer.model").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_ids_and_texts_are_those_of_tiktoken(llama3):
    tiktoken = pytest.importorskip("tiktoken")
    ranks = ranked()
    specials = {name: len(ranks) + i for i, name in enumerate(special_names(False))}
    reference = tiktoken.Encoding("llama3", pat_str=WORDS, mergeable_ranks=ranks, special_tokens=specials)
    tokenizer = load_tokenizer(llama3)
    assert tokenizer.vocab_size == reference.n_vocab == len(ranks) + 256
    assert tokenizer.token(tokenizer.bos_id) == "<|begin_of_text|>"
    assert tokenizer.token(tokenizer.eos_id) == "<|end_of_text|>"

    @settings(max_examples=300, deadline=None)
    @given(texts)
    def agrees(text):
        assert tokenizer.encode(text) == reference.encode(text, disallowed_special=())
        assert tokenizer.decode(tokenizer.encode(text)) == text
    agrees()
    for text in (*FIXED, "<|eot_id|>a<|begin_of_text|>"):
        assert tokenizer.encode(text) == reference.encode(text, disallowed_special=()), text
        assert tokenizer.encode(text, parse_special=True) == reference.encode(text, allowed_special="all"), text


def test_special_tokens_have_the_names_and_places_of_their_release(llama3):
    three, later = special_names(False), special_names(True)
    assert (len(set(three)), len(set(later))) == (256, 256)
    assert (three.index("<|eot_id|>"), later.index("<|eot_id|>")) == (9, 9)
    assert (three[4], three[5], three[8], three[10], three[255]) == tuple(
        f"<|reserved_special_token_{n}|>" for n in (2, 3, 4, 5, 250))
    assert (later[4], later[5], later[8], later[10], later[11], later[255]) == (
        "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|eom_id|>", "<|python_tag|>",
        "<|reserved_special_token_3|>", "<|reserved_special_token_247|>")
    (llama3 / "params.json").write_text('{"use_scaled_rope": true}')
    assert load_tokenizer(llama3).has_token("<|eom_id|>")


@pytest.mark.parametrize(("text", "message"), [("IQ== 0\nx!x 1\n", "tokenizer.model:2: not a token in base64"),
                                               ("IQ== 0\nIg== 1\n", "all 256 bytes among the tokens")])
def test_a_damaged_rank_file_is_one_clear_line(tmp_path, text, message):
    (tmp_path / "tokenizer.model").write_text(text)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)
