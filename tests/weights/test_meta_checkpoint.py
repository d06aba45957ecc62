"""Meta's own LLaMA checkpoints, against a forward pass written as Meta's is: complex rotary positions."""
import json

import jax
import numpy as np
import pytest
from tiny_models import logits, packed

from easylm_imitation.cli.main import main
from easylm_imitation.models import create
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import make_mesh
from easylm_imitation.weights import open_model
from easylm_imitation.weights.meta_checkpoint import published_context

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

PARAMS = {"dim": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "multiple_of": 8, "norm_eps": 1e-5, "vocab_size": -1}
VOCAB, FF, HEAD = 64, 24, 4
# dims along which the parts of a tensor are cut, by the end of its name; None: each part has all of it
CUTS = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0, "output": 0, "tok_embeddings": 1, "norm": None}


def whole_model(tied=False):
    """{Meta's name: tensor}, every number random."""
    torch.manual_seed(0)
    kv = PARAMS["n_kv_heads"] * HEAD
    shapes = {"tok_embeddings": (VOCAB, 16), "output": (VOCAB, 16), "norm": (16,)}
    for i in range(2):
        shapes |= {f"layers.{i}.attention.{n}": s for n, s in
                   (("wq", (16, 16)), ("wk", (kv, 16)), ("wv", (kv, 16)), ("wo", (16, 16)))}
        shapes |= {f"layers.{i}.feed_forward.{n}": s for n, s in (("w1", (FF, 16)), ("w2", (16, FF)), ("w3", (FF, 16)))}
        shapes |= {f"layers.{i}.attention_norm": (16,), f"layers.{i}.ffn_norm": (16,)}
    tensors = {f"{n}.weight": torch.randn(s) * 0.3 + float(len(s) == 1) for n, s in shapes.items()}
    if tied:
        tensors["output.weight"] = tensors["tok_embeddings.weight"]
    return tensors


