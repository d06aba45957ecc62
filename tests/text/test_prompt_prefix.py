"""The prompt a server builds is, token by token, the beginning of the training row: invariant 11."""
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import CONTROL, KINDS, byte_tokenizer

from easylm_imitation.records import Conversation, Message
from easylm_imitation.schema import UserError
from easylm_imitation.text import TEMPLATES, check_template, get_template, prompt_ids, stop_ids, tokenize
from easylm_imitation.text.rows import special_token
from easylm_imitation.text.template import Special

NASTY = ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|output|>", "[INST]", "### End",
         "<|endoftext|>", "</s>", "<s>", "<eos>", "<|user|>", "\n", " ", "User:",
         "ASSISTANT:", "cat", "the house", "é", "東", "🙂", ":", "a"]
contents = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=4)), max_size=5).map("".join)
rounds = st.lists(st.tuples(contents, contents), min_size=1, max_size=3)


def conversation_of(system, pairs):
    messages = [] if system is None else [Message("system", system)]
    for question, answer in pairs:
        messages += [Message("user", question), Message("assistant", answer)]
    return Conversation("d", "x", tuple(messages))


def ends_of(template, tokenizer, rounds, has_system):
    """How often the end token stands in a row, counted from the template."""
    end = special_token(template.end, tokenizer)
    system = (*template.system.before, *template.system.after) * has_system
    one_round = (*template.user.before, *template.user.after, *template.assistant.before, template.end)
    pieces = [*template.begin, *system, *rounds * one_round, *(rounds - 1) * template.assistant.after]
    return sum(isinstance(piece, Special) and special_token(piece, tokenizer) == end for piece in pieces)


def check_row(template, tokenizer, conversation):
    row = tokenize(template, tokenizer, conversation)
    answers = [message for message in conversation.messages if message.role == "assistant"]
    for turn, message in enumerate(conversation.messages):
        if message.role != "assistant":
            continue
        prompt = prompt_ids(template, tokenizer, conversation.messages[:turn])
        assert row.tokens[:len(prompt)].tolist() == prompt
        assert row.loss_weights[len(prompt)] == 1      # the answer (or its end token) starts right here
        assert row.loss_weights[len(prompt) - 1] == 0
    assert row.loss_weights[0] == 0
    has_system = conversation.messages[0].role == "system" or template.default_system is not None
    ends = (row.tokens == special_token(template.end, tokenizer)).sum()
    assert ends == ends_of(template, tokenizer, len(answers), has_system)   # no control token but the template's own


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(list(TEMPLATES)), system=st.none() | contents, pairs=rounds)
def test_prompts_are_prefixes_and_text_forges_nothing(kind, name, system, pairs):
    assume(name != "prompt-completion" or all(question for question, _ in pairs))    # it has no prompt but the question
    check_row(TEMPLATES[name], KINDS[kind](), conversation_of(system, pairs))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=100, deadline=None)
@given(system=st.none() | contents, pairs=rounds)
def test_prompts_are_prefixes_of_many_rows(name, kind, system, pairs):
    assume(name != "prompt-completion" or all(question for question, _ in pairs))
    check_row(TEMPLATES[name], KINDS[kind](), conversation_of(system, pairs))


@pytest.mark.parametrize("kind", KINDS)
def test_spelled_out_control_tokens_are_parsed_only_on_request(kind):
    tokenizer = KINDS[kind]()
    for name in (tokenizer.token(tokenizer.eos_id), *CONTROL):
        control = tokenizer.special_id(name)
        assert control not in tokenizer.encode(f"a{name} b")
        assert tokenizer.encode(f"a{name}b", parse_special=True).count(control) == 1
        assert tokenizer.decode(tokenizer.encode(f"a{name} b")) == f"a{name} b"


def test_prompts_must_end_with_the_user():
    for roles in (("user", "assistant"), ("system",), ("assistant", "user"), ()):
        with pytest.raises(UserError, match="messages: "):
            prompt_ids(TEMPLATES["plain"], KINDS["trained"](), [Message(role, "a") for role in roles])


def test_stop_ids_hold_the_end_token_and_the_eos():
    trained, byte_level = KINDS["trained"](), KINDS["bytes"]()
    assert stop_ids(TEMPLATES["plain"], trained) == (0,)
    assert stop_ids(TEMPLATES["chatml"], trained) == (0, trained.special_id("<|im_end|>"))
    assert stop_ids(TEMPLATES["chatml"], byte_level) == (256, 258)


def test_a_tokenizer_without_the_templates_tokens_is_refused():
    with pytest.raises(UserError, match=r"chatml.*no <\|im_end\|> or <\|im_start\|>.*plain"):
        check_template(TEMPLATES["chatml"], byte_tokenizer(specials=("<eos>",)))
    check_template(TEMPLATES["plain"], byte_tokenizer(specials=("<eos>",)))


def test_template_ids_are_names_and_digests_of_the_definition():
    ids = {template.id for template in TEMPLATES.values()}
    assert len({name.partition("@")[2] for name in ids}) == len(TEMPLATES)
    template = TEMPLATES["tulu"]
    assert get_template(template.id) is template
    with pytest.raises(UserError, match="did you mean 'vicuna'"):
        get_template("vicunna")
    with pytest.raises(UserError, match="build the data again"):
        get_template("tulu@00000000")
