"""The harness over HTTP equals scores computed directly, for choices and generation, raw and chat; so in process."""
import dataclasses
import json
import pathlib

import pytest
from endpoint import Endpoint, answer, send, serving
from evaluate_helpers import CONTEXT, QUESTIONS, SERVE, make_model
from lm_eval.api.instance import Instance

from easylm_imitation.client import ClientConfig
from easylm_imitation.evaluate import EvaluateConfig, evaluate_tasks, find_tasks
from easylm_imitation.evaluate.endpoint import look
from easylm_imitation.evaluate.harness import language_model
from easylm_imitation.evaluate.tasks import protocol
from easylm_imitation.files import read_json, write_json
from easylm_imitation.records import Conversation, Message, Results
from easylm_imitation.schema import UserError
from easylm_imitation.schema import plain as plain_dict
from easylm_imitation.serve import LocalModel, open_server
from easylm_imitation.text import get_template, prompt_ids, stop_ids, tokenize


def raw_prompt(row):
    """Two solved questions and the item, written out by hand."""
    shots = "".join(f"Q: {q['question']}!\nA: {q['options'][q['gold']]}\n\n" for q in QUESTIONS[:2])
    return f"{shots}Q: {row['question']}\nA:"


def ids_of(tokenizer, text):
    """The model's texts begin with a token."""
    return [tokenizer.bos_id, *tokenizer.encode(text, parse_special=True)]


def test_raw_choices_equal_direct_scores(server, tiny, likelihood, task_files):
    made = evaluate_tasks(server.url, [task_files[0]]).tasks[0]
    expected = []
    for row in QUESTIONS:
        context = ids_of(tiny.tokenizer, raw_prompt(row))
        scores = [likelihood(context, tiny.tokenizer.encode(f" {option}")) for option in row["options"]]
        expected.append(scores.index(max(scores)))
    chosen = [row["options"][best].strip() for row, best in zip(QUESTIONS, expected)]
    assert [i.prediction for i in made.items] == chosen
    assert [i.score for i in made.items] == [float(best == row["gold"]) for row, best in zip(QUESTIONS, expected)]
    assert made.score == pytest.approx(sum(i.score for i in made.items) / len(QUESTIONS))
    assert len({i.prediction for i in made.items}) > 1, "a test in which every option wins alike shows nothing"
    assert (made.task, made.form, made.metric, made.shots, made.prompt, made.data, made.group) == (
        "colours", "choices", "acc", 2, "raw", "full", "substance")
    assert [i.id for i in made.items] == [row["id"] for row in QUESTIONS]


def test_raw_generation_equals_direct_decoding(server, tiny, greedy, task_files):
    made = evaluate_tasks(server.url, [task_files[1]]).tasks[0]
    for row, item in zip(QUESTIONS, made.items):
        context = ids_of(tiny.tokenizer, raw_prompt_of_answers(row))
        ids = greedy(context, 6, stop_ids(tiny.template, tiny.tokenizer))
        assert item.prediction == tiny.tokenizer.decode(ids).partition("\n")[0]
    assert made.items[0].target == "red | Green."
    assert (made.form, made.metric) == ("generation", "exact_match")
    assert len({i.prediction for i in made.items}) > 1


def raw_prompt_of_answers(row):
    shots = "".join(f"Q: {q['question']}!\nA: {q['answer'][0]}\n\n" for q in QUESTIONS[:2])
    return f"{shots}Q: {row['question']}\nA:"


def chat_messages(row, answer):
    turns = [(f"Q: {q['question']}!\nA:", answer(q)) for q in QUESTIONS[:2]]
    shown = [m for question, said in turns for m in (Message("user", question), Message("assistant", said))]
    return [*shown, Message("user", f"Q: {row['question']}\nA:")]


