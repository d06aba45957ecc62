"""Rows in integers, computed by hand, for every template. Ids 0-255 are bytes, 256 EOS, 257 and 258 ChatML's marks,
259 to 261 LLaMA 3's, 262 and 263 the paper's."""
import numpy as np
import pytest
from tiny_tokenizers import byte_tokenizer, control_tokenizer

from easylm_imitation.records import Conversation, Message
from easylm_imitation.schema import UserError
from easylm_imitation.text import TEMPLATES, get_template, tokenize

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
    "koala": [
        ([*b"BEGINNING OF CONVERSATION: s USER: a GPT:"], 0), ([98, 256], 1),
        ([*b"USER: c GPT:"], 0), ([100, 256], 1)],
    "gpt4all": [([*b"s\na\n"], 0), ([98, 256], 1), ([*b"\nc\n"], 0), ([100, 256], 1)],
    "dolly": [
        ([*b"s\n\n### Instruction:\na\n\n### Response:\n"], 0), ([*b"b\n\n### End", 256], 1),
        ([*b"\n\n### Instruction:\nc\n\n### Response:\n"], 0), ([*b"d\n\n### End", 256], 1)],
    "llama2": [
        ([*b"[INST] <<SYS>>\ns\n<</SYS>>\n\na [/INST]"], 0), ([32, 98, 32, 256], 1),
        ([*b"[INST] c [/INST]"], 0), ([32, 100, 32, 256], 1)],
    "llama3": [
        ([259, *SYSTEM, 260, 10, 10, 115, 261, 259, *USER, 260, 10, 10, 97, 261, 259, *ASSISTANT, 260, 10, 10], 0),
        ([98, 261], 1),
        ([259, *USER, 260, 10, 10, 99, 261, 259, *ASSISTANT, 260, 10, 10], 0), ([100, 261], 1)],
    "paper": [([115, 10, 262, 97, 263], 0), ([98, 256], 1), ([262, 99, 263], 0), ([100, 256], 1)],
    "prompt-completion": [([*b"s\na"], 0), ([32, 98, 256], 1), ([*b"\nc"], 0), ([32, 100, 256], 1)],
}


def row_of(template, messages, tokenizer=None):
    return tokenize(TEMPLATES[template], tokenizer or control_tokenizer(), Conversation("d", "x", tuple(messages)))


def test_every_template_has_a_golden_row():
    assert set(GOLDEN) == set(TEMPLATES)


@pytest.mark.parametrize("template", TEMPLATES)
def test_two_rounds_in_integers(template):
    row = row_of(template, TWO_ROUNDS)
    assert row.tokens.tolist() == [token for tokens, _ in GOLDEN[template] for token in tokens]
    assert row.loss_weights.tolist() == [weight for tokens, weight in GOLDEN[template] for _ in tokens]
    assert row.tokens.dtype == np.int32
    assert row.loss_weights.dtype == np.float32


@pytest.mark.parametrize("template", ["tulu", "vicuna", "alpaca", "plain", "koala", "gpt4all", "dolly",
                                      "prompt-completion"])
def test_a_beginning_token_stands_first_and_weighs_nothing(template):
    tokenizer = byte_tokenizer(specials=("<eos>", "<bos>"), bos="<bos>")
    row = row_of(template, TWO_ROUNDS, tokenizer)
    assert row.tokens.tolist() == [257, *(token for tokens, _ in GOLDEN[template] for token in tokens)]
    assert row.loss_weights.tolist() == [0, *(weight for tokens, weight in GOLDEN[template] for _ in tokens)]


def test_chatml_has_no_beginning_token():
    tokenizer = byte_tokenizer(specials=("<eos>", "<|im_start|>", "<|im_end|>"), bos="<eos>")
    assert row_of("chatml", TWO_ROUNDS, tokenizer).tokens[0] == 257


def test_every_round_of_llama_2_begins_anew():
    row = row_of("llama2", TWO_ROUNDS, byte_tokenizer(specials=("<eos>", "<bos>"), bos="<bos>"))
    starts = [i for i, token in enumerate(row.tokens) if token == 257]
    assert bytes(row.tokens[starts[1] + 1:starts[1] + 9].tolist()) == b"[INST] c"
    assert row.tokens[starts[1] - 1] == 256
    assert row.loss_weights[starts].tolist() == [0, 0]


@pytest.mark.parametrize(("question", "answer", "lead"), [
    ("a", "b", b" "), ("a ", "b", b""), ("a\n", "b", b""), ("a", "\nb", b""), ("a", "\tb", b""), ("a", "", b" ")])
def test_a_completion_gets_a_space_only_between_words(question, answer, lead):
    row = row_of("prompt-completion", [Message("user", question), Message("assistant", answer)])
    assert bytes(row.tokens[:-1].tolist()) == question.encode() + lead + answer.encode()


def test_the_loss_covers_what_the_name_says():
    for name in TEMPLATES:
        usual = row_of(name, TWO_ROUNDS)
        everything, last = (tokenize(get_template(f"{name}:{loss}"), control_tokenizer(),
                                     Conversation("d", "x", TWO_ROUNDS)) for loss in ("all", "last"))
        assert usual.tokens.tolist() == everything.tokens.tolist() == last.tokens.tolist()
        assert everything.loss_weights.tolist() == [0] + [1] * (len(usual.tokens) - 1)
        answer = [token for token, weight in zip(*map(np.ndarray.tolist, (last.tokens, last.loss_weights))) if weight]
        assert answer == [token for tokens, _ in GOLDEN[name][-1:] for token in tokens]
    assert get_template("tulu:answers") is TEMPLATES["tulu"]
    said = "template 'tulu:lost': the loss may cover answers, last, all, breaks; did you mean"
    with pytest.raises(UserError, match=said):
        get_template("tulu:lost")


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
    ("alpaca", "Below is an instruction that describes a task. "), ("llama2", "[INST] a [/INST] b "),
    ("koala", "BEGINNING OF CONVERSATION: USER: a GPT:b"), ("dolly", "Below is an instruction that describes a task. "),
    ("plain", "User: a"), ("tulu", "<|user|>\na")])
def test_what_opens_a_conversation_without_a_system_message(template, opening):
    row = row_of(template, [Message("user", "a"), Message("assistant", "b")])
    assert control_tokenizer().decode(row.tokens).startswith(opening)


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
