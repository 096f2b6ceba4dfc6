"""Telling a bot to reload: by a server that answers as freqtrade's REST API does."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mtfscalper.search.errors import StudyError
from mtfscalper.search.reload import PASSWORD, USERNAME, checked_url, reload_bot

SECRET = "s3cret"
ENVIRONMENT = {USERNAME: "me", PASSWORD: SECRET}
STRATEGY = "MtfScalper_RL_Hybrid"


class FakeBot:
    """freqtrade's REST API of one bot.

    :ivar looks_until_running: how many looks at its config it takes to come back
    """

    def __init__(self) -> None:
        self.state, self.looks_until_running, self.asked = "running", 2, list[str]()
        bot = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(bot.show_config)

            def do_POST(self) -> None:
                self.answer(bot.reload_config)

            def answer(self, of: Callable[[], tuple[int, Any]]) -> None:
                expected = base64.b64encode(f"me:{SECRET}".encode()).decode()
                known = self.headers.get("Authorization") == f"Basic {expected}"
                bot.asked.append(self.path)
                status, value = of() if known else (401, {"detail": "Unauthorized"})
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(value).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def show_config(self) -> tuple[int, Any]:
        if self.state == "reload_config":
            self.looks_until_running -= 1
            if self.looks_until_running < 0:
                self.state = "running"
            elif self.looks_until_running == 0:
                return 503, {"error": "the bot is not there yet"}
        return 200, {"state": self.state, "strategy": STRATEGY, "bot_name": "fake"}

    def reload_config(self) -> tuple[int, Any]:
        self.state = "reload_config"
        return 200, {"status": "Reloading config ..."}


@pytest.fixture
def bot() -> Iterator[FakeBot]:
    bot = FakeBot()
    yield bot
    bot.server.shutdown()
    bot.server.server_close()


def test_a_bot_is_told_and_waited_for(bot: FakeBot) -> None:
    done = reload_bot(bot.url, STRATEGY, ENVIRONMENT, wait=lambda _: None)
    assert (done.bot_name, done.strategy, bot.state) == ("fake", STRATEGY, "running")
    assert bot.asked[:2] == ["/api/v1/show_config", "/api/v1/reload_config"]
    assert len(bot.asked) == 5


def test_a_bot_that_does_not_come_back_is_told_of(bot: FakeBot) -> None:
    bot.looks_until_running = 10**9
    with pytest.raises(StudyError, match=r"does not run after 0 s.*--rollback"):
        reload_bot(bot.url, STRATEGY, ENVIRONMENT, longest_seconds=0.2, wait=lambda _: None)


def test_a_bot_of_another_strategy_is_left_alone(bot: FakeBot) -> None:
    with pytest.raises(StudyError, match=f"runs {STRATEGY}, and Other is deployed"):
        reload_bot(bot.url, "Other", ENVIRONMENT)
    assert bot.asked == ["/api/v1/show_config"]


def test_wrong_credentials_are_told_and_never_repeated(bot: FakeBot) -> None:
    with pytest.raises(StudyError, match="refuses: Unauthorized") as error:
        reload_bot(bot.url, STRATEGY, {USERNAME: "me", PASSWORD: "guess-1"})
    assert "guess-1" not in str(error.value)


@pytest.mark.parametrize("missing", [USERNAME, PASSWORD])
def test_credentials_that_are_not_set_are_asked_for(bot: FakeBot, missing: str) -> None:
    with pytest.raises(StudyError, match=f"{missing} is not set"):
        reload_bot(bot.url, STRATEGY, {**ENVIRONMENT, missing: ""})
    assert bot.asked == []


def test_nobody_at_the_address_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StudyError, match="nobody answers at"):
            reload_bot(url, STRATEGY, ENVIRONMENT)


def test_an_address_is_checked_and_credentials_in_it_are_refused_unrepeated() -> None:
    assert checked_url("http://127.0.0.1:8080/") == "http://127.0.0.1:8080"
    assert checked_url("https://bot.example/api/v1/") == "https://bot.example"
    for url in ("", "127.0.0.1:8080", "ftp://host", "http://"):
        with pytest.raises(StudyError, match="--reload is"):
            checked_url(url)
    with pytest.raises(StudyError, match="with credentials") as error:
        checked_url(f"http://me:{SECRET}@127.0.0.1:8080")
    assert SECRET not in str(error.value)
