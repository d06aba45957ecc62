"""Reads tokenizers: Hugging Face folders, a lone tokenizer.json, GPT-2's vocab + merges, a tokenizer.model.

No `transformers` here (its import costs seconds); everything needed is in the files.
"""
import os
import pathlib
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from easylm_imitation.files import read_object
from easylm_imitation.schema import UserError
from easylm_imitation.text.tokenizer import Tokenizer, begin_with
from easylm_imitation.text.tokenizer_sentencepiece import sentencepiece_backend
from easylm_imitation.text.tokenizer_tiktoken import is_tiktoken, tiktoken_backend

_VOCAB_FILES = (("vocab.json", "merges.txt"), ("gpt2-vocab.json", "gpt2-merges.txt"))
_MODEL = "tokenizer.model"      # of SentencePiece, or tiktoken's
# eos, bos of tokenizers that come without a config: GPT-2/NeoX use one token for both, LLaMA's have two
_WELL_KNOWN = (("<|endoftext|>", "<|endoftext|>"), ("</s>", "<s>"), ("<|im_end|>", None),
               ("<|end_of_text|>", "<|begin_of_text|>"))
_OPT = "<s>", "<pad>", "</s>"   # the first tokens of OPT's, which has GPT-2's <|endoftext|> too and never uses it


def has_tokenizer(folder: str | os.PathLike) -> bool:
    """Whether a model's folder brings a tokenizer that `load_tokenizer` reads."""
    names = ("tokenizer.json", _MODEL, *(vocab for vocab, _ in _VOCAB_FILES))
    return any((pathlib.Path(folder) / name).is_file() for name in names)


def tokenizer_folder(path: str | os.PathLike) -> pathlib.Path:
    """Where `load_tokenizer` reads: `path`, or tokenizer/ in it, as in a run dir, where it has no tokenizer itself."""
    path = pathlib.Path(path)
    inside = path / "tokenizer"
    return inside if inside.is_dir() and not has_tokenizer(path) else path


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Reads a folder (tokenizer.json, else tokenizer.model, else vocab.json + merges.txt, with their configs), the
    one inside a run dir, or a tokenizer file.

    Beginning, end and padding tokens come from tokenizer_config.json, special_tokens_map.json, generation_config.json
    or config.json, in this order, else from well-known names (<|endoftext|>, </s>). Whether plain texts begin with the
    first is the word of tokenizer.json, as for transformers 5; of other files, the config's (`add_bos_token`). Raises
    UserError.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise UserError(f"tokenizer {path}: no such file or folder")
    path = tokenizer_folder(path)
    folder = path if path.is_dir() else path.parent
    backend = _read_backend(path)
    eos, bos, pad = _special_names(folder if path.is_dir() else None, backend)
    if eos is None:
        raise UserError(f"tokenizer {path}: no end token; name it as \"eos_token\" in {folder}/tokenizer_config.json")
    try:
        return Tokenizer(backend, eos=eos, bos=bos, pad=pad, chat_template=_chat_template(folder))
    except UserError as error:
        raise UserError(f"tokenizer {path}: {error}") from None


