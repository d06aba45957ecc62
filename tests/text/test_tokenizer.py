"""Tokenizers: reading, writing, identity, streaming, threads."""
import concurrent.futures
import json
import pickle
import random
import shutil

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import KINDS, TEXTS, byte_tokenizer, trained

from easylm_imitation.schema import UserError
from easylm_imitation.text import Tokenizer, load_tokenizer, train_bpe


@pytest.mark.parametrize("kind", KINDS)
def test_save_load_and_pickle_keep_the_identity(kind, tmp_path):
    tokenizer = KINDS[kind]()
    tokenizer.save(tmp_path / "t")
    for other in (load_tokenizer(tmp_path / "t"), pickle.loads(pickle.dumps(tokenizer))):
        assert (other.id, other.bos_id, other.eos_id, other.pad_id, other.vocab_size) == (
            tokenizer.id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size)
        assert other.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


def test_a_folders_own_tokenizer_goes_before_one_below_it(tmp_path):
    own, below = byte_tokenizer(), byte_tokenizer(merges=((97, 98),))
    below.save(tmp_path / "tokenizer")
    assert load_tokenizer(tmp_path).id == below.id
    own.save(tmp_path)
    assert load_tokenizer(tmp_path).id == own.id


def test_identity_tells_tokenizers_apart():
    ids = [KINDS[kind]().id for kind in KINDS] + [byte_tokenizer(merges=((97, 98),)).id, byte_tokenizer(bos="<eos>").id,
                                                   byte_tokenizer(specials=("<eos>", "<other>", "<|im_end|>")).id]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=30) | st.text(alphabet=" catdog\n", max_size=30), specials=st.lists(st.integers(0, 30)))
def test_decoding_gives_the_text_back_whole_and_in_a_stream(kind, text, specials):
    tokenizer = KINDS[kind]()
    ids = tokenizer.encode(text)
    for place in specials:
        ids.insert(place, tokenizer.special_id("<|im_end|>"))    # vanishes in the text
    whole = tokenizer.decode(ids)
    if kind in ("bytes", "trained"):
        assert whole == text
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.finish() == whole


def test_a_stream_holds_back_incomplete_characters():
    tokenizer, stream = byte_tokenizer(), byte_tokenizer().stream()
    assert [stream.push(token) for token in "é🙂".encode()] == ["", "é", "", "", "", "🙂"]
    assert [stream.push(token) for token in b"a\xc3"] == ["a", ""]
    assert stream.finish() == "\ufffd"
    assert tokenizer.stream().finish() == ""


def test_special_tokens_vanish_in_decoding_unless_asked_for():
    tokenizer = byte_tokenizer()
    assert tokenizer.decode([97, 256, 98]) == "ab"
    assert tokenizer.decode([97, 256, 98], skip_special=False) == "a<eos>b"
    assert tokenizer.token(256) == "<eos>"


def test_threads_that_parse_and_threads_that_do_not_never_disturb_each_other():
    tokenizer = trained()
    text = "a <|im_end|> b <|endoftext|> " * 20
    expected = {parse: tokenizer.encode(text, parse_special=parse) for parse in (False, True)}
    assert expected[False] != expected[True]
    flags = [bool(random.Random(i).getrandbits(1)) for i in range(400)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda parse: tokenizer.encode(text, parse_special=parse), flags)
        assert [expected[flag] for flag in flags] == list(results)


def test_runs_of_spaces_are_not_named_among_the_known_tokens():
    """GPT-NeoX's tokenizer has them as added tokens, before its others."""
    backend = tokenizers.Tokenizer.from_str(trained().definition)
    backend.add_tokens([" " * count for count in range(2, 20)])
    with pytest.raises(UserError) as error:
        Tokenizer(backend, eos="<|im_end|>").special_id("zzz")
    assert "   " not in str(error.value)
    assert "<|im_end|>" in str(error.value)


@pytest.mark.parametrize(("call", "message"), [
    (lambda t: t.encode("half \ud800 a pair"), "no UTF-8 form"),
    (lambda t: t.special_id("<|im_ned|>"), r"no token '<\|im_ned\|>'; did you mean '<\|im_end\|>'"),
    (lambda t: t.token(10**6), "token id 1000000")])
def test_errors_name_the_value(call, message):
    with pytest.raises(UserError, match=message):
        call(trained())


def test_training_is_deterministic_and_puts_specials_and_bytes_first():
    first, second = (train_bpe(TEXTS * 4, 300, ("</s>", "<s>", "<pad>")) for _ in range(2))
    assert first.id == second.id
    assert (first.eos_id, first.bos_id, first.pad_id, first.vocab_size) == (0, 1, 2, 300)
    assert len(first.encode(TEXTS[0])) < len(TEXTS[0].encode())
    with pytest.raises(UserError, match="vocab_size 200"):
        train_bpe(TEXTS, 200)


