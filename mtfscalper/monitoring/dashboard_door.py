"""Who may see a dashboard, and what they may do: look.

optuna-dashboard asks nobody who they are, and lets everybody delete a study. This stands before it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Request, Response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

COOKIE = "mtfscalper_dashboard"
LOGIN_PATH = "/login"
# Shorter ones can be guessed.
TOKEN_LENGTH_MIN = 16
_LOOKING = ("GET", "HEAD", "OPTIONS")
_LOGIN_BYTES_MAX = 4096
_LOGIN_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Studies</title>
<style>body{{font:16px system-ui,sans-serif;margin:15vh auto;max-width:22rem;padding:0 1rem}}
input,button{{font:inherit;padding:.5rem;width:100%;box-sizing:border-box;margin:.3rem 0}}</style></head>
<body><h1>Studies</h1><p>{message}</p><form method="post" action="/login">
<label for="token">Token</label><input id="token" name="token" type="password" autofocus>
<button>Show the dashboard</button></form></body></html>"""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Door:
    """Middleware: asks for a token where there is one, and lets nothing through that changes a study."""

    def __init__(self, inner: WSGIApplication, token: str | None, writable: str) -> None:
        """
        :param inner: what is behind
        :param token: None where only this machine reaches it
        :param writable: beginning of the paths that may be sent something: TensorBoard asks for its curves so
        """
        self._inner, self._token, self._writable = inner, token, writable
        # The cookie shows that its holder knew the token, and is of no use for another start.
        self._pass = _signature(secrets.token_bytes(32), token) if token is not None else None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal(environ, start_response)
        return self._inner(environ, _hardened(start_response, request.path))

    def _refusal(self, request: Request) -> Response | None:
        if self._token is None:
            # Else a page of any site whose name is made to lead here could read everything.
            if not is_loopback(_host_name(request.host)):
                return _said(403, "This dashboard is of this machine alone; ask for it as 127.0.0.1 or localhost.")
        else:
            if request.path == LOGIN_PATH and request.method == "POST":
                return self._login(request)
            if not self._is_known(request):
                return _login_page(401, "This dashboard is shown to those who have its token.")
        if request.method not in _LOOKING and not request.path.startswith(self._writable):
            return _said(403, "This dashboard only shows; studies are changed by mtfscalper study.")
        return None

    def _login(self, request: Request) -> Response:
        request.max_content_length = _LOGIN_BYTES_MAX
        try:
            given = request.form.get("token", "")
        except RequestEntityTooLarge:
            return _login_page(413, "That is longer than any token.")
        if not self._is_token(given):
            return _login_page(401, "That is not the token.")
        response = Response(status=303, headers={"Location": "/dashboard"})
        response.set_cookie(COOKIE, self._pass or "", httponly=True, samesite="Strict", secure=request.is_secure)
        return response

    def _is_known(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given.strip()):
            return True
        return hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), (self._pass or "").encode())

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self._token or "").encode())


def _signature(key: bytes, token: str) -> str:
    return hmac.new(key, token.encode(), hashlib.sha256).hexdigest()


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]


def _said(status: int, text: str) -> Response:
    return Response(f'{{"reason": "{text}"}}', status=status, mimetype="application/json")


def _login_page(status: int, message: str) -> Response:
    headers = {"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return Response(_LOGIN_PAGE.format(message=message), status=status, mimetype="text/html", headers=headers)


def _hardened(start_response: StartResponse, path: str) -> Callable[..., Any]:
    """Answers that no other site reads and no frame of another shows, and pictures that run nothing."""

    def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
        kept = [(name, value) for name, value in headers if name.lower() != "access-control-allow-origin"]
        kept += [("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "SAMEORIGIN")]
        if path.startswith("/artifacts/"):
            kept.append(("Content-Security-Policy", "sandbox; default-src 'none'; style-src 'unsafe-inline'"))
        return start_response(status, kept, *error)

    return start
