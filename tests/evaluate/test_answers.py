"""Answers to prompts: asked for and resumed, or read as recorded; and the verb over them."""
import gc
import gzip
import json
import pathlib
import weakref

import httpx
import jax
import pytest
from endpoint import Endpoint, answer, send, serving

from easylm_imitation.cli.main import main
from easylm_imitation.evaluate import AnswerConfig, AnswersMeta, answer_prompts, answers_meta, read_answers
from easylm_imitation.files import digest, iter_jsonl, read_json, write_jsonl
from easylm_imitation.record_examples import EXAMPLES
from easylm_imitation.records import Answer, CollectionCard, Lineage, Message, Results, conversation_from
from easylm_imitation.schema import UserError
from easylm_imitation.serve import opened, own_server, served
from easylm_imitation.weights import export_hf


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{i}", "prompt": f"question {i}"}) + "\n" for i in range(5)))
    return path


def ask(endpoint, prompts, **settings):
    config = AnswerConfig(attempts=1, **settings)
    return answer_prompts(endpoint.url, prompts, prompts.with_name("a.jsonl"), config=config)


def test_answers_stand_in_the_prompts_order_beside_who_gave_them(prompts):
    with serving(Endpoint(models=[{"id": "served", "lineage": EXAMPLES[Lineage]}])) as endpoint:
        made = ask(endpoint, prompts, max_tokens=9)
    assert made == read_answers(prompts.with_name("a.jsonl"))
    assert made[3] == Answer(
        "p3", "question 3", "answer to question 3", "imitation", "", "stop", digest([Message("user", "question 3")]))
    assert [a.prompt_id for a in made] == [f"p{i}" for i in range(5)]
    assert endpoint.requests[0]["max_tokens"] == 9
    meta = read_json(AnswersMeta, prompts.with_name("a.jsonl.meta.json"))
    assert (meta.lineage.name, meta.prompt, meta.options["max_tokens"]) == ("imitation", "chat", 9)
    assert not prompts.with_name("a.jsonl.part").exists()


def test_what_is_answered_is_not_asked_again(prompts):
    broken = {"question 1", "question 4"}
    with serving(Endpoint(lambda h, body, n: send(h, 400, {"detail": "no"})
                          if body["messages"][-1]["content"] in broken else answer(body))) as endpoint:
        with pytest.raises(UserError, match=r"2 of 5 prompts could not be answered, the last 'p.' \(HTTP 400: no\)"):
            ask(endpoint, prompts)
        assert not prompts.with_name("a.jsonl").exists()
        broken.clear()
        assert len(ask(endpoint, prompts)) == 5
        assert len(endpoint.requests) == 7
        assert len(ask(endpoint, prompts)) == 5
        assert len(endpoint.requests) == 7
        prompts.write_text(prompts.read_text() + '{"id": "p5", "prompt": "question 5"}\n')
        assert len(ask(endpoint, prompts)) == 6
        assert len(endpoint.requests) == 8


def test_answers_of_others_are_not_mixed_in(prompts):
    models = [{"id": "served", "lineage": EXAMPLES[Lineage]}]
    with serving(Endpoint(models=models)) as endpoint:
        ask(endpoint, prompts)
        with pytest.raises(UserError, match="asked with options .* choose another name"):
            ask(endpoint, prompts, temperature=1.0)
        with pytest.raises(UserError, match="asked with prompt chat, now raw"):
            ask(endpoint, prompts, prompt="raw")
        models[0]["lineage"] = EXAMPLES[Lineage] | {"id": "another"}
        with pytest.raises(UserError, match="holds answers of 'imitation' .id 0f0f.*the server has .*id another"):
            ask(endpoint, prompts)
        models[0]["lineage"] = EXAMPLES[Lineage]
        prompts.write_text('{"id": "p0", "prompt": "changed"}\n')
        with pytest.raises(UserError, match="prompt 'p0' was answered with another text"):
            ask(endpoint, prompts)
        prompts.with_name("a.jsonl.meta.json").unlink()
        with pytest.raises(UserError, match="was not made here"):
            ask(endpoint, prompts)
    assert len(endpoint.requests) == 5


