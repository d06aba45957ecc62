"""Torch's own files, read without torch; and files that would run something if anybody let them."""
import json
import pickle
import zipfile

import jax
import numpy as np
import pytest
import safetensors.numpy

from easylm_imitation.schema import UserError
from easylm_imitation.sharding import make_mesh
from easylm_imitation.weights import import_hf, open_model
from easylm_imitation.weights.torch_files import open_torch

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

either_format = pytest.mark.parametrize("zipped", [True, False])


def save(value, path, zipped=True, **options):
    torch.save(value, path, _use_new_zipfile_serialization=zipped, **options)


def many_tensors():
    base = torch.arange(60, dtype=torch.float32).reshape(6, 10)
    return {
        "float32": base.clone(), "bfloat16": base.bfloat16(), "float16": base.half(), "float64": base.double(),
        "int64": base.long(), "bool": base > 7, "uint8": base.byte(), "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4), "shared": base, "row": base[3], "transposed": base.T,
        "every other": base[1::2, ::3], "spread": base[:1].expand(4, 10),
        "parameter": torch.nn.Parameter(base.bfloat16()),
    }


def same(got, wanted):
    raw = wanted.detach().contiguous()
    raw = raw.view(torch.int16).numpy() if raw.dtype == torch.bfloat16 else raw.numpy()
    assert got.shape == tuple(wanted.shape)
    assert got.tobytes() == raw.tobytes()


@either_format
@pytest.mark.parametrize("protocol", [2, 4])
def test_whatever_torch_saves_is_read_as_it_is(tmp_path, zipped, protocol):
    tensors = many_tensors()
    save(tensors, tmp_path / "a.pth", zipped, pickle_protocol=protocol)
    found = open_torch(tmp_path / "a.pth")
    assert found.keys() == tensors.keys()
    for name, tensor in found.items():
        same(tensor.read(), tensors[name])
    same(found["transposed"].read(slice(2, 5), slice(1, 4)), tensors["transposed"][2:5, 1:4])
    assert found["shared"].offset == found["row"].offset - 30 * 4       # one storage, stored once


@either_format
def test_the_state_dict_of_a_module_is_read(tmp_path, zipped):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    save(module.state_dict(), tmp_path / "m.bin", zipped)               # an OrderedDict with attributes
    for name, tensor in open_torch(tmp_path / "m.bin").items():
        same(tensor.read(), module.state_dict()[name])


