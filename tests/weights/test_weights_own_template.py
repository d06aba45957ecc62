"""The tokenizer's own chat template keeps its identity from run to Hugging Face dir and back."""
import dataclasses
import json
import pickle

import pytest
from weights.conftest import LINEAGE

from easylm_imitation.records import Message
from easylm_imitation.schema import UserError
from easylm_imitation.text import get_template, prompt_ids
from easylm_imitation.weights import export_hf, find_template, in_chat, open_model, save_run_model, with_template

CHAT = ("{%- for m in messages %}{{- '<|im_start|>' + m.role + ': ' + m.content + '<|im_end|>' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant: ' }}{%- endif %}")
ASKED = [Message("user", "Where is the cat?")]


@pytest.fixture
def chatty(tokenizer):
    made = pickle.loads(pickle.dumps(tokenizer))
    made.chat_template = CHAT
    return made


def test_it_travels_from_run_to_export_and_back(wide, chatty, tmp_path):
    config, params = wide["llama"]
    template = get_template("tokenizer", chatty)
    lineage = dataclasses.replace(LINEAGE, template=template.id)
    save_run_model(tmp_path / "run", config, params, chatty, template, lineage)
    export_hf(tmp_path / "hf", config, params, chatty, template, lineage)
    for place in ("run", "hf"):
        loaded = open_model(tmp_path / place)
        assert loaded.template == template
        assert loaded.tokenizer.chat_template == CHAT
        assert prompt_ids(loaded.template, loaded.tokenizer, ASKED) == prompt_ids(template, chatty, ASKED)
        assert loaded.end_ids() == open_model(tmp_path / "run").end_ids()


def test_a_changed_text_is_noticed(wide, chatty, tmp_path):
    config, params = wide["llama"]
    save_run_model(tmp_path / "run", config, params, chatty, get_template("tokenizer", chatty), LINEAGE)
    file = tmp_path / "run" / "tokenizer" / "tokenizer_config.json"
    file.write_text(file.read_text().replace(": ' + m.content", "> ' + m.content"))
    with pytest.raises(UserError, match="made with template tokenizer@"):
        open_model(tmp_path / "run")


def test_a_model_of_others_can_speak_its_own_template(wide, chatty, tmp_path):
    config, params = wide["llama"]
    save_run_model(tmp_path / "run", config, params, chatty, None, LINEAGE)
    bare = dataclasses.replace(open_model(tmp_path / "run"), tokenizer=chatty)
    assert with_template(bare, "tokenizer").template.source == CHAT
    with pytest.raises(UserError, match="no chat template of its own"):
        with_template(open_model(tmp_path / "run"), "tokenizer")


@pytest.fixture
def foreign(own_copy):
    """A function: a Hugging Face dir of others, with this chat template or none, and three ends of generation."""
    def make(chat):
        folder = own_copy("llama")
        (folder / "easylm_imitation.json").unlink()
        said = json.loads((folder / "tokenizer_config.json").read_text())
        del said["chat_template"]
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
        (folder / "generation_config.json").write_text('{"eos_token_id": [8, 9, 256]}')
        if chat is not None:
            (folder / "chat_template.jinja").write_text(chat)
        return folder
    return make


@pytest.mark.parametrize("way", ["itself", "a run", "a note without a template"])
def test_a_model_of_others_is_talked_to_in_its_own_template(foreign, tmp_path, way):
    folder = foreign(CHAT)
    named = open_model(folder)
    assert (named.template, named.lineage.template) == (None, "")     # so that training takes any data
    if way == "a run":
        folder = save_run_model(tmp_path / "run", named.config, named.params, named.tokenizer, None, named.lineage,
                                extras=named.extras).path
    elif way == "a note without a template":
        folder = tmp_path / "out"
        export_hf(folder, named.config, named.params, named.tokenizer, None, named.lineage, extras=named.extras)
    spoken = in_chat(open_model(folder))
    assert spoken.template.source == CHAT
    assert spoken.template == find_template(folder) == get_template("tokenizer", spoken.tokenizer)
    assert spoken.lineage == dataclasses.replace(named.lineage, template=spoken.template.id)
    end = spoken.tokenizer.special_id("<|im_end|>")
    assert {8, 9, 256, end} <= set(spoken.end_ids())


def test_the_template_that_the_weights_were_made_with_comes_first(exported):
    loaded = open_model(exported["llama"])
    assert in_chat(loaded) is loaded
    assert find_template(exported["llama"]) == get_template("chatml")


def test_a_model_without_a_template_stays_without(foreign):
    folder = foreign(None)
    assert (in_chat(open_model(folder)).template, find_template(folder)) == (None, None)


def test_a_template_that_cannot_be_used_is_told_and_left_out(foreign, capsys):
    folder = foreign("{% for message in messages %}")
    assert in_chat(open_model(folder)).template is None
    assert "is no Jinja" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError, match=f"{folder}: the chat template that came with it cannot be used here"):
        find_template(folder)
