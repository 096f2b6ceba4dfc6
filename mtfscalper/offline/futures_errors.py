"""ccxt's names of errors, for the loopback exchange those of Binance's futures.

ccxt tells by the host's name whose error codes it reads: at any other address the codes that futures alone have become
errors of no kind, which freqtrade takes differently. Here they are told by the path, which is the same.
"""

import re
from typing import Any

import ccxt

_LOOPBACK = re.compile(r"^http://127\.0\.0\.1:\d+/(?=fapi/)")


def install() -> None:
    """Let ccxt know the loopback exchange's futures, for the rest of this process's life."""
    by_host = ccxt.binance.get_exceptions_by_url
    if hasattr(by_host, "by_path"):
        return

    def by_path(self: ccxt.binance, url: str | None, kind: str) -> dict[str, Any]:
        as_binance = None if url is None else _LOOPBACK.sub("https://fapi.binance.com/", url)
        errors: dict[str, Any] = by_host(self, as_binance, kind)
        return errors

    by_path.by_path = True  # type: ignore[attr-defined]
    ccxt.binance.get_exceptions_by_url = by_path
