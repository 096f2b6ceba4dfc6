"""Nothing of this project listens where another machine could reach it."""

from __future__ import annotations

import ast
import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ("mtfscalper", "strategies", "user_data/freqaimodels", "benchmarks", ".ci")
# What makes a program listen, and the words of a config or a command that say where.
LISTENS = {"bind", "listen", "create_server", "start_server", "HTTPServer", "ThreadingHTTPServer", "serve_forever"}
# Who listens, and on what.
# The dashboard's addresses beyond this machine need a token: tests/monitoring/test_dashboard.py.
KNOWN = {
    ("mtfscalper/offline/exchange.py", "bind"),
    ("mtfscalper/monitoring/dashboard.py", "serve_forever"),
    # A method's arguments to its signature.
    ("mtfscalper/freqai/own_reward.py", "bind"),
}
HOSTS = re.compile(r"^(?:\w+://)?(\[[0-9a-fA-F:]+\]|\d{1,3}(?:\.\d{1,3}){3}|::1?|localhost)(?::\d+)?(?:/.*)?$")


def sources() -> Iterator[tuple[str, ast.Module]]:
    for place in PLACES:
        for path in sorted((ROOT / place).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def is_loopback(host: str) -> bool:
    found = HOSTS.match(host)
    assert found is not None
    name = found[1].strip("[]")
    return name == "localhost" or ipaddress.ip_address(name).is_loopback


def beyond_loopback(tree: ast.Module) -> list[str]:
    """Addresses of hosts in a program's texts that are not this machine's own."""
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return [text for text in texts if HOSTS.match(text) and not is_loopback(text)]


def listening(tree: ast.Module) -> set[str]:
    """Calls in a program that make it listen."""
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    names = (func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in calls)
    return LISTENS & set(names)


def listeners(config: Mapping[str, Any]) -> Iterator[str]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from listeners(value)
        elif "listen" in key and "address" in key:
            yield str(value)


def test_no_address_in_the_code_is_another_machines() -> None:
    assert {name: found for name, tree in sources() if (found := beyond_loopback(tree))} == {}


def test_nobody_listens_but_the_loopback_exchange_and_the_dashboard() -> None:
    assert {(name, call) for name, tree in sources() for call in listening(tree)} == KNOWN


def test_no_config_lets_freqtrade_listen_beyond_this_machine() -> None:
    configs = sorted((ROOT / "configs").glob("*.json"))
    assert configs
    for path in configs:
        assert all(is_loopback(host) for host in listeners(json.loads(path.read_text()))), path


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "http://10.0.0.1:80/x", "[::]:80"])
def test_an_address_beyond_this_machine_would_be_found(host: str) -> None:
    assert beyond_loopback(ast.parse(f"HOST = {host!r}\n")) == [host]
    assert not is_loopback(host)


def test_this_machines_own_would_not_be_and_a_listener_would() -> None:
    assert beyond_loopback(ast.parse("HOSTS = '127.0.0.1', 'localhost', '::1', 'http://127.0.0.1:8765/x'\n")) == []
    assert listening(ast.parse("import socket\nsocket.socket().bind(('127.0.0.1', 1))\n")) == {"bind"}
    assert list(listeners({"api_server": {"listen_ip_address": "0.0.0.0"}})) == ["0.0.0.0"]
