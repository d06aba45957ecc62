"""Plans by formula against the real compiler's figures; the search; the verb; and the compiler itself (slow)."""
import dataclasses
import importlib.util
import json

import pytest

from easylm_imitation.cli.main import main
from easylm_imitation.data import LoaderConfig
from easylm_imitation.models import model_config
from easylm_imitation.plan import advice, between_slices, find_pod, plan, search
from easylm_imitation.plan.estimate import Work, bandwidth, memory
from easylm_imitation.schema import UserError
from easylm_imitation.train import OptimizerConfig, TrainConfig

LLAMA = model_config({"preset": "llama-2-7b"})
V5E = find_pod("v5e-64")


def setting(batch=64, context=2048, **keys):
    return TrainConfig(**{"steps": 10, "mesh": "fsdp:-1"} | keys, data=LoaderConfig(context=context, batch=batch))


@pytest.mark.parametrize(("remat", "rows", "peak", "seconds"), [    # of RESULTS.md, by the TPU compiler
    ("full", 1, 3.234e9, 0.760), ("full", 2, 4.076e9, 1.576), ("full", 8, 9.326e9, 6.602),
    ("full", 16, 15.98e9, 13.34), ("save-qkv", 4, 12.21e9, 3.050), ("dots", 1, 8.142e9, 0.713)])
def test_the_formula_is_near_the_compiler(remat, rows, peak, seconds):
    made = plan(setting(64 * rows, remat=remat), LLAMA, V5E, compiler=False)
    assert made.peak == pytest.approx(peak, rel=0.03)
    assert made.seconds.arithmetic == pytest.approx(seconds, rel=0.2)
    assert made.fits


def test_the_state_is_what_training_holds():
    """Weights and moments in float32, gradients as the weights."""
    found = memory(Work(setting(), LLAMA, {"replica": 1, "data": 1, "fsdp": 64, "tensor": 1, "sequence": 1}))
    assert found.weights == pytest.approx(4 * LLAMA.parameters() / 64, rel=5e-3)
    assert found.optimizer == pytest.approx(2 * found.weights, rel=1e-3)
    half = setting(optimizer=OptimizerConfig(name="lion", moment_dtype="bfloat16"))
    assert memory(Work(half, LLAMA, {"replica": 1, "data": 1, "fsdp": 64, "tensor": 1, "sequence": 1})
                  ).optimizer == pytest.approx(found.weights / 2, rel=1e-3)


def test_what_does_not_fit_is_said_with_a_cure():
    made = plan(setting(), model_config({"preset": "llama-65b"}), find_pod("v5e-16"), compiler=False)
    assert not made.fits
    assert "more chips along fsdp" in advice(made)[0]
    full = plan(setting(2048, remat="none"), LLAMA, V5E, compiler=False)
    assert "remat=full" in advice(full)[0]


def test_the_search_keeps_the_batch_and_takes_the_fastest_that_fits():
    found = search(setting(), LLAMA, V5E, compiler=False)
    assert found
    assert all(p.peak <= 0.97 * V5E.memory for p in found)
    assert all(p.work.config.data.batch == 64 for p in found)
    assert [p.seconds.step for p in found] == sorted(p.seconds.step for p in found)
    assert found[0].seconds.step <= plan(setting(), LLAMA, V5E, compiler=False).seconds.step
    assert search(setting(), model_config({"preset": "llama-65b"}), find_pod("v5e-8"), compiler=False) == []


def test_two_slices_sum_their_gradients_over_the_slow_network():
    def after(mesh):
        return plan(setting(128, mesh=mesh), LLAMA, find_pod("v5e-64x2"), compiler=False).seconds
    assert after("replica:2,fsdp:64").after < after("fsdp:128").after
    assert bandwidth(find_pod("v5e-64x2"), 128) == find_pod("v5e-64x2").chip.slow_bandwidth


