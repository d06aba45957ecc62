"""Each cleaning rule on a conversation: what it mends, drops and lets pass, and how the original pipelines differ."""
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easylm_imitation.data.clean import steps_of, whole_steps
from easylm_imitation.data.rules import RULES, Count
from easylm_imitation.data.sources import Drop
from easylm_imitation.records import Conversation, Message
from easylm_imitation.schema import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
COUNT = Count(lambda messages: sum(len(m.content) for m in messages), len)


def dialogue(*texts, system=""):
    messages = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
    return Conversation("d", "c", tuple([Message("system", system)] * bool(system) + messages))


def spoken(*turns):
    names = {"U": "user", "A": "assistant", "S": "system"}
    return Conversation("d", "c", tuple(Message(names[turn[0]], turn[1:]) for turn in turns))


def result(rule, conversation, **options):
    [step] = steps_of([{"rule": rule, **options}])
    return step.result(conversation, COUNT)


def texts(conversation):
    return [message.content for message in conversation.messages]


PAGE = ('<div class="markdown"><p>Use <strong>x_y</strong> and 2*3:</p><pre><div class="bg"><div><span>python</span>'
        '<button>Copy code</button></div><div><code class="hljs language-python"><span>if</span> a &lt; 2:\n'
        '    pass\n</code></div></div></pre><ol><li>One</li><li>Two</li></ol></div>')


def test_html_becomes_markdown_with_code_as_it_was():
    made = result("html", dialogue("2 / 2Is a < b?\n  yes_no", PAGE))
    assert texts(made) == ["Is a < b?\n  yes_no",
                           "Use **x_y** and 2*3:\n\n```python\nif a < 2:\n    pass\n```\n\n1. One\n2. Two"]
    plain = dialogue("1 / 2 of it? if a < b and b > c", "Half: *a_b*.\n\n```\nx <= y\n```")
    assert result("html", plain) == plain
    original = texts(result("html", dialogue("1 / 2 of it", PAGE), like="fastchat"))
    assert original[0] == "of it"
    assert original[1].startswith("Use **x\\_y** and 2\\*3:\n\n```python\nif a < 2:")


@pytest.mark.parametrize("like", ["", "fastchat"])
def test_html_that_is_nested_without_end_is_dropped(like):
    deep = "<ul>" + "<li>item\n" * 2000
    with pytest.raises(Drop, match="nested too deep"):
        result("html", dialogue("Q", deep), **({"like": like} if like else {}))


def test_html_leaves_text_and_code_that_name_tags():
    page = "Fix my page:\n<div>\n  <p>Hi</p>\n</div>"
    answers = ["    #include <a.h>\n    int main();", "if a <b and c> d:\n    pass", "Write `<br>` there.", "A &lt; B"]
    for answer in answers:
        assert texts(result("html", dialogue(page, answer))) == [page, answer]
    assert texts(result("html", dialogue("<p>Hi</p>", "<h2 class='a'>A</h2>\n<p>b</p>"))) == ["<p>Hi</p>", "## A\n\nb"]
    assert texts(result("html", dialogue("<p>Hi</p>", "<b>A</b>"), turns="all")) == ["Hi", "**A**"]
    assert texts(result("html", dialogue("Q", "So:\n\npython\nCopy code\nx = 1"))) == ["Q", "So:\n\npython\nx = 1"]


@pytest.mark.parametrize(("before", "after"), [
    (("AHi", "UQ", "AA", "UQ2"), ("UQ", "AA")), (("UQ", "UQ2", "AA"), ("UQ\n\nQ2", "AA")),
    (("SS", "UQ", "AA", "AB"), ("SS", "UQ", "AA\n\nB")), (("UQ", "AA", "UQ2", "A ", "UQ3", "AC"), ("UQ", "AA")),
    (("UQ", "AA"), ("UQ", "AA"))])
def test_roles_are_mended(before, after):
    assert result("roles", spoken(*before)) == spoken(*after)


@pytest.mark.parametrize(("turns", "options", "reason"), [
    (("UQ", "UQ2"), {}, "no question with an answer"), (("AA",), {}, "no question"),
    (("UQ", "UQ2", "AA"), {"repeated": "drop"}, "two turns of 'user'")])
def test_roles_beyond_mending(turns, options, reason):
    with pytest.raises(Drop, match=reason):
        result("roles", spoken(*turns), **options)


