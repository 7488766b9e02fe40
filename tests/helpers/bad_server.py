"""A chat-completions server on 127.0.0.1 that misbehaves as told: real sockets, real HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LONGEST_HANG_S = 5.0


@dataclass
class Act:
    """One reply. `hang` holds the reply back that long (or until the end of the test), `drop` cuts the connection."""

    content: Any = "safe"
    finish: str = "stop"
    """What ended the content, as the reply says."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    """The whole body, in place of a chat completion with `content`."""
    content_type: str = "application/json"
    hang: float = 0.0
    drop: bool = False
    promise: int = 0
    """Bytes that the length header promises beyond those sent."""


@dataclass
class BadServer:
    """What the server saw."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    tries: Counter[str] = field(default_factory=Counter)
    """Requests per question."""
    answered: Counter[str] = field(default_factory=Counter)
    """Proper answers, sent to the end, per question."""
    at_once: int = 0
    most_at_once: int = 0


def question_of(request: dict[str, Any]) -> str:
    return str(request["messages"][0]["content"])


@contextmanager
def bad_server(behave: Callable[[str, int], Act]) -> Iterator[BadServer]:
    """A server whose reply is `behave(question, tries of this question)`; the question is the first message's text."""
    lock, over = threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):  # clients that gave up
                super().handle()

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = question_of(request)
            with lock:
                seen.requests.append(request)
                seen.times.append(time.monotonic())
                seen.keys.add(self.headers.get("Authorization"))
                seen.paths.add(self.path)
                seen.tries[question] += 1
                seen.at_once += 1
                seen.most_at_once = max(seen.most_at_once, seen.at_once)
                act = behave(question, seen.tries[question])
            try:
                self._act(act, question)
            finally:
                with lock:
                    seen.at_once -= 1

        def _act(self, act: Act, question: str) -> None:
            if act.hang:
                over.wait(min(act.hang, LONGEST_HANG_S))
            if act.drop:
                self.close_connection = True
                return
            completion = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
            message = {"role": "assistant", "content": act.content}
            whole = completion | {"choices": [{"index": 0, "message": message, "finish_reason": act.finish}]}
            body = (json.dumps(whole) if act.body is None else act.body).encode()
            self.send_response(act.status)
            for name, value in {"Content-Type": act.content_type, **act.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) + act.promise))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()
            if act.promise:
                self.close_connection = True
            elif act.status == 200 and act.body is None:
                with lock:
                    seen.answered[question] += 1

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    seen = BadServer(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
