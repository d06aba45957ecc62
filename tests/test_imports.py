"""Imports point one way (the layout in docs/architecture.md): each part may use only what stands below it."""
import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "easylm_imitation"
GROUND = {"files", "records", "record_examples", "schema", "console", "config", "journal", "folders", "storage",
          "bucket"}
BELOW_TRAIN = {"sharding", "models", "weights", "data", "text"}
LIBRARY = BELOW_TRAIN | {"train", "serve", "client", "teacher", "evaluate", "report"}
MAY_USE = {
    "text": set(), "data": {"text"}, "sharding": set(), "models": {"sharding"},
    "weights": {"models", "sharding", "text"}, "train": BELOW_TRAIN, "serve": BELOW_TRAIN | {"client"},
    "client": set(), "teacher": {"client", "data", "text"}, "evaluate": {"client", "serve", "data", "text"},
    "report": set(), "pods": set(), "plan": BELOW_TRAIN | {"train", "serve"}, "world": LIBRARY | {"study"},
    "api": LIBRARY,
    "study": BELOW_TRAIN | {"train", "plan"}, "cli": LIBRARY | {"world", "plan", "study"},
    "files": {"schema"}, "records": {"files", "schema"}, "record_examples": {"records"},
    "journal": {"files", "schema"}, "config": {"schema"}, "schema": set(), "console": set(),
    "folders": {"schema"},
    "bucket": set(), "storage": {"bucket", "console", "schema"},
    "__main__": {"cli"}, "__init__": set(),
}
HEAVY = ("jax", "flax", "optax", "orbax", "transformers", "torch", "lm_eval", "grain", "matplotlib", "fastapi")


def imported_parts(path, nodes=None):
    """(part, line) of each import of this package in a file, `from easylm_imitation import x` included."""
    for node in nodes if nodes is not None else ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write it out"
            pieces = (node.module or "").split(".")
            if pieces[0] == PACKAGE.name:
                yield from ((name, node.lineno) for name in (pieces[1:2] or [a.name for a in node.names]))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                pieces = alias.name.split(".")
                if pieces[0] == PACKAGE.name and len(pieces) > 1:
                    yield pieces[1], node.lineno


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert part in MAY_USE, f"{path}: '{part}' has no place in the layout; add it to docs/architecture.md and here"
    allowed = MAY_USE[part] | {part} | (GROUND if part not in GROUND else set())
    wrong = [f"{path}:{line}: {part} may not import {name}"
             for name, line in imported_parts(path) if name not in allowed]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda p: p.name)
def test_verbs_import_heavy_libraries_only_when_they_run(path):
    top = [n for n in ast.parse(path.read_text()).body if isinstance(n, (ast.Import, ast.ImportFrom))]
    names = [alias.name for node in top if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in top if isinstance(node, ast.ImportFrom)]
    assert not [n for n in names if n.split(".")[0] in HEAVY]
    own = {name for name, _ in imported_parts(path, top)}
    assert own <= GROUND | {"cli"}, f"{path} imports {own} at the top; move what is heavy into run()"


def test_no_runtime_code_imports_torch_or_tensorflow_or_pickle():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            bad = [n for n in names if n.split(".")[0] in ("torch", "tensorflow", "pickle", "cloudpickle", "dill")]
            if path == PACKAGE / "evaluate/classifier.py":      # a user's own checkpoint, with an extra of its own
                bad = [n for n in bad if n != "torch"]
            assert not bad, f"{path}:{node.lineno}: imports {bad}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), f"{path}:{node.lineno}: {node.func.id}()"
