"""The tokenizer's own chat template keeps its identity from run to Hugging Face dir and back."""
import dataclasses
import pickle

import pytest
from weights.conftest import LINEAGE

from easylm_imitation.records import Message
from easylm_imitation.schema import UserError
from easylm_imitation.text import get_template, prompt_ids
from easylm_imitation.weights import export_hf, open_model, save_run_model, with_template

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
