"""`open_model`: whatever `--model` or `--init` names on disk, as one object."""
import dataclasses
import os
import pathlib

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from easylm_imitation.console import say
from easylm_imitation.files import read_json
from easylm_imitation.models import Model, ModelConfig, Params, create
from easylm_imitation.records import Lineage
from easylm_imitation.schema import UserError
from easylm_imitation.sharding import shardings
from easylm_imitation.storage import on_disk
from easylm_imitation.text import (
    Template,
    Tokenizer,
    check_template,
    get_template,
    has_tokenizer,
    load_tokenizer,
    stop_ids,
)
from easylm_imitation.weights.adapter import AdapterFiles, apply_adapters, find_adapter
from easylm_imitation.weights.gguf_file import is_gguf
from easylm_imitation.weights.gguf_import import open_gguf
from easylm_imitation.weights.hf_export import OURS, HFNote
from easylm_imitation.weights.hf_extras import NO_EXTRAS, HFExtras, read_extras
from easylm_imitation.weights.hf_import import HFModel, fingerprint, identify_hf, open_hf, stored_dtype
from easylm_imitation.weights.meta_checkpoint import is_meta
from easylm_imitation.weights.peft import export_peft
from easylm_imitation.weights.run_dir import BEST, RunDir, same_template


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with its numbers and all that is known of it."""
    config: ModelConfig
    params: Params                  # stacked
    tokenizer: Tokenizer | None     # None for a Hugging Face dir that brings none
    template: Template | None       # None when nothing says which one the weights were made with
    lineage: Lineage
    path: str
    stored_dtype: str = "float32"   # what the weights came in; `convert --dtype same` goes back to it
    dropped: tuple[str, ...] = ()   # tensors of a Hugging Face dir that hold no weights of their own, left out
    extras: HFExtras = NO_EXTRAS   # what its Hugging Face dir says besides
    borrowed: bool = False          # `template` is from `in_chat`: nothing says that the weights were made with it

    def end_ids(self) -> tuple[int, ...]:
        """Ids that end generation: those of the template that the weights were made with, or else the tokenizer's,
        those that its Hugging Face dir names, and those of a template that is `borrowed`.

        The model must have a tokenizer.
        """
        ends = () if self.template is None else stop_ids(self.template, self.tokenizer)
        if ends and not self.borrowed:
            return ends
        return tuple(dict.fromkeys((self.tokenizer.eos_id, *self.extras.end_ids(), *ends)))


def open_model(path: str | os.PathLike, *, dtype: jnp.dtype = jnp.float32, mesh: Mesh | None = None) -> LoadedModel:
    """Opens a run dir (its newest checkpoint; `RUN@120` that of update 120, `RUN@best` that of the lowest validation
    loss), a Hugging Face dir, a GGUF file, or a base with adapters (adapter.py), with weights in `dtype` on `mesh` or
    one device.

    Every device's part is read straight to where it belongs. Raises UserError when the path is neither, or damaged, or
    does not fit the mesh.
    """
    path, wanted = _at_step(path)
    adapter = find_adapter(path, wanted)
    if adapter is not None:
        return _open_adapted(adapter, dtype, mesh)
    if is_gguf(path):
        return _open_gguf(path, dtype, mesh)
    run = _run_at(path)
    if run is not None:
        return _open_run(run, dtype, mesh, wanted)
    if wanted is not None:
        raise UserError(f"{path}@{wanted}: {path} is a Hugging Face dir, which has no updates to choose from")
    return _open_hf(pathlib.Path(path), dtype, mesh)


def with_template(loaded: LoadedModel, name: str) -> LoadedModel:
    """The model with the chat template that its dir does not name.

    Raises UserError when the dir names another, or the tokenizer lacks the template's special tokens.
    """
    template = get_template(name, loaded.tokenizer)
    if loaded.template is not None and loaded.template.id != template.id:
        raise UserError(f"--template {name}: {loaded.path} was made with {loaded.template.id}; leave the flag out")
    if loaded.tokenizer is None:
        raise UserError(f"--template {name}: {loaded.path} has no tokenizer; put its tokenizer.json beside the weights")
    check_template(template, loaded.tokenizer)
    lineage = dataclasses.replace(loaded.lineage, template=template.id)
    return dataclasses.replace(loaded, template=template, lineage=lineage)


def in_chat(loaded: LoadedModel) -> LoadedModel:
    """The model as it is talked to: where nothing says which template its weights were made with, the Jinja template
    that came with its tokenizer is borrowed, and where that one cannot be used it is said why."""
    if loaded.template is not None:
        return loaded
    try:
        template = _brought(loaded.tokenizer, loaded.path)
    except UserError as error:
        say(f"{error}; without, there are no chats")
        return loaded
    if template is None:
        return loaded
    lineage = dataclasses.replace(loaded.lineage, template=template.id)
    return dataclasses.replace(loaded, template=template, lineage=lineage, borrowed=True)


def find_template(path: str | os.PathLike) -> Template | None:
    """The template of `in_chat`, without reading weights; None for a model that has none. Raises UserError for one that
    cannot be used, and as `describe` does."""
    path, wanted = _at_step(path)
    adapter = find_adapter(path, wanted)
    if adapter is not None and adapter.note is None:
        return find_template(adapter.base)
    if is_gguf(path):
        found = open_gguf(path)
        return found.template or _brought(found.tokenizer, path)
    run = _run_at(path if adapter is None else adapter.path)
    if run is not None:
        return run.read_template() or _brought(run.read_tokenizer(), run.path)
    _, template = _hf_identity(open_hf(path))
    return template or _brought(load_tokenizer(path) if has_tokenizer(path) else None, path)


def _brought(tokenizer: Tokenizer | None, path: str | os.PathLike) -> Template | None:
    """The template that came with a tokenizer. Raises UserError for one that gives no rows."""
    if tokenizer is None or tokenizer.chat_template is None:
        return None
    try:
        template = get_template("tokenizer", tokenizer)
        check_template(template, tokenizer)
    except UserError as error:
        raise UserError(f"{path}: the chat template that came with it cannot be used here: {error}; `convert "
                        "--template NAME` gives it one of ours") from None
    return template


def describe(path: str | os.PathLike) -> tuple[ModelConfig, Lineage]:
    """Config and lineage of a run dir or a Hugging Face dir, without reading weights. Raises UserError."""
    path, wanted = _at_step(path)
    adapter = find_adapter(path, wanted)
    if adapter is not None:
        config, base = describe(adapter.base)
        return adapter.config_of(config), adapter.lineage(base)
    if is_gguf(path):
        found = open_gguf(path)
        return found.weights.config, found.lineage
    run = _run_at(path)
    if run is None:
        model = open_hf(path)
        return model.config, _hf_identity(model)[0]
    return run.read_model()[0], run.read_lineage(None if wanted is None else run.step(wanted))


def export_adapter(source: str | os.PathLike, path: str | os.PathLike) -> int:
    """Writes the adapters that `source` names as a PEFT dir; returns how many tensors it holds. Raises UserError."""
    adapter = find_adapter(*_at_step(source))
    if adapter is None:
        raise UserError(f"{source}: holds no adapters; --format peft is for a run of config.lora, or for PEFT's files")
    config, base = describe(adapter.base)
    lineage = adapter.lineage(base)
    return export_peft(path, *adapter.read(adapter.config_of(config)), adapter.base, base, lineage)


def is_model_path(path: str | os.PathLike) -> bool:
    """Whether something is there that `open_model` might open: a folder, a GGUF file, with @STEP or as BASE+ADAPTER."""
    path = _at_step(path)[0]
    return os.path.isdir(path) or is_gguf(path) or os.path.isdir(path.rpartition("+")[2])


def _at_step(path: str | os.PathLike) -> tuple[str, str | None]:
    """`RUN@120` or `RUN@best` as (RUN, which); any other path as it is; what lies in a bucket as its copy here."""
    path = os.fspath(path)
    folder, _, wanted = path.rpartition("@")
    is_step = folder and not os.path.exists(path) and (wanted == BEST or wanted.isdigit())
    return (os.fspath(on_disk(folder)), wanted) if is_step else (os.fspath(on_disk(path)), None)


def _run_at(path: str | os.PathLike) -> RunDir | None:
    """The run dir at `path`, or None for a Hugging Face dir. Raises UserError when it is neither."""
    run = RunDir(path)
    if run.holds_model():
        return run
    if (run.path / "config.json").is_file() or is_meta(path):
        return None
    if not run.path.exists():
        raise UserError(f"{path}: no such folder; give a run dir or a Hugging Face dir")
    raise UserError(f"{path}: neither a run dir (model.json) nor a Hugging Face dir (config.json, model.safetensors)")


def _open_run(run: RunDir, dtype: jnp.dtype, mesh: Mesh | None, wanted: str | None) -> LoadedModel:
    config, stored = run.read_model()
    step = run.step(wanted)         # asked once: a run that is being trained may have a newer one a moment later
    tokenizer = run.read_tokenizer()
    _check_vocabulary(config, tokenizer, run.path)
    model = create(config)
    abstract = jax.tree.map(lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=where),
                            model.abstract(dtype), _placement(model, mesh))
    params = run.load_params(abstract, step)
    return LoadedModel(config, params, tokenizer, run.read_template(), run.read_lineage(step), str(run.path), stored,
                       extras=run.read_extras())


def _open_gguf(path: str, dtype: jnp.dtype, mesh: Mesh | None) -> LoadedModel:
    found = open_gguf(path)
    _check_vocabulary(found.weights.config, found.tokenizer, pathlib.Path(path))
    params = found.weights.read(dtype, _placement(create(found.weights.config), mesh))
    return LoadedModel(found.weights.config, params, found.tokenizer, found.template, found.lineage, path,
                       stored_dtype(found.weights.files), found.weights.dropped, found.extras)


def _open_adapted(adapter: AdapterFiles, dtype: jnp.dtype, mesh: Mesh | None) -> LoadedModel:
    """The base with the adapters added up, in `dtype`; a run's own tokenizer and template go before the base's."""
    base = open_model(adapter.base, dtype=dtype, mesh=mesh)
    config = adapter.config_of(base.config)
    lineage = adapter.lineage(base.lineage)
    params = apply_adapters(base.params, *adapter.read(config))
    run = RunDir(adapter.path)
    own = (run.read_tokenizer(), run.read_template()) if adapter.note else (base.tokenizer, base.template)
    return dataclasses.replace(base, params=params, lineage=lineage, path=adapter.path, tokenizer=own[0],
                               template=own[1])


def _open_hf(folder: pathlib.Path, dtype: jnp.dtype, mesh: Mesh | None) -> LoadedModel:
    model = open_hf(folder)
    tokenizer = _hf_tokenizer(folder)
    _check_vocabulary(model.config, tokenizer, folder)
    lineage, template = _hf_identity(model)
    extras = read_extras(folder)
    if template is not None:        # its Jinja form is our own
        extras = dataclasses.replace(extras, chat_template=None)
    if tokenizer is not None and not (folder / OURS).is_file():
        lineage = dataclasses.replace(lineage, tokenizer=tokenizer.id)
    params = model.read(dtype, _placement(create(model.config), mesh))
    return LoadedModel(model.config, params, tokenizer, template, lineage, str(folder), stored_dtype(model.files),
                       model.dropped, extras)


def _placement(model: Model, mesh: Mesh | None) -> Params:
    """Shardings of all parameters; explicit for one device too: Orbax would ask for the devices that wrote."""
    if mesh is not None:
        return shardings(mesh, model.rules(), model.abstract())
    on_one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: on_one, model.abstract())


def _hf_tokenizer(folder: pathlib.Path) -> Tokenizer | None:
    if has_tokenizer(folder):
        return load_tokenizer(folder)
    say(f"{folder}: no tokenizer in it; put tokenizer.json or tokenizer.model beside the weights to use text with them")
    return None


def _hf_identity(model: HFModel) -> tuple[Lineage, Template | None]:
    """Lineage and template as exported with the weights, if they are still those; else a lineage of their own."""
    folder = model.files.folder
    if not (folder / OURS).is_file():
        return identify_hf(model), None
    note = read_json(HFNote, folder / OURS)
    if note.fingerprint != fingerprint(model.config, model.files):
        say(f"{folder}: the weights are not those that {OURS} describes; it is ignored")
        return identify_hf(model), None
    if note.template is None or note.template_id is None:
        return note.lineage, None
    tokenizer = load_tokenizer(folder) if has_tokenizer(folder) else None
    return note.lineage, same_template(note.template, note.template_id, str(folder / OURS), tokenizer)


def _check_vocabulary(config: ModelConfig, tokenizer: Tokenizer | None, path: pathlib.Path) -> None:
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise UserError(f"{path}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, the model a vocabulary of "
                        f"{config.vocab_size}; they do not belong together")
