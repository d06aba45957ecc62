"""The compiled programs themselves: no second cache, no sorted vocabulary, no second compilation."""
import dataclasses

import pytest
from serve_helpers import CONFIG

from easylm_imitation.models import LlamaConfig
from easylm_imitation.schema import UserError
from easylm_imitation.serve import Engine, ServeConfig
from easylm_imitation.serve.config import Shapes, shapes
from easylm_imitation.serve.place import Layout, mesh_of
from easylm_imitation.serve.programs import get_programs


@pytest.mark.parametrize(("unstacked", "mesh"), [(False, ""), (True, ""), (False, "data:2,tensor:2"),
                                                 pytest.param(True, "fsdp:2,tensor:4", marks=pytest.mark.slow)])
def test_no_program_holds_a_second_cache(unstacked, mesh):
    """Scanned or sliced the wrong way, XLA would copy the cache, or a slot's part of it for each layer; on a mesh it
    might gather it."""
    config = LlamaConfig(64, 512, layers=4, d_model=32, heads=4, d_ff=48)
    layout = Layout(mesh_of(mesh))
    one_of_each = Shapes(slots=8, context=512, steps=4, prefill=((1, 16),), decode=((8 if mesh else 4, 128),),
                         read=(16,), score=((1, 16),), prefixes=8, head_chunk=64)
    programs = get_programs(config, one_of_each, "float32", unstacked, layout)
    whole = 2 * 4 * 8 * 4 * 512 * 8 * 4     # keys and values, layers, slots, heads, positions, head dim, bytes
    by_heads = whole // layout.mesh.shape["tensor"]     # the prefix cache
    for kind in ("prefill", "copy", "decode", "read", "score"):
        [program] = getattr(programs, kind).values()
        size = by_heads // layout.ways if kind in ("prefill", "copy", "decode") else by_heads
        memory = program.memory_analysis()
        # On a mesh a prompt's row of one layer, 1/32 of the cache, is summed over the groups of devices; copied is a
        # slot's part of all layers, which is a quarter of what a device has here.
        limit = 0.15 if not mesh else 0.25 if kind != "copy" else 2 * 0.25 + 0.01
        assert memory.temp_size_in_bytes < limit * size, kind
        assert memory.alias_size_in_bytes >= size or kind == "score"


def test_no_program_sorts_the_vocabulary(server):
    programs = server.service.engine._programs
    for program in [*programs.decode.values(), *programs.score.values()]:
        assert "TopK" in program.as_text()
        assert " sort(" not in program.as_text()


def test_engines_of_one_shape_share_their_programs(server, served_model):
    first = server.service.engine
    again = Engine(served_model.config, served_model.params, CONFIG, stop_ids=[1], vocab_size=200)
    assert again._programs is first._programs


SIZES = {"model_context": 4096, "vocab_size": 1000, "platform": "cpu"}


@pytest.mark.parametrize(("config", "says"), [
    (ServeConfig(context=5000), "the model holds 4096"), (ServeConfig(prefill_chunks=(5000,)), "prefill_chunks"),
    (ServeConfig(live_lengths=(9999,)), "live_lengths"), (ServeConfig(score_lengths=(3000,)), "score_lengths"),
    (ServeConfig(decode_rows=(17,)), "decode_rows")])
def test_sizes_that_cannot_be_are_refused(config, says):
    with pytest.raises(UserError, match=says):
        shapes(config, parameters=10, **SIZES)


def test_slots_that_no_memory_holds_are_told_before_anything_is_compiled(served_model):
    huge = dataclasses.replace(CONFIG, slots=10**9, decode_rows=())
    with pytest.raises(UserError, match=r"slots 1000000000 of context 96 take [0-9,.]+ GB a device, which has"):
        Engine(served_model.config, served_model.params, huge, stop_ids=[1], vocab_size=200)


@pytest.mark.parametrize("parameters", [10**6, 5 * 10**8])
@pytest.mark.parametrize("context", [16, 96, 128, 256, 1000, 2048, 4096])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_list_of_programs_stays_short_and_covers_every_length(parameters, context, platform):
    found = shapes(ServeConfig(context=context), parameters=parameters, **{**SIZES, "platform": platform})
    assert found.count() <= 18
    assert max(found.decode) == (16, context)
    assert max(length for _, length in found.score) == min(context, 512)
    assert all(width <= context for _, width in found.prefill)
    if parameters == 10**6 and context <= 256:
        assert found.count() <= 7
