"""Reading a program: loops count as often as they run, collectives are known by their axes."""
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from easylm_imitation.plan.hlo import Program
from easylm_imitation.sharding import make_mesh


def compiled(function, mesh, *arguments, out=None):
    """The text of a function of arrays (shape, spec), compiled for a mesh of virtual devices."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
              for shape, spec in arguments]
    with jax.set_mesh(mesh):
        return jax.jit(function, out_shardings=NamedSharding(mesh, out or P())).lower(*shapes).compile().as_text()


@pytest.mark.parametrize(("axes", "spec", "over"), [
    ("fsdp:8", P("fsdp", None), "fsdp"), ("fsdp:4,tensor:2", P("fsdp", "tensor"), "fsdp"),
    ("fsdp:4,tensor:2", P("tensor", "fsdp"), "tensor"), ("data:2,fsdp:4", P("data", "fsdp"), "data")])
def test_an_exchange_is_known_by_its_axes(axes, spec, over):
    mesh = make_mesh(axes)
    text = compiled(lambda x: jnp.sum(x, axis=0), mesh, ((64, 800_000), spec), out=P(spec[1]))
    [found] = Program(text).collectives(dict(mesh.shape))
    size = 3_200_000 / (8 / mesh.shape[over])
    assert (found.kind, found.axes, found.size) == ("all-reduce", (over,), size)
    assert found.moved == pytest.approx(2 * (mesh.shape[over] - 1) / mesh.shape[over] * size)


def test_what_a_loop_exchanges_counts_as_often_as_it_runs():
    def layers(stack, x):
        return jax.lax.scan(lambda x, kernel: (jax.lax.with_sharding_constraint(x @ kernel, P()), None), x, stack)[0]
    mesh = make_mesh("fsdp:8")
    text = compiled(layers, mesh, ((7, 1024, 1024), P(None, "fsdp")), ((256, 1024), P(None, "fsdp")))
    found = [c for c in Program(text).collectives(dict(mesh.shape)) if c.kind == "all-reduce"]
    assert sum(c.size for c in found) == pytest.approx(7 * 256 * 1024 * 4)


LOOP = """HloModule m

%body.1 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = f32[8]{0} add(%a, %b), backend_config={"estimated_cycles":"100"}
}

%condition.1 (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[] constant(5)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%t), condition=%condition.1, body=%body.1
  %y = f32[8]{0} multiply(%c, %d), backend_config={"estimated_cycles":"7"}
}
"""


def test_cycles_of_a_loop_count_as_often_as_it_runs():
    assert Program(LOOP).cycles() == 507


@pytest.mark.parametrize(("line", "axes"), [
    ("replica_groups=[2,4]<=[8]", ("fsdp",)), ("replica_groups=[4,2]<=[2,4]T(1,0)", ("data",)),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", ("fsdp",)),
    ("replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}", ("fsdp",)),
    ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", ("data",)), ("replica_groups={{0,1,2,3,4,5,6,7}}", ("data", "fsdp"))])
def test_groups_as_hlo_writes_them(line, axes):
    text = ("HloModule m\n\nENTRY %main (a: f32[8]) -> f32[8] {\n"
            f"  %y = bf16[1000000]{{0}} all-gather(%a), channel_id=1, {line}, dimensions={{0}}\n}}\n")
    [found] = Program(text).collectives({"data": 2, "fsdp": 4})
    assert (found.axes, found.beside, found.size) == (axes, False, 2e6)


def test_a_started_exchange_counts_its_result_alone():
    text = ("HloModule m\n\nENTRY %main (a: f32[8]) -> f32[8] {\n"
            "  %y = (bf16[250000]{0}, bf16[1000000]{0}) all-gather-start(%a), channel_id=1, replica_groups=[2,4]<=[8]\n"
            "}\n")
    [found] = Program(text).collectives({"data": 2, "fsdp": 4})
    assert (found.beside, found.size, found.moved) == (True, 2e6, 1.5e6)


def test_what_hosts_sum_between_slices_is_a_collective_over_the_axes_that_lie_across_them():
    """As libtpu 0.0.52 writes it for two slices; in a loop of three it counts three times, and a flag not at all."""
    def sent(shape, kind):
        return (f"  %send.1 = ({shape}{{1,0:T(8,128)}}, u32[], token[]) send(%x, %after-all), channel_id=2, "
                'is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",'
                f'_xla_megascale_reduce_operation="SUM",_xla_megascale_transfer_type="{kind}"}}')
    text = "\n".join(["%condition (a: s32[]) -> pred[] {", "  %n = s32[] constant(3)", "}",
                      "%body (a: s32[]) -> s32[] {", sent("bf16[1000,512]", "ALL_REDUCE"), "}",
                      "ENTRY %main (a: s32[]) -> s32[] {", sent("f32[4000,256]", "ALL_REDUCE"),
                      sent("s32[1,128]", "ALL_GATHER"),
                      "  %w = s32[] while(%a), condition=%condition, body=%body", "}"])
    for mesh, axes in (({"replica": 2, "fsdp": 4}, ("replica",)), ({"replica": 1, "fsdp": 8}, ("fsdp",))):
        [found] = Program(text).collectives(mesh, slices=2)
        size = 4000 * 256 * 4 + 3 * 1000 * 512 * 2
        assert (found.kind, found.axes, found.size, found.moved) == ("all-reduce", axes, size, size)
