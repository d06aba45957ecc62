"""`serve`: a model behind an OpenAI-compatible HTTP server, until it is told to stop."""
import argparse
import dataclasses
import os
import queue
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from easylm_imitation import console
from easylm_imitation.cli import flags
from easylm_imitation.config import load

HELP = "serve a model over HTTP: OpenAI-compatible completions and chat, scoring, tokenizer"
EXAMPLE = "easylm-imitation serve --model RUN --port 8000"
INTERRUPTED = "nothing was served yet"
OWN_SIGNALS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    flags.add_model(parser, "a run dir or a Hugging Face dir")
    flags.add_address(parser, port=8000)
    parser.add_argument("--beside", metavar="URL", default=None,
                        help="another server (http://HOST:PORT), say of the base model: the chat page shows both")
    flags.add_config(parser)
    parser.add_argument("--quantize", choices=("none", "int8", "int4"), help="weights in fewer bits (default: the "
                        "config's, none)")
    parser.add_argument("--mesh", metavar="AXES", help="devices, as in 'data:2,tensor:4' (default: the config's)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Serves until SIGTERM or Ctrl-C; requests that run by then are finished first. Of several processes the first
    serves, and the others work for it."""
    from easylm_imitation.sharding import start_processes
    start_processes()       # before anything asks jax for a device

    from easylm_imitation.serve import Leader, ServeConfig, connect, mesh_of

    config = load(ServeConfig, args.config, args.overrides)
    if args.beside is not None:
        config = dataclasses.replace(config, beside=dataclasses.replace(config.beside, url=args.beside))
    given = {key: getattr(args, key) for key in ("mesh", "quantize") if getattr(args, key) is not None}
    config = dataclasses.replace(config, **given)
    mesh_of(config.mesh)
    link = connect()
    if link is None or isinstance(link, Leader):
        return _lead(args, config, link)
    return _follow(args, config, link)


def _lead(args: argparse.Namespace, config: Any, leader: Any) -> dict[str, Any]:
    from easylm_imitation.serve import Front, listen, open_server, open_weights

    with Front(listen(config, args.host, args.port)) as front:  # before the weights: a taken port is told at once
        stop = Notice()
        _on_signals(_leave)
        console.say(f"{args.model}: loading and compiling; {front.url}/ready will say when that is done")
        with open_server(open_weights(args.model, config), config, front=front, leader=leader) as server:
            _on_signals(_stop_or_leave(stop, alone=leader is None))
            console.say(f"{server.model_name} is ready at {server.url}/v1")
            console.say(f"chat with it in a browser: {server.url}")
            stop.wait()
            broken = not server.service.scheduler.alive
            console.say("stopping; running requests are finished first")
    if broken and leader is not None:
        os._exit(1)         # the way out of jax's runtime leads past the process that is gone
    if broken:
        raise SystemExit(1)     # why has been told when it broke
    return {"model": server.model_name, "url": server.url, "counts": dict(server.service.scheduler.counts)}


def _follow(args: argparse.Namespace, config: Any, follower: Any) -> dict[str, Any]:
    """Works for process 0. Whatever goes wrong ends this process on the spot: the others notice that by themselves."""
    from easylm_imitation.serve import Lost, follow, open_weights

    _on_signals(_leave)
    loaded = open_weights(args.model, config)
    _on_signals(lambda number, frame: follower.ask_to_stop())
    try:
        follow(loaded, config, follower)
    except Lost as error:
        console.error(f"{error}; this process ends too")
        os._exit(1)
    return {"model": loaded.lineage.name, "follows": 0}


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


class Notice:
    """That the server shall stop. A signal's handler may give it wherever it interrupts the main thread, even in
    `wait`; an Event's lock could be held there."""

    def __init__(self):
        self.given = False
        self._queue: queue.SimpleQueue[None] = queue.SimpleQueue()

    def give(self) -> None:
        """Lets `wait` return."""
        self.given = True
        self._queue.put(None)

    def wait(self) -> None:
        """Returns when the notice is given."""
        self._queue.get()


def _stop_or_leave(stop: Notice, alone: bool) -> Callable[[int, FrameType | None], None]:
    """Gives the notice; the second signal ends the process on the spot. Of several processes, `alone` False, each may
    pass on the first one, so there a second means nothing."""
    def handle(number: int, frame: FrameType | None) -> None:
        if stop.given and alone:
            console.error("told to stop once more; running requests are cut off")
            os._exit(128 + number)
        stop.give()
    return handle


def _leave(number: int, frame: FrameType | None) -> None:
    """Ends the process on the spot: nothing is served or written yet, and reading and compiling, which go on in threads
    of their own, would complain at length about an exception, or finish first."""
    console.error(f"interrupted; {INTERRUPTED}")
    os._exit(128 + number)
