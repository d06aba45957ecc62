"""The exported Jinja template renders what we tokenize: in a bare sandbox, and through transformers."""
import functools

import jinja2
import jinja2.sandbox
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import KINDS, byte_tokenizer

from easylm_imitation.records import Conversation, Message
from easylm_imitation.schema import UserError
from easylm_imitation.text import TEMPLATES, chat_jinja, load_tokenizer, prompt_ids, tokenize

words = st.lists(st.sampled_from(["cat", "the", "é", "it's", 'a "quote"', "{{ x }}", "\\n", "100%", "line\nline"]),
                 min_size=1, max_size=4).map(lambda parts: "a " + " ".join(parts))
# Contents that white space surrounds: where Jinja's trim and Python's strip must agree. Answers open with a word.
loose = st.tuples(st.sampled_from(["", " ", "\n", "\t "]), words, st.sampled_from(["", " ", "\n\n"])).map("".join)


@functools.cache
def compiled(jinja):
    def refuse(message):
        raise jinja2.TemplateError(message)
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    return environment.from_string(jinja)


def render(jinja, messages, generate):
    plain = [{"role": message.role, "content": message.content} for message in messages]
    return compiled(jinja).render(messages=plain, add_generation_prompt=generate)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(template=st.sampled_from(list(TEMPLATES)), system=st.none() | words,
       questions=st.lists(loose, min_size=1, max_size=3), answers=st.lists(words, min_size=3))
def test_renderings_tokenize_to_prompts_and_rows(kind, template, system, questions, answers):
    template, tokenizer = TEMPLATES[template], KINDS[kind]()
    messages = [] if system is None else [Message("system", system)]
    if template.lead_between_words:     # a question that ends with white space may be joined with the answer
        questions = [question.strip() for question in questions]
    for question, answer in zip(questions, answers, strict=False):
        messages += [Message("user", question), Message("assistant", answer)]
    jinja = chat_jinja(template, tokenizer)
    prompt = render(jinja, messages[:-1], generate=True)
    assert tokenizer.encode(prompt, parse_special=True) == prompt_ids(template, tokenizer, messages[:-1])
    row = tokenize(template, tokenizer, Conversation("d", "x", tuple(messages)))
    assert tokenizer.encode(render(jinja, messages, generate=False), parse_special=True) == row.tokens.tolist()


def test_roles_out_of_order_are_refused_by_the_rendering():
    jinja = chat_jinja(TEMPLATES["chatml"], KINDS["trained"]())
    for roles in (("assistant",), ("user", "user"), ("user", "assistant", "system")):
        with pytest.raises(jinja2.TemplateError, match="alternate"):
            render(jinja, [Message(role, "a") for role in roles], generate=True)


def test_export_needs_the_templates_tokens():
    with pytest.raises(UserError, match="no <"):
        chat_jinja(TEMPLATES["chatml"], byte_tokenizer(specials=("<eos>",)))


MESSAGES = [Message("system", "Be brief."), Message("user", "Where's the cat?"), Message("assistant", "In the house."),
            Message("user", "And you?")]


@pytest.mark.parametrize("kind", ["trained", "llama", "llama_legacy"])
def test_transformers_builds_the_same_ids_from_a_saved_folder(kind, tmp_path):
    import transformers
    tokenizer = KINDS[kind]()
    for template in TEMPLATES.values():
        folder = tmp_path / template.name
        tokenizer.save(folder, chat_template=chat_jinja(template, tokenizer))
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        plain = [{"role": message.role, "content": message.content} for message in MESSAGES]
        made = theirs.apply_chat_template(plain, add_generation_prompt=True, tokenize=True, return_dict=True)
        assert made["input_ids"] == prompt_ids(template, tokenizer, MESSAGES)
        assert theirs.eos_token_id == tokenizer.eos_id
        assert theirs.bos_token_id == tokenizer.bos_id
        assert load_tokenizer(folder).id == tokenizer.id