def test_a_changed_turn_before_the_last_is_another_prompt(prompts):
    def write(system):
        turns = [{"role": "system", "content": system}, {"role": "user", "content": "u"}]
        prompts.write_text(json.dumps({"id": "m", "messages": turns}) + "\n")
    with serving(Endpoint()) as endpoint:
        write("Be brief.")
        ask(endpoint, prompts)
        ask(endpoint, prompts)
        write("Be long.")
        with pytest.raises(UserError, match="prompt 'm' was answered with another text"):
            ask(endpoint, prompts)
        prompts.with_name("a.jsonl").rename(prompts.with_name("a.jsonl.part"))      # the same of an unfinished file
        with pytest.raises(UserError, match="prompt 'm' was answered with another text"):
            ask(endpoint, prompts)
    assert len(endpoint.requests) == 1


def test_raw_prompts_are_texts_after_the_beginning_token(server, prompts, tiny):
    with serving(Endpoint()) as endpoint:
        ask(endpoint, prompts, prompt="raw")
    assert sorted(r["prompt"] for r in endpoint.requests) == [f"question {i}" for i in range(5)]
    ours = answer_prompts(server.url, prompts, prompts.with_name("ours.jsonl"),
                          config=AnswerConfig(prompt="raw", max_tokens=4))
    assert (ours[0].model, ours[0].finish_reason in ("length", "stop")) == (tiny.lineage.name, True)
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    prompts.write_text(json.dumps({"id": "m", "messages": messages}) + "\n")
    with pytest.raises(UserError, match="prompt 'm' has 2 messages; --prompt raw needs a single one"):
        ask(Endpoint(), prompts, prompt="raw")


def outputs(path, generator, texts, instruction="do {}"):
    records = [{"dataset": "d", "instruction": instruction.format(i), "output": text, "generator": generator}
               for i, text in enumerate(texts)]
    with gzip.open(path, "wt") as file:
        json.dump(records, file)
    return str(path)


def test_recorded_outputs_pair_by_their_instructions(tmp_path):
    teacher = read_answers(outputs(tmp_path / "t.json.gz", "gpt4", ["a", "b"]))
    student = read_answers(outputs(tmp_path / "s.json.gz", "alpaca-7b", ["c", "d"]))
    assert [a.prompt_id for a in teacher] == [a.prompt_id for a in student]
    assert teacher[0].prompt_id != teacher[1].prompt_id
    assert student[0] == Answer(teacher[0].prompt_id, "do 0", "c", "alpaca-7b", "d")
    made = answers_meta("s.json.gz", student, "gpt4").lineage
    assert (made.name, made.teachers, made.base) == ("alpaca-7b", ("gpt4",), "")
    assert answers_meta("t.json.gz", teacher, "gpt4").lineage.teachers == ()


@pytest.mark.parametrize(("content", "says"), [
    ('{"prompt_id": "a", "prompt": "", "answer": "", "model": "m"}\n{"prompt_id": 3}', ":2.prompt_id: expected str"),
    ('[{"instruction": "x", "output": 3}]', ":1.answer: expected str"), ("", "no answers in it"),
    ("{", ":1: bad JSON")])
def test_bad_files_of_answers(tmp_path, content, says):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=says):
        read_answers(tmp_path / "a.json")


