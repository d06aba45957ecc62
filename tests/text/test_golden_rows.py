"""Rows in integers, computed by hand, for every template. Ids 0-255 are bytes, 256 EOS, 257 and 258 ChatML's marks."""
import numpy as np
import pytest
from tiny_tokenizers import byte_tokenizer

from easylm_imitation.records import Conversation, Message
from easylm_imitation.schema import UserError
from easylm_imitation.text import TEMPLATES, tokenize

TWO_ROUNDS = (Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"),
              Message("assistant", "d"))
USER, ASSISTANT = [117, 115, 101, 114], [97, 115, 115, 105, 115, 116, 97, 110, 116]     # "user", "assistant"
SYSTEM = [115, 121, 115, 116, 101, 109]                                                  # "system"

# Each entry: (tokens, loss weight) in order; BOS aside, which the byte tokenizer lacks.
GOLDEN = {
    "chatml": [
        ([257, *SYSTEM, 10, 115, 258, 10, 257, *USER, 10, 97, 258, 10, 257, *ASSISTANT, 10], 0), ([98, 258], 1),
        ([10, 257, *USER, 10, 99, 258, 10, 257, *ASSISTANT, 10], 0), ([100, 258], 1)],
    "tulu": [
        ([60, 124, *SYSTEM, 124, 62, 10, 115, 10, 60, 124, *USER, 124, 62, 10, 97, 10,
          60, 124, *ASSISTANT, 124, 62, 10], 0), ([98, 256], 1),
        ([10, 60, 124, *USER, 124, 62, 10, 99, 10, 60, 124, *ASSISTANT, 124, 62, 10], 0), ([100, 256], 1)],
    "vicuna": [
        ([115, 32, 85, 83, 69, 82, 58, 32, 97, 32, 65, 83, 83, 73, 83, 84, 65, 78, 84, 58], 0), ([32, 98, 256], 1),
        ([85, 83, 69, 82, 58, 32, 99, 32, 65, 83, 83, 73, 83, 84, 65, 78, 84, 58], 0), ([32, 100, 256], 1)],
    "alpaca": [
        ([115, 10, 10, 35, 35, 35, 32, 73, 110, 115, 116, 114, 117, 99, 116, 105, 111, 110, 58, 10, 97, 10, 10,
          35, 35, 35, 32, 82, 101, 115, 112, 111, 110, 115, 101, 58], 0), ([98, 256], 1),
        ([10, 10, 35, 35, 35, 32, 73, 110, 115, 116, 114, 117, 99, 116, 105, 111, 110, 58, 10, 99, 10, 10,
          35, 35, 35, 32, 82, 101, 115, 112, 111, 110, 115, 101, 58], 0), ([100, 256], 1)],
    "plain": [
        ([115, 10, 85, 115, 101, 114, 58, 32, 97, 10, 65, 115, 115, 105, 115, 116, 97, 110, 116, 58], 0),
        ([32, 98, 256], 1),
        ([10, 85, 115, 101, 114, 58, 32, 99, 10, 65, 115, 115, 105, 115, 116, 97, 110, 116, 58], 0),
        ([32, 100, 256], 1)],
}


def row_of(template, messages, tokenizer=None):
    return tokenize(TEMPLATES[template], tokenizer or byte_tokenizer(), Conversation("d", "x", tuple(messages)))


def test_every_template_has_a_golden_row():
    assert set(GOLDEN) == set(TEMPLATES)


@pytest.mark.parametrize("template", TEMPLATES)
def test_two_rounds_in_integers(template):
    row = row_of(template, TWO_ROUNDS)
    assert row.tokens.tolist() == [token for tokens, _ in GOLDEN[template] for token in tokens]
    assert row.loss_weights.tolist() == [weight for tokens, weight in GOLDEN[template] for _ in tokens]
    assert row.tokens.dtype == np.int32
    assert row.loss_weights.dtype == np.float32


@pytest.mark.parametrize("template", ["tulu", "vicuna", "alpaca", "plain"])
def test_a_beginning_token_stands_first_and_weighs_nothing(template):
    tokenizer = byte_tokenizer(specials=("<eos>", "<bos>"), bos="<bos>")
    row = row_of(template, TWO_ROUNDS, tokenizer)
    assert row.tokens.tolist() == [257, *(token for tokens, _ in GOLDEN[template] for token in tokens)]
    assert row.loss_weights.tolist() == [0, *(weight for tokens, weight in GOLDEN[template] for _ in tokens)]


