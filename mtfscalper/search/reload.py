"""Telling a running bot that its config has changed, through freqtrade's REST API.

The credentials are those that freqtrade itself reads from the environment. They are sent, and stored nowhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from freqtrade_client import FtRestClient
from requests.exceptions import RequestException

from mtfscalper.search.errors import StudyError

# What freqtrade's own configuration reads.
USERNAME, PASSWORD = "FREQTRADE__API_SERVER__USERNAME", "FREQTRADE__API_SERVER__PASSWORD"
_LOOK_SECONDS = 1.0
LONGEST_SECONDS = 180.0


class Reloaded(NamedTuple):
    """A bot that runs with its new config.

    :ivar seconds: until it did
    """

    url: str
    bot_name: str
    strategy: str
    seconds: float


def checked_url(url: str) -> str:
    """The address of a bot, without a path.

    :raises StudyError: if it is none, or names a password
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        # A password would be repeated here.
        received = url if "@" not in url else "one with credentials"
        raise StudyError(
            f"--reload is {received}; accepted: http://HOST:PORT or https://HOST of a bot's api_server, without "
            f"credentials; remedy: set those as {USERNAME} and {PASSWORD} in the environment"
        )
    return url.rstrip("/").removesuffix("/api/v1")


def reload_bot(
    url: str,
    strategy: str,
    environment: Mapping[str, str] | None = None,
    *,
    longest_seconds: float = LONGEST_SECONDS,
    wait: Callable[[float], None] = time.sleep,
) -> Reloaded:
    """Let a bot read its config files again, and wait until it trades by them.

    :param url: of its REST API, as :func:`checked_url` gives it
    :param strategy: that the config asks for
    :param environment: where the credentials are
    :raises StudyError: if it cannot be reached, refuses, runs another strategy or does not come back
    """
    environment = os.environ if environment is None else environment
    names = [name for name in (USERNAME, PASSWORD) if not environment.get(name)]
    if names:
        raise StudyError(
            f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not set; accepted: the name and password of "
            "the bot's api_server in the environment; remedy: export them, as for freqtrade itself"
        )
    client = FtRestClient(url, environment[USERNAME], environment[PASSWORD])
    config = _answer(url, client.show_config)
    if config.get("strategy") != strategy:
        raise StudyError(
            f"the bot at {url} runs {config.get('strategy')}, and {strategy} is deployed; accepted: a bot that was "
            "started with the deployed config; remedy: name its address"
        )
    began = time.monotonic()
    _answer(url, client.reload_config)
    while time.monotonic() - began < longest_seconds:
        wait(_LOOK_SECONDS)
        try:
            config = _answer(url, client.show_config, alive=True)
        except _NotReadyError:
            continue
        if config.get("state") == "running":
            return Reloaded(url, str(config.get("bot_name", "")), str(config["strategy"]), time.monotonic() - began)
    raise StudyError(
        f"the bot at {url} was told to reload and does not run after {longest_seconds:.0f} s; accepted: a bot that "
        "starts with the deployed config; remedy: look into its log; mtfscalper study deploy --rollback puts the "
        "config before this one back"
    )


class _NotReadyError(Exception):
    """The bot answers, but has no config yet; or, while it starts again, does not answer."""


def _answer(url: str, ask: Callable[[], Any], *, alive: bool = False) -> dict[str, Any]:
    """What a bot answers.

    :param alive: whether it was there a moment ago
    """
    try:
        found = ask()
    except (RequestException, ValueError) as error:
        if alive:
            raise _NotReadyError from error
        raise StudyError(
            f"the bot at {url} cannot be asked ({type(error).__name__}); accepted: freqtrade's REST API; remedy: check "
            "address and port, and that the bot's config has api_server.enabled"
        ) from error
    if isinstance(found, dict) and ("state" in found or "status" in found):
        return found
    if alive:
        raise _NotReadyError
    if found is None:
        raise StudyError(
            f"nobody answers at {url}; accepted: freqtrade's REST API; remedy: check address and port, and that the "
            "bot's config has api_server.enabled"
        )
    said = found.get("detail", found.get("error", found)) if isinstance(found, dict) else found
    raise StudyError(
        f"the bot at {url} refuses: {said}; accepted: the name and password of its api_server; remedy: check "
        f"{USERNAME} and {PASSWORD}"
    )
