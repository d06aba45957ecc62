"""The bytes that a token adds to a text, which need not be whole characters."""
import json
import re

from easylm_imitation.schema import UserError
from easylm_imitation.text.tokenizer import Tokenizer
from easylm_imitation.text.tokenizer_tiktoken import byte_letters

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")    # how SentencePiece spells a byte
_MARK = "\u2581"                              # and a space


class TokenBytes:
    """Bytes of a tokenizer's tokens, by id. A space at the very start of a text, which SentencePiece's decoders drop,
    is among them."""

    def __init__(self, tokenizer: Tokenizer):
        definition = json.loads(tokenizer.definition)
        decoder = definition.get("decoder") or {}
        kinds = {step["type"]: step for step in decoder.get("decoders", [decoder]) if step}
        self._tokenizer = tokenizer
        self._named = {token["id"] for token in definition["added_tokens"]}
        self._letters = {letter: byte for byte, letter in byte_letters().items()} if "ByteLevel" in kinds else None
        self._fallback = "ByteFallback" in kinds

    def of(self, token_id: int) -> bytes:
        """The token's bytes; none for an id that no token has."""
        try:
            spelled = self._tokenizer.token(token_id)
        except UserError:
            return b""
        if token_id in self._named:
            return spelled.encode()
        if self._letters is not None and all(letter in self._letters for letter in spelled):
            return bytes(self._letters[letter] for letter in spelled)
        if self._fallback:
            byte = _BYTE.fullmatch(spelled)
            return bytes([int(byte[1], 16)]) if byte else spelled.replace(_MARK, " ").encode()
        return self._tokenizer.decode([token_id], skip_special=False).encode()
