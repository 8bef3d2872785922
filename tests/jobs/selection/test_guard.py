"""What does not come from the page itself is not answered."""

import json
import socket
from email.message import Message
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

import pytest
from finished_run import finished_run
from hydra import compose, initialize_config_dir

from cryo2d import cli
from cryo2d.jobs.selection.guard import LOOPBACK, MOST_BYTES, Guard, RefusedError

PAGES = ("/", "/page.js", "/classes.json", "/averages.png", "/class/1.json", "/nothing")


def test_the_server_listens_on_this_machine_alone(client):
    assert client.server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("cookie", [None, "", "cryo2d=x", "cryo2d_1=x", "{name}=", "{name}=wrong"])
def test_nothing_is_answered_without_the_secret(client, path, cookie):
    name = client.cookie.partition("=")[0]
    answer = client.get(path, Cookie=cookie and cookie.format(name=name))
    assert answer.status == HTTPStatus.FORBIDDEN
    assert b"token" in answer.body
    assert client.server.guard.token.encode() not in answer.body
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    "query", ["?token=", "?token=wrong", "?other=1", "?token=%C3%A9", "?token=%FF"]
)
def test_a_wrong_secret_in_the_address_is_none(client, query):
    assert client.get("/" + query, Cookie=None).status == HTTPStatus.FORBIDDEN


def test_the_printed_address_opens_the_page_and_leaves_a_cookie_scripts_cannot_read(client):
    path = client.server.address.partition(client.host)[2]
    answer = client.get(path, Cookie=None)
    assert answer.status == HTTPStatus.OK
    cookie, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert set(attributes) == {"HttpOnly", "SameSite=Strict", "Path=/"}
    assert client.get("/classes.json", Cookie=cookie).status == HTTPStatus.OK


def test_secrets_are_long_and_never_the_same(make_client):
    tokens = {make_client().server.guard.token for _ in range(3)}
    assert len(tokens) == 3
    assert min(map(len, tokens)) >= 43, "256 bits in base 64"
    assert not any(token in repr(Guard("127.0.0.1", 1, token)) for token in tokens)


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "[",
        "192.168.1.5",
        "127.0.0.1@evil.example",
        None,
    ],
)
def test_a_foreign_name_for_this_machine_is_refused(client, path, host):
    assert client.get(path, Host=host).status == HTTPStatus.FORBIDDEN


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1:1", "[::1]:8000"])
def test_the_own_end_of_a_tunnel_may_have_any_port(client, host):
    assert client.get("/state.json", Host=host).status == HTTPStatus.OK
    origin = {"Host": host, "Origin": f"http://{host}"}
    held = {"selected": [1], "revision": client.session.memory.choice.revision + 1}
    assert client.post("/choice", held, **origin).status == HTTPStatus.OK


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "",
        None,
        "http://127.0.0.1:1",
        "https://{host}",
        "http://{host}.evil.example",
        "http://localhost:{port}",
    ],
)
@pytest.mark.parametrize("path", ["/choice", "/finish"])
def test_other_pages_cannot_change_anything(client, path, origin):
    shown = origin and origin.format(host=client.host, port=client.server.guard.port)
    before = client.session.memory.choice
    held = {"selected": [2, 3], "revision": before.revision + 1}
    assert client.post(path, held, Origin=shown).status == HTTPStatus.FORBIDDEN
    assert client.session.memory.choice == before
    assert not client.session.done.is_set()


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", None]
)
def test_only_json_is_read(client, kind):
    before = client.session.memory.choice
    held = {"selected": [2, 3], "revision": before.revision + 1}
    answer = client.post("/choice", held, Content_Type=kind)
    assert answer.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    assert client.session.memory.choice == before


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"[]",
        b"null",
        b"{}",
        b'{"selected": [1]}',
        b'{"revision": 0}',
        b"\xff\xfe",
        b'{"selected": ["1"], "revision": 0}',
        b'{"selected": [1.0], "revision": 0}',
        b'{"selected": [true], "revision": 0}',
        b'{"selected": [[1]], "revision": 0}',
        b'{"selected": "1", "revision": 0}',
        b'{"selected": {"1": 1}, "revision": 0}',
        b'{"selected": [1], "revision": "0"}',
        b'{"selected": [1], "revision": null}',
        b'{"selected": [0], "revision": 0}',
        b'{"selected": [-1], "revision": 0}',
        b'{"selected": [7], "revision": 0}',
        b'{"selected": [1e9], "revision": 0}',
        b'{"selected": [99999999999999999999], "revision": 0}',
        b'{"selected": [NaN], "revision": 0}',
        b"[" * 100_000,
    ],
)
def test_only_numbers_of_classes_are_taken(client, body):
    before = client.session.memory.choice
    body = body.replace(b'"revision": 0', b'"revision": %d' % (before.revision + 1))
    answer = client.send("POST", "/choice", body)
    assert answer.status == HTTPStatus.BAD_REQUEST, answer
    assert client.session.memory.choice == before
    assert client.get("/state.json").status == HTTPStatus.OK


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "\u00b2", "", None])
def test_a_length_has_to_be_stated(length):
    headers = Message()
    if length is not None:
        headers["Content-Length"] = length
    with pytest.raises(RefusedError) as refused:
        Guard("127.0.0.1", 1).body_length(headers)
    assert refused.value.status == HTTPStatus.LENGTH_REQUIRED