def test_gradients_are_summed_in_steps_and_the_table_says_over_which_network(capsys):
    pod = find_pod("v5e-64x2")
    made = plan(setting(128, mesh="replica:2,fsdp:64"), LLAMA, pod, compiler=False)
    moved = {(found.kind, found.axes): found.moved for found in made.collectives}
    inside, between = moved["all-reduce", ("fsdp",)], moved["all-reduce", ("replica",)]
    assert inside == pytest.approx(2 * 2 * LLAMA.parameters() * 63 / 64)    # bfloat16, whole
    assert between == pytest.approx(4 * LLAMA.parameters() / 64)            # float32, a device's own share
    assert not between_slices({"replica": 2, "fsdp": 64}, ("fsdp",), pod)
    assert between_slices({"replica": 2, "fsdp": 64}, ("replica",), pod)
    assert between_slices({"fsdp": 128}, ("fsdp",), pod)
    assert between_slices({"data": 16}, ("data",), find_pod("h100x16"))
    assert not between_slices({"replica": 2, "fsdp": 4}, ("replica",), find_pod("v5e-8"))
    assert main(["plan", "--config", "configs/train/base.py:llama-2-7b", "--topology", "v5e-64x2", "--mesh",
                 "replica:2,fsdp:-1", "--analytic"]) == 0
    [line] = [line for line in capsys.readouterr().err.splitlines() if "replica" in line and "all-reduce" in line]
    assert "between slices" in line


def test_a_sequence_axis_is_paid_for():
    """It sums gradients as fsdp does, gathers keys besides, and its last device sees most keys: where there are rows
    for all devices, nothing speaks for it."""
    one, split = (plan(setting(128, mesh=mesh, remat="dots"), LLAMA, V5E, compiler=False)
                  for mesh in ("fsdp:64", "fsdp:32,sequence:2"))
    sums = [sum(found.moved for found in made.collectives if found.kind == "all-reduce") for made in (one, split)]
    assert sums[0] == sums[1]
    assert split.seconds.after > 1.2 * one.seconds.after
    assert split.seconds.arithmetic > one.seconds.arithmetic
    assert search(setting(128), LLAMA, V5E, compiler=False)[0].work.axes["sequence"] == 1


def test_mfu_is_that_of_training():
    made = plan(setting(), LLAMA, V5E, compiler=False)
    expected = 64 * 2048 * LLAMA.flops_per_token(2048) / made.seconds.step / 64 / 197e12
    assert made.mfu == pytest.approx(expected)
    assert 0.2 < made.mfu < 0.7


@pytest.mark.parametrize(("keys", "words"), [
    ({"mesh": "fsdp:63"}, "does not split"), ({"mesh": "fsdp:128"}, "does not fit 64 devices"),
    ({"batch": 3}, "does not split"), ({"mesh": "sequence:64", "context": 100}, "does not split")])
def test_sizes_that_training_would_refuse_are_refused(keys, words):
    with pytest.raises(UserError, match=words):
        plan(setting(**keys), LLAMA, V5E, compiler=False)


def test_the_verb_says_hours_and_dollars(capsys):
    assert main(["plan", "--config", "configs/train/base.py:llama-2-7b", "--config.epochs=None",
                 "--config.steps=1000", "--topology", "v4-128,h100x8", "--analytic", "--explain", "--price", "2",
                 "--json"]) == 0
    plans = json.loads(capsys.readouterr().out.splitlines()[-1])["plans"]
    assert [p["chips"] for p in plans] == [64, 8]
    assert all(p["fits"] for p in plans)
    hours = 1000 * 128 * 2048 / plans[0]["tokens_per_second"] / 3600
    assert plans[0]["hours"] == pytest.approx(hours)
    assert plans[0]["dollars"] == pytest.approx(hours * 64 * 2)


@pytest.mark.parametrize("price", ["-3", "nan", "inf"])
def test_a_price_that_is_none_is_refused(capsys, price):
    assert main(["plan", "--config", "configs/train/base.py:llama-2-7b", "--topology", "v4-128", "--analytic",
                 "--price", price]) == 2
    assert f"--price {price}" in capsys.readouterr().err


def test_what_is_set_already_is_no_advice(capsys):
    """One row a device, remat full: what is left is to cut rows, or to split them."""
    said = []
    for extra in (["--config.data.batch=8"], ["--config.remat=dots", "--config.data.batch=64"]):
        assert main(["plan", "--config", "configs/train/base.py:llama-2-7b", "--topology", "v5e-8", "--analytic",
                     "--config.data.context=200000", *extra]) == 0
        said.append(" ".join(capsys.readouterr().err.split()))
    assert "it does not fit: a smaller loss_chunk, a sequence or tensor axis, a smaller data.context" in said[0]
    assert "it does not fit: remat=full, a larger accumulate, a" in said[1]