@pytest.mark.parametrize("which", ["chatml", "plain"])
def test_chat_choices_are_the_tokens_and_scores_of_training_rows(request, which, likelihood, task_files):
    """What is scored is token by token what the model is trained on, the template's lead included."""
    loaded = request.getfixturevalue({"chatml": "tiny", "plain": "plain"}[which])
    running = request.getfixturevalue({"chatml": "server", "plain": "plain_server"}[which])
    task, = find_tasks(task_files[:1])
    lm = language_model(look(ClientConfig(running.url)), task, "chat", EvaluateConfig(), None)
    made = evaluate_tasks(running.url, [task_files[0]], prompt="chat").tasks[0]
    for row, item in zip(QUESTIONS[:4], made.items):
        messages, pairs = chat_messages(row, lambda q: q["options"][q["gold"]]), []
        context = lm.apply_chat_template([plain_dict(m) for m in messages])
        before = prompt_ids(loaded.template, loaded.tokenizer, messages)
        for option in row["options"]:
            full = tokenize(loaded.template, loaded.tokenizer,
                            Conversation("t", "t", (*messages, Message("assistant", option)))).tokens.tolist()
            end = max(i for i, token in enumerate(full) if token in stop_ids(loaded.template, loaded.tokenizer))
            assert lm._encode_pair(context, option) == (before, full[len(before):end])
            pairs.append((before, full[len(before):end]))
        requests = [Instance("loglikelihood", {}, (context, option), 0) for option in row["options"]]
        scores = [likelihood(*pair) for pair in pairs]
        assert [score for score, _ in lm.loglikelihood(requests)] == pytest.approx(scores, abs=1e-3)
        assert item.prediction == row["options"][scores.index(max(scores))].strip()


def test_an_answer_that_the_task_begins_is_part_of_the_rendered_prompt(server, tiny, task_files):
    task, = find_tasks(task_files[:1])
    lm = language_model(look(ClientConfig(server.url)), task, "chat", EvaluateConfig(), None)
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The answer is"}]
    ids = prompt_ids(tiny.template, tiny.tokenizer, [Message("user", "hi")])
    assert lm.tok_encode(lm.apply_chat_template(messages, add_generation_prompt=False)) == [
        *ids, *tiny.tokenizer.encode("The answer is")]


def test_chat_generation_equals_direct_decoding(server, tiny, greedy, task_files):
    made = evaluate_tasks(server.url, [task_files[1]], prompt="chat").tasks[0]
    for row, item in zip(QUESTIONS, made.items):
        ids = prompt_ids(tiny.template, tiny.tokenizer, chat_messages(row, lambda q: q["answer"][0]))
        expected = tiny.tokenizer.decode(greedy(ids, 6, stop_ids(tiny.template, tiny.tokenizer)))
        assert item.prediction == expected.partition("\n")[0]


def test_a_local_tokenizer_changes_no_number(server, tiny, task_files):
    local = evaluate_tasks(server.url, task_files, encode=lambda text: tiny.tokenizer.encode(text, parse_special=True))
    assert local.tasks == evaluate_tasks(server.url, task_files).tasks


@pytest.fixture(scope="module")
def local(tiny, server):
    with LocalModel(tiny, SERVE) as model:      # its programs are the server's
        yield model


def test_in_process_everything_is_as_over_http_to_the_bit(server, local, tiny, task_files, tmp_path):
    """Both tasks in both forms, in words too, and sampled; not the scores alone: every likelihood and every text."""
    sampled = pathlib.Path(task_files[1]).with_name("sampled.yaml")
    text = pathlib.Path(task_files[1]).read_text().replace("task: answers", "task: sampled")
    sampled.write_text(text.replace("do_sample: false", "do_sample: true\n  temperature: 0.9"))
    made, said = {}, {}
    for name, model in (("http", server.url), ("here", local)):
        cache = tmp_path / name
        results = [evaluate_tasks(model, [*task_files, str(sampled)], prompt="both", cache=str(cache), limit=6),
                   evaluate_tasks(model, task_files[:1], form="generation", cache=str(cache))]
        made[name] = [(result.model, result.tasks) for result in results]
        said[name] = {(path.name, line["request"]): (line["text"], line["likelihood"], line["greedy"])
                      for path in cache.rglob("*.jsonl") for line in map(json.loads, path.read_text().splitlines())}
    assert made["here"] == made["http"]
    assert said["here"] == said["http"]
    assert len(said["here"]) == 2 * (sum(len(q["options"]) for q in QUESTIONS[:6]) + 6 + 6) + 10
    assert made["here"][0][0] == tiny.lineage


