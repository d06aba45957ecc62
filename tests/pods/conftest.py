"""The stand-in for a cloud."""
import os

import pytest
from pod_standins import Cloud


@pytest.fixture
def cloud(tmp_path):
    made = Cloud(tmp_path)
    yield made
    for pid in (made.folder / "hosts").glob("*/.easylm_pod/*/pid"):
        try:
            os.killpg(int(pid.read_text()), 9)
        except ProcessLookupError:
            pass
