"""The page and its few questions, over HTTP, for one browser on this machine."""

import json
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from raypref.label.desk import Desk, OutOfTurn, Side

PAGE = Path(__file__).parent.parent / "assets" / "label" / "page.html"
MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
SIDES: dict[str, Side] = {"left": "left", "right": "right"}
POLICY = "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
LARGEST = 10_000
"""Bytes of an answer."""


class LabelServer(ThreadingHTTPServer):
    """GET / the page, /state, /picture/ROW/left and right; POST /answer and /undo, which tell the new state."""

    daemon_threads = True

    def __init__(self, desk: Desk, host: str, port: int) -> None:
        """Listens at once; port 0 takes a free one, found in `server_port`.

        Raises:
            OSError: where the port is taken or not allowed.
        """
        super().__init__((host, port), Handler)
        self.desk = desk
        here = {"127.0.0.1", "localhost"}
        # Asked for by these names alone, it cannot be asked by another page that has its own name point here.
        self.names = {f"{name}:{self.server_port}" for name in here} if host in here else None


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: LabelServer
    protocol_version = "HTTP/1.1"
    timeout = 300

    def do_GET(self) -> None:
        if not self._is_for_us():
            return
        desk, parts = self.server.desk, self.path.strip("/").split("/")
        if parts == [""]:
            self._reply(HTTPStatus.OK, PAGE.read_bytes(), "text/html; charset=utf-8")
        elif parts == ["state"]:
            self._tell(HTTPStatus.OK, desk.state())
        elif len(parts) == 3 and parts[0] == "picture" and parts[1].isdecimal() and parts[2] in SIDES:
            self._show(int(parts[1]), SIDES[parts[2]])
        else:
            self._tell(HTTPStatus.NOT_FOUND, {"error": "there is no such page"})

    def do_POST(self) -> None:
        if not self._is_for_us():
            return
        said = self.headers.get("Content-Length", "")
        length = int(said) if said.isdecimal() else 0
        # A page from elsewhere may send a form here, but no JSON.
        if not 0 < length <= LARGEST or self.headers.get_content_type() != "application/json":
            self.close_connection = True
            self._tell(HTTPStatus.BAD_REQUEST, {"error": f"send JSON of 1 to {LARGEST} bytes"})
            return
        desk = self.server.desk
        try:
            asked = json.loads(self.rfile.read(length))
            if self.path == "/undo":
                desk.undo(asked["row"])
            else:
                desk.answer(asked["row"], asked["choice"])
                if desk.row() is None:
                    desk.export()
        except OutOfTurn as problem:
            self._tell(HTTPStatus.CONFLICT, desk.state() | {"error": str(problem)})
        except (ValueError, KeyError, TypeError) as problem:
            self._tell(HTTPStatus.BAD_REQUEST, {"error": f"{type(problem).__name__}: {problem}"})
        else:
            self._tell(HTTPStatus.OK, desk.state())

    def _show(self, row: int, side: Side) -> None:
        content = self.server.desk.picture(row, side) if row < len(self.server.desk.table) else None
        kind = next((kind for magic, kind in MAGIC.items() if (content or b"").startswith(magic)), None)
        if content is None or kind is None:
            self._tell(HTTPStatus.NOT_FOUND, {"error": "there is no such picture, or it is broken"})
        else:
            self._reply(HTTPStatus.OK, content, kind)

    def _is_for_us(self) -> bool:
        names = self.server.names
        if names is None or self.headers.get("Host") in names:
            return True
        self.close_connection = True
        self._tell(HTTPStatus.FORBIDDEN, {"error": f"ask for {' or '.join(sorted(names))}"})
        return False

    def _tell(self, status: HTTPStatus, answer: dict[str, Any]) -> None:
        self._reply(status, json.dumps(answer).encode(), "application/json")

    def _reply(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store" if kind == "application/json" else "max-age=600")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing: a person answers hundreds of times."""