def run(capsys, *argv):
    code = main(["evaluate", *map(str, argv), "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out.splitlines()[-1]) if said.out else said.err


def test_the_verb_measures_the_style_of_recorded_answers(tmp_path, capsys):
    teacher = outputs(tmp_path / "t.json.gz", "gpt4", ["- a\n- b", "word word"])
    student = outputs(tmp_path / "s.json.gz", "alpaca-7b", ["- a\n- b", "other"])
    code, said = run(capsys, "--answers", student, "--reference", teacher, "--out", tmp_path / "r.json")
    assert code == 0
    results = read_json(Results, tmp_path / "r.json")
    assert {t["task"]: t["score"] for t in said["tasks"]} == {t.task: t.score for t in results.tasks}
    assert results.tasks[0].score == pytest.approx((1 + (0 + 0.5) / 2) / 2)
    assert results.command.startswith("easylm-imitation evaluate --answers ")
    assert (results.model.name, results.model.teachers) == ("alpaca-7b", ("gpt4",))


def test_the_verb_measures_tasks_answers_and_style_in_one_go(server, tiny, task_files, prompts, tmp_path, capsys):
    write_jsonl(tmp_path / "t.jsonl", [Answer(f"p{i}", f"question {i}", "said", "teacher") for i in range(5)])
    (tmp_path / "c.py").write_text("def get_config():\n    return {'answers': {'max_tokens': 4}}\n")
    code, said = run(capsys, "--model", server.url, "--tasks", task_files[0], "--limit", 2, "--prompt", "chat",
                     "--prompts", prompts, "--answers-out", tmp_path / "a.jsonl", "--reference", tmp_path / "t.jsonl",
                     "--config", tmp_path / "c.py", "--config.batch=4", "--role", "base", "--out", tmp_path / "r.json")
    assert code == 0
    results = read_json(Results, tmp_path / "r.json")
    assert [t.task for t in results.tasks] == ["colours", "style_match", "style_overlap", "style_length"]
    assert (results.role, results.model) == ("base", tiny.lineage)
    assert len(read_answers(tmp_path / "a.jsonl")) == 5
    assert {t.prompt for t in results.tasks} == {"chat"}
    flags = ["--reference", tmp_path / "t.jsonl", "--out", tmp_path / "r2.json"]
    assert run(capsys, "--model", server.url, "--prompts", prompts, "--answers-out", tmp_path / "raw.jsonl",
               "--config.answers.max_tokens=4", "--config.answers.prompt=raw", *flags)[0] == 0
    styles = read_json(Results, tmp_path / "r2.json").tasks
    assert {t.prompt for t in styles} == {"raw"}
    assert run(capsys, "--model", server.url, "--prompts", prompts, "--answers-out", tmp_path / "short.jsonl",
               "--config.answers.max_tokens=3", "--prompt", "raw", *flags)[0] == 0
    shorter = read_json(Results, tmp_path / "r2.json").tasks
    assert not {t.protocol for t in styles} & {t.protocol for t in shorter}, "shorter answers are another measurement"


@pytest.mark.parametrize(("flags", "says"), [
    ([], "nothing to do"), (["--tasks", "nq_open", "--out", "x"], "need --model"),
    (["--model", "http://h", "--tasks", "nq_open"], "need --out"),
    (["--model", "http://h", "--prompts", "p"], "go together"), (["--answers", "a"], "need --reference"),
    (["--answers", "a", "--reference", "b", "--model", "m"], "leave out --model"),
    (["--answers", "a", "--reference", "b"], "need --out"),
    (["--model", "http://h", "--tasks", "t", "--reference", "b", "--out", "x"], "needs answers"),
    (["--model", "http://h", "--tasks", "nq_open", "--out", "x"], "needs --task-data"),
    (["--model", "http://h", "--prompts", "absent.jsonl", "--answers-out", "a"], "absent.jsonl: cannot be read"),
    (["--model", "http://h", "--prompts", "p", "--answers-out", "a", "--prompt", "both"], "put one way"),
    (["--model", "http://h", "--prompts", "p", "--answers-out", "a", "--prompt", "both", "--tasks", "t", "--out", "x"],
     "put one way"),
    (["--model", "http://h", "--prompts", "p", "--answers-out", "a", "--limit", "3"], "--limit is for --tasks"),
    (["--model", "http://h", "--tasks", "t", "--in-process", "--out", "x"], "--in-process is for the tasks"),
    (["--model", "d", "--prompts", "p", "--answers-out", "a", "--in-process"], "--in-process is for the tasks"),
    (["--answers", "a", "--reference", "b", "--out", "x", "--limit", "3"], "--limit is for --tasks"),
    (["--answers", "a", "--reference", "b", "--out", "x", "--task-data", "d"], "--task-data is for --tasks"),
    (["--answers", "a", "--reference", "b", "--out", "x", "--prompt", "raw"], "leave out --prompt"),
    (["--answers", "a", "--reference", "b", "--out", "x", "--config.batch=3"], "leave out --config"),
    (["--model", "http://h", "--tasks", "nq_opn", "--out", "x"], "did you mean 'nq_open'")])
def test_flags_that_do_not_add_up(flags, says, capsys):
    code, said = run(capsys, *flags)
    assert code == 2
    assert says in said
    assert not pathlib.Path("x").exists()


def test_a_model_that_is_neither_address_nor_folder(capsys, prompts):
    code, said = run(capsys, "--model", "nowhere", "--prompts", prompts, "--answers-out", "a")
    assert (code, "nowhere: neither an address" in said) == (2, True)


def test_a_folder_without_a_chat_template_is_told_before_anything_slow(tiny, prompts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("easylm_imitation.serve.opened.open_weights", lambda *_: pytest.fail("weights were read"))
    export_hf(tmp_path / "hf", tiny.config, tiny.params, tiny.tokenizer, None, tiny.lineage)
    code, said = run(capsys, "--model", tmp_path / "hf", "--prompts", prompts, "--answers-out", tmp_path / "a",
                     "--prompt", "chat")
    assert (code, "names no chat template, and its tokenizer brings none; convert --from" in said) == (2, True)
    assert main(["collect", "--teacher", str(tmp_path / "hf"), "--prompts", str(prompts), "--out", "x"]) == 2


@pytest.mark.slow
def test_a_chat_model_of_others_is_asked_in_its_own_template(tiny, prompts, tmp_path):
    own = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}<|im_start|>"
    export_hf(tmp_path / "hf", tiny.config, tiny.params, tiny.tokenizer, None, tiny.lineage)
    (tmp_path / "hf" / "easylm_imitation.json").unlink()
    (tmp_path / "hf" / "chat_template.jinja").write_text(own)
    flags = ["--config.max_tokens=4", "--config.truncated=keep", "--config.empty=keep"]
    assert main(["collect", "--teacher", str(tmp_path / "hf"), "--prompts", str(prompts), *flags,
                 "--out", str(tmp_path / "c.jsonl")]) == 0
    [teacher] = read_json(CollectionCard, tmp_path / "c.jsonl.card.json").lineages
    assert teacher.template.startswith("tokenizer@")
    with served(tmp_path / "hf", chat=True) as found:
        assert httpx.get(found.url + "/tokenizer_info").json()["chat_template"] == own


@pytest.mark.slow
@pytest.mark.parametrize("http", [True, False])
def test_the_weights_as_they_were_read_are_let_go(tiny, tmp_path, monkeypatch, http):
    """The engine's own are in another order: both would be twice the memory for as long as it answers."""
    export_hf(tmp_path / "hf", tiny.config, tiny.params, tiny.tokenizer, tiny.template, tiny.lineage)
    read, open_weights = [], opened.open_weights

    def watched(*given):
        loaded = open_weights(*given)
        read.extend(map(weakref.ref, jax.tree.leaves(loaded.params["layers"])))
        return loaded
    monkeypatch.setattr(opened, "open_weights", watched)
    with served(tmp_path / "hf", own_server(slots=2), http=http):
        gc.collect()
        assert len(read) > 5
        assert not any(leaf() for leaf in read)


@pytest.mark.slow
def test_a_folder_is_served_meanwhile_for_both_verbs(tiny, task_files, prompts, tmp_path, capsys, monkeypatch):
    """`--teacher DIR` and `--model DIR`; a key that guards other servers does not get in the way."""
    monkeypatch.setenv("EASYLM_IMITATION_API_KEY", "sk-other")
    export_hf(tmp_path / "hf", tiny.config, tiny.params, tiny.tokenizer, tiny.template, tiny.lineage)
    assert main(["collect", "--teacher", str(tmp_path / "hf"), "--prompts", str(prompts), "--config.max_tokens=4",
                 "--config.truncated=keep", "--config.empty=keep", "--out", str(tmp_path / "c.jsonl")]) == 0
    first = conversation_from(next(iter_jsonl(tmp_path / "c.jsonl"))[1], "c.jsonl:1")
    assert (first.teacher, first.messages[0].content) == (tiny.lineage.label, "question 0")
    capsys.readouterr()
    code, said = run(capsys, "--model", tmp_path / "hf", "--tasks", ",".join(task_files), "--out", tmp_path / "r.json")
    assert code == 0
    assert read_json(Results, tmp_path / "r.json").model.id == tiny.lineage.id
    assert [t["items"] for t in said["tasks"]] == [10, 10]
    (tmp_path / "cache").rename(tmp_path / "asked before")
    from easylm_imitation.serve import server
    monkeypatch.setattr(server, "Front", lambda *_: pytest.fail("a socket"))
    assert run(capsys, "--model", tmp_path / "hf", "--tasks", ",".join(task_files), "--in-process",
               "--out", tmp_path / "here.json")[0] == 0
    assert read_json(Results, tmp_path / "here.json").tasks == read_json(Results, tmp_path / "r.json").tasks
    most = tiny.config.context
    for asked, status in ((most + 1, 2), (most // 2, 0)):
        assert run(capsys, "--model", tmp_path / "hf", "--tasks", task_files[1], "--in-process", "--cache", "none",
                   f"--config.context={asked}", "--out", tmp_path / f"{asked}.json")[0] == status
