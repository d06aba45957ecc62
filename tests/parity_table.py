"""The table in docs/models.md, from how the parity tests end: WRITE_DOCS=1 pytest tests/weights/test_hf_parity.py"""
import os
import pathlib

import pytest
from tiny_models import KINDS

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs" / "models.md"
COLUMNS = {     # of the table, and the test that fills each
    "read": "test_what_transformers_writes_is_read_whole", "logits": "test_logits_equal_transformers",
    "gradients": "test_gradients_equal_torch", "20 updates of AdamW": "test_the_loss_curve_of_adamw_follows_torch",
    "decode = full forward": "test_prefill_and_decode_equal_the_full_forward",
    "tensor-parallel = one device": "test_eight_tensor_parallel_devices_equal_one",
    "write": "test_transformers_to_run_to_transformers_is_equal_byte_for_byte"}
SLOW = {"20 updates of AdamW": set(KINDS) - {"llama3", "opt_350m"}}
_SIGNS = {"passed": "✓", "failed": "✗", "skipped": "skipped"}
_ended: dict[str, str] = {}     # test[kind] -> passed, failed or skipped


def check(column):
    """Parametrizes the test of a column over all kinds, the slow ones marked."""
    return pytest.mark.parametrize("name", [
        pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW.get(column, ()) else []) for kind in KINDS])


def pytest_runtest_logreport(report):
    """Notes how a parity test ended."""
    file, _, test = report.nodeid.rpartition("::")
    if file.endswith("test_hf_parity.py") and (report.when == "call" or report.outcome != "passed"):
        _ended[test] = report.outcome


def pytest_sessionfinish(session):
    """Writes the table, when asked to; never from a worker, which sees only a part."""
    if os.environ.get("WRITE_DOCS") and _ended and not hasattr(session.config, "workerinput"):
        DOCS.write_text(_with(DOCS.read_text(), table(lambda column, kind: _SIGNS.get(
            _ended.get(f"{COLUMNS[column]}[{kind}]"), "not run"))))


def table(cell):
    """Markdown; `cell(column, kind)` is what stands there."""
    lines = ["| kind | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| `{kind}`: {what} | " + " | ".join(cell(column, kind) for column in COLUMNS) + " |"
              for kind, what in KINDS.items()]
    return "\n".join(lines) + "\n"


def _with(text, made):
    head, _, tail = text.partition("| kind | ")
    return head + made + tail[tail.index("\n\n") + 1:]


def is_green(text):
    """Whether the docs hold the whole table, with a pass in every cell."""
    return _with(text, table(lambda column, kind: "✓")) == text
