"""A tokenizer as the rest of the package sees it: text to ids and back, with special tokens that nobody can forge.

Two Rust tokenizers stand behind one `Tokenizer`: one parses special tokens spelled out in text (for raw prompts that
want them), the other takes the same characters as ordinary text (for everything that people or models wrote). Two
instances and not one that is toggled: encoding runs in several threads at once.
"""
import functools
import json
import os
import pathlib
import secrets
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tokenizers
from tokenizers import processors

from easylm_imitation.files import digest, write_json
from easylm_imitation.schema import UserError, nearest

# Stands before a text to say "a special token was here". Random, so that no text can contain it.
_SENTINEL = f"\ue000{secrets.token_hex(16)}\ue001"
_MANY = 16      # texts for which handing them to threads pays
After = Literal["nothing", "text", "special"]
"""What stands before a text in its row."""
_IDENTITY = ("normalizer", "pre_tokenizer", "decoder", "model")


class Tokenizer:
    """Text <-> ids. Never adds a beginning or end token by itself; templates do that.

    Attributes: `vocab_size` (largest id + 1), `bos_id` (or None), `eos_id`, `pad_id` (the EOS id when the tokenizer has
    no padding token), `definition` (the text of a tokenizer.json), `begins` (whether that file has plain texts begin
    with the BOS token, as LLaMA's does and GPT-2's and Qwen's do not), `chat_template` (the Jinja text that came with
    it, or None).
    """

    def __init__(self, backend: tokenizers.Tokenizer, *, eos: str, bos: str | None = None, pad: str | None = None,
                 chat_template: str | None = None):
        """Takes `backend` over. `eos`, `bos`, `pad`: tokens by name. Raises UserError if it lacks one of them."""
        self.chat_template = chat_template
        _mark_control(backend, {name for name in (eos, bos, pad) if name is not None})
        self.definition = backend.to_str()  # the text of a tokenizer.json
        self._parsing = backend
        self._literal = tokenizers.Tokenizer.from_str(self.definition)
        self._literal.encode_special_tokens = True
        self._literal.add_tokens([tokenizers.AddedToken(_SENTINEL, normalized=False, special=False)])
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        self.eos_id = self.special_id(eos)
        self.bos_id = None if bos is None else self.special_id(bos)
        self.pad_id = self.eos_id if pad is None else self.special_id(pad)
        self.has_pad = pad is not None
        self.begins = bos is not None and backend.encode("a").ids[:1] == [self.bos_id]
        self._plain_after: dict[After, bool] = {"nothing": True, "special": False, "text": False}
        for after in ("special", "text"):
            self._plain_after[after] = self.encode_all([("a a", after)]) == [self.encode("a a")]

    @functools.cached_property
    def id(self) -> str:
        """16 hex digits over everything that decides ids."""
        content = json.loads(self.definition)
        merges = content["model"].get("merges")
        if merges:  # "a b" in older files, ["a", "b"] in newer ones
            content["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in merges]
        added = [(t["id"], t["content"], t["special"]) for t in content["added_tokens"]]
        parts = [[content.get(key) for key in _IDENTITY], added, self.bos_id, self.eos_id]
        return digest(json.dumps(parts, sort_keys=True).encode())

    def encode(self, text: str, parse_special: bool = False) -> list[int]:
        """Ids of `text`; a special token spelled out in it stays text unless `parse_special`. Raises UserError for text
        that has no UTF-8 form (half of a surrogate pair)."""
        return self._ids(self._parsing if parse_special else self._literal, text)

    def encode_all(self, texts: Sequence[tuple[str, After]]) -> list[list[int]]:
        """Ids of each text, in one call: of a row's first, or of one that continues a row, after a special token or
        after other text, in a piece of its own.

        The latter differ from `encode` for tokenizers that mark the start of a text (SentencePiece's "▁"): a piece in
        the middle of a row gets the mark only where the tokenizer itself, reading the whole row, would put it.
        """
        opened = [self._opening(after) + text for text, after in texts]
        return [self._cut(ids, text, after) for ids, (text, after) in zip(self._encoded(opened), texts)]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD. Ids that no token has (>= vocab_size) are left out."""
        return self._parsing.decode(list(map(int, ids)), skip_special_tokens=skip_special)

    def token(self, token_id: int) -> str:
        """The token's own spelling ("Ġthe", "<|endoftext|>"). Raises UserError when no token has the id."""
        token = self._parsing.id_to_token(int(token_id))
        if token is None:
            raise UserError(f"token id {token_id}: this tokenizer has ids 0 to {self.vocab_size - 1}")
        return token

    def special_id(self, name: str) -> int:
        """Id of the special token spelled `name`. Raises UserError when the tokenizer has none such."""
        token_id = self._parsing.token_to_id(name)
        if token_id is None:
            added = (token.content for token in self._parsing.get_added_tokens_decoder().values())
            known = [content for content in added if content.strip()]       # GPT-NeoX adds runs of spaces too
            raise UserError(f"the tokenizer has no token '{name}'{nearest(name, known)}")
        return token_id

    def has_token(self, name: str) -> bool:
        """Whether a token is spelled exactly `name`."""
        return self._parsing.token_to_id(name) is not None

    def special_names(self) -> list[str]:
        """How the special tokens are spelled."""
        return [token.content for token in self._parsing.get_added_tokens_decoder().values() if token.special]

    def stream(self, skip_special: bool = True) -> "Stream":
        """Decodes one id at a time, for streaming."""
        return Stream(self, skip_special)

    def beginning(self, begins: bool) -> "Tokenizer":
        """This tokenizer, with plain texts that begin with the BOS token for whoever reads its file, or do not."""
        if begins == self.begins or self.bos_id is None:
            return self
        backend = tokenizers.Tokenizer.from_str(self.definition)
        begin_with(backend, self._name(self.bos_id) if begins else None)
        return _restore(backend.to_str(), *self.__reduce__()[1][1:])

    def save(self, folder: str | os.PathLike, chat_template: str | list[dict[str, str]] | None = None,
             said: Mapping[str, Any] = types.MappingProxyType({})) -> None:
        """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json into `folder` (made if absent),
        which `load_tokenizer` and `transformers.AutoTokenizer` read. `said`: keys of the config that decide no ids."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = {"bos_token": self._name(self.bos_id), "eos_token": self._name(self.eos_id),
                 "pad_token": self._name(self.pad_id) if self.has_pad else None}
        # A class of no particular model: readers then take tokenizer.json as it is, instead of rebuilding it their way.
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
                  "model_max_length": 10**9, **said, **names}
        if chat_template is not None:
            config["chat_template"] = chat_template
        (folder / "tokenizer.json").write_text(self.definition, encoding="utf-8")
        write_json(folder / "tokenizer_config.json", config)
        write_json(folder / "special_tokens_map.json", {key: name for key, name in names.items() if name is not None})

    def __reduce__(self) -> tuple:
        return _restore, (self.definition, self._name(self.eos_id), self._name(self.bos_id),
                          self._name(self.pad_id) if self.has_pad else None, self.chat_template)

    def _name(self, token_id: int | None) -> str | None:
        return None if token_id is None else self.token(token_id)

    def _ids(self, backend: tokenizers.Tokenizer, text: str) -> list[int]:
        try:
            return backend.encode(text, add_special_tokens=False).ids
        except (UnicodeEncodeError, TypeError) as error:
            raise UserError(f"text {text[:40]!a}… has no UTF-8 form ({error}); mend its encoding") from None

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts in which no special token is read. Many go to all cores, unless $TOKENIZERS_PARALLELISM says
        not to."""
        if len(texts) < _MANY:
            return [self._ids(self._literal, text) for text in texts]
        try:
            return [made.ids for made in self._literal.encode_batch_fast(texts, add_special_tokens=False)]
        except (UnicodeEncodeError, TypeError):
            return [self._ids(self._literal, text) for text in texts]       # which says what is wrong with which

    def _opening(self, after: After) -> str:
        """What stands before a text while it is encoded, and is cut off again."""
        if self._plain_after[after]:
            return ""
        return _SENTINEL if after == "special" else "\n"

    def _cut(self, ids: list[int], text: str, after: After) -> list[int]:
        if self._plain_after[after]:
            return ids
        if after == "special":
            return ids[1:]
        anchor = self.encode("\n")
        # A tokenizer that merges line breaks has no clean cut after one; it also marks no text starts, so encode()
        # serves.
        return ids[len(anchor):] if ids[:len(anchor)] == anchor else self.encode(text)


class Stream:
    """Incremental decoding: `push` gives the text that became certain, holding back an incomplete UTF-8 character."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True):
        self._decode = functools.partial(tokenizer.decode, skip_special=skip_special)
        self._context: list[int] = []   # the ids shown last: decoders may join a token with the one before it
        self._pending: list[int] = []   # ids not shown yet

    def push(self, token_id: int) -> str:
        """Text that `token_id` completes; "" while its character is incomplete."""
        self._pending.append(int(token_id))
        text = self._tail()
        if text.endswith("\ufffd"):
            return ""
        if text:
            self._context, self._pending = self._pending, []
        return text

    def finish(self) -> str:
        """What is still held back; its incomplete bytes as U+FFFD."""
        text = self._tail()
        self._context, self._pending = self._pending, []
        return text

    def _tail(self) -> str:
        return self._decode(self._context + self._pending)[len(self._decode(self._context)):]


def begin_with(backend: tokenizers.Tokenizer, bos: str | None) -> None:
    """Plain texts begin with `bos`, or with nothing, for all who read the tokenizer's file. Ids of rows are not
    touched: templates say themselves how a row begins."""
    if bos is None:
        backend.post_processor = None
        return
    backend.post_processor = processors.TemplateProcessing(
        single=[bos, "$A"], pair=[bos, "$A", f"{bos}:1", "$B:1"], special_tokens=[(bos, backend.token_to_id(bos))])


def _restore(definition: str, eos: str, bos: str | None, pad: str | None, chat: str | None) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(definition), eos=eos, bos=bos, pad=pad, chat_template=chat)


def _mark_control(backend: tokenizers.Tokenizer, names: set[str]) -> None:
    """Marks control tokens as special, so that text cannot forge them; lifts truncation and padding."""
    backend.no_truncation()
    backend.no_padding()
    added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    control = [name for name in names - set(added) if backend.token_to_id(name) is not None]
    for name, token in added.items():
        if not token.special and (name in names or (name.startswith("<|") and name.endswith("|>"))):
            control.append(tokenizers.AddedToken(name, single_word=token.single_word, lstrip=token.lstrip,
                                                 rstrip=token.rstrip, normalized=token.normalized, special=True))
    backend.add_special_tokens(control)
