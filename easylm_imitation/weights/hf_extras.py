"""What a Hugging Face dir says beside weights and tokenizer, kept with the model for an export to say again."""
import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from easylm_imitation.files import read_object, write_json
from easylm_imitation.schema import UserError, build, plain

GENERATION = "generation_config.json"
_IDS, _DROPOUT = r".*_token_id", r".*dropout|.*_pdrop|layerdrop"    # keys of config.json
# keys of tokenizer_config.json; its tokens and ids are the tokenizer's own affair
_TOKENIZER = r"model_max_length|(padding|truncation)_side|unk_token|clean_up_tokenization_spaces|model_input_names"


@dataclasses.dataclass(frozen=True)
class HFExtras:
    """A source's own words, unchanged; empty where it says nothing. Nothing here decides what the network computes."""
    ids: dict[str, Any] = dataclasses.field(default_factory=dict)       # config.json's bos_token_id, eos_token_id, ...
    dropout: dict[str, Any] = dataclasses.field(default_factory=dict)   # config.json's; training here goes without
    generation: dict[str, Any] = dataclasses.field(default_factory=dict)        # generation_config.json
    tokenizer: dict[str, Any] = dataclasses.field(default_factory=dict)         # of tokenizer_config.json
    chat_template: str | list[dict[str, str]] | None = None     # Jinja; a list of {"name", "template"} where several

    def default_chat_template(self) -> str | None:
        """Its chat template; of several, the one called "default"."""
        chat = self.chat_template
        if isinstance(chat, list):
            return next((one["template"] for one in chat if one.get("name") == "default"), None)
        return chat

    def end_ids(self) -> tuple[int, ...]:
        """The ids that end generation, as generation_config.json says or else config.json. Raises UserError."""
        said = self.generation.get("eos_token_id", self.ids.get("eos_token_id"))
        ids = said if isinstance(said, list) else [] if said is None else [said]
        if any(type(token_id) is not int for token_id in ids):
            raise UserError(f"{GENERATION}: eos_token_id={said!r} is neither an id nor a list of ids")
        return tuple(ids)


NO_EXTRAS = HFExtras()


def read_extras(folder: str | os.PathLike) -> HFExtras:
    """What a Hugging Face dir says besides. Raises UserError for a file that is no JSON object, or says nonsense."""
    folder = pathlib.Path(folder)
    config = _mapping(folder / "config.json")
    tokenizer = _mapping(folder / "tokenizer_config.json")
    extras = HFExtras(_matching(config, _IDS), _matching(config, _DROPOUT), _mapping(folder / GENERATION),
                      _matching(tokenizer, _TOKENIZER), _chat_template(folder, tokenizer))
    try:
        extras.end_ids()
        return build(HFExtras, plain(extras), "what it says besides")
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None


def load_extras(path: pathlib.Path) -> HFExtras:
    """What `save_extras` wrote; nothing where it wrote no file. Raises UserError."""
    return build(HFExtras, read_object(path), str(path)) if path.is_file() else NO_EXTRAS


def save_extras(path: pathlib.Path, extras: HFExtras) -> None:
    """Writes them as one JSON file, unless there is nothing to say."""
    if extras != NO_EXTRAS:
        write_json(path, extras)


def _mapping(path: pathlib.Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}


def _matching(config: Mapping[str, Any], keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if re.fullmatch(keys, key)}


def _chat_template(folder: pathlib.Path, tokenizer: Mapping[str, Any]) -> Any:
    """The dir's chat template: in files of its own since transformers 4.51, in tokenizer_config.json before."""
    own = folder / "chat_template.jinja"
    others = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    named = [{"name": file.stem, "template": _text(file)} for file in others]
    if own.is_file():
        return [{"name": "default", "template": _text(own)}, *named] if named else _text(own)
    return named or tokenizer.get("chat_template")


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable text file ({error})") from None
