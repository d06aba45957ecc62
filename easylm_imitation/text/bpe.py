"""Trains a small byte-level BPE tokenizer: for fixtures, and for worlds that bring their own words."""
from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from easylm_imitation.schema import UserError
from easylm_imitation.text.tokenizer import Tokenizer

_EOS = "<|endoftext|>"


def train_bpe(texts: Iterable[str], vocab_size: int, specials: Sequence[str] = (_EOS,)) -> Tokenizer:
    """A byte-level BPE of at most `vocab_size` tokens, `specials` first (ids 0, 1, ...), then the 256 bytes, then
    merges.

    The end token is <|endoftext|> if it is among `specials`, else "</s>", else the first special; "<s>" is the
    beginning token if present, else <|endoftext|> serves for both, as in GPT-2. Same texts, same tokenizer. Raises
    UserError when `vocab_size` has no room for the bytes, or `specials` is empty.
    """
    if not specials or vocab_size < 256 + len(specials):
        raise UserError(f"train_bpe: vocab_size {vocab_size} with {len(specials)} specials; at least one special, and "
                        f"256 + specials = {256 + len(specials)} tokens are needed")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(specials), show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    backend.train_from_iterator(texts, trainer=trainer)
    eos = next((name for name in (_EOS, "</s>") if name in specials), specials[0])
    bos = next((name for name in ("<s>", _EOS) if name in specials), None)
    return Tokenizer(backend, eos=eos, bos=bos, pad="<pad>" if "<pad>" in specials else None)