@pytest.mark.parametrize("begins", [True, False])
def test_raw_prompts_begin_as_the_models_tokenizer_has_texts_begin(tiny, task_files, begins, monkeypatch):
    """GPT-2's, NeoX's and Qwen's do not, though they have a BOS token: one before it changes what a model answers."""
    tokenizer, seen, post = tiny.tokenizer.beginning(begins), [], LocalModel.post
    monkeypatch.setattr(LocalModel, "post", lambda self, path, body: seen.append(body) or post(self, path, body))
    with LocalModel(dataclasses.replace(tiny, tokenizer=tokenizer), SERVE) as model:
        assert model.service.tokenizer_info()["add_bos_token"] is begins
        evaluate_tasks(model, task_files, limit=1)
    asked = [ids for body in seen for ids in body["prompt"]]
    before = [tokenizer.bos_id] * begins
    first, last = before + tokenizer.encode(raw_prompt(QUESTIONS[0])), raw_prompt_of_answers(QUESTIONS[0])
    assert before + tokenizer.encode(last) in asked
    assert sum(ids[:len(first)] == first for ids in asked) == len(QUESTIONS[0]["options"])


def test_answers_are_asked_anew_when_the_same_weights_come_with_another_tokenizer_or_template(tiny, task_files,
                                                                                              tmp_path, monkeypatch):
    seen, post = [], LocalModel.post
    monkeypatch.setattr(LocalModel, "post", lambda self, path, body: seen.append(body) or post(self, path, body))
    bare, other = tiny.tokenizer.beginning(False), get_template("alpaca")
    for changed, prompt in (({}, "raw"), ({}, "chat"), ({"tokenizer": bare}, "raw"), ({"template": other}, "chat")):
        for again in (False, True):
            seen.clear()
            with LocalModel(dataclasses.replace(tiny, **changed), SERVE) as model:
                evaluate_tasks(model, task_files[:1], prompt=prompt, limit=1, cache=str(tmp_path))
            assert bool(seen) is not again


def test_what_a_model_in_process_refuses_is_one_clear_line(local, task_files):
    path = pathlib.Path(task_files[1])
    path.write_text(path.read_text().replace("do_sample: false", "do_sample: false\n  temprature: 1"))
    for prompt in ("raw", "chat"):
        with pytest.raises(UserError, match="task 'answers': temprature: .*'temperature'"):
            evaluate_tasks(local, [str(path)], prompt=prompt)


def test_results_survive_their_file(server, tiny, task_files, tmp_path):
    made = evaluate_tasks(server.url, task_files, prompt="both", limit=4, role="base", command="evaluate ...")
    assert made.model == tiny.lineage
    assert [(t.task, t.prompt, t.data, len(t.items)) for t in made.tasks] == [
        ("colours", "raw", "sample", 4), ("answers", "raw", "sample", 4),
        ("colours", "chat", "sample", 4), ("answers", "chat", "sample", 4)]
    write_json(tmp_path / "r.json", made)
    assert read_json(Results, tmp_path / "r.json") == made



def test_tasks_skip_the_prompt_forms_that_they_make_no_sense_in(server, task_files):
    path = pathlib.Path(task_files[0])
    path.write_text(path.read_text().replace("version: 1.0", "prompts: [chat]"))
    assert [t.prompt for t in evaluate_tasks(server.url, [str(path)], prompt="both", limit=1).tasks] == ["chat"]
    with pytest.raises(UserError, match="colours makes sense with --prompt raw"):
        evaluate_tasks(server.url, [str(path)])


def test_answers_longer_than_the_context_are_an_error(server, task_files):
    path = pathlib.Path(task_files[1])
    path.write_text(path.read_text().replace("max_gen_toks: 6", "max_gen_toks: 256"))
    with pytest.raises(UserError, match="answers of 256 tokens, the server holds 256"):
        evaluate_tasks(server.url, [str(path)])


def test_prompts_longer_than_the_context_are_said(server, task_files, capsys):
    path = pathlib.Path(task_files[0])
    path.write_text(path.read_text().replace("Q: {{question}}", "Q: {{question}}" + " long" * 60))
    cut, = evaluate_tasks(server.url, [str(path)], limit=1).tasks
    assert len(cut.items) == 1
    assert "lost their beginning" in capsys.readouterr().err
    task, = find_tasks([str(path)])
    assert cut.protocol == protocol(task, "raw", task.rows[:1], None, CONTEXT)
    assert cut.protocol != protocol(task, "raw", task.rows[:1]), "another context would leave another prompt"


