"""schemathesis against the real server: whatever the OpenAPI schema allows or forbids gets the answer it promises."""
import os
import pathlib
import subprocess
import sys

import pytest
from serve_helpers import CONFIG

from easylm_imitation.serve import open_server

HERE = pathlib.Path(__file__).parent


def run_schemathesis(url, folder, *arguments):
    """Its command line in a process of its own, from a folder without anybody's settings."""
    pytest.importorskip("schemathesis")
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run",
               f"{url}/openapi.json", "--url", url, "--mode", "all", "--generation-deterministic",
               "--exclude-checks", "positive_data_acceptance", "--no-color",
               "--generation-allow-x00", "true", "--suppress-health-check", "all", "--warnings", "off", *arguments]
    path = os.pathsep.join([str(HERE), *sys.path])
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800, check=False,
                          env={**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": path})
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def healthy(server, http):
    scheduler = server.service.scheduler
    assert http.get("/health").status_code == 200
    assert (scheduler.slots_busy, scheduler.queue_depth, server.service.engine.compilations) == (0, 0, 0)


def test_schemathesis_finds_nothing_in_a_few_examples(server, http, tmp_path):
    said = run_schemathesis(server.url, tmp_path, "--phases", "fuzzing", "--max-examples", "2")
    assert "No issues found" in said
    healthy(server, http)


@pytest.mark.slow
def test_schemathesis_finds_nothing_in_all_its_phases(server, http, tmp_path):
    said = run_schemathesis(server.url, tmp_path, "--phases", "examples,coverage,fuzzing", "--max-examples", "60")
    assert "No issues found" in said
    healthy(server, http)


@pytest.mark.slow
def test_schemathesis_finds_the_key_in_place(served_model, tmp_path, monkeypatch):
    monkeypatch.setenv(CONFIG.api_key_env, "sesame")
    with open_server(served_model, CONFIG) as running:
        run_schemathesis(running.url, tmp_path, "--phases", "examples,coverage", "--header",
                         "Authorization: Bearer sesame", "--include-path", "/tokenize")