@pytest.mark.parametrize(("rule", "options", "kept", "dropped"), [
    ("refusals", {}, ("I cannot help it.", "He " + "very " * 20 + "often said: I cannot help you."),
     ("Q", "I\u2019m sorry, but I cannot do that.")),
    ("refusals", {"where": "anywhere"}, ("Q", "Fine."), ("Q", "x" * 200 + " As an AI language model, I don't eat.")),
    ("refusals", {"phrases": ["no+pe"]}, ("Q", "I'm sorry, but I cannot."), ("Q", "NOOPE")),
    ("refusals", {"like": "gpt4all"}, ("Q", "I'm sorry, but I cannot do that."),
     ("Q", "x" * 200 + " by an AI language model")),
    ("identity", {}, ("Tell me of ChatGPT by OpenAI.", "It is a program."), ("Q", "I am ChatGPT.")),
    ("identity", {}, ("As an AI language model, who are you?", "A friend."), ("Q", "I was trained by OpenAI.")),
    ("identity", {"like": "fastchat"}, ("What is GPT-3?", "Code."), ("Is OPENAI big?", "Yes.")),
    ("identity", {"like": "koala"}, ("What is GPT 3?", "Code."), ("What is GPT-3?", "Code.")),
    ("numbering", {}, ("Q", "1. a\n2. b\n1. c\n2. d"), ("Q", "1. a\n1. b")),
    ("numbering", {"like": "fastchat"}, ("Q", "\n1. in 2001\n1. b"), ("\n1. a\n1. b", "A")),
    ("digits", {}, ("Q", "12345678" * 3), ("Q", "1.000000000")),
    ("language", {}, ("Where is the library?", "It stands beside the old market square."),
     ("Wo ist die Bibliothek?", "Sie steht neben dem alten Marktplatz in der Stadt.")),
    ("language", {"keep": [], "skip": ["ko"]}, ("Wo ist die Bibliothek?", "Sie steht neben dem Markt in der Stadt."),
     ("도서관은 어디에 있습니까?", "도서관은 시장 광장 옆에 있습니다. 매일 아침 아홉 시에 문을 엽니다.")),
    ("language", {}, ("¿Qué?", "Sí."), ("Где библиотека?", "Она стоит рядом со старой рыночной площадью.")),
    ("length", {}, ("A question?", "An answer."), ("Q", "A")),
    ("length", {"least": 1, "most": 9}, ("Q", "A"), ("Q", "A" * 9)),
    ("length", {"least": 1, "answer_least": 3}, ("Q", "Yes"), ("Q", "No ")),
    ("length", {"least": 1, "rounds_most": 1}, ("Q", "A"), ("Q", "A", "Q", "A")),
    ("tokens", {"least": 2, "most": 3}, ("Q", "A"), ("Q", "AAA"))])
def test_what_a_rule_drops_and_lets_pass(rule, options, kept, dropped):
    conversation = dialogue(*kept)
    assert result(rule, conversation, **options) in (conversation, [conversation])
    with pytest.raises(Drop) as caught:
        result(rule, dialogue(*dropped), **options)
    assert caught.value.reason == rule
    assert caught.value.detail


REFUSED = [
    "I'm unable to help with that.", "I\u2019m really sorry, but I can\u2019t do that", "I cannot fulfil this request.",
    "I must decline to answer.", "I must respectfully decline this request.", "I won't be able to assist you.",
    "As a language model, I don't have opinions", "As an AI, I'm not able to feel.",
    "As an AI assistant, I have no body.",
    "Sorry, I am an AI language model and do not have the ability to draw.", "Sorry, but I cannot go on.",
    "I'm sorry, I cannot browse the internet.", "Sorry, as an AI language model, I'm unable to open links.",
    "Unfortunately, as a language model AI, I do not have eyes.", "I am an AI language model and cannot see it.",
    "I apologize, but as an AI I see nothing.", "I can't help you with that."]
ANSWERED = [
    "I cannot recommend this book enough.", "As a language, French is spoken by many.", "I must decline the noun.",
    "I can't help but admire it.", "I cannot help it.", "I can't help laughing.", "I'm sorry to hear that. Try again.",
    "Dear Sir, I must decline your invitation, as I am away.", "I'm unable to attend the meeting.",
    "Sorry, I can't believe it!", "As an AI language model, I can give you a list:", "I have to decline to swim alone.",
    "As an AI researcher, I don't fear it.", "We are sorry for the delay.", "I can't access my mail."]
