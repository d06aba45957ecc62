"""SentencePiece's `tokenizer.model` (LLaMA 1 and 2, Mistral, OpenLLaMA) as a definition of the `tokenizers` library.

The file is a protobuf, read here field by field (sentencepiece_model.proto names them); nothing in it is run. A BPE
model's merges are not in the file: SentencePiece joins the neighbours whose joint piece scores highest, so each piece
gives a merge for every way to cut it in two, ranked by its score.
"""
import dataclasses
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from easylm_imitation.schema import UserError

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_BPE = 2
_MARK = "▁"


@dataclasses.dataclass(frozen=True)
class SentencePieceModel:
    """What decides the ids. `pieces`: (text, score, type), in the order of ids; `charsmap`: a compiled table."""
    pieces: tuple[tuple[str, float, int], ...]
    model_type: int
    unk_id: int
    add_prefix: bool
    collapse_spaces: bool
    escape_spaces: bool
    suffix_marks: bool
    charsmap: bytes


def read_sentencepiece(path: pathlib.Path) -> SentencePieceModel:
    """Reads a `tokenizer.model`. Raises UserError for what is no such file."""
    try:
        fields = list(_fields(path.read_bytes()))
        pieces = tuple(_piece(value) for number, value in fields if number == 1)
        trainer, normalizer = (dict(_fields(b"".join(v for n, v in fields if n == number))) for number in (2, 3))
        if not pieces:
            raise ValueError("no pieces")
        return SentencePieceModel(
            pieces, model_type=trainer.get(3, 1), unk_id=_signed(trainer.get(40, 0)),
            add_prefix=bool(normalizer.get(3, 1)), collapse_spaces=bool(normalizer.get(4, 1)),
            escape_spaces=bool(normalizer.get(5, 1)), suffix_marks=bool(trainer.get(24, 0)),
            charsmap=normalizer.get(2, b""))
    except (ValueError, IndexError, TypeError, KeyError, struct.error) as error:
        raise UserError(f"tokenizer {path}: not a SentencePiece model ({error})") from None


def sentencepiece_backend(path: pathlib.Path, every_stretch: bool) -> tokenizers.Tokenizer:
    """The tokenizer of a `tokenizer.model`; its ids are SentencePiece's own.

    `every_stretch`: each stretch of text between special tokens gets the mark of a word's start, as when SentencePiece
    encodes each by itself; else only the start of a row does, and not where a space stands there already (as
    transformers does since `legacy` is false). Raises UserError for what cannot be done exactly.
    """
    return backend_of(read_sentencepiece(path), str(path), every_stretch)


def backend_of(model: SentencePieceModel, path: str, every_stretch: bool) -> tokenizers.Tokenizer:
    """The tokenizer of a model that is read already; `path` stands in messages. As `sentencepiece_backend`."""
    _demand_supported(model, path)
    vocab = {text: i for i, (text, _, _) in enumerate(model.pieces)}
    if len(vocab) != len(model.pieces):
        raise UserError(f"tokenizer {path}: a piece comes twice")
    byte_fallback = any(kind == _BYTE for _, _, kind in model.pieces)
    backend = tokenizers.Tokenizer(models.BPE(vocab, _merges(model, vocab), unk_token=model.pieces[model.unk_id][0],
                                              fuse_unk=True, byte_fallback=byte_fallback))
    backend.normalizer = normalizers.Sequence(_normalization(model, every_stretch))
    if model.add_prefix and not every_stretch:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(_MARK, prepend_scheme="first", split=False)
    strip = [decoders.Strip(" ", 1, 0)] if model.add_prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace(_MARK, " "), decoders.ByteFallback(), decoders.Fuse(),
                                         *strip])
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text, _, kind in model.pieces
                                if kind in (_CONTROL, _UNKNOWN)])
    return backend


def _demand_supported(model: SentencePieceModel, path: str) -> None:
    faults = {
        "a model of another type than BPE": model.model_type != _BPE,
        "spaces that are not escaped": not model.escape_spaces,
        "marks at the end of words": model.suffix_marks,
        "unused pieces": any(kind == _UNUSED for _, _, kind in model.pieces),
        # found after the mark of the start was set, which tokens added to this library are not
        "user-defined pieces": any(kind == _USER_DEFINED for _, _, kind in model.pieces),
        "no unknown token": not 0 <= model.unk_id < len(model.pieces),
    }
    for fault, is_there in faults.items():
        if is_there:
            raise UserError(f"tokenizer {path}: has {fault}, which cannot be converted exactly; bring its "
                            "tokenizer.json")


def _normalization(model: SentencePieceModel, every_stretch: bool) -> list[normalizers.Normalizer]:
    """SentencePiece's order: its compiled table, spaces, the mark at the start, marks for spaces."""
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.collapse_spaces:
        # SentencePiece cuts the end off after spaces became marks, so marks that the text itself ends with go too
        steps += [normalizers.Replace(Regex(rf"\A +|[ {_MARK}]+\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.add_prefix and every_stretch:
        steps.append(normalizers.Prepend(_MARK))
    return [*steps, normalizers.Replace(" ", _MARK)]


def _merges(model: SentencePieceModel, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make a piece of two, the best-scored piece first."""
    normal = {text for text, _, kind in model.pieces if kind == _NORMAL}
    found = []
    for text, score, kind in model.pieces:
        if kind == _NORMAL:
            cuts = ((text[:i], text[i:]) for i in range(1, len(text)))
            found += [(-score, vocab[a], vocab[b], (a, b)) for a, b in cuts if a in normal and b in normal]
    return [pair for *_, pair in sorted(found)]


def _piece(raw: bytes) -> tuple[str, float, int]:
    fields = dict(_fields(raw))
    return fields[1].decode(), struct.unpack("<f", fields.get(2, b"\0\0\0\0"))[0], fields.get(3, _NORMAL)


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a protobuf message's fields: an int for varints, bytes for the rest."""
    place = 0
    while place < len(raw):
        key, place = _varint(raw, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(raw, place)
        else:
            size, place = _varint(raw, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
            value, place = raw[place:place + size], place + size
            if len(value) != size:
                raise ValueError("it ends too early")
        yield key >> 3, value


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
