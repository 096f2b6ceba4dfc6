"""A dashboard that is asked by a test."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

from mtfscalper.monitoring.study_options import add_dashboard_arguments


@contextmanager
def served(*words: str) -> Iterator[int]:
    """Serve ``mtfscalper dashboard`` on a free port, which is given."""
    from mtfscalper.monitoring.dashboard import dashboard_server

    parser = argparse.ArgumentParser()
    add_dashboard_arguments(parser)
    server = dashboard_server(parser.parse_args([*words, "--port", "0"]))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(port: int, path: str, method: str = "GET", body: str | None = None, **headers: str) -> tuple[int, str, Any]:
    """Status, body and headers of an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read().decode("utf-8", "replace")
    connection.close()
    return answer.status, text, answer.headers
