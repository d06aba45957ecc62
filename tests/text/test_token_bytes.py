"""The bytes of tokens, beside what the tokenizers' own decoders make of the same ids."""
import pytest
from tiny_tokenizers import KINDS

from easylm_imitation.text.token_bytes import TokenBytes

TEXT = "Héllo 🙂🏳️‍🌈 日本 <0x41> ▁ end"


@pytest.mark.parametrize("kind", KINDS)
def test_joined_bytes_are_the_text(kind):
    tokenizer = KINDS[kind]()
    ids = tokenizer.encode(TEXT)
    pieces = [TokenBytes(tokenizer).of(token) for token in ids]
    assert b"".join(pieces).decode().lstrip(" ") == tokenizer.decode(ids).lstrip(" ")
    assert any(piece and not _is_text(piece) for piece in pieces)     # halves of characters were among them


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_spelled_and_missing_ids_are_nothing(kind):
    tokenizer = KINDS[kind]()
    assert TokenBytes(tokenizer).of(tokenizer.eos_id).decode() == tokenizer.token(tokenizer.eos_id)
    assert TokenBytes(tokenizer).of(tokenizer.vocab_size + 5) == b""


def _is_text(piece):
    try:
        return bool(piece.decode())
    except UnicodeDecodeError:
        return False
