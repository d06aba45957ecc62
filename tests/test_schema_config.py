"""Configs and schemas are strict: unknown keys name the nearest, types are checked, overrides are typed."""
import dataclasses
from typing import Any, Literal

import pytest

from easylm_imitation.config import load
from easylm_imitation.schema import UserError, build, plain


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"
    betas: tuple[float, ...] = (0.9, 0.95)

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate {self.rate}: at least 0")


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner()
    steps: int | None = None
    flag: bool = False
    many: tuple[Inner, ...] = ()
    free: dict[str, Any] = dataclasses.field(default_factory=dict)
    mixed: int | str = 0


def test_a_mapping_becomes_the_dataclass_and_goes_back():
    mapping = {"name": "n", "inner": {"rate": 1, "betas": [1, 0.5]}, "many": [{"kind": "b"}], "free": {"x": {"y": 1}}}
    made = build(Outer, mapping, "f")
    assert made == Outer("n", Inner(1.0, "a", (1.0, 0.5)), None, False, (Inner(kind="b"),), {"x": {"y": 1}})
    assert isinstance(made.inner.rate, float)
    assert build(Outer, plain(made), "f") == made


@pytest.mark.parametrize(("mapping", "message"), [
    ({}, "f: the key 'name' is missing"), ({"nam": "n"}, "f: unknown key 'nam'; did you mean 'name'"),
    ({"NAME": "n"}, "unknown key 'NAME'; did you mean 'name'"),
    ({"zzz": 1}, "unknown key 'zzz'; known: flag, free, inner"), ({"name": 3}, r"f.name: expected str, got 3 \(int\)"),
    ({"name": "n", "inner": {"rate": "x"}}, "f.inner.rate: expected float, got 'x'"),
    ({"name": "n", "inner": {"rat": 1}}, "f.inner: unknown key 'rat'; did you mean 'rate'"),
    ({"name": "n", "inner": {"kind": "aa"}}, "f.inner.kind: 'aa' .* is not one of a, b; did you mean 'a'"),
    ({"name": "n", "inner": {"rate": -1}}, "f.inner: rate -1.0: at least 0"),
    ({"name": "n", "inner": 3}, "f.inner: expected a mapping with the keys of Inner"),
    ({"name": "n", "steps": True}, "f.steps: expected None or int, got True"),
    ({"name": "n", "flag": 1}, "expected bool"),
    ({"name": "n", "steps": 1.5}, "f.steps: expected None or int, got 1.5"),
    ({"name": "n", "many": [{}, {"kind": 1}]}, r"f.many\[1\].kind: 1 .* is not one of"),
    ({"name": "n", "many": {}}, "f.many: expected a list"), ({"name": "n", "many": "ab"}, "f.many: expected a list"),
    ({"name": "n", "free": 3}, "f.free: expected a mapping"), ([], "f: expected a mapping")])
def test_errors_name_the_place_and_the_nearest(mapping, message):
    with pytest.raises(UserError, match=message):
        build(Outer, mapping, "f")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("from ml_collections import ConfigDict\n"
                    "def get_config():\n    return ConfigDict({'name': 'n', 'inner': {'rate': 0.5}})\n")
    return str(path)


@pytest.mark.parametrize(("override", "place", "value"), [
    ("inner.rate=1e-5", ("inner", "rate"), 1e-5), ("inner.rate=2", ("inner", "rate"), 2.0),
    ("inner.kind=b", ("inner", "kind"), "b"), ("inner.betas=(0.5, 1)", ("inner", "betas"), (0.5, 1.0)),
    ("steps=7", ("steps",), 7), ("steps=none", ("steps",), None), ("steps=None", ("steps",), None),
    ("flag=True", ("flag",), True),
    ("flag=false", ("flag",), False), ("name=17", ("name",), "17"), ("name=a=b", ("name",), "a=b"),
    ("inner.betas.1=0.5", ("inner", "betas"), (0.9, 0.5)), ("free.a=[1, 2]", ("free",), {"a": [1, 2]}),
    ("free.a.b=3", ("free",), {"a": {"b": 3}}), ("many=[{'kind': 'b'}]", ("many",), (Inner(kind="b"),))])
