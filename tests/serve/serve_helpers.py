"""What the tests of the server share."""
import json

from easylm_imitation.serve import ServeConfig
from easylm_imitation.serve.scheduler import Scheduler

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = ["The sky is blue, the grass is green; where is Oslo? Oslo is in Norway.", "Be brief.", "user assistant system",
         "Ünïcödé text: naïve naïf café, 日本語, 🙂."]
CONFIG = ServeConfig(slots=4, context=96, decode_rows=(2, 4), live_lengths=(32, 96), score_tokens=192)


def settle(scheduler):
    """One turn of the engine's thread, taken by the test."""
    while not scheduler._inbox.empty():
        scheduler._take(scheduler._inbox.get_nowait())
    scheduler._turn()


def run_jobs(engine, jobs):
    """Runs jobs on an engine to their ends, in the test's thread."""
    scheduler = Scheduler(engine, len(jobs))
    scheduler.submit(jobs)
    while scheduler.queue_depth:
        settle(scheduler)


def events(http, path, **body):
    """The objects of a stream; it must end as it should."""
    with http.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        lines = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]
