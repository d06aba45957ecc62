"""Text to tokens: tokenizers, chat templates, loss masks. The one place where a conversation becomes tokens."""
from easylm_imitation.text.bpe import train_bpe
from easylm_imitation.text.gguf_vocabulary import tokenizer_from, vocabulary_of
from easylm_imitation.text.jinja import chat_jinja
from easylm_imitation.text.named import get_template
from easylm_imitation.text.own_template import OwnTemplate
from easylm_imitation.text.rows import (
    Row,
    check_template,
    prompt_ids,
    stop_ids,
    tokenize,
    tokenize_all,
    tool_prompt_ids,
)
from easylm_imitation.text.template import LOSSES, TEMPLATES, Template, fault_of
from easylm_imitation.text.tokenizer import Stream, Tokenizer
from easylm_imitation.text.tokenizer_files import has_tokenizer, load_tokenizer, tokenizer_folder

__all__ = ["LOSSES", "TEMPLATES", "OwnTemplate", "Row", "Stream", "Template", "Tokenizer", "chat_jinja",
           "check_template", "fault_of", "get_template", "has_tokenizer", "load_tokenizer", "prompt_ids", "stop_ids",
           "tokenize", "tokenize_all", "tokenizer_folder", "tokenizer_from", "tool_prompt_ids", "train_bpe",
           "vocabulary_of"]