def test_overrides_are_read_as_their_leafs_type(file, override, place, value):
    made = load(Outer, file, [f"--config.{override}"])
    for part in place:
        made = getattr(made, part)
    assert made == value
    assert type(made) is type(value)


def test_overrides_reach_the_elements_of_lists(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'name': 'n', "
                    "'many': ({'rate': 1.0}, {'kind': 'b', 'betas': (1.0, 2.0)}), 'free': {'x': [{'y': 1}]}})\n")
    made = load(Outer, str(path), ["--config.many.1.rate=3", "--config.many.1.betas.0=0", "--config.many.0.kind=b",
                                   "--config.free.x.0.y=2"])
    assert made.many == (Inner(1.0, "b"), Inner(3.0, "b", (0.0, 2.0)))
    assert made.free == {"x": [{"y": 2}]}
    for override, message in [
            ("many.2.rate=3", r"--config.many.2.rate=3: '2' is no element of the list; its elements are 0 to 1"),
            ("many.-1.rate=3", "'-1' is no element"), ("many.rate=3", "'rate' is no element"),
            ("many.0.rat=3", "unknown key 'rat'; did you mean 'rate'"),
            ("many.0.rate=x", r"many\[0\].rate: expected float"), ("many.0=x", r"many\[0\]: expected a mapping"),
            ("free.x.1.y=3", "its elements are 0 to 0")]:
        with pytest.raises(UserError, match=message):
            load(Outer, str(path), [f"--config.{override}"])
    with pytest.raises(UserError, match="'0' is no element of the list; it is empty; set the whole list"):
        load(Outer, None, ["--config.many.0.rate=3"])


def test_the_file_alone_defaults_alone_and_the_last_override_wins(file):
    assert load(Outer, file) == Outer("n", Inner(0.5))
    assert load(Inner, None) == Inner()
    made = load(Outer, file, ["--config.steps=1", "--config.inner.kind=b", "--config.steps=2"])
    assert made == Outer("n", Inner(0.5, "b"), 2)


@pytest.mark.parametrize(("override", "message"), [
    ("--config.inner.rat=1", "unknown key 'rat'; did you mean 'rate'"),
    ("--config.iner.rate=1", "unknown key 'iner'; did you mean 'inner'"),
    ("--config.name.x=1", "'x' is below a leaf"), ("--config.steps", "an override looks like"),
    ("--config.steps=many", "steps: expected None or int, got 'many'"),
    ("--config.inner.rate=fast", "rate: expected float"),
    ("--config.flag=yes", "flag: expected bool"), ("--config.inner=3", "expected a mapping with the keys of Inner")])
def test_overrides_that_fit_nothing(file, override, message):
    with pytest.raises(UserError, match=message):
        load(Outer, file, [override])


@pytest.mark.parametrize(("content", "message"), [
    ("x = 1", r"a config file defines get_config\(\)"),
    ("def get_config():\n    return 3", "must return an ml_collections"),
    ("def get_config(:", "SyntaxError"), ("import no_such_module", "ModuleNotFoundError"),
    ("def get_config():\n    return {'name': 'n', 'stps': 1}", "unknown key 'stps'; did you mean 'steps'")])
def test_files_that_are_no_configs(tmp_path, content, message):
    path = tmp_path / "c.py"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load(Outer, str(path))
    with pytest.raises(UserError, match="no such file; config files live in configs/"):
        load(Outer, str(tmp_path / "absent.py"))


def test_an_override_of_one_leaf_keeps_what_stands_beside_it():
    from easylm_imitation.world import ReproduceConfig
    plain = load(ReproduceConfig, None)
    made = load(ReproduceConfig, None, ["--config.imitation.steps=60", "--config.collect.temperature=0.1"])
    assert made.imitation == {**plain.imitation, "steps": 60}
    assert made.collect == dataclasses.replace(plain.collect, temperature=0.1)


def test_what_follows_a_files_name_is_given_to_it(tmp_path):
    path = tmp_path / "many.py"
    path.write_text("def get_config(name):\n    return {'name': name}\n")
    assert load(Outer, f"{path}:llama-7b").name == "llama-7b"
    with pytest.raises(UserError, match="missing 1 required positional argument: 'name'"):
        load(Outer, str(path))
    with pytest.raises(UserError, match="absent.py:x: no such file"):
        load(Outer, f"{tmp_path}/absent.py:x")