def write(folder, name, content):
    (folder / name).write_text(json.dumps(content))


def test_opts_files_alone_end_with_its_own_end_token(tmp_path):
    made = {name: i for i, name in enumerate(["<s>", "<pad>", "</s>", "<unk>", "a", "b", "<|endoftext|>"])}
    write(tmp_path, "vocab.json", made)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id) == (2, 2, 1)
    write(tmp_path, "vocab.json", {name: 6 - i for name, i in made.items()})      # the names alone do not tell
    assert load_tokenizer(tmp_path).eos_id == 0


def test_where_special_tokens_come_from(tmp_path):
    trained().save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "special_tokens_map.json").unlink()
    assert load_tokenizer(tmp_path).eos_id == 0                                       # a well-known name
    write(tmp_path, "config.json", {"eos_token_id": [2, 0], "bos_token_id": 1})
    assert (load_tokenizer(tmp_path).eos_id, load_tokenizer(tmp_path).bos_id) == (2, 1)
    write(tmp_path, "tokenizer_config.json", {"eos_token": {"content": "<|im_end|>"}, "bos_token": None})
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.eos_id, tokenizer.bos_id) == (trained().special_id("<|im_end|>"), None)   # null says: none


def test_control_tokens_that_a_file_forgot_to_mark_are_still_not_forged(tmp_path):
    trained().save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["special"] = False
    write(tmp_path, "tokenizer.json", content)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.special_id("<|im_end|>") not in tokenizer.encode("a <|im_end|>")


def test_folders_that_are_no_tokenizer(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(UserError, match="neither tokenizer.json nor"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="not readable"):
        load_tokenizer(tmp_path)
    byte_tokenizer(specials=("<stop>",)).save(tmp_path / "odd")
    shutil.copy(tmp_path / "odd" / "tokenizer.json", tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="no end token"):
        load_tokenizer(tmp_path)
    write(tmp_path, "tokenizer_config.json", {"eos_token": "<gone>"})
    with pytest.raises(UserError, match="no token '<gone>'"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(("name", "end"), [("gpt2_hf_json", "<|endoftext|>"), ("gpt2_opt", "</s>"),
                                           ("gpt_neox_20b", "<|endoftext|>")])
def test_real_tokenizers_give_text_back(shared_data, name, end):
    tokenizer = load_tokenizer(shared_data / "tokenizers" / name)
    text = f"Hello  world,\n\n{end} it's 東京\t🙂 123."
    assert tokenizer.token(tokenizer.eos_id) == end
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_id not in tokenizer.encode(text)
    assert tokenizer.eos_id in tokenizer.encode(text, parse_special=True)


def test_gpt2_from_either_form_gives_its_published_ids(shared_data):
    for name in ("gpt2_hf_json", "gpt2_opt"):
        tokenizer = load_tokenizer(shared_data / "tokenizers" / name)
        ids = [tokenizer.token(token) for token in tokenizer.encode("The capital of France is")]
        assert ids == ["The", "Ġcapital", "Ġof", "ĠFrance", "Ġis"]
    assert load_tokenizer(shared_data / "tokenizers" / "gpt2_hf_json").encode("Hello world") == [15496, 995]


@pytest.mark.parametrize("begins", [True, False, None])
def test_texts_begin_as_the_config_of_opt_says(tmp_path, begins):
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3, "b": 4, "ab": 5}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    names = {"bos_token": {"content": "</s>"}, "eos_token": "</s>", "pad_token": "<pad>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**names, "add_bos_token": begins}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("ab") == [5]        # our templates add what begins a row themselves
    tokenizer.save(tmp_path / "out")
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).encode("ab").ids == (
        [2, 5] if begins else [5])


@pytest.mark.parametrize("file", [True, False])
@pytest.mark.parametrize("config", [True, False, None])
def test_texts_begin_as_for_transformers(tmp_path, file, config):
    """tokenizer.json decides, whatever the config beside it says (transformers 5)."""
    transformers = pytest.importorskip("transformers")
    trained().beginning(file).save(tmp_path, said={} if config is None else {"add_bos_token": config})
    tokenizer = load_tokenizer(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)("the cat")["input_ids"]
    assert tokenizer.begins == file
    assert theirs == [tokenizer.bos_id] * tokenizer.begins + tokenizer.encode("the cat")
    assert tokenizer.id == trained().id     # rows have the same ids either way
    assert pickle.loads(pickle.dumps(tokenizer)).begins == tokenizer.begins
    assert not byte_tokenizer().beginning(True).begins      # it has no such token
