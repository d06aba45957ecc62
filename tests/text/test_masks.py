"""What carries loss decodes to the assistant's text and its end tokens: any dialogue, template and tokenizer."""
import functools
import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import KINDS

from easylm_imitation.records import Conversation, Message
from easylm_imitation.schema import UserError
from easylm_imitation.text import TEMPLATES, get_template, load_tokenizer, stop_ids, tokenize
from easylm_imitation.text.rows import check_template, special_token
from easylm_imitation.text.template import EOS

NASTY = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "</s>", "<s>", "<|eot_id|>", "<|query|>", "[INST]", "### End",
         "\n", "\n\n", " ", "  ", "\t", "\u3000", "\u200d", "User:", "GPT:", "USER: ", "cat", "é", "e\u0301", "東京",
         "🙂", "👩‍🚀", "\u202eright", "\x00", "\ufffd", "a" * 40]
contents = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=6)), max_size=6).map("".join)
dialogues = st.tuples(st.none() | contents, st.lists(st.tuples(contents, contents), min_size=1, max_size=3))


def conversation_of(system, pairs):
    messages = [] if system is None else [Message("system", system)]
    for question, answer in pairs:
        messages += [Message("user", question), Message("assistant", answer)]
    return Conversation("d", "x", tuple(messages))


def answers_of(row, template, tokenizer):
    """The texts that carry loss, each without its end token; every one must have ended with it."""
    end, answers, held = special_token(template.end, tokenizer), [], []
    before_it = tokenizer.encode("a")       # SentencePiece's decoder takes a space off the start of what it decodes
    for token, weight, before in zip(row.tokens.tolist(), row.loss_weights, [0.0, *row.loss_weights]):
        if not weight:
            assert not (before and held), "an answer broke off"
            continue
        if token == end:
            answers.append(tokenizer.decode(before_it + held, skip_special=False)[1:])
            held = []
        else:
            held.append(token)
    assert not held
    return answers


def expected(template, pairs):
    """The assistant's texts as the template has them, with what opens and closes each."""
    def cut(text):
        return text.strip() if template.strip else text
    return [template.lead_of(cut(q), cut(a)) + cut(a) + template.tail for q, a in pairs]


def composed(texts):
    return [unicodedata.normalize("NFC", text) for text in texts]


def check(template, tokenizer, dialogue, exact=True):
    system, pairs = dialogue
    assume(template.name != "prompt-completion" or all(question for question, _ in pairs))
    row = tokenize(template, tokenizer, conversation_of(system, pairs))
    said, wanted = answers_of(row, template, tokenizer), expected(template, pairs)
    if exact == "composed":     # GPT-NeoX's tokenizer composes characters before it encodes them
        assert composed(said) == composed(wanted)
    elif exact:
        assert said == wanted
    else:       # LLaMA's legacy tokenizer puts a space before each stretch of text
        assert all(text in (want, " " + want) for text, want in zip(said, wanted, strict=True))
    assert row.loss_weights[0] == 0
    assert set(row.loss_weights.tolist()) <= {0.0, 1.0}
    assert template.end == EOS or special_token(template.end, tokenizer) in stop_ids(template, tokenizer)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(list(TEMPLATES)), dialogue=dialogues)
def test_what_carries_loss_is_what_the_assistant_said(kind, name, dialogue):
    check(TEMPLATES[name], KINDS[kind](), dialogue, exact=kind != "llama_legacy")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tulu", "chatml"])
def test_the_break_after_an_answer_may_carry_loss_as_open_instructs_does(kind, name):
    tokenizer, said = KINDS[kind](), conversation_of("s", [("a", "b"), ("c", "d\n"), ("e", "f")])
    usual, breaks = (tokenize(get_template(f"{name}:{loss}"), tokenizer, said) for loss in ("answers", "breaks"))
    assert breaks.tokens.tolist() == usual.tokens.tolist()
    more = [i for i, (one, other) in enumerate(zip(usual.loss_weights, breaks.loss_weights)) if one != other]
    assert tokenizer.decode(usual.tokens[more].tolist(), skip_special=False).replace(" ", "") == "\n\n"
    end = special_token(get_template(name).end, tokenizer)
    assert sum(usual.tokens[i - 1] == end for i in more) == 2       # two of three answers have a turn after them
    with pytest.raises(UserError, match="template 'vicuna:breaks': no line break follows its end token"):
        get_template("vicuna:breaks")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=200, deadline=None)
@given(dialogue=dialogues)
def test_the_same_of_many_dialogues(name, kind, dialogue):
    check(TEMPLATES[name], KINDS[kind](), dialogue, exact=kind != "llama_legacy")


@functools.cache
def real(folder):
    return load_tokenizer(folder)


@pytest.mark.parametrize("which", ["gpt2_hf_json", "gpt2_opt", "gpt_neox_20b"])
@settings(max_examples=50, deadline=None)
@given(name=st.sampled_from([name for name, template in TEMPLATES.items() if not template.specials()]),
       dialogue=dialogues)
def test_the_same_of_real_tokenizers(shared_data, which, name, dialogue):
    tokenizer = real(shared_data / "tokenizers" / which)
    check_template(TEMPLATES[name], tokenizer)
    check(TEMPLATES[name], tokenizer, dialogue, exact="composed" if which == "gpt_neox_20b" else True)