@pytest.mark.parametrize("length", [MOST_BYTES + 1, 10**30, "9" * 5000])
def test_a_long_request_is_refused_before_it_is_read(client, length):
    connection = HTTPConnection("127.0.0.1", client.server.guard.port, timeout=5)
    connection.request(
        "POST",
        "/choice",
        headers={
            "Cookie": client.cookie,
            "Origin": f"http://{client.host}",
            "Content-Type": "application/json",
            "Content-Length": str(length),
        },
    )
    answer = connection.getresponse()
    assert answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/page/../../server.py",
        "/server.py",
        "/__init__.py",
        "/page.css/..",
        "/page.css%00.png",
        "/class/-1.json",
        "/class/a.json",
        "/class/..%2f1.json",
        "/class/1e9.json",
        "/class/.json",
        "/class/1/../2.json",
        "/class/%D9%A1.json",
        "/class/0.json",
        "/class/7.json",
        "/class/999999.json",
        "/class/1000000000.json",
        "/class/7/members.png",
        "/class/1/picks/99.json",
        "/class/1/picks/-1.json",
        "/class/1/picks/a.mrc.json",
        "/selection.json",
        "/manifest.json",
        "/particles.star",
        "/index.html",
        "/choice",
        "/finish",
    ],
)
def test_there_is_nothing_but_the_page_and_its_classes(client, path):
    answer = client.get(path)
    assert answer.status == HTTPStatus.NOT_FOUND, answer
    assert b"root:" not in answer.body


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD"])
def test_other_methods_do_not_exist(client, method):
    assert client.send(method, "/").status == HTTPStatus.NOT_IMPLEMENTED
    assert client.send("POST", "/state.json", b"{}").status == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize("path", PAGES)
def test_every_answer_forbids_what_the_page_does_not_need(client, path):
    for answer in (client.get(path), client.get(path, Cookie=None), client.post(path, {})):
        policy = dict(
            part.strip().split(" ", 1)
            for part in answer.headers["Content-Security-Policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert all(sources in ("'self'", "'none'") for sources in policy.values())
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert not any(name.startswith("Access-Control") for name in answer.headers)
        assert "Python" not in answer.headers.get("Server", "")


def test_the_page_holds_no_script_and_no_style_of_its_own_and_loads_nothing_from_elsewhere(client):
    page = client.get("/").body.decode()
    for path, (_, content) in client.server.files.items():
        text = content.decode()
        assert "innerHTML" not in text, path
        assert "insertAdjacentHTML" not in text, path
        addresses = text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in addresses, path
        assert "https:" not in addresses, path
    assert " style=" not in page
    assert "<style" not in page
    assert " on" not in page.partition("<body>")[0]
    assert page.count("<script") == page.count('<script type="module" src="page.js">') == 1


def test_another_address_is_served_under_its_own_names_only():
    guard = Guard("192.0.2.7", 80, "secret")

    def passes(host: str) -> bool:
        headers = Message()
        headers["Host"] = host
        try:
            guard.check("GET", "/?token=secret", headers)
        except RefusedError:
            return False
        return True

    assert all(map(passes, ["192.0.2.7", "192.0.2.7:80", "localhost:80", "10.1.1.1"]))
    assert not any(map(passes, ["evil.example", "192.0.2.7.evil.example", ""]))


def test_the_secret_is_in_no_log(client, caplog, capsys):
    caplog.set_level(0)
    client.get(f"/?token={client.server.guard.token}", Cookie=None)
    client.get("/class/99.json")
    shown = capsys.readouterr()
    assert client.server.guard.token not in caplog.text + shown.out + shown.err


def test_names_from_the_data_are_data(make_client, tmp_path):
    name = "</script><img src=x onerror=alert(1)>.mrc"
    client = make_client(finished_run(tmp_path / "hostile", micrographs=(name, "b.mrc")))
    answer = client.get("/class/1.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert name in [m["name"] for m in json.loads(answer.body)["micrographs"]]


def listening(port: int) -> set[str]:
    """Addresses at which this machine listens on a port, as the kernel lists them."""
    found = set()
    for table, size in (("tcp", 8), ("tcp6", 32)):
        path = Path("/proc/net") / table
        for line in path.read_text().splitlines()[1:] if path.is_file() else ():
            address, _, number = line.split()[1].partition(":")
            if int(number, 16) == port and line.split()[3] == "0A":
                octets = bytes.fromhex(address)
                found.add(socket.inet_ntop(socket.AF_INET, octets[::-1]) if size == 8 else address)
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="no list of sockets")
def test_no_other_address_of_this_machine_is_listened_at(client):
    assert listening(client.server.guard.port) == {"127.0.0.1"}


def test_the_usual_address_is_this_machine_alone():
    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        assert compose("select", overrides=["run=x"]).host in LOOPBACK
