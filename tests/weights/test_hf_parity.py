"""Logits against transformers, for models that transformers wrote, and transformers' view of what we write."""
import jax
import numpy as np
import pytest
import safetensors.numpy
from tiny_models import logits, packed
from tiny_tokenizers import trained

from easylm_imitation.cli.main import main
from easylm_imitation.models import create
from easylm_imitation.weights import open_model

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

SIZES = {"vocab_size": 328, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}


def _models():
    import transformers as hf
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    gpt2 = {"vocab_size": 328, "n_positions": 64, "n_embd": 16, "n_layer": 2}
    return {
        "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES, rms_norm_eps=1e-5, rope_parameters=rope)),
        "llama_tied": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES, head_dim=8, tie_word_embeddings=True)),
        "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**SIZES, sliding_window=None)),
        "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**SIZES)),
        "qwen2_bfloat16": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**SIZES, tie_word_embeddings=True)).bfloat16(),
        "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**gpt2, n_head=4)),
        "gpt2_float16": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**gpt2, n_head=2, n_inner=24)).half(),
    }


KINDS = ("llama", "llama_tied", "mistral", "qwen2", "qwen2_bfloat16", "gpt2", "gpt2_float16")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A function: (dir as transformers saves it, the model that it reads back in float32), every number random."""
    makers, made = _models(), {}

    def write(name):
        if name not in made:
            torch.manual_seed(0)
            model = makers[name]()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.2)
            folder = tmp_path_factory.mktemp("transformers") / name
            model.save_pretrained(folder)
            trained().save(folder)
            # read back, because casting a whole model in place would round its rotary tables too
            made[name] = folder, type(model).from_pretrained(folder, dtype=torch.float32).eval()
        return made[name]
    return write


def their_logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(np.asarray(tokens, np.int64))).logits.numpy()


@pytest.mark.parametrize("name", KINDS)
def test_logits_equal_transformers_on_plain_and_packed_rows(written, name):
    folder, theirs = written(name)
    loaded = open_model(folder)
    model = create(loaded.config)
    tokens, positions, segments = packed()
    plain = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    wanted = their_logits(theirs, tokens)
    np.testing.assert_allclose(logits(model, loaded.params, tokens, plain, np.ones_like(segments)), wanted, atol=1e-4)
    got = logits(model, loaded.params, tokens, positions, segments)
    for segment in (1, 2, 3):
        own = segments[0] == segment
        np.testing.assert_allclose(got[:, own], their_logits(theirs, tokens[:, own]), atol=1e-4)
    assert np.abs(wanted).max() > 1


@pytest.mark.parametrize("name", KINDS)
def test_transformers_to_run_to_transformers_is_equal_byte_for_byte(written, name, tmp_path, capsys):
    folder, theirs = written(name)
    assert main(["convert", "--from", str(folder), "--to", str(tmp_path / "run"), "--template", "chatml"]) == 0
    assert main(["convert", "--from", str(tmp_path / "run"), "--to", str(tmp_path / "out"), "--format", "hf"]) == 0
    before = safetensors.numpy.load_file(folder / "model.safetensors")
    after = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert (value.dtype, value.shape) == (after[key].dtype, after[key].shape), key
        assert value.tobytes() == after[key].tobytes(), key
    _transformers_reads(tmp_path / "out", theirs)


def _transformers_reads(folder, original):
    """As a user would load it: same logits, same tokens, the chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = packed()[0]
    np.testing.assert_allclose(their_logits(again, tokens), their_logits(original, tokens), atol=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.encode("The cat is in the house.") == trained().encode("The cat is in the house.")
    assert tokenizer.chat_template
    assert set(again.generation_config.eos_token_id) == {trained().special_id("<|im_end|>"), trained().eos_id}


def test_every_parameter_matters_to_the_logits(written):
    """Guards the parity test itself: moving any one parameter moves the logits by more than the tolerance."""
    loaded = open_model(written("qwen2")[0])
    model = create(loaded.config)
    tokens, positions, segments = packed()
    base = logits(model, loaded.params, tokens, positions, segments)
    leaves, tree = jax.tree.flatten(loaded.params)
    for i, leaf in enumerate(leaves):
        moved = jax.tree.unflatten(tree, [*leaves[:i], leaf * np.float32(1.1), *leaves[i + 1:]])
        assert np.abs(logits(model, moved, tokens, positions, segments) - base).max() > 1e-3
