"""A server of the page, and requests as a browser or somebody else would send them."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from finished_run import FinishedRun, finished_run

from cryo2d.jobs.selection.server import SelectionServer
from cryo2d.jobs.selection.session import Session


@dataclass
class Answer:
    """Status, headers and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Talks to a server as its own page does, unless told otherwise."""

    server: SelectionServer
    run: FinishedRun
    out: Path
    cookie: str = field(init=False)

    def __post_init__(self) -> None:
        self.cookie = self.server.guard.cookie.partition(";")[0]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.guard.port}"

    @property
    def session(self) -> Session:
        return self.server.session

    def send(
        self, method: str, path: str, body: bytes | None = None, **headers: str | None
    ) -> Answer:
        """Any request; headers of value None are left out."""
        usual = {"Host": self.host, "Cookie": self.cookie}
        if method == "POST":
            usual |= {"Origin": f"http://{self.host}", "Content-Type": "application/json"}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = HTTPConnection("127.0.0.1", self.server.guard.port, timeout=10)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            if body is not None:
                named = {"Content-Length": str(len(body)), **named}
            for name, value in {**usual, **named}.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(body)
            response: HTTPResponse = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str | None) -> Answer:
        return self.send("GET", path, **headers)

    def post(self, path: str, held: object, **headers: str | None) -> Answer:
        return self.send("POST", path, json.dumps(held).encode(), **headers)


@contextmanager
def serving(tmp_path: Path) -> Iterator[Any]:
    """Makes servers, each of a run in a folder of its own, and ends them."""
    servers: list[tuple[SelectionServer, threading.Thread]] = []

    def make(run: FinishedRun | None = None, *, host: str = "127.0.0.1") -> Client:
        place = tmp_path / str(len(servers))
        run = run or finished_run(place / "run")
        out = place / "out"
        out.mkdir(parents=True)
        session = Session(run.folder, out, run.folder / "selection.json")
        server = SelectionServer(session, host, 0)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        servers.append((server, thread))
        return Client(server, run, out)

    try:
        yield make
    finally:
        for server, thread in servers:
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.fixture
def make_client(tmp_path: Path) -> Iterator[Any]:
    """A function that makes a server; the folders are the test's own."""
    with serving(tmp_path) as make:
        yield make


@pytest.fixture
def fresh(make_client: Any) -> Client:
    """A server that a test may change or end."""
    return make_client()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server that many tests share."""
    with serving(tmp_path_factory.mktemp("served")) as make:
        yield make()
