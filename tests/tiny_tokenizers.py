"""Small tokenizers of every kind that templates must live with, made here without files."""
import functools
import json

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from easylm_imitation.text import Tokenizer, train_bpe

CHATML = ("<|im_start|>", "<|im_end|>")
# every control token that a template of ours needs
CONTROL = (*CHATML, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|query|>", "<|output|>")
TEXTS = ("User: where is the cat? Assistant: The cat is in the house. The house is by the sea.",
         "system user assistant\nHello there, how are you? I am well, thank you.\n### Instruction: ### Response:",
         "USER: what ASSISTANT: a café and a naïve 東京 🙂 line\n\nline")


@functools.cache
def byte_tokenizer(specials=("<eos>", *CHATML), merges=(), use_regex=True, bos=None):
    """Ids 0 to 255 are the bytes; then merges of two characters each; then the specials, the first of which is EOS."""
    names = {byte: character for byte, character in _byte_characters().items()}
    vocab = {character: byte for byte, character in names.items()}
    pairs = [tuple(names[byte] for byte in pair) for pair in merges]
    for first, second in pairs:
        vocab[first + second] = len(vocab)
    backend = tokenizers.Tokenizer(models.BPE(vocab, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(specials))
    return Tokenizer(backend, eos=specials[0], bos=bos)


def control_tokenizer():
    """One that every template of ours can be used with."""
    return byte_tokenizer(("<eos>", *CONTROL))


def _byte_characters():
    """The visible character that byte-level BPE writes for each byte (GPT-2's encoder)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


@functools.cache
def trained():
    """Byte-level BPE, one token for beginning and end, as GPT-2."""
    return train_bpe(TEXTS * 4, 320, ("<|endoftext|>", *CONTROL))


def _sentencepiece_model():
    """Merges that never reach over a word's start, as SentencePiece learns them, and bytes for what it has not seen."""
    learner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(vocab_size=160, special_tokens=["<unk>"], show_progress=False)
    learner.train_from_iterator([text.replace("\n", " ") for text in TEXTS * 4], trainer=trainer)
    learned = json.loads(learner.to_str())["model"]
    vocab = learned["vocab"] | {f"<0x{byte:02X}>": len(learned["vocab"]) + byte for byte in range(256)}
    merges = [tuple(pair) for pair in learned["merges"]]
    return models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def _sentencepiece(normalizer=None, pre_tokenizer=None):
    backend = tokenizers.Tokenizer(_sentencepiece_model())
    if normalizer is not None:
        backend.normalizer = normalizer
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                         decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in ("<s>", "</s>", *CONTROL)])
    return Tokenizer(backend, eos="</s>", bos="<s>")


@functools.cache
def llama():
    """SentencePiece's way, as LLaMA's tokenizer today: only the very start of a text gets the word mark."""
    return _sentencepiece(pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False))


@functools.cache
def llama_legacy():
    """The older way: every stretch of text between special tokens gets the word mark."""
    return _sentencepiece(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]))


KINDS = {"bytes": control_tokenizer, "trained": trained, "llama": llama, "llama_legacy": llama_legacy}
