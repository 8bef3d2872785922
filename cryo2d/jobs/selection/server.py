"""The page's server: fixed files, class numbers, and one choice; no path comes from a request."""

import errno
import getpass
import json
import logging
import re
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from cryo2d.errors import EnvironmentFault, InputError
from cryo2d.jobs.selection import page
from cryo2d.jobs.selection.guard import HEADERS, JSON, LOOPBACK, TOKEN, Guard, RefusedError
from cryo2d.jobs.selection.memory import OutdatedError
from cryo2d.jobs.selection.session import MissingError, Session

log = logging.getLogger(__name__)

PNG, HTML, TEXT = "image/png", "text/html; charset=utf-8", "text/plain; charset=utf-8"
KINDS = {
    ".html": HTML,
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SECONDS = 60
"""A connection that says nothing for so long is closed."""


def page_files() -> dict[str, tuple[str, bytes]]:
    """Path, kind and content of every file of the page."""
    files = {}
    for file in resources.files(page).iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in KINDS:
            files["/" + file.name] = (KINDS[suffix], file.read_bytes())
    files["/"] = files.pop("/index.html")
    return files


class SelectionServer(ThreadingHTTPServer):
    """Serves one session until its choice is written."""

    daemon_threads = True

    def __init__(self, session: Session, host: str, port: int) -> None:
        """Begin to listen.

        Raises:
            EnvironmentFault: if the address cannot be served.
        """
        self.session = session
        self.files = page_files()
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), SelectionHandler)
        except OSError as error:
            other = "; choose another port" if error.errno == errno.EADDRINUSE else ""
            reason = error.strerror or error
            raise EnvironmentFault(f"cannot serve at {host}:{port}: {reason}{other}") from error
        self.guard = Guard(host, self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with a request; a browser that hangs up is no error."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            log.error("A request of the page failed.", exc_info=True)

    @property
    def address(self) -> str:
        """What the browser has to open."""
        host = self.guard.host
        if host in ("0.0.0.0", "::"):
            host = socket.getfqdn()
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.guard.port}/?{TOKEN}={self.guard.token}"

    def invitation(self) -> str:
        """What the terminal says."""
        session, port = self.session, self.guard.port
        lines = ["", "Choose the classes in the browser:", "", f"  {self.address}", ""]
        if self.guard.host in LOOPBACK:
            user, host = getpass.getuser(), socket.gethostname()
            tunnel = f"ssh -L {port}:127.0.0.1:{port} {user}@{host}"
            lines += ["From another machine first open a tunnel there:", "", f"  {tunnel}", ""]
        lines += [
            "Finish on the page writes the files and ends the program. Ctrl-C ends it without;",
            f"the choice is kept in {session.memory.path} all the same.",
            "",
        ]
        return "\n".join(lines)


class SelectionHandler(BaseHTTPRequestHandler):
    """Answers one connection of the browser."""

    server: SelectionServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "cryo2d", ""
    timeout = SECONDS

    def do_GET(self) -> None:
        """A file of the page, a picture, or facts."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """A change of the choice, or its end."""
        self._answer(self._post)

    def _answer(self, work: Callable[[str], None]) -> None:
        try:
            self.server.guard.check(self.command, self.path, self.headers)
            work(urlsplit(self.path).path)
        except RefusedError as refused:
            # its body, if any, has not been read
            self.close_connection = True
            self._send(refused.status, TEXT, refused.reason.encode())
        except MissingError as error:
            self._send_json({"error": str(error)}, HTTPStatus.NOT_FOUND)
        except OutdatedError as error:
            choice = asdict(self.server.session.memory.choice)
            self._send_json({"error": str(error), "choice": choice}, HTTPStatus.CONFLICT)
        except InputError as error:
            self._send_json({"error": error.problems[0].found}, HTTPStatus.BAD_REQUEST)
        except EnvironmentFault as error:
            self._send_json({"error": str(error)}, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _get(self, path: str) -> None:
        session, files = self.server.session, self.server.files
        if path in files:
            kind, content = files[path]
            cookie = {"Set-Cookie": self.server.guard.cookie} if path == "/" else {}
            self._send(HTTPStatus.OK, kind, content, cookie)
            return
        if path == "/state.json":
            self._send_json(session.state())
        elif path == "/classes.json":
            self._send_json(session.classes())
        elif path == "/averages.png":
            self._send(HTTPStatus.OK, PNG, session.sheet())
        elif found := re.fullmatch(r"/class/([0-9]{1,6})\.json", path):
            self._send_json(session.class_facts(int(found[1])))
        elif found := re.fullmatch(r"/class/([0-9]{1,6})/members\.png", path):
            self._send(HTTPStatus.OK, PNG, session.member_sheet(int(found[1])))
        elif found := re.fullmatch(r"/class/([0-9]{1,6})/picks/([0-9]{1,6})\.json", path):
            self._send_json(session.picks(int(found[1]), int(found[2])))
        else:
            raise MissingError("no such page")

    def _post(self, path: str) -> None:
        if path not in ("/choice", "/finish"):
            raise RefusedError(HTTPStatus.NOT_FOUND, "no such page")
        selected, revision = self._read_choice()
        session = self.server.session
        if path == "/choice":
            self._send_json(asdict(session.choose(selected, revision)))
            return
        written = session.finish(selected, revision)
        facts = {**asdict(written), "folder": str(written.folder)}
        self.close_connection = True
        self._send_json(facts)
        self.wfile.flush()
        session.done.set()

    def _read_choice(self) -> tuple[list[int], int]:
        """Class numbers and revision in the body of a request."""
        body = self.rfile.read(self.server.guard.body_length(self.headers))
        try:
            held = json.loads(body)
            selected, revision = held["selected"], held["revision"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "The request is not a choice.") from error
        numbers = [*selected, revision] if isinstance(selected, list) else [None]
        if not all(type(number) is int for number in numbers):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "The request is not a choice.")
        return selected, revision

    def _send_json(self, held: object, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, JSON, json.dumps(held, allow_nan=False).encode())

    def _send(
        self, status: HTTPStatus, kind: str, content: bytes, more: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), **HEADERS}
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in (headers | (more or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep requests, which hold the secret, out of terminals and log files."""


def serve(session: Session, host: str, port: int | None) -> None:
    """Serve the page until the choice is written, or the program is stopped.

    Args:
        session: what is served.
        host: address to serve at.
        port: None for any free one.

    Raises:
        EnvironmentFault: if the address cannot be served.
    """
    with SelectionServer(session, host, port or 0) as server:
        if host not in LOOPBACK:
            log.warning("The page can be reached from other machines, without encryption.")
        sys.stdout.write(server.invitation())
        sys.stdout.flush()
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            session.done.wait()
        finally:
            server.shutdown()
            thread.join()
