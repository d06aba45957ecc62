"""What a source says beside weights and tokenizer comes back in an export, unless a template of ours replaces it."""
import dataclasses
import json

import pytest
from weights.conftest import LINEAGE

from easylm_imitation.cli.main import main
from easylm_imitation.schema import UserError
from easylm_imitation.text import get_template, stop_ids
from easylm_imitation.weights import RunDir, export_hf, open_model

# as LLaMA 3.1 says it: ends of two kinds, no pad token, sampling of its own
IDS = {"bos_token_id": 7, "eos_token_id": [8, 9, 257]}
GENERATION = {"_from_model_config": True, **IDS, "do_sample": True, "temperature": 0.6, "top_p": 0.9,
              "transformers_version": "4.43.0.dev0"}
TOKENIZER = {"model_max_length": 131072, "padding_side": "left", "unk_token": "a"}
CHAT = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}\n"


def written(folder, name):
    return json.loads((folder / name).read_text())


def write(folder, name, content):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def foreign(own_copy):
    """A Hugging Face dir that others wrote: ids, generation config and chat template of its own, no note of ours."""
    folder = own_copy("llama")
    (folder / "easylm_imitation.json").unlink()
    config = {key: value for key, value in written(folder, "config.json").items() if not key.endswith("_token_id")}
    write(folder, "config.json", {**config, **IDS, "attention_dropout": 0.1})
    write(folder, "generation_config.json", GENERATION)
    tokenizer = {**written(folder, "tokenizer_config.json"), **TOKENIZER}
    del tokenizer["chat_template"]
    write(folder, "tokenizer_config.json", tokenizer)
    write(folder, "chat_template.jinja", CHAT)
    return folder


def there_and_back(folder, tmp_path, *flags):
    """The dir that comes out, by way of a run dir. The flags are for the way in."""
    for way in (["--from", folder, "--to", tmp_path / "run", *flags],
                ["--from", tmp_path / "run", "--to", tmp_path / "out", "--format", "hf"]):
        assert main(["convert", *map(str, way)]) == 0
    return tmp_path / "out"


def ids_in(mapping):
    return {key: value for key, value in mapping.items() if key.endswith("_token_id")}


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_ids_generation_config_and_chat_template_come_back(foreign, tmp_path, capsys, with_tokenizer):
    if not with_tokenizer:
        (foreign / "tokenizer.json").unlink()
    out = there_and_back(foreign, tmp_path)
    assert ids_in(written(out, "config.json")) == IDS
    assert written(out, "config.json")["attention_dropout"] == 0.1
    assert written(out, "generation_config.json") == GENERATION
    tokenizer = written(out, "tokenizer_config.json")
    assert tokenizer["chat_template"] == CHAT
    if with_tokenizer:
        assert {key: tokenizer[key] for key in TOKENIZER} == TOKENIZER
    said = " ".join(capsys.readouterr().err.split())
    assert "its own chat template is kept: chats are served in it" in said
    main(["convert", "--from", str(foreign), "--to", str(tmp_path / "at-once"), "--format", "hf"])
    same = ("config.json", "generation_config.json", "tokenizer_config.json")
    assert [written(tmp_path / "at-once", name) for name in same] == [written(out, name) for name in same]


def test_a_template_of_ours_replaces_the_chat_template_and_the_ends(foreign, tokenizer, tmp_path, capsys):
    out = there_and_back(foreign, tmp_path, "--template", "chatml")
    ends = list(stop_ids(get_template("chatml"), tokenizer))
    assert written(out, "generation_config.json") == {**GENERATION, "eos_token_id": ends}
    assert "<|im_start|>" in written(out, "tokenizer_config.json")["chat_template"]
    assert "gives way to 'chatml'" in " ".join(capsys.readouterr().err.split())
    assert open_model(out).extras.chat_template is None     # it is the named template's, and no other
    assert RunDir(tmp_path / "run").read_extras().chat_template == CHAT


def test_a_source_that_says_nothing_gets_the_tokenizers_ids(foreign, tokenizer, tmp_path):
    for name in ("generation_config.json", "chat_template.jinja"):
        (foreign / name).unlink()
    bare = {key: value for key, value in written(foreign, "config.json").items()
            if not key.endswith("_token_id") and key != "attention_dropout"}
    write(foreign, "config.json", bare)
    out = there_and_back(foreign, tmp_path)
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    assert ids_in(written(out, "config.json")) == written(out, "generation_config.json") == ids
    assert written(out, "config.json")["attention_dropout"] == 0.0
    assert "chat_template" not in written(out, "tokenizer_config.json")


