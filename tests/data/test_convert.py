"""Records of each format as conversations, and the reasons for which records are left out."""
import pytest
from data_helpers import convert

from easylm_imitation.data.config import SourceConfig
from easylm_imitation.data.sources import Drop
from easylm_imitation.record_examples import EXAMPLES
from easylm_imitation.records import Conversation, Message
from easylm_imitation.schema import UserError, build


def converted(form, record, teacher=""):
    [made] = convert(record, SourceConfig("f", form, teacher=teacher), "set", 7)
    return made


def pairs(conversation):
    return [(message.role, message.content) for message in conversation.messages]


ONE_ROUND = [("user", "Q"), ("assistant", "A")]


@pytest.mark.parametrize(("form", "record", "expected"), [
    ("alpaca", {"instruction": "Q", "input": "", "output": "A"}, ONE_ROUND),
    ("alpaca", {"instruction": "Q", "output": "A"}, ONE_ROUND),
    ("alpaca", {"instruction": "Q", "input": "X", "response": "A"}, [("user", "Q\n\nX"), ("assistant", "A")]),
    ("alpaca", {"system": "S", "instruction": "Q", "input": "", "output": "A", "history": [["q", "a"]]},
     [("system", "S"), ("user", "q"), ("assistant", "a"), *ONE_ROUND]),
    ("alpaca", {"instruction": "Q", "output": "A", "history": [], "system": None}, ONE_ROUND),
    ("halueval", {"id": "3", "user_query": "Q", "chatgpt_response": "A", "other": 1}, ONE_ROUND),
    ("prompt-completion", {"prompt": "Q", "completion": "A"}, ONE_ROUND),
    ("conversations", {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
     ONE_ROUND),
    ("conversations", {"messages": [{"role": "document", "content": "D"}]}, [("document", "D")]),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, ONE_ROUND),
    ("sharegpt", {"conversations": [{"from": "chatgpt", "value": "hi"}, {"from": "user", "value": "Q"},
                                    {"from": "chatgpt", "value": "A"}, {"from": "human", "value": "?"}]}, ONE_ROUND),
    ("sharegpt", {"system": "S", "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
     [("system", "S"), *ONE_ROUND]),
    ("sharegpt", {"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"},
                                    {"from": "gpt", "value": "A"}]}, [("system", "S"), *ONE_ROUND])])
def test_messages_of_each_format(form, record, expected):
    assert pairs(converted(form, record)) == expected


def test_ids_datasets_and_teachers():
    made = converted("alpaca", {"instruction": "Q", "output": "A"}, teacher="gpt-4")
    assert (made.dataset, made.id, made.teacher) == ("set", "set_7", "gpt-4")
    assert converted("halueval", {"id": 3, "user_query": "Q", "chatgpt_response": "A"}).id == "3"
    own = converted("conversations", {**EXAMPLES[Conversation], "url": "web"}, teacher="someone else")
    expected = build(Conversation, EXAMPLES[Conversation], "example")
    assert (own.dataset, own.id, own.teacher, own.messages) == (
        expected.dataset, expected.id, expected.teacher, expected.messages)
    assert own.meta["url"] == "web"      # keys beyond the schema are kept


def turn(role, text):
    return {"role": role, "content": text}


@pytest.mark.parametrize(("form", "record", "reason"), [
    ("alpaca", {"instruction": "Q"}, "wrong shape"), ("alpaca", {"instruction": 3, "output": "A"}, "wrong shape"),
    ("alpaca", {"instruction": "Q", "output": "A", "history": [["q"]]}, "wrong shape"),
    ("alpaca", {"instruction": "Q", "output": "A", "history": "q"}, "wrong shape"),
    ("alpaca", {"instruction": "Q", "output": "A", "system": 3}, "wrong shape"),
    ("alpaca", {"instruction": " ", "output": "A"}, "empty turn"),
    ("alpaca", {"instruction": "Q", "output": "\n"}, "empty turn"),
    ("conversations", {"messages": [turn("user", "Q"), turn("assistant", "A")], "meta": 3}, "wrong shape"),
    ("conversations", {"messages": "text"}, "wrong shape"), ("conversations", {}, "wrong shape"),
    ("conversations", {"messages": [turn("bot", "A")]}, "wrong shape"),
    ("conversations", {"messages": []}, "no messages"),
    ("conversations", {"messages": [turn("user", "Q"), turn("user", "Q")]}, "roles do not alternate"),
    ("conversations", {"messages": [turn("user", "Q")]}, "no answer"),
    ("conversations", {"messages": [turn("system", "S")]}, "nothing but a system message"),
    ("conversations", {"messages": [turn("document", " ")]}, "empty turn"),
    ("conversations", {"messages": [turn("user", "Q"), turn("document", "D")]}, "a document beside other messages"),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Q"}]}, "no messages"),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Q"}, {"from": "function_call", "value": "{}"}]},
     "unknown role"),
    ("sharegpt", {"conversations": 3}, "wrong shape"), ("sharegpt", {"conversations": ["Q"]}, "wrong shape"),
    ("sharegpt", {"conversations": [{"from": "human"}]}, "wrong shape")])
def test_reasons_for_leaving_records_out(form, record, reason):
    with pytest.raises(Drop) as caught:
        converted(form, record)
    assert caught.value.reason == reason


def test_an_empty_system_message_is_allowed():
    record = {"messages": [turn("system", ""), turn("user", "Q"), turn("assistant", "A")]}
    assert converted("conversations", record).messages[0] == Message("system", "")


def test_a_format_that_does_not_exist_names_the_nearest():
    with pytest.raises(UserError, match="'alpacca'.*did you mean 'alpaca'"):
        build(SourceConfig, {"path": "x", "format": "alpacca"}, "config")