def write(folder, parts=1, cuts=CUTS, params=PARAMS, tied=False, change=None):
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params))
    whole = whole_model(tied)
    for part in range(parts):
        tensors = {}
        for name, tensor in whole.items():
            dim = next(cut for end, cut in cuts.items() if name.removesuffix(".weight").endswith(end))
            tensors[name] = tensor if dim is None else tensor.chunk(parts, dim)[part].clone()
        tensors["rope.freqs"] = torch.ones(HEAD // 2)
        if change is not None:
            change(part, tensors)
        torch.save(tensors, folder / f"consolidated.{part:02}.pth")
    return folder


def meta_forward(weights, tokens):
    """tokens [B, T] -> logits: neighbouring pairs of a head are complex numbers, turned by their position."""
    batch, length = tokens.shape
    angles = torch.outer(torch.arange(length).float(), 10000.0 ** -(torch.arange(0, HEAD, 2).float() / HEAD))
    turn = torch.polar(torch.ones_like(angles), angles)[None, :, None]

    def norm(x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + PARAMS["norm_eps"]) * weight

    def heads(x, turned):
        x = x.view(batch, length, -1, HEAD)
        if turned:
            pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
            x = torch.view_as_real(pairs * turn).flatten(3)
        return x.repeat_interleave(PARAMS["n_heads"] // x.shape[2], 2).transpose(1, 2)

    x = weights["tok_embeddings.weight"][tokens]
    for i in range(2):
        def w(name, i=i):
            return weights[f"layers.{i}.{name}.weight"]
        y = norm(x, w("attention_norm"))
        q, k, v = (heads(y @ w(f"attention.w{p}").T, p != "v") for p in "qkv")
        scores = q @ k.transpose(2, 3) / HEAD ** 0.5 + torch.full((length, length), -torch.inf).triu(1)
        x = x + (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, -1) @ w("attention.wo").T
        y = norm(x, w("ffn_norm"))
        x = x + (torch.nn.functional.silu(y @ w("feed_forward.w1").T) * (y @ w("feed_forward.w3").T)) \
            @ w("feed_forward.w2").T
    return norm(x, weights["norm.weight"]) @ weights["output.weight"].T


def test_logits_equal_a_forward_pass_of_metas_kind(tmp_path):
    loaded = open_model(write(tmp_path / "meta"))
    tokens = packed()[0]
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    with torch.no_grad():
        wanted = meta_forward(whole_model(), torch.tensor(tokens).long()).numpy()
    got = logits(create(loaded.config), loaded.params, tokens, positions)
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert np.abs(wanted).max() > 1
    assert loaded.dropped == ("rope.freqs",)


@pytest.mark.parametrize("cuts", [CUTS, {**CUTS, "tok_embeddings": 0}])     # LLaMA 1 and 2; LLaMA 3
def test_several_parts_are_one_model_on_any_mesh(tmp_path, cuts):
    wanted = open_model(write(tmp_path / "one")).params
    folder = write(tmp_path / "two", parts=2, cuts=cuts)
    jax.tree.map(np.testing.assert_array_equal, open_model(folder).params, wanted)
    for mesh in ("fsdp:4,tensor:2", "fsdp:2,tensor:4"):
        jax.tree.map(np.testing.assert_array_equal, open_model(folder, mesh=make_mesh(mesh)).params, wanted)


@pytest.mark.parametrize(("changes", "context"), [
    ({"norm_eps": 1e-6}, 2048), ({}, 4096), ({"rope_theta": 1000000.0}, 16384)])
def test_the_context_is_that_of_the_published_models(tmp_path, changes, context, capsys):
    folder = write(tmp_path / "meta", params={**PARAMS, **changes})
    assert open_model(folder).config.context == context
    assert f"does not say the context; {context} tokens are taken" in " ".join(capsys.readouterr().err.split())


def test_a_context_that_is_said_is_taken(tmp_path, capsys):
    assert open_model(write(tmp_path / "meta", params={**PARAMS, "max_seq_len": 77})).config.context == 77
    assert "does not say the context" not in capsys.readouterr().err
    with pytest.raises(UserError, match="params.json: max_seq_len=-1 must be a number of tokens"):
        open_model(write(tmp_path / "bad", params={**PARAMS, "max_seq_len": -1}))


def test_equal_head_and_embedding_are_tied(tmp_path):
    assert open_model(write(tmp_path / "tied", tied=True)).config.tie_embeddings
    assert not open_model(write(tmp_path / "own")).config.tie_embeddings


def test_it_converts_to_hugging_face_and_is_the_same_there(tmp_path, capsys):
    folder = write(tmp_path / "meta", parts=2)
    assert main(["convert", "--from", str(folder), "--to", str(tmp_path / "hf"), "--format", "hf", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["dropped"] == ["rope.freqs"]
    jax.tree.map(np.testing.assert_array_equal, open_model(tmp_path / "hf").params, open_model(folder).params)


def test_damage_is_one_clear_line(tmp_path):
    def refused(message, **options):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        with pytest.raises(UserError, match=message) as error:
            open_model(write(folder, **options))
        assert "\n" not in str(error.value)

    refused("the key 'quantization_args' is not known", params={**PARAMS, "quantization_args": {}})
    refused("not the parameters of a LLaMA checkpoint", params={"dim": 16})
    refused("must be positive numbers", params={**PARAMS, "n_heads": 0})
    refused("vocab_size is 100, but the embedding has 64 rows", params={**PARAMS, "vocab_size": 100})
    refused(r"consolidated.01.pth: the tensor 'layers.1.attention.wq.weight' is missing", parts=2,
            change=lambda part, tensors: part and tensors.pop("layers.1.attention.wq.weight"))
    w2 = "layers.0.feed_forward.w2.weight"
    refused(rf"the parts of the tensor '{w2}' have shapes \[16, 12\], \[8, 12\]", parts=2,
            change=lambda part, tensors: part and tensors.update({w2: torch.ones(8, 12)}))
    refused("'model.layers.0.self_attn.q_proj.weight' has shape", params={**PARAMS, "n_heads": 2},
            change=lambda part, tensors: tensors.update({"layers.0.attention.wq.weight": torch.ones(8, 16)}))
    refused("the tensor 'layers.0.attention.gate' has no place",
            change=lambda part, tensors: tensors.update({"layers.0.attention.gate": torch.ones(8)}))
    folder = write(tmp_path / "cut", parts=3, cuts=dict.fromkeys(CUTS))
    (folder / "consolidated.01.pth").unlink()
    with pytest.raises(UserError, match="consolidated.01.pth: no such file"):
        open_model(folder)


def test_65b_and_2_70b_share_an_epsilon_and_are_told_apart():
    assert published_context({"dim": 8192, "norm_eps": 1e-5}, 32000, 1e4) == 2048
    assert published_context({"dim": 8192, "norm_eps": 1e-5, "n_kv_heads": 8}, 32000, 1e4) == 4096