SELVES = [
    "I am Claude, made by Anthropic.", "I'm Claude, an AI assistant.", "As a language model, I know many words.",
    "As an AI, I don't have feelings", "I am an artificial intelligence language model", "I'm just an AI.",
    "I am a large language model.", "As an artificial intelligence, my answers are short.",
    "I am Gemma, a model that was trained by Google.", "As an AI-powered chatbot, I learn.", "I\u2019m an AI."]
OTHERS = [
    "I am Claude, a painter of gardens.", "My name is Claude.", "As an AI researcher, I publish.",
    "I am an AI engineer.",
    "GPT-2 may serve as a language model.", "As a language, French has genders.", "Go was made by Google.",
    "I am an aide.", "I'm an airline pilot.", "It was as an AI that it was sold.", "I am a language teacher."]


@pytest.mark.parametrize(("rule", "caught", "left"), [("refusals", REFUSED, ANSWERED), ("identity", SELVES, OTHERS)])
def test_what_counts_as_a_refusal_and_as_naming_oneself(rule, caught, left):
    def drops(answer):
        try:
            return not result(rule, dialogue("Q", answer))
        except Drop:
            return True
    assert ([text for text in caught if not drops(text)], [text for text in left if drops(text)]) == ([], [])


def test_lists_of_names_and_code_are_not_taken_for_rare_languages():
    states = "1. Alabama\n2. Alaska\n3. Arizona\n4. Arkansas\n5. California\n6. Colorado\n7. Connecticut\n8. Delaware"
    for question, answer in (("Output the names of the US states", states),
                             ("Write a Python code to print \"Hello World\" 5 times.",
                              "for i in range(5):\n    print(\"Hello World\")")):
        assert result("language", dialogue(question, answer)) == dialogue(question, answer)
    with pytest.raises(UserError, match="no language 'english'; ISO 639-1 codes: .*, en, "):
        result("language", dialogue("Where is the library?", "At the market."), keep=["english"])


def test_what_counts_as_the_same():
    one, two = dialogue("Name a  cat", "Tom"), dialogue("name a\ncat ", "Kit")
    assert result("same-query", one) == result("same-query", two)
    assert result("same-dialogue", one) != result("same-dialogue", two)
    assert result("same-opening", one) != result("same-opening", dialogue("name a cat", "Tom"))
    assert result("same-opening", one) == result("same-opening", dialogue("Name a  cat", "Tom", "Q", "A", system="S"))
    assert result("same-dialogue", dialogue("ab", "c")) != result("same-dialogue", dialogue("a", "bc"))
    assert result("near-query", one) == result("same-query", one)


