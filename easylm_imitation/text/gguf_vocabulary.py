"""A tokenizer as GGUF's keys say it, both ways: byte-level BPE of three known kinds, and SentencePiece's BPE.

Byte-level BPE is `tokenizer.ggml.model` "gpt2": tokens, merges, and the name of the expression that cuts words. The
other kind is "llama": tokens with scores, as in a tokenizer.model.
"""
import array
import json
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from easylm_imitation.schema import UserError, brief
from easylm_imitation.text.tokenizer import Tokenizer
from easylm_imitation.text.tokenizer_sentencepiece import SentencePieceModel, backend_of
from easylm_imitation.text.tokenizer_tiktoken import LLAMA3_WORDS

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_QWEN2_WORDS = LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
_WORDS = {"gpt-2": None, "llama-bpe": LLAMA3_WORDS, "qwen2": _QWEN2_WORDS}     # None: ByteLevel's own expression
_LONGEST = 1024     # characters of a token of SentencePiece's
_K = "tokenizer.ggml."
_IDS = {"bos": f"{_K}bos_token_id", "eos": f"{_K}eos_token_id", "pad": f"{_K}padding_token_id"}


def vocabulary_of(tokenizer: Tokenizer, entries: int) -> dict[str, Any]:
    """GGUF's keys for a tokenizer; tokens are filled up to the model's `entries`. Raises UserError for a tokenizer that
    they cannot say."""
    content = json.loads(tokenizer.definition)
    model = content["model"]
    if model.get("type", "BPE") != "BPE":
        raise UserError(f"GGUF is written for BPE tokenizers, and this one is {model.get('type')}")
    texts = {token_id: text for text, token_id in model["vocab"].items()}
    texts |= {token["id"]: token["content"] for token in content["added_tokens"]}
    kinds = {token["id"]: _CONTROL if token["special"] else _USER_DEFINED for token in content["added_tokens"]}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges", [])]
    tokens = [texts.get(i, f"[PAD{i}]") for i in range(entries)]
    types = [kinds.get(i, _NORMAL if i in texts else _UNUSED) for i in range(entries)]
    ids = {_IDS["bos"]: tokenizer.bos_id, _IDS["eos"]: tokenizer.eos_id,
           _IDS["pad"]: tokenizer.pad_id if tokenizer.has_pad else None}
    said = {f"{_K}add_bos_token": tokenizer.begins, **{key: value for key, value in ids.items() if value is not None}}
    if _is_byte_level(content):
        own = {f"{_K}model": "gpt2", f"{_K}pre": _words_of(content), f"{_K}merges": merges}
    elif model.get("byte_fallback"):
        own, types = _scored(content, tokens, types, merges)
    else:
        raise UserError("GGUF has no name for this tokenizer: it is neither byte-level nor falls back to bytes")
    return {**own, f"{_K}tokens": tokens, f"{_K}token_type": types, **said}


def tokenizer_from(metadata: Mapping[str, Any], where: str) -> Tokenizer | None:
    """The tokenizer of a GGUF file; None where it has none. Raises UserError for one that is not read."""
    if f"{_K}tokens" not in metadata:
        return None
    tokens = _texts(metadata, "tokens", where)
    kind, types = metadata.get(f"{_K}model"), _numbers(metadata, "token_type", len(tokens), _NORMAL, where)
    if kind == "gpt2":
        backend = _byte_level(metadata, tokens, types, where)
    elif kind == "llama":
        backend = _sentencepiece(metadata, tokens, types, where)
    else:
        raise UserError(f"{where}: {_K}model is {brief(kind)}; 'gpt2' and 'llama' are read")
    names = {}
    for name, key in _IDS.items():
        number = metadata.get(key)
        if number is not None and not (type(number) is int and 0 <= number < len(tokens)):
            raise UserError(f"{where}: {key} is {brief(number)}, and there are {len(tokens)} tokens")
        names[name] = None if number is None else tokens[number]
    if names["eos"] is None:
        raise UserError(f"{where}: {_IDS['eos']} is missing, so answers would never end")
    chat = metadata.get("tokenizer.chat_template")
    begins = metadata.get(f"{_K}add_bos_token", kind == "llama" or metadata.get(f"{_K}pre") == "llama-bpe")
    made = Tokenizer(backend, **names, chat_template=chat if isinstance(chat, str) else None)
    return made.beginning(begins is True)


def _texts(metadata: Mapping[str, Any], key: str, where: str) -> list[str]:
    """A list of texts; empty where there is none. Raises UserError."""
    found = metadata.get(f"{_K}{key}", [])
    if not isinstance(found, list):
        raise UserError(f"{where}: {_K}{key} is {brief(found)}; it must be a list of texts")
    return found


def _numbers(metadata: Mapping[str, Any], key: str, count: int, default: int | None, where: str) -> list[Any]:
    """A list of `count` numbers; where there is none, of the default. Raises UserError."""
    found = metadata.get(f"{_K}{key}")
    if found is None and default is not None:
        return [default] * count
    if not isinstance(found, array.array) or len(found) != count:
        said = f"{len(found)} entries" if isinstance(found, array.array) else "no list of numbers"
        raise UserError(f"{where}: {_K}{key} has {said} for {count} tokens")
    return found.tolist()