def _chat_template(folder: pathlib.Path) -> str | None:
    """The folder's Jinja chat template; of several, the one called "default"."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        try:
            return own.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{own}: not a readable text file ({error})") from None
    said = _read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(said, list):
        said = next((entry.get("template") for entry in said if entry.get("name") == "default"), None)
    return said if isinstance(said, str) else None


def _read_backend(path: pathlib.Path) -> tokenizers.Tokenizer:
    file = path / "tokenizer.json" if path.is_dir() else path
    model = path / _MODEL if path.is_dir() else path
    try:
        if model.suffix == ".model" and model.is_file() and not (path / "tokenizer.json").is_file():
            return _with_added(_read_model(model), model.parent)
        if file.is_file():
            return tokenizers.Tokenizer.from_file(str(file))
        for vocab, merges in _VOCAB_FILES:
            if (path / vocab).is_file() and (path / merges).is_file():
                return _with_bos(_with_added(_byte_level(str(path / vocab), str(path / merges)), path), path)
    except UserError:
        raise
    except Exception as error:  # the library raises plain Exception for anything it cannot read
        raise UserError(f"tokenizer {path}: not readable ({error})") from None
    alone = [f.name for f in sorted(path.glob("*.json"))]
    if len(alone) == 1:
        return _read_backend(path / alone[0])
    raise UserError(f"tokenizer {path}: neither tokenizer.json nor {_MODEL} nor vocab.json + merges.txt in this folder")


def _read_model(file: pathlib.Path) -> tokenizers.Tokenizer:
    """A tokenizer.model. Each stretch of text gets SentencePiece's mark unless the config says `legacy: false`: files
    without the key are older than it."""
    config = _read_json(file.parent / "tokenizer_config.json")
    if is_tiktoken(file):
        backend = tiktoken_backend(file)
    else:
        backend = sentencepiece_backend(file, every_stretch=config.get("legacy") is not False)
    bos = next((name for name in ("<s>", "<|begin_of_text|>") if backend.token_to_id(name) is not None), None)
    if bos is not None and config.get("add_bos_token", True):
        begin_with(backend, bos)
    return backend


def _with_added(backend: tokenizers.Tokenizer, folder: pathlib.Path) -> tokenizers.Tokenizer:
    """Tokens that were added beside the vocabulary file, at the ids that they were trained with. Raises UserError."""
    added = {name: {"id": token_id} for name, token_id in _read_json(folder / "added_tokens.json").items()}
    described = _read_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    added |= {token["content"]: {**token, "id": int(token_id)} for token_id, token in described.items()}
    for name, token in sorted(added.items(), key=lambda item: item[1]["id"]):
        flags = {key: bool(token[key]) for key in ("lstrip", "rstrip", "normalized", "single_word") if key in token}
        entry = tokenizers.AddedToken(name, **{"normalized": False, **flags})
        (backend.add_special_tokens if token.get("special", True) else backend.add_tokens)([entry])
        if backend.token_to_id(name) != token["id"]:
            raise UserError(f"tokenizer {folder}: the added token '{name}' should have id {token['id']}, but would get "
                            f"{backend.token_to_id(name)}; bring the tokenizer.json that it was made with")
    return backend


def _byte_level(vocab: str, merges: str) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE.from_file(vocab, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([name for name in ("<|endoftext|>",) if backend.token_to_id(name) is not None])
    return backend


def _with_bos(backend: tokenizers.Tokenizer, folder: pathlib.Path) -> tokenizers.Tokenizer:
    """OPT has GPT-2's kind of files, and begins each text where its config says so."""
    config = _read_json(folder / "tokenizer_config.json")
    bos = _token_names(config).get("bos")
    if config.get("add_bos_token") and bos is not None and backend.token_to_id(bos) is not None:
        begin_with(backend, bos)
    return backend


def _special_names(folder: pathlib.Path | None, backend: tokenizers.Tokenizer) -> tuple[str | None, ...]:
    """(eos, bos, pad) by name; the first file that knows about a token decides."""
    names: dict[str, str | None] = {}
    if folder is not None:
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            try:
                names = {**_token_names(_read_json(folder / file)), **names}
            except UserError as error:
                raise UserError(f"{folder / file}: {error}") from None
        for file in ("generation_config.json", "config.json"):
            names = {**_token_names_of_ids(_read_json(folder / file), backend), **names}
    if names.get("eos") is None:
        if [backend.token_to_id(name) for name in _OPT] == [0, 1, 2]:
            return "</s>", names.get("bos", "</s>"), names.get("pad", "<pad>")
        for eos, bos in _WELL_KNOWN:
            if backend.token_to_id(eos) is not None:
                known_bos = bos if bos and backend.token_to_id(bos) is not None else None
                return eos, names.get("bos", known_bos), names.get("pad")
    return names.get("eos"), names.get("bos"), names.get("pad")


def _token_names(config: dict[str, Any]) -> dict[str, str | None]:
    """{"eos": name, ...} of the keys that are there; `null` counts: it says that there is no such token. Early LLaMA
    dirs say "" where they leave it to the file. Raises UserError for a name that is no text."""
    names = {}
    for key in ("eos", "bos", "pad"):
        value = config.get(f"{key}_token", "")
        value = value.get("content") if isinstance(value, dict) else value
        if value is not None and not isinstance(value, str):
            raise UserError(f"{key}_token is {value!r}, which is no token's name")
        if value != "":
            names[key] = value
    return names


def _token_names_of_ids(config: dict[str, Any], backend: tokenizers.Tokenizer) -> dict[str, str | None]:
    names = {}
    for key in ("eos", "bos", "pad"):
        value = config.get(f"{key}_token_id")
        value = value[0] if isinstance(value, list) and value else value
        if type(value) is int and 0 <= value < 2**31 and backend.id_to_token(value) is not None:   # -1 says "none"
            names[key] = backend.id_to_token(value)
    return names


def _read_json(file: pathlib.Path) -> dict[str, Any]:
    return read_object(file) if file.is_file() else {}
