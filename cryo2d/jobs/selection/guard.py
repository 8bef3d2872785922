"""Who may talk to the page's server: the browser that opened the printed address, nobody else.

A server on this machine can be reached by its other users and by every web page that is open in
the browser. The first are kept out by a secret in the address, which the browser keeps as a cookie
that scripts cannot read and other sites cannot send; the second by the Host header (DNS rebinding)
and the Origin header (cross-site requests).
"""

import hmac
import ipaddress
import secrets
import socket
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
COOKIE = "cryo2d"
TOKEN = "token"
JSON = "application/json"
MOST_BYTES = 1 << 20

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer: nothing from elsewhere is loaded or run, nothing is kept or embedded."""


class RefusedError(Exception):
    """A request that is not answered.

    Attributes:
        status: HTTP status.
        reason: one sentence.
    """

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Guard:
    """Checks requests by their headers alone.

    Attributes:
        host: address that is served.
        port: port that is served; part of the cookie's name, as cookies know no ports.
        token: the secret of this sitting.
    """

    host: str
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def cookie(self) -> str:
        """The cookie as the browser is told to keep it."""
        return f"{self._cookie_name}={self.token}; HttpOnly; SameSite=Strict; Path=/"

    @property
    def _cookie_name(self) -> str:
        return f"{COOKIE}_{self.port}"

    def check(self, method: str, path: str, headers: Message) -> None:
        """Let a request pass.

        Args:
            method: GET, HEAD or POST.
            path: path and query of the request.
            headers: of the request; names are looked up as they are spelt here.

        Raises:
            RefusedError: for a request that comes from elsewhere, or without the secret.
        """
        host = headers.get("Host", "")
        if not self._is_here(host):
            raise RefusedError(HTTPStatus.FORBIDDEN, "This address is not served here.")
        if not self._knows_token(path, headers):
            reason = "Open the address that cryo2d printed on the terminal, with its token."
            raise RefusedError(HTTPStatus.FORBIDDEN, reason)
        if method == "POST":
            if headers.get("Origin", "") != f"http://{host}":
                raise RefusedError(HTTPStatus.FORBIDDEN, "The request comes from another site.")
            if headers.get("Content-Type", "").partition(";")[0].strip().lower() != JSON:
                raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Only JSON is read.")

    def body_length(self, headers: Message) -> int:
        """Bytes of a request's body.

        Raises:
            RefusedError: if it is not stated, or more than any choice needs.
        """
        text = headers.get("Content-Length", "")
        if not (text.isascii() and text.isdigit()):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "The length is not stated.")
        # a number of many digits is not even converted
        if len(text) > 9 or int(text) > MOST_BYTES:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request is too long.")
        return int(text)

    def _is_here(self, host: str) -> bool:
        """Whether a Host header names this server; any port, as tunnels change it."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in LOOPBACK:
            return True
        if self.host in LOOPBACK:
            return False
        own = {self.host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        return name in own or _is_address(name)

    def _knows_token(self, path: str, headers: Message) -> bool:
        given = parse_qs(urlsplit(path).query).get(TOKEN, [])
        try:
            kept = SimpleCookie(headers.get("Cookie", "")).get(self._cookie_name)
        except CookieError:
            kept = None
        given += [kept.value] if kept is not None else []
        return any(hmac.compare_digest(one.encode(), self.token.encode()) for one in given)


def _is_address(name: str) -> bool:
    """Whether a name is a bare address, which no foreign name server can point elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