def _steps(content: Mapping[str, Any], key: str, inner: str) -> list[dict[str, Any]]:
    step = content.get(key)
    return [] if step is None else step[inner] if step["type"] == "Sequence" else [step]


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    return any(step["type"] == "ByteLevel" for step in _steps(content, "pre_tokenizer", "pretokenizers"))


def _words_of(content: Mapping[str, Any]) -> str:
    """The name of how words are cut. Raises UserError for an expression that none of them names."""
    steps = _steps(content, "pre_tokenizer", "pretokenizers")
    cuts = [step["pattern"].get("Regex") for step in steps if step["type"] == "Split"]
    own = any(step["type"] == "ByteLevel" and step.get("use_regex", True) for step in steps)
    prefix = any(step.get("add_prefix_space") for step in steps)
    odd = [step["type"] for step in steps if step["type"] not in ("Split", "ByteLevel")]
    wanted = (None,) if own and not cuts else tuple(cuts)
    name = next((name for name, words in _WORDS.items() if wanted == (words,)), None)
    others = [step["type"] for step in _steps(content, "normalizer", "normalizers") if step["type"] != "NFC"]
    if name is None or prefix or odd or others:
        raise UserError(f"GGUF has no name for how this tokenizer cuts words ({', '.join(_WORDS)} are known), so "
                        "others would read other ids; export it with --format hf")
    return name


def _scored(content: Mapping[str, Any], tokens: list[str], types: list[int],
            merges: list[str]) -> tuple[dict[str, Any], list[int]]:
    """Keys of a SentencePiece model; a token's score is the rank of the first merge that makes it."""
    rank: dict[str, int] = {}
    for number, pair in enumerate(merges):
        rank.setdefault(pair.replace(" ", ""), number)
    steps = [*_steps(content, "normalizer", "normalizers"), *_steps(content, "pre_tokenizer", "pretokenizers")]
    prefix = any(step["type"] == "Prepend" or (step["type"] == "Metaspace" and step.get("prepend_scheme") != "never")
                 for step in steps)
    others = [step["type"] for step in steps if step["type"] not in ("Prepend", "Replace", "Metaspace")]
    if others:
        raise UserError(f"GGUF cannot say {others[0]} of this tokenizer, so others would read other ids; export it "
                        "with --format hf")
    unknown = content["model"].get("unk_token")
    types = [_UNKNOWN if text == unknown else _BYTE if kind == _NORMAL and _is_byte(text) else kind
             for text, kind in zip(tokens, types)]
    keys = {f"{_K}model": "llama", f"{_K}scores": [-float(rank.get(text, 0)) for text in tokens],
            f"{_K}add_space_prefix": prefix}
    return keys | ({f"{_K}unknown_token_id": tokens.index(unknown)} if unknown in tokens else {}), types


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], types: list[int],
                where: str) -> tokenizers.Tokenizer:
    name = metadata.get(f"{_K}pre", "gpt-2")
    if not isinstance(name, str) or name not in _WORDS:
        raise UserError(f"{where}: {_K}pre is {brief(name)}; {', '.join(_WORDS)} are read")
    added = [i for i, kind in enumerate(types) if kind in (_CONTROL, _USER_DEFINED)]
    last = len(tokens) - 1      # tokens that were added behind the vocabulary get their ids from their place
    while last >= 0 and types[last] != _NORMAL:
        last -= 1
    vocab = {text: i for i, (text, kind) in enumerate(zip(tokens, types)) if i <= last or kind == _NORMAL}
    merges = [tuple(pair.split(" ")) for pair in _texts(metadata, "merges", where)]
    try:
        backend = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=name == "llama-bpe"))
    except Exception as error:      # the library raises plain Exception
        raise UserError(f"{where}: its merges do not fit its tokens ({brief(str(error))})") from None
    words = _WORDS[name]
    cut = [] if words is None else [pre_tokenizers.Split(Regex(words), "isolated")]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words is None)])
    if name == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken(tokens[i], normalized=False, special=types[i] == _CONTROL) for i in added])
    moved = next((i for i in added if backend.token_to_id(tokens[i]) != i), None)
    if moved is not None:
        raise UserError(f"{where}: the token {brief(tokens[moved])} has no place of its own at {moved}")
    return backend


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], types: list[int],
                   where: str) -> tokenizers.Tokenizer:
    scores = _numbers(metadata, "scores", len(tokens), None, where)
    kinds = [_NORMAL if kind == _UNUSED else _CONTROL if kind == _USER_DEFINED else kind for kind in types]
    unknown = metadata.get(f"{_K}unknown_token_id", next((i for i, kind in enumerate(types) if kind == _UNKNOWN), -1))
    if type(unknown) is not int:
        raise UserError(f"{where}: {_K}unknown_token_id is {brief(unknown)}; it must be a number")
    longest = max(map(len, tokens), default=0)
    if longest > _LONGEST:      # merges are found by cutting tokens at every place
        raise UserError(f"{where}: {_K}tokens holds one of {longest:,} characters; those of up to {_LONGEST:,} are "
                        "read")
    model = SentencePieceModel(
        tuple(zip(tokens, scores, kinds)), model_type=2, unk_id=unknown,
        add_prefix=bool(metadata.get(f"{_K}add_space_prefix", True)), collapse_spaces=False, escape_spaces=True,
        suffix_marks=False, charsmap=b"")
    return backend_of(model, where, every_stretch=True)
