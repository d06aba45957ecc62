"""`open_server`: a model behind HTTP, in a thread of this process, ready when the call returns.

    with open_server(open_model("RUN"), ServeConfig()) as server:
        httpx.get(server.url + "/v1/models")
"""
import contextlib
import ipaddress
import os
import socket
import threading
import time

import jax.numpy as jnp
import uvicorn

from easylm_imitation.schema import UserError
from easylm_imitation.serve.api import make_app
from easylm_imitation.serve.beside import Beside
from easylm_imitation.serve.config import ServeConfig, check_context
from easylm_imitation.serve.engine import Engine
from easylm_imitation.serve.guard import Door, Guard
from easylm_imitation.serve.place import mesh_of
from easylm_imitation.serve.processes import Follower, Leader
from easylm_imitation.serve.scheduler import Scheduler
from easylm_imitation.serve.service import Service
from easylm_imitation.weights import LoadedModel, describe, in_chat, lineage_in, open_model

_GRACE = 2      # seconds, whole ones for uvicorn: what the last answers and errors get to be sent


class Front:
    """HTTP at an address, in a thread; a context manager that ends it. It says that it is loading until a server is
    there that takes it (`open_server`)."""

    def __init__(self, listener: socket.socket):
        """`listener`: from `listen`. Returns when requests are answered."""
        host, port = listener.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.door, self._listener = Door(), listener
        self._server = uvicorn.Server(uvicorn.Config(
            self.door, lifespan="off", ws="none", access_log=False, log_level="warning", server_header=False,
            log_config=None, timeout_graceful_shutdown=_GRACE))
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="http", daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the HTTP server ended before it was ready; its log says why")
            time.sleep(0.005)

    def close(self) -> None:
        """Ends it when the answers on their way are sent. May be called twice."""
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()

    def __enter__(self) -> "Front":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RunningServer:
    """A server that answers at `url`; a context manager that closes it."""

    def __init__(self, service: Service, guard: Guard, front: Front):
        self.service = service
        self.model_name = service.name
        self.url = front.url
        self._guard, self._front = guard, front

    def start(self) -> None:
        """From now on requests are answered."""
        self.service.scheduler.start()
        self._front.door.app = self._guard

    def close(self) -> None:
        """Refuses new work, gives running requests `drain_seconds` to end, tells the others that they will not, then
        stops. May be called twice."""
        self._guard.draining = True
        until = time.monotonic() + self.service.limits.drain_seconds
        while self._guard.running and time.monotonic() < until:
            time.sleep(0.01)
        self.service.closing = True
        self.service.scheduler.close()      # while HTTP still runs: what waits is told why it gets no answer
        self._front.close()

    def __enter__(self) -> "RunningServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_server(loaded: LoadedModel, config: ServeConfig | None = None, host: str = "127.0.0.1", port: int = 0, *,
                front: Front | None = None, leader: Leader | None = None) -> RunningServer:
    """Serves `loaded`; port 0 takes a free one. `front`: what answers at an address already, for callers that had to
    load first. `leader`: from `connect`, where the mesh has devices of other processes; these call `follow`.

    Raises UserError for a taken port, for a host beyond loopback without an API key, for a model without a tokenizer,
    and for a config that the model cannot meet; each before anything is compiled.
    """
    config = config or ServeConfig()
    with contextlib.ExitStack() as undo:
        front = front or Front(listen(config, host, port))
        undo.callback(front.close)
        beside = Beside(config.beside) if config.beside.url else None
        service, engine = make_service(loaded, config)
        undo.callback(engine.close, failed=True)
        if leader is not None:
            leader.wait(service.scheduler.fail)
            engine.lead(leader)
        _, guard = make_app(service, api_key(config), beside)
        running = RunningServer(service, guard, front)
        undo.callback(running.close)
        running.start()
        undo.pop_all()      # all went well: closing is the caller's now
    return running


def make_service(loaded: LoadedModel, config: ServeConfig) -> tuple[Service, Engine]:
    """What answers requests, whoever brings them; its scheduler is not started yet. Raises UserError."""
    engine = _engine(loaded, config)
    try:
        scheduler = Scheduler(engine, config.limits.queue, config.limits.request_seconds)
        service = Service(engine, scheduler, config, tokenizer=loaded.tokenizer, template=loaded.template,
                          lineage=lineage_in(loaded.lineage, config.quantize), stop_ids=loaded.end_ids(),
                          own_name=loaded.lineage.name)
    except BaseException:
        engine.close(failed=True)
        raise
    return service, engine


def open_weights(path: str, config: ServeConfig) -> LoadedModel:
    """What to serve, in the dtype that it is served in; on a mesh each part is read straight to its device.

    A model that names no chat template speaks its tokenizer's own (`in_chat`). Raises UserError as `open_model` does,
    and, before the weights are read, for a mesh that cannot be and a context that the model does not hold.
    """
    mesh = mesh_of(config.mesh)
    if config.context is not None:
        check_context(config.context, describe(path)[0].context)
    dtype = jnp.dtype(config.dtype_on(mesh.devices.flat[0].platform))
    return in_chat(open_model(path, dtype=dtype, mesh=mesh if mesh.size > 1 else None))


def follow(loaded: LoadedModel, config: ServeConfig, follower: Follower) -> None:
    """The part of a process other than the first: runs the programs that the first runs in `open_server`, to its end.

    Raises UserError as `open_server` does, and Lost when the first process is gone without a word.
    """
    engine = _engine(loaded, config)
    try:
        follower.ready()
        engine.follow(follower)
    finally:
        engine.close()


def _engine(loaded: LoadedModel, config: ServeConfig) -> Engine:
    if loaded.tokenizer is None:
        raise UserError(f"{loaded.path}: has no tokenizer, so texts cannot be served; put tokenizer.json there")
    return Engine(loaded.config, loaded.params, config, stop_ids=loaded.end_ids(),
                  vocab_size=loaded.tokenizer.vocab_size)


def listen(config: ServeConfig, host: str, port: int) -> socket.socket:
    """Takes the address, before the slow work of loading. Raises UserError when it is taken, unknown, or open to others
    without an API key."""
    if not _is_loopback(host) and not api_key(config):
        raise UserError(f"--host {host}: others could reach the server without a key; set the environment variable "
                        f"{config.api_key_env} to a secret, or listen on 127.0.0.1")
    return bind(host, port)


def bind(host: str, port: int) -> socket.socket:
    """Takes an address. Raises UserError when it is taken or unknown."""
    if not 0 <= port < 2**16:       # the resolver would take it modulo 65536
        raise UserError(f"--port {port}: ports go from 0 (any free one) to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: not an address of this machine ({error})") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()       # only this claims the port: two sockets that merely bind can share it
        listener.set_inheritable(False)
    except OSError as error:
        listener.close()
        raise UserError(f"--port {port} on {host}: cannot be used ({error.strerror}); stop what holds it, or give "
                        "another --port (0 takes a free one)") from None
    return listener


def api_key(config: ServeConfig) -> str | None:
    """The key from the environment, or None when there is none. Raises UserError for one that no header can carry."""
    key = os.environ.get(config.api_key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"the API key in the environment variable {config.api_key_env} has characters that no header "
                        "can carry; take printable ASCII")
    return key or None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