rounds = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(rounds=rounds, system=st.integers(0, 20), most=st.integers(40, 150))
def test_splitting_loses_and_doubles_nothing(rounds, system, most):
    whole = dialogue(*(f"{i}".ljust(n, "x") for i, n in enumerate(n for pair in rounds for n in pair)),
                     system="s" * system)
    pieces = result("split", whole, tokens=most)
    assert [m for piece in pieces for m in piece.messages if m.role != "system"] == [
        m for m in whole.messages if m.role != "system"]
    assert len({piece.id for piece in pieces}) == len(pieces)
    for piece, following in zip(pieces, [*pieces[1:], None]):
        assert piece.messages[-1].role == "assistant"
        assert [m.content for m in piece.messages if m.role == "system"] == ["s" * system] * bool(system)
        size = COUNT.row(piece.messages)
        assert size <= most or len(piece.messages) == 2 + bool(system)
        if following is not None and size <= most:      # as long as may be
            assert size + COUNT.row(following.messages[-(len(following.messages) // 2 * 2):][:2]) > most
    kept = [m for m in result("split", whole, tokens=most, long_round="drop")] if any(
        sum(pair) + system <= most for pair in rounds) else []
    short = [pair for pair in rounds if sum(pair) + system <= most]
    assert sum(len(piece.messages) // 2 for piece in kept) == len(short)


def test_the_split_of_fastchat_loses_the_round_that_overflows_last():
    whole = dialogue("q" * 10, "a" * 10, "q" * 10, "a" * 10, "q" * 30, "a" * 30)
    original = result("split", whole, tokens=64, like="fastchat")
    assert [len(texts(piece)) for piece in original] == [4]     # 20 + 12, twice: full; the last round is gone
    assert [len(texts(piece)) for piece in result("split", whole, tokens=64)] == [4, 2]
    alone = dialogue("q" * 90, "a", "q", "a", "q", "a")
    assert [piece.id for piece in result("split", alone, tokens=64, like="fastchat")] == ["c_0", "c_2"]


def test_the_split_of_open_instruct_leaves_out_long_rounds_and_loses_the_last():
    def rounds_left(*sizes):    # of each piece the numbers of its rounds; a round of size n counts n + 12
        whole = dialogue(*(text for i, size in enumerate(sizes) for text in (str(i) * (size - 1), "a")))
        return [[texts(piece)[j][0] for j in range(0, len(texts(piece)), 2)]
                for piece in result("split", whole, tokens=64, like="open-instruct")]
    assert rounds_left(20, 20, 90, 20, 20) == [["0", "1"], ["3", "4"]]
    assert rounds_left(20, 90, 20) == [["0"]]               # the long round counts against the last, which fits
    assert rounds_left(20, 20, 20) == [["0", "1"]]          # as FastChat's
    assert rounds_left(90, 90, 20, 20) == [["2", "3"]]


def test_a_conversation_without_a_round_that_fits_is_dropped_on_request():
    with pytest.raises(Drop, match="no round of at most 9 tokens"):
        result("split", dialogue("q" * 9, "a" * 9), tokens=9, long_round="drop")


@pytest.mark.parametrize(("rule", "options", "message"), [
    ("refusals", {"phrases": ["("]}, "phrases: '\\(' is no regular expression"), ("identity", {"phrases": []}, "none"),
    ("near-query", {"threshold": 0.05}, "threshold 0.05: so low"),
    ("near-dialogue", {"threshold": float("nan")}, "threshold: nan"), ("diversity", {"sample": 0}, "sample: 0 is too"),
    ("overlap", {"against": ()}, "against: names none"), ("held-out", {"against": ()}, "against: names none"),
    ("held-out", {"against": ("a",), "most": 1.5}, "most: 1.5 is no share"), ("digits", {"repeats": 0}, "at least 2"),
    ("split", {"like": "fastchat", "long_round": "keep"}, "long_round: 'keep' says nothing beside like='fastchat'"),
    ("identity", {"like": "koala", "phrases": ["x"]}, "phrases: .* says nothing beside like='koala'.*; leave out phr"),
    ("refusals", {"like": "gpt4all", "where": "start"}, "where: 'start' says nothing beside like='gpt4all'"),
    ("html", {"like": "fastchat", "turns": "all"}, "turns: 'all' says nothing beside like='fastchat'"),
    ("split", {"tokens": 0}, "tokens: 0 is too small; at least 1"), ("tokens", {"most": 0}, "most: 0 is too small"),
    ("length", {"least": 9, "most": 5}, "least is 9 and most is 5, so everything"),
    ("length", {"most": 5}, "least is 16 unless it is set and most is 5"),
    ("tokens", {"least": 3000}, "least is 3000 and most is 2048 unless it is set, so everything would be dropped"),
    ("length", {"least": -1}, "least: -1 is too small")])
def test_options_that_make_no_sense_are_refused_before_anything_is_read(rule, options, message):
    with pytest.raises(UserError, match=f"clean: rule '{rule}'.*{message}"):
        steps_of([{"rule": rule, **options}])


def test_documents_pass_through_every_rule():
    document = Conversation("d", "c", (Message("document", "Some text that somebody wrote, of which there is much."),))
    for name in ("html", "roles", "refusals", "identity", "numbering", "digits", "language", "length"):
        assert result(name, document) == document
    for name in ("tokens", "split"):
        assert result(name, document) == [document]


def test_rules_that_need_all_conversations_at_once_are_known():
    assert [i for i, _ in whole_steps(steps_of(["near-query", "roles", "near-dialogue"]))] == [0, 2]


def test_the_docs_name_every_rule():
    page = (ROOT / "docs/build.md").read_text()
    assert [name for name in RULES if f"| `{name}` |" not in page] == []
