"""A model's answers to a file of prompts: asked for (resumably) or read as somebody recorded them.

    answers = answer_prompts(url, "prompts.jsonl", "answers.jsonl")     # and answers.jsonl.meta.json: lineage, settings
    answers = read_answers("answers.jsonl")                             # or an alpaca_eval model_outputs.json(.gz)
"""
import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

from easylm_imitation import console
from easylm_imitation.client import Client, ClientConfig, RequestFailed, for_each, with_client
from easylm_imitation.data.sources import Drop, RawRecord, iter_records
from easylm_imitation.evaluate.config import AnswerConfig
from easylm_imitation.evaluate.endpoint import lineage_of, text_before_raw
from easylm_imitation.files import digest, read_json, write_json, write_jsonl
from easylm_imitation.journal import Journal
from easylm_imitation.records import Answer, Lineage, Prompt, read_prompts
from easylm_imitation.schema import UserError, build

_DEFAULT = AnswerConfig()


@dataclasses.dataclass(frozen=True)
class AnswersMeta:
    """`<answers>.meta.json`: which weights answered, and how they were asked."""
    lineage: Lineage
    prompt: Literal["chat", "raw"]
    options: dict[str, Any]


def answer_prompts(url: str, prompts: str | os.PathLike, out: str | os.PathLike, *, model: str = "",
                   config: AnswerConfig = _DEFAULT) -> list[Answer]:
    """Asks the model at `url` every prompt of the file `prompts`; writes and returns the answers in the prompts' order.

    Answers gather in `<out>.part` and the same call continues there; what is finished is not asked again. Raises
    UserError for a bad prompts file (before any request), for answers of another model or other settings under the
    same name, for an endpoint that is gone, and, at the end, when some prompts could not be answered.
    """
    asked, out = read_prompts(prompts), pathlib.Path(out)
    if config.prompt == "raw" and (bad := next((p for p in asked if len(p.messages) > 1), None)):
        raise UserError(f"prompt '{bad.id}' has {len(bad.messages)} messages; --prompt raw needs a single one")
    client_config = ClientConfig(url, model, config.api_key_env, config.concurrency, config.timeout, config.attempts)
    return with_client(client_config, lambda client: _answer_all(client, config, asked, out))


async def _answer_all(client: Client, config: AnswerConfig, prompts: Sequence[Prompt],
                      out: pathlib.Path) -> list[Answer]:
    served = await client.model()
    lineage = lineage_of(client.base, served)
    meta = AnswersMeta(lineage, config.prompt, config.options())
    done = _finished(out, meta, prompts)
    begin = text_before_raw(await client.tokenizer_info() or {}) if config.prompt == "raw" else ""
    failed: list[str] = []
    with Journal(Answer, f"{out}.part") as journal:
        done.update({a.prompt_id: a for a in _same_prompts(journal.entries, prompts, out)})
        write_json(f"{out}.meta.json", meta)
        left = [p for p in prompts if p.id not in done]
        with console.progress("answering", total=len(left)) as advance:
            async def work(prompt: Prompt) -> None:
                try:
                    made = await _ask(client, config, prompt, begin, lineage.name)
                except RequestFailed as error:
                    failed.append(f"'{prompt.id}' ({error})")
                else:
                    journal.append(made)
                    done[prompt.id] = made
                advance()
            await for_each(left, work, config.concurrency)
    if failed:
        raise UserError(f"{len(failed)} of {len(prompts)} prompts could not be answered, the last {failed[-1]}; "
                        f"the others are kept in {out}.part, the same command continues")
    answers = [done[p.id] for p in prompts]
    write_jsonl(out, answers)
    pathlib.Path(f"{out}.part").unlink()
    return answers


async def _ask(client: Client, config: AnswerConfig, prompt: Prompt, begin: str, name: str) -> Answer:
    text, options = prompt.messages[-1].content, config.options()
    reply = await (client.complete(begin + text, **options) if config.prompt == "raw"
                   else client.chat(prompt.messages, **options))
    return Answer(prompt.id, text, reply.text, name, prompt.dataset, reply.finish_reason, digest(prompt.messages))


def _finished(out: pathlib.Path, meta: AnswersMeta, prompts: Sequence[Prompt]) -> dict[str, Answer]:
    """Answers of an earlier call. Raises UserError when that was another model, or asked otherwise."""
    path = pathlib.Path(f"{out}.meta.json")
    if not path.exists():
        if out.exists():
            raise UserError(f"{out} exists and was not made here (no {path.name} beside it); choose another name")
        return {}
    before = read_json(AnswersMeta, path)
    for what in ("prompt", "options"):
        if getattr(before, what) != getattr(meta, what):
            raise UserError(f"{out} holds answers asked with {what} {getattr(before, what)}, now "
                            f"{getattr(meta, what)}; choose another name")
    if before.lineage.id != meta.lineage.id:
        raise UserError(f"{out} holds answers of '{before.lineage.name}' (id {before.lineage.id}), the server has "
                        f"'{meta.lineage.name}' (id {meta.lineage.id}); choose another name")
    return {a.prompt_id: a for a in _same_prompts(read_answers(out) if out.exists() else [], prompts, out)}


def _same_prompts(answers: Sequence[Answer], prompts: Sequence[Prompt], out: pathlib.Path) -> Sequence[Answer]:
    asked = {p.id: digest(p.messages) for p in prompts}
    for answer in answers:
        if asked.get(answer.prompt_id, answer.request) != answer.request:
            raise UserError(f"{out}: prompt '{answer.prompt_id}' was answered with another text; choose another name")
    return answers


def read_answers(path: str | os.PathLike) -> list[Answer]:
    """Recorded answers: our own JSONL, or alpaca_eval's outputs (`instruction`, `output`, `generator`), gzipped or not.

    The latter name no prompts; there the id is a hash of the instruction, so that files of one set of prompts pair.
    Raises UserError with file and line for a record of neither form, and for an empty file.
    """
    path = pathlib.Path(path)
    answers = [_answer(record, f"{path}:{record.line}") for record in iter_records(path)]
    if not answers:
        raise UserError(f"{path}: no answers in it")
    return answers


def _answer(record: RawRecord, where: str) -> Answer:
    try:
        fields = record.parse()
    except Drop as drop:
        raise UserError(f"{where}: {drop}") from None
    if "instruction" not in fields or "output" not in fields:
        return build(Answer, fields, where)
    instruction = fields["instruction"]
    ours = {"prompt_id": digest(str(instruction).encode()), "prompt": instruction, "answer": fields["output"],
            "model": fields.get("generator", ""), "dataset": fields.get("dataset", "")}
    return build(Answer, ours, where)


def answers_meta(path: str | os.PathLike, answers: Sequence[Answer], teacher: str) -> AnswersMeta:
    """Who gave the answers of a file, and how they were asked: by its `.meta.json`, else by the name that they carry,
    as an imitation of `teacher` (unless that is the name itself) whose base is unknown (""), asked in chat."""
    meta = pathlib.Path(f"{path}.meta.json")
    if meta.exists():
        return read_json(AnswersMeta, meta)
    name = answers[0].model or pathlib.Path(path).stem
    own = digest(["recorded", name])
    base, teachers = (own, ()) if name == teacher else ("", (teacher,))
    lineage = Lineage(id=own, name=name, base=base, base_name=name if base else "", teachers=teachers)
    return AnswersMeta(lineage, "chat", {})
