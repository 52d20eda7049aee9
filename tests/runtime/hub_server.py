"""A Hub on this machine: enough of its interface for the real client to list and download one repository."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LISTING, FILES = "listing", "files"


class HubServer(ThreadingHTTPServer):
    """Serves ``org/name``.

    Args:
        files: Its files by name.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.refusals: dict[str, tuple[int, str]] = {}
        """Status and error code with which `LISTING` or `FILES` are refused."""
        self.broken: set[str] = set()
        """Files whose transfer breaks off half-way."""
        self.sent: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def log_message(self, format: str, *arguments: object) -> None:
        return None

    def _answer(self, has_body: bool) -> None:
        path = self.path.partition("?")[0]
        kind = LISTING if path.startswith("/api/") else FILES
        refusal = self.server.refusals.get(kind)
        if refusal is not None:
            self._send(refusal[0], b"{}", {"X-Error-Code": refusal[1]}, has_body)
        elif "/tree/" in path:
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": _hash(content)}
                for name, content in self.server.files.items()
            ]
            self._send(200, json.dumps(tree).encode(), {}, has_body)
        elif kind == LISTING:
            siblings = [{"rfilename": name} for name in self.server.files]
            listing = {"id": "org/name", "sha": COMMIT, "siblings": siblings}
            self._send(200, json.dumps(listing).encode(), {}, has_body)
        else:
            self._send_file(path.rpartition("/")[2], has_body)

    def _send_file(self, name: str, has_body: bool) -> None:
        content = self.server.files[name]
        headers = {"ETag": f'"{_hash(content)}"', "X-Repo-Commit": COMMIT}
        if has_body:
            self.server.sent.append(name)
        if has_body and name in self.server.broken:
            headers["Content-Length"] = str(len(content))
            content = content[: len(content) // 2]
        self._send(200, content, headers, has_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], has_body: bool) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(body)


def _hash(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[HubServer]:
    """The server, running."""
    server = HubServer(files)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