def as_torch(folder, files=1, zipped=True):
    """Rewrites a dir's weights as pytorch_model.bin, or as several with an index."""
    path = folder / "model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    tensors = {name: torch.from_numpy(np.asarray(array, np.float32)).to(getattr(torch, array.dtype.name))
               for name, array in arrays.items()}
    path.unlink()
    if files == 1:
        save(tensors, folder / "pytorch_model.bin", zipped)
        return
    weight_map = {name: f"pytorch_model-{i % files + 1:05}-of-{files:05}.bin" for i, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        save({name: tensors[name] for name, home in weight_map.items() if home == file}, folder / file, zipped)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize(("name", "files", "zipped"), [
    ("llama", 1, True), ("gpt2", 1, False), ("qwen2", 3, True), ("gpt2", 2, False)])
def test_a_dir_of_torch_files_is_the_same_model(own_copy, exported, name, files, zipped):
    folder = own_copy(name)
    as_torch(folder, files, zipped)
    loaded, wanted = open_model(folder), open_model(exported[name])
    jax.tree.map(np.testing.assert_array_equal, loaded.params, wanted.params)
    assert (loaded.stored_dtype, loaded.lineage) == (wanted.stored_dtype, wanted.lineage)   # the same fingerprint too
    mesh = make_mesh("fsdp:4,tensor:2")
    jax.tree.map(np.testing.assert_array_equal, open_model(folder, mesh=mesh).params, wanted.params)


class Runs:
    """Pickles into a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@either_format
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(("asks_for", "name"), [
    (lambda mark: Runs(__import__("os").system, f"touch {mark}"), "system"),
    (lambda mark: Runs(eval, f"open({str(mark)!r}, 'w')"), "eval"),
    (lambda mark: {"weight": torch.ones(2), "more": Runs(exec, f"open({str(mark)!r}, 'w')")}, "exec"),
    (lambda mark: Runs(open, str(mark), "w"), "open"),
    (lambda mark: Runs(torch.load, str(mark)), "torch.serialization.load"),
])
def test_a_file_that_asks_to_run_something_is_refused_and_nothing_runs(own_copy, tmp_path, zipped, protocol, asks_for,
                                                                       name):
    folder, mark = own_copy("llama"), tmp_path / "it ran"
    (folder / "model.safetensors").unlink()
    save(asks_for(mark), folder / "pytorch_model.bin", zipped, pickle_protocol=protocol)
    with pytest.raises(UserError, match=rf"pytorch_model.bin: its pickle asks for '\S*{name}', which weights do not"):
        import_hf(folder)
    assert not mark.exists()


def test_a_bare_pickle_is_refused_without_running(tmp_path):
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Runs(__import__("os").system, f"touch {tmp_path / 'ran'}")))
    with pytest.raises(UserError, match="its pickle asks for 'posix.system'"):
        open_torch(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def refill(path, change):
    """Rewrites a zip file's entries after `change({name: bytes})`."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(("damage", "message"), [
    (lambda path: path.write_bytes(path.read_bytes()[:-200]), "not a whole torch file"),
    (lambda path: path.write_bytes(b"<html>not found</html>"), "not a whole torch file"),
    (lambda path: path.write_bytes(b""), "not a whole torch file"),
    (lambda path: refill(path, lambda e: e.pop("a/data/0")), "the numbers 'a/data/0' are not in it"),
    (lambda path: refill(path, lambda e: e.update({"a/data/0": b"1234"})), "has 4 bytes where 240 uncompressed"),
    (lambda path: refill(path, lambda e: e.update({"a/data.pkl": e["a/data.pkl"][:80]})), "not a whole torch file"),
    (lambda path: refill(path, lambda e: e.update({"a/byteorder": b"big"})), "big-endian"),
    (lambda path: refill(path, lambda e: e.pop("a/data.pkl")), "without one data.pkl"),
    (lambda path: save({"a": torch.ones(3), "step": 7}, path), "'step' is a int, not a tensor"),
    (lambda path: save([torch.ones(3)], path), "holds a list instead of named tensors"),
    (lambda path: save({"a": torch.ones(3).to_sparse()}, path), "asks for 'torch._utils._rebuild_sparse_tensor'"),
    (lambda path: save({"a": torch._neg_view(torch.ones(3))}, path), "stand for others (negated or conjugated)"),
    (lambda path: save({"a": torch.ones(3).to(torch.float8_e4m3fn)}, path), "float8; take the checkpoint that was not"),
])
def test_a_damaged_file_is_one_clear_line(tmp_path, damage, message):
    path = tmp_path / "a.pth"
    save(many_tensors(), path)
    damage(path)
    with pytest.raises(UserError) as error:
        open_torch(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [10, 300, 2000])
def test_an_old_file_that_is_cut_short_is_noticed(tmp_path, cut):
    save(many_tensors(), tmp_path / "a.pth", zipped=False)
    whole = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[:-cut])
    with pytest.raises(UserError, match="a.pth: "):
        open_torch(tmp_path / "a.pth")


@pytest.mark.parametrize(("start", "shape", "strides"), [(50, (20,), (1,)), (0, (2, 3), (1, -1)), (0, (-1,), (1,)),
                                                         (0, (3,), (10**9,))])
def test_a_tensor_outside_its_numbers_is_refused(tmp_path, monkeypatch, start, shape, strides):
    tensor = torch.arange(60.0)
    monkeypatch.setattr(torch.Tensor, "__reduce_ex__", lambda self, protocol: (
        torch._utils._rebuild_tensor_v2, (torch.storage.TypedStorage(
            wrap_storage=self.untyped_storage(), dtype=self.dtype, _internal=True), start, shape, strides, False, {})))
    save({"a": tensor}, tmp_path / "a.pth")
    monkeypatch.undo()
    with pytest.raises(UserError, match="not a whole torch file"):
        open_torch(tmp_path / "a.pth")


DEEP = b"\x80\x02}K\x00" + b"\x85" * 300_000 + b"K\x01s."                          # {((((...0...)))): 1}
DOUBLED = b"\x80\x02K\x00" + b"q\x00h\x00\x86" * 28 + b")R."                        # a tuple of 2**28 zeros, called
STORED = b"\x80\x02(K\x00" + b"q\x00h\x00\x86" * 28 + b"NK\x01NK\x02tQ."                # likewise, as a storage
OTHER_KEYS = b"\x80\x02}K\x00K\x00\x86K\x01s."                                     # {(0, 0): 1}


@pytest.mark.parametrize(("program", "message"), [
    (DEEP, "asks for tuples more than 100 deep"), (DOUBLED, "asks for a call of what is no name"),
    (STORED, "asks for a stored object that is no storage"), (OTHER_KEYS, "asks for a dict of other keys than names")])
def test_a_pickle_that_would_take_the_process_down_is_one_clear_line(tmp_path, program, message):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", program)
    with pytest.raises(UserError) as error:
        open_torch(tmp_path / "a.pth")
    assert message in str(error.value)
    assert len(str(error.value)) < 500
