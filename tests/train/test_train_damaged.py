"""A checkpoint that was damaged on disk: the one before is taken, said, and nothing is deleted."""
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
from train_helpers import history, tiny_config, weights

from easylm_imitation.models import create
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import make_mesh
from easylm_imitation.train import train
from easylm_imitation.train.optimizer import make_optimizer
from easylm_imitation.train.restore import restore_newest
from easylm_imitation.train.state import TrainState, abstract_state
from easylm_imitation.weights import RunDir, Unreadable, open_model


@pytest.fixture(scope="module")
def abstract(whole) -> TrainState:
    """What its state looks like."""
    mesh = make_mesh("fsdp:8")
    with jax.set_mesh(mesh):
        optimizer, _ = make_optimizer(tiny_config().optimizer, 9)
        return abstract_state(create(RunDir(whole).read_model()[0]), optimizer, mesh)


def _file(folder: pathlib.Path, pattern: str) -> pathlib.Path:
    """The largest file that matches, so that it is one of numbers and not of padding."""
    return max(folder.glob(pattern), key=lambda path: path.stat().st_size)


def _truncate(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _garbage(path: pathlib.Path) -> None:
    path.write_bytes(b"[]")


_DAMAGE = {
    "numbers truncated": lambda at: _truncate(_file(at, "params/ocdbt.process_0/d/*")),
    "numbers missing": lambda at: _file(at, "optimizer/ocdbt.process_0/d/*").unlink(),
    "index truncated": lambda at: _truncate(at / "params/manifest.ocdbt"),
    "description garbage": lambda at: _garbage(at / "optimizer/_METADATA"),
    "position truncated": lambda at: _truncate(at / "data/data.json"),
    "position garbage": lambda at: _garbage(at / "data/data.json"),
    "progress empty": lambda at: (at / "progress/data.json").write_text(""),
    "lineage garbage": lambda at: _garbage(at / "lineage/data.json"),
    "weights missing": lambda at: shutil.rmtree(at / "params"),
    "everything missing": lambda at: (shutil.rmtree(at), at.mkdir()),
    "of another step": lambda at: (shutil.rmtree(at), shutil.copytree(at.with_name("6"), at)),
}


def _names(workdir: pathlib.Path) -> list[str]:
    return sorted(path.name for path in RunDir(workdir).checkpoints.iterdir())


@pytest.mark.parametrize("kind", _DAMAGE)
def test_the_one_before_is_taken_and_the_damaged_one_kept(whole, abstract, tmp_path, capfd, kind):
    workdir = shutil.copytree(whole, tmp_path / "run")
    folder = RunDir(workdir).checkpoints / "9"
    _DAMAGE[kind](folder)
    left = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    found = restore_newest(RunDir(workdir), abstract)
    assert (found.progress.step, int(found.state.step), found.position["grain"]["next_index"]) == (6, 6, 6)
    said = capfd.readouterr().err
    assert f"{folder}: the checkpoint is damaged (" in said
    assert "going on from the checkpoint of update 6" in said
    assert len(said.splitlines()) == 2                      # and no complaints of Orbax's threads
    assert _names(workdir) == ["3", "6", "9.damaged"]
    aside = folder.with_name("9.damaged")
    assert sorted(path.relative_to(aside) for path in aside.rglob("*")) == left


def test_the_run_goes_on_to_the_same_end(data, whole, tmp_path):
    workdir = shutil.copytree(whole, tmp_path / "run")
    _DAMAGE["numbers truncated"](RunDir(workdir).checkpoints / "9")
    assert train(tiny_config(), data_dir=data, workdir=workdir).step == 9
    assert history(workdir) == history(whole)
    for ours, theirs in zip(weights(workdir), weights(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert _names(workdir) == ["3", "6", "9", "9.damaged"]  # Orbax, which keeps three, does not count it


def test_several_are_passed_over_and_names_do_not_collide(whole, abstract, tmp_path, capfd):
    workdir = shutil.copytree(whole, tmp_path / "run")
    for _ in range(2):
        for step in ("6", "9"):
            shutil.copytree(RunDir(whole).checkpoints / step, RunDir(workdir).checkpoints / step, dirs_exist_ok=True)
            _truncate(RunDir(workdir).checkpoints / step / "params/manifest.ocdbt")
        restore_newest(RunDir(workdir), abstract)
        assert "going on from the checkpoint of update 3" in capfd.readouterr().err
    assert _names(workdir) == ["3", "6.damaged", "6.damaged-2", "9.damaged", "9.damaged-2"]


def test_when_all_are_damaged_nothing_is_moved_and_the_line_says_so(whole, abstract, tmp_path):
    workdir = shutil.copytree(whole, tmp_path / "run")
    for step in RunDir(workdir).steps():
        _truncate(RunDir(workdir).checkpoints / str(step) / "params/manifest.ocdbt")
    with pytest.raises(UserError, match=r"none of the checkpoints can be read \(9: .*; 6: .*; 3: .*new workdir"):
        restore_newest(RunDir(workdir), abstract)
    assert _names(workdir) == ["3", "6", "9"]


def test_another_models_checkpoint_is_not_damage(whole, abstract, tmp_path):
    def narrower(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        shape = tuple(48 if size == 64 else size for size in leaf.shape)
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=leaf.sharding)
    workdir = shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(UserError, match=r"/9: params 'layers/mlp/.* in the checkpoint, but .*48.* in this run's"):
        restore_newest(RunDir(workdir), jax.tree.map(narrower, abstract))
    less = TrainState(abstract.step, abstract.params, abstract.optimizer[1:])
    with pytest.raises(UserError, match=r"/9: optimizer .*(not there in the|but not there in this)"):
        restore_newest(RunDir(workdir), less)
    assert _names(workdir) == ["3", "6", "9"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give up a right and take it back")
def test_a_checkpoint_without_the_right_to_read_is_not_damage(whole, abstract, tmp_path):
    workdir = shutil.copytree(whole, tmp_path / "run")
    for above in (tmp_path, *tmp_path.parents[:3]):
        above.chmod(0o755)
    _file(RunDir(workdir).checkpoints / "9", "params/ocdbt.process_0/d/*").chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises(UserError, match="(?i)permission") as raised:
            restore_newest(RunDir(workdir), abstract)
    finally:
        os.seteuid(0)
    assert not isinstance(raised.value, Unreadable)
    assert _names(workdir) == ["3", "6", "9"]


def test_who_only_reads_a_damaged_run_gets_an_error_and_moves_nothing(whole, tmp_path):
    workdir = shutil.copytree(whole, tmp_path / "run")
    _truncate(RunDir(workdir).checkpoints / "9" / "params/manifest.ocdbt")
    with pytest.raises(UserError, match="checkpoints/9: the weights .* cannot be read .* to use the one before"):
        open_model(workdir)
    assert _names(workdir) == ["3", "6", "9"]
