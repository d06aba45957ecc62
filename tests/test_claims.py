"""docs/claims.md names only what exists: configs, pages, test files, and tests in them."""
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "claims.md").read_text()
NAMED = sorted(set(re.findall(r"`((?:configs|tests|docs|benchmarks)/[\w./-]+(?:::\w+)?)`", TEXT)))


@pytest.mark.parametrize("named", NAMED)
def test_what_a_claim_names_exists(named):
    path, _, test = named.partition("::")
    assert (ROOT / path).is_file()
    assert not test or f"def {test}(" in (ROOT / path).read_text()


def test_every_recipe_serves_a_claim():
    for folder in ("recipes", "study"):
        for path in (ROOT / "configs" / folder).glob("*.py"):
            assert f"configs/{folder}/{path.name}" in NAMED, f"{path.name} stands for no claim in docs/claims.md"


def test_every_row_has_every_cell():
    rows = [line for line in TEXT.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {6}


def test_every_finding_that_is_named_has_a_contrast_that_decides_it():
    from easylm_imitation.world import full
    contrasts = full().contrasts
    decided = {contrast.finding for contrast in contrasts if contrast.decides}
    named = set(re.findall(r"finding (\d) of `configs/reproduce/standard.py`", TEXT))
    assert named == decided == set("12345678")
    if "ablation of `configs/reproduce/full.py`" in TEXT:
        assert any(contrast.finding.startswith("ablation") for contrast in contrasts)
