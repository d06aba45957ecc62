"""What HTTP and the API cost a request: the real routes over an engine that answers at once, beside a bare route.

    python benchmarks/serve_overhead.py [--requests 2000]

One client on one kept-alive connection sends ready-made bytes, to each server in turn. The bare route is an ASGI
function on the same uvicorn: what is above it is ours (checking, tokenizing, jobs, JSON). The target is under 1 ms at
p50.
"""
import argparse
import json
import socket
import threading
import time
import types
from collections.abc import Callable, Sequence

import numpy as np
import uvicorn
from measure import report

from easylm_imitation.records import Lineage
from easylm_imitation.serve import ServeConfig
from easylm_imitation.serve.api import make_app
from easylm_imitation.serve.jobs import Job, Scoring, Update
from easylm_imitation.serve.sampling import Sampled
from easylm_imitation.serve.service import Service
from easylm_imitation.text import TEMPLATES, stop_ids, train_bpe

BODIES = {
    "/v1/completions": {"prompt": "The sky is", "max_tokens": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Where is Oslo?"}], "max_tokens": 1},
    "/v1/score": {"pairs": [["The sky is", " blue"]]},
}


def main() -> None:
    """Measures, prints, appends to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    count = parser.parse_args().requests
    bare, ours = listen(_bare), listen(_idle_server())
    rows = []
    for path, body in BODIES.items():
        (base, _), (half, most) = ask(bare, path, body, count), ask(ours, path, body, count)
        rows.append([path, base, half, most, half - base, half / base])
    report("HTTP overhead over an idle mock engine",
           ["route", "bare p50, ms", "ours p50, ms", "ours p99, ms", "difference, ms", "ratio"], rows)


class IdleScheduler:
    """Every job is done as soon as it is submitted."""
    alive = True

    def submit(self, jobs: Sequence[Job]) -> None:
        """Reports the end of each."""
        for job in jobs:
            if isinstance(job, Scoring):
                for segment in job.segments:
                    size = len(segment.points)
                    segment.done(Sampled(*(np.zeros(shape, kind) for shape in (size, (size, 5))
                                           for kind in (np.int32, np.float32))))
                job.notify(Update(finish="scored"))
            else:
                job.notify(Update(" blue", (), "length"))

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Nothing is left to cancel."""


def _idle_server() -> Callable:
    tokenizer = train_bpe([text for body in BODIES.values() for text in json.dumps(body).split()] * 4, 300,
                          ("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    engine = types.SimpleNamespace(config=types.SimpleNamespace(vocab_size=tokenizer.vocab_size),
                                   shapes=types.SimpleNamespace(context=2048, slots=16))
    lineage = Lineage(id="c" * 16, name="idle", base="c" * 16, base_name="idle")
    service = Service(engine, IdleScheduler(), ServeConfig(), tokenizer=tokenizer, template=TEMPLATES["chatml"],
                      lineage=lineage, stop_ids=stop_ids(TEMPLATES["chatml"], tokenizer))
    return make_app(service, None)[1]


async def _bare(scope: dict, receive: Callable, send: Callable) -> None:
    while (await receive()).get("more_body"):
        pass
    body = b'{"choices": []}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def listen(app: Callable) -> int:
    """Serves `app` in a thread; the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", access_log=False, log_level="warning"))
    threading.Thread(target=server.run, args=([listener],), daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    return listener.getsockname()[1]


def ask(port: int, path: str, body: dict, count: int) -> tuple[float, float]:
    """Milliseconds of a request at p50 and p99, the first fifth left out."""
    content = json.dumps(body).encode()
    request = (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
               f"Content-Length: {len(content)}\r\n\r\n").encode() + content
    times = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            started = time.perf_counter()
            connection.sendall(request)
            _read_answer(connection)
            times.append(1e3 * (time.perf_counter() - started))
    return tuple(np.percentile(times[count // 5:], (50, 99)))


def _read_answer(connection: socket.socket) -> None:
    said = b""
    while b"\r\n\r\n" not in said:
        said += connection.recv(65536)
    head, _, rest = said.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(said.decode())
    size = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(rest) < size:
        rest += connection.recv(65536)


if __name__ == "__main__":
    main()
