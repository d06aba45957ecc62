"""A tokenizer's own Jinja template: rows, prompts and masks as its text says, or a refusal."""
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import KINDS, byte_tokenizer, control_tokenizer

from easylm_imitation.records import Conversation, Message
from easylm_imitation.schema import UserError
from easylm_imitation.text import (
    TEMPLATES,
    OwnTemplate,
    Tokenizer,
    chat_jinja,
    check_template,
    get_template,
    load_tokenizer,
    prompt_ids,
    stop_ids,
    tokenize,
)

CHATML = ("{%- for message in messages %}"
          "{{- '<|im_start|>' + message['role'] + '\n' }}"
          "{%- if message['role'] == 'assistant' %}"
          "{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}{{- '\n' }}"
          "{%- else %}{{- message['content'] + '<|im_end|>\n' }}{%- endif %}"
          "{%- endfor %}"
          "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}")
UNMARKED = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")
MESSAGES = (Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"),
            Message("assistant", "d"))


def with_chat(tokenizer, chat):
    """The same tokenizer, bringing a chat template."""
    _, arguments = tokenizer.__reduce__()
    kept = pickle.loads(pickle.dumps(tokenizer))
    kept.chat_template = chat
    assert pickle.loads(pickle.dumps(kept)).chat_template == chat
    assert len(arguments) == 5
    return kept


def own(chat, kind="bytes"):
    tokenizer = with_chat(KINDS[kind](), chat)
    return get_template("tokenizer", tokenizer), tokenizer


def learned_text(row, tokenizer):
    return tokenizer.decode(row.tokens[row.loss_weights > 0], skip_special=False)


@pytest.mark.parametrize("chat", [CHATML, UNMARKED])
def test_two_rounds_in_integers(chat):
    template, tokenizer = own(chat)
    row = tokenize(template, tokenizer, Conversation("d", "x", MESSAGES))
    ours = tokenize(TEMPLATES["chatml"], tokenizer, Conversation("d", "x", MESSAGES))
    assert row.tokens.tolist() == [*ours.tokens.tolist(), 10]       # its line break after the last end token
    assert row.loss_weights.tolist() == [*ours.loss_weights.tolist(), 0]
    assert prompt_ids(template, tokenizer, MESSAGES[:4]) == prompt_ids(TEMPLATES["chatml"], tokenizer, MESSAGES[:4])
    assert stop_ids(template, tokenizer) == (256, 258)
    assert chat_jinja(template, tokenizer) == chat


NASTY = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "</s>", "<eos>", "<|im_", "end|>", "\n", " ", "{{ 7 * 7 }}",
         "é", "🙂", "cat", "{% generation %}"]
# LLaMA's tokenizers write a space as \u2581, so that sign in a text comes back as a space
letters = st.characters(codec="utf-8", exclude_characters="\u2581")
contents = st.lists(st.one_of(st.sampled_from(NASTY), st.text(letters, max_size=3)), max_size=4).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chat", [CHATML, UNMARKED], ids=["marked", "unmarked"])
@settings(max_examples=10, deadline=None)
@given(rounds=st.lists(st.tuples(contents, contents), min_size=1, max_size=3))
def test_prompts_are_prefixes_and_text_forges_nothing(chat, kind, rounds):
    template, tokenizer = own(chat, kind)
    messages = [message for question, answer in rounds
                for message in (Message("user", question), Message("assistant", answer))]
    row = tokenize(template, tokenizer, Conversation("d", "x", tuple(messages)))
    for turn in range(1, len(messages), 2):
        prompt = prompt_ids(template, tokenizer, messages[:turn])
        assert row.tokens[:len(prompt)].tolist() == prompt
        assert row.loss_weights[len(prompt) - 1:len(prompt) + 1].tolist() == [0, 1]
    assert (row.tokens == tokenizer.special_id("<|im_end|>")).sum() == len(messages)
    # LLaMA's legacy tokenizer marks the start of each stretch with a space, which it also takes off again
    expected = "".join(f"{answer}<|im_end|>" for _, answer in rounds)
    assert learned_text(row, tokenizer).replace(" ", "") == expected.replace(" ", "")


def test_special_tokens_of_the_template_and_the_bos():
    chat = "{{- bos_token }}{%- for m in messages %}{{- '[' + m['role'] + ']' + m['content'] | trim }}" \
           "{%- if m['role'] == 'assistant' %}{{- eos_token }}{%- endif %}{%- endfor %}" \
           "{%- if add_generation_prompt %}{{- '[assistant]' }}{%- endif %}"
    tokenizer = with_chat(byte_tokenizer(specials=("<eos>", "<bos>"), bos="<bos>"), chat)
    template = get_template("tokenizer", tokenizer)
    said = (Message("user", " a<eos>"), Message("assistant", "b "))
    row = tokenize(template, tokenizer, Conversation("d", "x", said))
    assert row.tokens.tolist() == [257, *b"[user]a<eos>[assistant]b", 256]
    assert row.loss_weights.tolist() == [0] * 24 + [1, 1]


