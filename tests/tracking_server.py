"""A server that takes a Weights & Biases run, and at some time does not answer any more."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROJECT = {"id": "P", "name": "cryo2d", "entity": {"id": "E", "name": "me"}}
RUN = {
    "id": "R",
    "name": "run",
    "displayName": "run",
    "description": "",
    "config": "{}",
    "sweepName": None,
    "historyLineCount": 0,
    "project": PROJECT,
}
ME = {"id": "V", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
ANSWERS = {
    "upsertBucket": {"upsertBucket": {"bucket": RUN, "inserted": True}},
    "viewer": {"viewer": ME},
    "RunResumeStatus": {"model": {**PROJECT, "bucket": None}},
    "__type": {name: {"fields": []} for name in ("QueryType", "MutationType", "ServerInfoType")},
}


class Handler(BaseHTTPRequestHandler):
    """Answers what is asked when a run starts."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.silent.is_set():
            self.server.over.wait()
            return
        query = json.loads(body).get("query", "") if self.path.startswith("/graphql") else ""
        if "createRunFiles" in query or "CreateRunFiles" in query:
            self.server.over.wait()
            return
        found = next((data for word, data in ANSWERS.items() if word in query), {})
        answer = json.dumps({"data": found} if query else {}).encode()
        with suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    do_GET = do_PUT = do_POST

    def log_message(self, *_: object) -> None: ...


@contextmanager
def tracking_server() -> Iterator[tuple[str, threading.Event]]:
    """Its address, and what makes it silent."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        server.silent, server.over = threading.Event(), threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", server.silent
        finally:
            server.over.set()
            server.shutdown()
