"""A real HTTP server on 127.0.0.1 over a folder that misbehaves when told to."""

from __future__ import annotations

import threading
from collections import defaultdict
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from refusal_lightning.data.download import Patience

# A busy machine may take its time over a good answer; only where none will come is the wait short.
QUICK = Patience(timeout=5.0, tries=3, pause=0.0, slowest=1000)
IMPATIENT = Patience(timeout=0.4, tries=2, pause=0.0, slowest=1000)


class MoodyServer(ThreadingHTTPServer):
    """Serves a folder. ``moods[path]`` are the next answers to a path, each used up once; then it behaves.

    Moods: good, 404, 500, truncated (half of what is announced), wrong (other content, complete), other_length (the
    right length, other content), hang, drip (a byte now and then), deaf (ignores Range), elsewhere (continues at the
    wrong byte), close (no answer at all), endless, unannounced (no length, half of the content).
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.moods: dict[str, list[str]] = defaultdict(list)
        self.always: dict[str, str] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def stop(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """The other side may go away: that is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    server: MoodyServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        asked = self.headers.get("Range")
        self.server.requests.append((path, asked))
        queue = self.server.moods[path]
        mood = queue.pop(0) if queue else self.server.always.get(path, "good")
        file = self.server.folder / path
        if mood in ("404", "500") or not file.is_file():
            self.send_error(int(mood) if mood.isdigit() else 404)
            return
        content = file.read_bytes()
        if mood == "close":
            return
        if mood == "hang":
            self.server.over.wait(20)
            return
        if mood == "wrong":
            content = b"<html>Please sign in</html>"
        if mood == "other_length":
            content = bytes(reversed(content))
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and mood not in ("deaf", "wrong") else 0
        if start >= len(content) > 0 and start:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            start += mood == "elsewhere"
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        rest = content[start:]
        if mood not in ("unannounced", "endless"):
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        with suppress(OSError):
            if mood in ("truncated", "unannounced"):
                self.wfile.write(rest[: max(1, len(rest) // 2)])
            elif mood == "drip":
                for byte in rest:
                    self.wfile.write(bytes([byte]))
                    if self.server.over.wait(0.05):
                        return
            elif mood == "endless":
                while not self.server.over.is_set():
                    self.wfile.write(rest)
            else:
                self.wfile.write(rest)