@pytest.mark.slow
def test_the_stock_harness_says_the_same(task_files, monkeypatch):
    """`simple_evaluate`, its own `local-completions` and data loading; a tokenizer without a beginning token."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    with open_server(make_model("tulu", ("</s>", "<pad>", "<unk>")), SERVE) as running:
        ours = evaluate_tasks(running.url, task_files)
        monkeypatch.chdir(pathlib.Path(task_files[0]).parent)
        said = simple_evaluate(
            "local-completions", model_args={
                "base_url": f"{running.url}/v1/completions", "model": running.model_name, "tokenizer_backend": "remote",
                "max_length": CONTEXT},
            tasks=list(task_files), task_manager=TaskManager(include_defaults=False), bootstrap_iters=0)
    for task in ours.tasks:
        samples = said["samples"][task.task]
        assert [item.score for item in task.items] == [sample[task.metric] for sample in samples]
        assert task.score == said["results"][task.task][f"{task.metric},none"]
        if task.form == "generation":
            assert [item.prediction for item in task.items] == [sample["filtered_resps"][0] for sample in samples]


# ── servers that fail ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_nobody_there(task_files):
    with pytest.raises(UserError, match="is the server up"):
        evaluate_tasks("http://127.0.0.1:9", task_files)


def test_another_model_than_the_one_served(server, task_files):
    with pytest.raises(UserError, match="does not serve 'tiny-chatmk'; did you mean 'tiny-chatml'"):
        evaluate_tasks(server.url, task_files, model="tiny-chatmk")


def test_choices_need_a_tokenizer_and_generation_does_not(task_files):
    """A plain API: chat generation works, and what it is called is an identity of its own."""
    with serving(Endpoint(lambda handler, body, n: answer(body, text="Green"))) as endpoint:
        with pytest.raises(UserError, match="task 'colours' needs log-likelihoods.*offers no /tokenizer_info"):
            evaluate_tasks(endpoint.url, task_files, prompt="chat", form="choices")
        assert not endpoint.requests
        made = evaluate_tasks(endpoint.url, task_files[1:], prompt="chat")
        raw = evaluate_tasks(endpoint.url, task_files[1:])
    assert [i.prediction for i in made.tasks[0].items + raw.tasks[0].items] == ["Green"] * 20
    assert made.model.name == made.model.base_name == "teacher"
    assert made.model.id == made.model.base
    assert endpoint.requests[0]["messages"][0] == {"role": "user", "content": "Q: Which colour is thing 0?!\nA:"}


def test_a_server_that_fails_in_the_middle_is_one_clear_line(task_files):
    def behave(handler, body, n):
        return send(handler, 500, {"error": {"message": "out of memory"}})
    with serving(Endpoint(behave)) as endpoint:
        with pytest.raises(UserError, match="task 'answers': http.* failed: .*out of memory"):
            evaluate_tasks(endpoint.url, task_files[1:], prompt="chat", config=EvaluateConfig(attempts=1))
        with pytest.raises(UserError, match="task 'answers': http.* failed: .*out of memory"):
            evaluate_tasks(endpoint.url, task_files[1:], config=EvaluateConfig(attempts=1))


@pytest.mark.parametrize("prompt", ["raw", "chat"])
@pytest.mark.parametrize("nonsense", [{"choices": []}, {"error": "odd"}, {"choices": None}])
def test_answers_of_another_form_are_one_clear_line(task_files, prompt, nonsense):
    with serving(Endpoint(lambda handler, body, n: nonsense)) as endpoint:
        with pytest.raises(UserError, match=f"{endpoint.url}/v1/.*completions gave no answer of the expected form"):
            evaluate_tasks(endpoint.url, task_files[1:], prompt=prompt, config=EvaluateConfig(attempts=1))


def test_the_key_is_sent_and_shown_nowhere(task_files, monkeypatch, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with serving(Endpoint(lambda h, b, n: send(h, 401, {"error": {"message": "bad key"}}))) as endpoint:
        with pytest.raises(UserError) as caught:
            evaluate_tasks(endpoint.url, task_files[1:], prompt="chat", config=EvaluateConfig(attempts=1))
    assert endpoint.headers[0]["Authorization"] == "Bearer sk-secret"
    said = capfd.readouterr()
    assert "sk-secret" not in str(caught.value) + said.out + said.err
