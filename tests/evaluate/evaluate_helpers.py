"""A tiny model, and questions about nothing in particular."""
import jax

from easylm_imitation.models import create, model_config
from easylm_imitation.records import Lineage
from easylm_imitation.serve import ServeConfig
from easylm_imitation.text import TEMPLATES, train_bpe
from easylm_imitation.weights import LoadedModel

CONTEXT = 256
TEXTS = ["Which colour is the sky? blue", "The capital is Oslo. Question: Answer:", "user assistant system red green\n"]
QUESTIONS = [{"id": f"q{i}", "question": f"Which colour is thing {i}?", "gold": i % 2, "answer": ["red", "Green."],
              "options": ["red", "green", "dark blue", " x"][:2 + i % 3]} for i in range(10)]
SERVE = ServeConfig(slots=4, context=CONTEXT, prefill_chunks=(32,), live_lengths=(CONTEXT,), score_tokens=CONTEXT,
                    score_lengths=(CONTEXT,))


def make_model(template, specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>")):
    """A LLaMA of two layers with large random weights, so that its likeliest token wins clearly; its texts begin with
    the BOS token."""
    config = model_config({"family": "llama", "vocab_size": 300, "context": CONTEXT, "layers": 2, "d_model": 32,
                           "heads": 4, "kv_heads": 2, "d_ff": 48, "tie_embeddings": True})
    params = jax.tree.map(lambda leaf: leaf * 8, create(config).init(jax.random.key(3)))
    lineage = Lineage(id="c" * 16, name=f"tiny-{template}", base="c" * 16, base_name="tiny")
    tokenizer = train_bpe(TEXTS * 4, 290, specials).beginning(True)
    return LoadedModel(config, params, tokenizer, TEMPLATES[template], lineage, "tiny")