def test_chatml_has_no_beginning_token():
    tokenizer = byte_tokenizer(specials=("<eos>", "<|im_start|>", "<|im_end|>"), bos="<eos>")
    assert row_of("chatml", TWO_ROUNDS, tokenizer).tokens[0] == 257


def test_the_worked_example_of_tokenize():
    row = row_of("plain", [Message("user", "a"), Message("assistant", "b")])
    example = """tokens        85 115 101 114 58 32 97 10 65 115 115 105 115 116 97 110 116 58 | 32 98 256
        loss_weights   0   0   0   0  0  0  0  0  0   0   0   0   0   0  0   0   0  0 |  1  1   1"""
    assert example in tokenize.__doc__
    tokens, weights = (line.split()[1:] for line in example.splitlines())
    assert row.tokens.tolist() == [int(token) for token in tokens if token != "|"]
    assert row.loss_weights.tolist() == [float(weight) for weight in weights if weight != "|"]


@pytest.mark.parametrize(("template", "opening"), [
    ("chatml", "system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    ("vicuna", "A chat between a curious user and an artificial intelligence assistant. "),
    ("alpaca", "Below is an instruction that describes a task. "), ("plain", "User: a"), ("tulu", "<|user|>\na")])
def test_what_opens_a_conversation_without_a_system_message(template, opening):
    row = row_of(template, [Message("user", "a"), Message("assistant", "b")])
    assert byte_tokenizer().decode(row.tokens).startswith(opening)


def test_contents_are_stripped_where_the_original_does_and_kept_elsewhere():
    messages = [Message("user", " a\n"), Message("assistant", "\n b ")]
    kept, stripped = row_of("chatml", messages), row_of("tulu", messages)
    assert kept.tokens[kept.loss_weights > 0].tolist() == [10, 32, 98, 32, 258]
    assert stripped.tokens[stripped.loss_weights > 0].tolist() == [98, 256]
    assert [10, 97, 10] == stripped.tokens.tolist()[8:11]


def test_an_answer_is_a_piece_of_its_own():
    tokenizer = byte_tokenizer(specials=("<eos>", "<|im_start|>", "<|im_end|>"), merges=((10, 98),), use_regex=False)
    row = row_of("chatml", [Message("system", "\nb"), Message("user", "a"), Message("assistant", "b\nb")], tokenizer)
    assert row.tokens.tolist()[:11] == [258, *SYSTEM, 10, 256, 259, 10]   # "\n" + "b" is 256 inside a text,
    assert row.tokens.tolist()[-4:] == [10, 98, 256, 259]               # and "\n" | "b" before an answer
    assert row.loss_weights.tolist()[-4:] == [0, 1, 1, 1]


def test_a_document_is_learned_but_for_its_first_token():
    without = row_of("chatml", [Message("document", "ab")])
    assert without.tokens.tolist() == [97, 98, 256]
    assert without.loss_weights.tolist() == [0, 1, 1]
    bos = byte_tokenizer(specials=("<eos>", "<bos>"), bos="<bos>")
    row = row_of("plain", [Message("document", "ab")], bos)
    assert row.tokens.tolist() == [257, 97, 98, 256]
    assert row.loss_weights.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(("roles", "fault"), [
    ((), "no messages"), (("system",), "nothing but a system message"),
    (("assistant",), r"roles do not alternate \(message 1 of 1 is from 'assistant', not 'user'\)"),
    (("system", "user", "user"), r"roles do not alternate \(message 3 of 3 is from 'user', not 'assistant'\)"),
    (("user", "assistant", "system"), r"roles do not alternate \(message 3 of 3 is from 'system', not 'user'\)"),
    (("user",), "no answer at its end"), (("document", "user"), "a document beside other messages")])
def test_conversations_out_of_order_are_refused_by_name(roles, fault):
    with pytest.raises(UserError, match=f"conversation 'x': {fault}"):
        row_of("plain", [Message(role, "t") for role in roles])