def test_sums_beside_the_arithmetic_are_advised_and_counted():
    after, beside = (plan(setting(remat="dots", overlap_sums=overlap), LLAMA, V5E, compiler=False)
                     for overlap in (False, True))
    assert any("overlap_sums=true" in line for line in advice(after))
    assert not any("overlap_sums" in line for line in advice(beside))
    assert beside.seconds.after == pytest.approx(after.seconds.after / 4, rel=0.05)
    assert beside.seconds.beside + beside.seconds.after == pytest.approx(after.seconds.beside + after.seconds.after)
    with pytest.raises(UserError, match="overlap_sums=true is for TPU v5e, and v5p-16 is TPU v5p, 8 chips"):
        plan(setting(overlap_sums=True), LLAMA, find_pod("v5p-16"), compiler=False)


def test_the_verb_refuses_an_unknown_pod(capsys):
    assert main(["plan", "--config", "configs/train/base.py:llama-2-7b", "--topology", "v5f-64", "--analytic"]) == 2
    assert "v5e" in capsys.readouterr().err


COMPILER = pytest.mark.skipif(not importlib.util.find_spec("libtpu"),
                              reason="needs libtpu (pip install libtpu==0.0.52)")


@pytest.mark.aot
@COMPILER
@pytest.mark.parametrize("name", ["v5e-8", "v4-16", "v5p-16"])
def test_two_narrow_layers_compile_for_the_pod(name):
    """Without the attention kernel, which takes most of the time to compile; the slow ones have it."""
    model = dataclasses.replace(LLAMA, layers=2, d_model=256, heads=2, kv_heads=2, d_ff=512, vocab_size=1024)
    made = plan(setting(8, context=128, attention="reference"), model, find_pod(name), compiler=True)
    assert made.compiled
    assert made.fits
    assert any(found.axes == ("fsdp",) for found in made.collectives)


@pytest.mark.slow
@pytest.mark.aot
@COMPILER
@pytest.mark.parametrize("name", ["v5e-8", "v4-16", "v5p-16"])
def test_the_compiler_is_asked(name):
    """Two layers of LLaMA-2-7B: peak and collectives are the compiler's."""
    model = dataclasses.replace(LLAMA, layers=2)
    made = plan(setting(16), model, find_pod(name), compiler=True)
    assert made.compiled
    assert made.fits
    assert made.peak == pytest.approx(plan(setting(16), model, find_pod(name), compiler=False).peak, rel=0.3)
    assert any(found.axes == ("fsdp",) for found in made.collectives)


@pytest.mark.slow
@pytest.mark.aot
@COMPILER
def test_the_compiler_puts_sums_beside_arithmetic_when_asked():
    """Half of the bytes for two layers, three quarters for all; none without. It refuses to for other chips."""
    model = dataclasses.replace(LLAMA, layers=2)
    share = []
    for overlap in (False, True):
        made = plan(setting(64, overlap_sums=overlap), model, V5E, compiler=True)
        sums = [found for found in made.collectives if found.kind == "all-reduce"]
        share.append(sum(found.moved for found in sums if found.beside) / sum(found.moved for found in sums))
    assert share[0] == 0
    assert share[1] > 0.5
    mixed_up = dataclasses.replace(find_pod("v6e-8"), chip=dataclasses.replace(find_pod("v6e-8").chip, name="TPU v5e"))
    with pytest.raises(UserError, match="fusion for AllReduce is enabled on platform"):
        plan(setting(16, overlap_sums=True), model, mixed_up, compiler=True)


@pytest.mark.slow
@pytest.mark.aot
@COMPILER
def test_the_compiler_agrees_about_seven_billion_parameters_on_64_chips():
    """As the page of pods recommends them."""
    asked = setting(128, mesh="fsdp:64", remat="dots")
    model = model_config({"preset": "llama-7b"})
    made, formula = (plan(asked, model, V5E, compiler=compiler) for compiler in (True, False))
    assert made.compiled
    assert made.fits
    assert made.peak == pytest.approx(formula.peak, rel=0.05)
    assert made.mfu == pytest.approx(formula.mfu, rel=0.25)


@pytest.mark.slow
@pytest.mark.aot
@COMPILER
def test_two_slices_sum_over_links_first_and_then_over_the_slow_network():
    """As compiled: what crosses between slices is a fraction of what is summed inside them."""
    model = dataclasses.replace(LLAMA, layers=2)
    made = plan(setting(16, mesh="replica:2,fsdp:-1"), model, find_pod("v5e-4x2"), compiler=True)
    between = [found for found in made.collectives if between_slices(made.work.axes, found.axes, made.pod)]
    inside = [found for found in made.collectives if found.axes == ("fsdp",)]
    assert between
    assert sum(found.moved for found in between) < sum(found.moved for found in inside) / 2
