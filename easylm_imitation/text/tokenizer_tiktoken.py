"""tiktoken's `tokenizer.model` (LLaMA 3): one token a line, its bytes in base64 and its rank, as byte-level BPE.

tiktoken joins the neighbours whose joint bytes rank lowest; so each token gives a merge for every way to cut it in two
tokens, ranked by the token itself. Special tokens and the expression that cuts words are not in the file: they are
those of Meta's code, and the ids after the last rank.
"""
import base64
import binascii
import json
import pathlib

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from easylm_imitation.schema import UserError

LLAMA3_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
                r"\s*[\r\n]+|\s+(?!\S)|\s+")
_RESERVED = 256     # special tokens in all
_NAMED = {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 6: "<|start_header_id|>", 7: "<|end_header_id|>",
          9: "<|eot_id|>"}
_NAMED_31 = {**_NAMED, 4: "<|finetune_right_pad_id|>", 8: "<|eom_id|>", 10: "<|python_tag|>"}


def is_tiktoken(path: pathlib.Path) -> bool:
    """Whether a `tokenizer.model` is one of tiktoken's: it starts with a line of base64 and a number."""
    with path.open("rb") as file:
        parts = file.readline(400).split()
    return len(parts) == 2 and parts[1].isdigit()


def tiktoken_backend(path: pathlib.Path) -> tokenizers.Tokenizer:
    """The tokenizer of LLaMA 3's `tokenizer.model`; its ids are tiktoken's own. Raises UserError.

    The names of a few special tokens came with 3.1, which a params.json beside the file tells by its scaled positions.
    """
    ranks = _read_ranks(path)
    letters = byte_letters()

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocab = {spelled(token): rank for token, rank in ranks.items()}
    merges = [(spelled(a), spelled(b)) for a, b in _merges(ranks)]
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, normalized=False, special=True)
                                for name in special_names(_is_31(path.parent / "params.json"))])
    return backend


def special_names(since_31: bool) -> list[str]:
    """Names of the 256 special tokens, in the order of their ids."""
    named = _NAMED_31 if since_31 else _NAMED
    numbers = iter(range(_RESERVED))
    return [named[i] if i in named else f"<|reserved_special_token_{next(numbers)}|>" for i in range(_RESERVED)]


def _is_31(params: pathlib.Path) -> bool:
    try:
        return bool(json.loads(params.read_text()).get("use_scaled_rope"))
    except FileNotFoundError:
        return False
    except (ValueError, OSError, AttributeError) as error:
        raise UserError(f"{params}: not a readable JSON object ({error})") from None


def _read_ranks(path: pathlib.Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise UserError(f"tokenizer {path}:{number}: not a token in base64 and its rank") from None
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise UserError(f"tokenizer {path}: ranks must be 0, 1, 2, ... and all 256 bytes among the tokens; the file is "
                        "not whole")
    return ranks


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every way to make a token of two others, the lowest rank first."""
    found = []
    for token, rank in ranks.items():
        cuts = ((token[:i], token[i:]) for i in range(1, len(token)))
        found += [(rank, ranks[a], ranks[b], (a, b)) for a, b in cuts if a in ranks and b in ranks]
    return [pair for *_, pair in sorted(found)]


def byte_letters() -> dict[int, str]:
    """The visible character that byte-level BPE writes for each byte."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
