"""The web application of the exchange with the faults of requests before it."""

import asyncio
import json
import logging
from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mtfscalper.offline.faults import CLIENT_TIMEOUT_SECONDS, Fault, Faults, refusal

# How far the exchange's time is off for the request that is answered, in milliseconds.
SKEW_MS: ContextVar[int] = ContextVar("SKEW_MS", default=0)
# Of the one request by which a starting exchange is known to answer.
_PING = "/fapi/v1/ping"
# What Binance says, with status 503, where it does not know itself what became of a request:
# https://developers.binance.com/docs/derivatives/usds-margined-futures/general-info#http-return-codes
UNKNOWN = "Unknown error, please check your request or try again later."
_UVICORN_SAYS = "ASGI callable returned without completing response"


class FaultyApp:
    """An ASGI application that answers as another one, now and then with a fault."""

    def __init__(
        self, app: ASGIApp, faults: Faults, clock: Callable[[], datetime], let_pass: Callable[[float], float]
    ) -> None:
        """
        :param clock: of the exchange
        :param let_pass: told how many seconds of that clock an answer takes, returns how many true ones to wait
        """
        self._app, self._faults, self._clock, self._let_pass = app, faults, clock, let_pass
        logging.getLogger("uvicorn.error").addFilter(_is_unexpected)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        fault = None
        if scope["type"] == "http" and scope["path"] != _PING:
            body = b""
            if scope["method"] not in ("GET", "HEAD"):
                body = await _whole(receive)
                receive = _again(body, receive)
            parameters = dict(parse_qsl(scope["query_string"].decode()) + parse_qsl(body.decode(errors="replace")))
            now_ms = int(self._clock().timestamp() * 1000)
            fault = self._faults.of_request(scope["path"], parameters, now_ms, scope["method"])
        if fault is None:
            await self._app(scope, receive, send)
        else:
            await self._answer(fault, scope, receive, send)

    async def _answer(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        if (refused := refusal(fault.kind)) is not None:
            status, content = refused
            await _send(send, status, json.dumps(content).encode())
        elif fault.kind == "dropped":
            await _drop(send)
        elif fault.kind == "order_unknown":
            if fault.carried_out:
                await self._collect(scope, receive)
            if fault.is_dropped:
                await _drop(send)
            else:
                now_ms = int(self._clock().timestamp() * 1000)
                answer = {"timestamp": now_ms, "path": scope["path"], "msg": UNKNOWN}
                await _send(send, 503, json.dumps(answer).encode())
        elif fault.kind == "latency":
            await asyncio.sleep(self._let_pass(min(fault.seconds, CLIENT_TIMEOUT_SECONDS)))
            if fault.seconds < CLIENT_TIMEOUT_SECONDS:
                await self._app(scope, receive, send)
            else:
                await _drop(send)
        elif fault.kind == "clock_skew":
            token = SKEW_MS.set(int(fault.seconds * 1000))
            try:
                await self._app(scope, receive, send)
            finally:
                SKEW_MS.reset(token)
        else:
            status, body = await self._collect(scope, receive)
            # What is cut in half or empty is a good answer.
            if status == 200:
                body = body[: len(body) // 2] if fault.kind == "half_json" else _emptied(body)
            await _send(send, status, body)

    async def _collect(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        status, parts = 500, []

        async def keep(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        await self._app(scope, receive, keep)
        return status, b"".join(parts)


async def _whole(receive: Receive) -> bytes:
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Receive a body that was read before, and then what comes after it."""
    is_read = False

    async def again() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _emptied(body: bytes) -> bytes:
    return b"[]" if body.startswith(b"[") else b"{}"


async def _send(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _drop(send: Send) -> None:
    # An answer that is begun and not completed makes the server close the connection.
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})


def _is_unexpected(record: logging.LogRecord) -> bool:
    return _UVICORN_SAYS not in record.getMessage()