def test_chat_templates_of_several_names_come_back(foreign, tmp_path):
    (foreign / "additional_chat_templates").mkdir()
    write(foreign / "additional_chat_templates", "tool_use.jinja", "tools")
    several = [{"name": "default", "template": CHAT}, {"name": "tool_use", "template": "tools"}]
    out = there_and_back(foreign, tmp_path)
    assert written(out, "tokenizer_config.json")["chat_template"] == several
    assert open_model(out).extras.chat_template == several


def test_generation_ends_where_the_source_says(foreign, tokenizer):
    loaded = open_model(foreign)
    assert loaded.end_ids() == (tokenizer.eos_id, 8, 9, 257)
    chatml = dataclasses.replace(loaded, template=get_template("chatml"))
    assert chatml.end_ids() == stop_ids(get_template("chatml"), tokenizer)
    write(foreign, "generation_config.json", {})
    assert open_model(foreign).end_ids() == (tokenizer.eos_id, 8, 9, 257)       # config.json says it too
    write(foreign, "generation_config.json", {"eos_token_id": 9})
    assert open_model(foreign).end_ids() == (tokenizer.eos_id, 9)


@pytest.mark.parametrize("nothing", [-1, 2**40, 2**70, "", None])
def test_an_id_or_a_name_that_says_nothing_is_passed_over(foreign, tokenizer, nothing):
    names = {"bos_token": "", "eos_token": "", "unk_token": ""} if nothing == "" else {"eos_token": "<eos>"}
    write(foreign, "tokenizer_config.json", names)
    (foreign / "special_tokens_map.json").unlink()
    if nothing != "":
        write(foreign, "config.json", {**written(foreign, "config.json"), "pad_token_id": nothing, "eos_token_id": 256})
        write(foreign, "generation_config.json", {"bos_token_id": nothing, "pad_token_id": nothing})
    loaded = open_model(foreign)
    assert loaded.tokenizer.eos_id == (8 if nothing == "" else tokenizer.eos_id)      # 8: the first that the ids name
    assert not loaded.tokenizer.has_pad


@pytest.mark.parametrize(("name", "content", "message"), [
    ("tokenizer_config.json", {"eos_token": ["a"]}, "eos_token is ['a'], which is no token's name"),
    ("config.json", {"use_sliding_window": "yes", "model_type": "qwen2"}, "use_sliding_window='yes' is not supported"),
    ("generation_config.json", "[]", "generation_config.json: expected a JSON object, got list"),
    ("generation_config.json", "{", "generation_config.json: not a readable JSON file"),
    ("generation_config.json", {"eos_token_id": "</s>"}, "eos_token_id='</s>' is neither an id nor a list of ids"),
    ("generation_config.json", {"eos_token_id": [2, None]}, "eos_token_id=[2, None] is neither an id nor a list"),
    ("tokenizer_config.json", {"eos_token": "<eos>", "chat_template": 5}, "besides.chat_template: expected"),
    ("chat_template.jinja", b"\xff", "chat_template.jinja: not a readable text file"),
    ("config.json", {"attention_dropout": "much"}, "attention_dropout='much' is no share of at least 0 and below 1"),
    ("config.json", {"attention_dropout": 1.5}, "attention_dropout=1.5 is no share of at least 0 and below 1")])
def test_nonsense_is_one_clear_line(foreign, name, content, message):
    (foreign / "chat_template.jinja").unlink()
    if name == "config.json":
        content = {**written(foreign, name), **content}
    (foreign / name).write_bytes(content) if isinstance(content, bytes) else write(foreign, name, content)
    with pytest.raises(UserError) as error:
        open_model(foreign)
    assert message in str(error.value)
    assert str(foreign) in str(error.value)


def test_damaged_extras_of_a_run_are_one_clear_line(foreign, tmp_path):
    there_and_back(foreign, tmp_path)
    write(tmp_path / "run", "source.json", {"generation": 3})
    with pytest.raises(UserError, match=r"source\.json\.generation: expected a mapping"):
        open_model(tmp_path / "run")


def test_transformers_ends_generation_with_what_came_back(foreign, tmp_path):
    transformers = pytest.importorskip("transformers")
    out = there_and_back(foreign, tmp_path)
    assert transformers.GenerationConfig.from_pretrained(out).eos_token_id == IDS["eos_token_id"]
    assert transformers.AutoTokenizer.from_pretrained(out).chat_template == CHAT


def test_an_export_without_a_source_is_as_before(wide, tmp_path):
    export_hf(tmp_path / "out", *wide["llama"], None, None, LINEAGE)
    assert written(tmp_path / "out", "generation_config.json") == {}
