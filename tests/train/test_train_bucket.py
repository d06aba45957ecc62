"""Runs whose workdir is in a bucket: a stand-in for the store, over HTTP, that lists late and fails now and then."""
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from bucket_standin import serving_bucket
from train_helpers import ROOT, tiny_config, wait_for, write_config

from easylm_imitation import storage
from easylm_imitation.schema import UserError
from easylm_imitation.train import read_metrics, train
from easylm_imitation.weights import RunDir, open_model


@pytest.fixture(scope="module")
def serving():
    with pytest.MonkeyPatch.context() as patch, serving_bucket() as (store, environment):
        for name, value in environment.items():
            patch.setenv(name, value)
        yield store


@pytest.fixture
def store(serving, monkeypatch):
    """The stand-in, without faults; what this process knows of earlier buckets is forgotten."""
    serving.late, serving.failing, serving.down = 0.0, 0.0, False
    monkeypatch.setattr(storage, "_copies", {})
    return serving


def metrics(store, url):
    """The lines of a run's log that are in the bucket."""
    bucket, _, run = url.removeprefix("gs://").partition("/")
    return [json.loads(line) for line in store.objects[bucket, f"{run}/metrics.jsonl"][0].splitlines()]


def steps(store, url):
    return sorted({int(key.split("/")[4]) for key in store.keys(url.removeprefix("gs://") + "/checkpoints/")
                   if key.split("/")[4].isdecimal()})


def losses(lines):
    return [(line["step"], line["loss"], line["tokens"]) for line in lines]


def test_a_run_in_a_bucket_stops_goes_on_and_equals_one_on_disk(data, whole, store, monkeypatch):
    url, config = "gs://first/runs/a", tiny_config(keep=2)
    store.late = 1.0
    assert train(config, data_dir=data, workdir=url, stop_after=4).step == 4
    assert steps(store, url) == [3, 4]
    assert [line["step"] for line in metrics(store, url)] == [1, 2, 3, 4]
    monkeypatch.setattr(storage, "_copies", {})     # as another process would find it
    time.sleep(store.late)
    assert train(config, data_dir=data, workdir=url).workdir == url
    assert losses(metrics(store, url)) == losses(read_metrics(RunDir(whole).metrics))
    assert steps(store, url) == [6, 9]
