"""A real HTTP server for tests: OpenAI's routes, manners by script (429, 500, drops, slowness, nonsense)."""
import contextlib
import http.server
import json
import socket
import threading
import time


class Endpoint:
    """What the server does and what it saw. `behave(handler, body, n) -> dict | None`: a body to answer, or None when
    it has answered (or broken) the connection itself; `n` counts the requests of that prompt from 1."""

    def __init__(self, behave=None, models=None):
        self.behave = behave or (lambda handler, body, n: answer(body))
        self.models = [{"id": "teacher"}] if models is None else models
        self.requests, self.headers, self.answered = [], [], []
        self.times, self.in_flight, self.most_in_flight = [], 0, 0
        self.lock = threading.Lock()
        self.url = ""

    def prompt_of(self, body):
        return body["messages"][-1]["content"] if "messages" in body else body["prompt"]


def answer(body, text=None, finish="stop", usage=True):
    """A well-formed answer to a chat or completions request."""
    chat = "messages" in body
    text = f"answer to {body['messages'][-1]['content'] if chat else body['prompt']}" if text is None else text
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    batch = body.get("prompt")
    count = len(batch) if isinstance(batch, list) and batch and not isinstance(batch[0], int) else 1
    choices = [{"index": i, "finish_reason": finish, **said} for i in range(count)]
    counts = {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}} if usage else {}
    return {"id": "x", "object": "chat.completion", "model": body["model"], "choices": choices, **counts}


def send(handler, status, payload, headers=()):
    """Answers with a status and a JSON (or raw bytes) body."""
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    handler.send_response(status)
    for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(raw))), *headers):
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(raw)


def drop(handler):
    """Closes the connection without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def serving(endpoint):
    """Runs `endpoint` in threads on a free loopback port; sets `endpoint.url`."""
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path == "/v1/models" and endpoint.models != "absent":
                send(self, 200, {"object": "list", "data": endpoint.models})
            else:
                send(self, 404, {"detail": "Not Found"})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = endpoint.prompt_of(body)
            with endpoint.lock:
                endpoint.requests.append(body)
                endpoint.headers.append(dict(self.headers))
                endpoint.times.append(time.monotonic())
                n = sum(endpoint.prompt_of(r) == prompt for r in endpoint.requests)
                endpoint.in_flight += 1
                endpoint.most_in_flight = max(endpoint.most_in_flight, endpoint.in_flight)
            try:
                if self.path not in ("/v1/chat/completions", "/v1/completions"):
                    send(self, 404, {"detail": "Not Found"})
                    return
                made = endpoint.behave(self, body, n)
                if made is not None:
                    send(self, 200, made)
                    with endpoint.lock:
                        endpoint.answered.append(prompt)
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                with endpoint.lock:
                    endpoint.in_flight -= 1

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