@pytest.mark.parametrize(("chat", "fault"), [
    ("{%- for m in messages %}{{ m.content }}", "line 1 is no Jinja"),
    ("{{ raise_exception('no chats here') }}", "no chats here"),
    ("{{ messages[0].content.foo.bar }}", "the conversation does not fit it"),
    ("{%- for m in messages %}{{- m.role + m.content + '<|im_end|>' }}{%- endfor %}"
     "{%- if add_generation_prompt %}{{- 'model:' }}{%- endif %}", "prompt for message 2 is not the beginning"),
    ("{%- for m in messages %}{{- m.role + ':' + m.content }}{%- endfor %}"
     "{%- if add_generation_prompt %}{{- 'assistant:' }}{%- endif %}", "no control token ends message 2"),
    (CHATML.replace("+ '<|im_end|>' }}{% endg", "}}{% endg").replace("{{- '\n' }}", "{{- '<|im_end|>\n' }}"),
     "do not hold each answer with its end token"),
    ("{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + (m.content if loop.last or m.role == 'user' else '')"
     " + '<|im_end|>' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}",
     "do not hold each answer|not the beginning"),
    (None, "no chat template of its own"),
])
def test_templates_that_give_no_rows_are_refused(chat, fault):
    with pytest.raises(UserError, match=fault):
        check_template(*own(chat))


def test_the_sandbox_reaches_nothing():
    for chat in ("{{ messages.__class__.__mro__ }}", "{{ ''.__class__.__base__.__subclasses__() }}",
                 "{{ cycler.__init__.__globals__ }}", "{{ messages.append(1) }}"):
        with pytest.raises(UserError):
            check_template(*own(chat))


def test_its_identity_is_its_text():
    template, tokenizer = own(CHATML)
    assert isinstance(template, OwnTemplate)
    assert template.id == get_template(template.id, tokenizer).id != own(UNMARKED)[0].id
    assert get_template("tokenizer:last", tokenizer).id not in ("", template.id)
    with pytest.raises(UserError, match="defined otherwise"):
        get_template("tokenizer@00000000", tokenizer)
    with pytest.raises(UserError, match="comes with a tokenizer"):
        get_template("tokenizer")


def test_what_we_exported_is_recognised(tmp_path):
    for name in ("tulu", "llama3", "vicuna:last"):
        template = get_template(name)
        control_tokenizer().save(tmp_path / "t", chat_template=chat_jinja(template, control_tokenizer()))
        assert get_template("tokenizer", load_tokenizer(tmp_path / "t")) == template
    other = chat_jinja(TEMPLATES["tulu"], control_tokenizer()).replace(TEMPLATES["tulu"].id, "tulu@00000000")
    assert isinstance(get_template("tokenizer", with_chat(control_tokenizer(), other)), OwnTemplate)


def test_a_folder_brings_its_template(tmp_path):
    tokenizer: Tokenizer = byte_tokenizer()
    tokenizer.save(tmp_path, chat_template=CHATML)
    assert load_tokenizer(tmp_path).chat_template == CHATML
    several = [{"name": "tools", "template": "no"}, {"name": "default", "template": "yes"}]
    tokenizer.save(tmp_path, chat_template=several)
    assert load_tokenizer(tmp_path).chat_template == "yes"
    (tmp_path / "chat_template.jinja").write_text(UNMARKED)
    assert load_tokenizer(tmp_path).chat_template == UNMARKED
    tokenizer.save(tmp_path / "none")
    assert load_tokenizer(tmp_path / "none").chat_template is None


def test_masks_are_those_of_transformers(tmp_path):
    """assistant_masks, where nobody spells out a control token."""
    import transformers
    template, tokenizer = own(CHATML, "trained")
    tokenizer.save(tmp_path, chat_template=CHATML)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        [{"role": message.role, "content": f"the {message.content}"} for message in MESSAGES], tokenize=True,
        return_dict=True, return_assistant_tokens_mask=True)
    said = tuple(Message(message.role, f"the {message.content}") for message in MESSAGES)
    row = tokenize(template, tokenizer, Conversation("d", "x", said))
    assert row.tokens.tolist() == theirs["input_ids"]
    assert row.loss_weights.tolist() == theirs["assistant_masks"]
