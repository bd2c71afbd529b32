"""A file server on this machine that breaks off, changes its mind, and lies."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Files in memory, served with bad manners.

    Attributes:
        files: content by path.
        cut: bytes per answer before it hangs up.
        answers: how many answers it still gives before it hangs up without a word.
        ranges: whether it knows ranges; shift: by how much the part that it sends is another than asked for.
        status, kind: of every answer.
        moved: path → address to which it redirects.
        asked: the ranges that it saw.
    """

    files: dict[str, bytes]
    cut: int | None = None
    answers: int | None = None
    ranges = True
    shift = 0
    status = 200
    kind = "application/octet-stream"
    moved: dict[str, str]
    asked: list[str | None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked, content = self.headers.get("Range"), self.server.files.get(self.path)
        self.server.asked.append(asked)
        if self.server.answers is not None:
            self.server.answers -= 1
            if self.server.answers < 0:
                return
        if self.path in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if content is None or self.server.status != 200:
            self.send_error(404 if content is None else self.server.status)
            return
        tag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        start = 0
        if asked and self.server.ranges and self.headers.get("If-Range") == tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            begin = start + self.server.shift
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", tag)
        self.send_header("Content-Type", self.server.kind)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) if self.server.cut is None else start + self.server.cut
        self.wfile.write(content[start:end])

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs until the block ends."""
    server = Server(("127.0.0.1", 0), Handler)
    server.files, server.asked, server.moved = {}, [], {}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
