"""What a bot's owner is told: once when something is wrong, and once more when it is right again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Container
from typing import NamedTuple

from freqtrade.data.dataprovider import DataProvider

logger = logging.getLogger(__name__)


def policy_trouble(pair: str) -> str:
    """The name of what is wrong with the policy of a pair."""
    return f"policy {pair}"


def fallback_trouble(pair: str) -> str:
    """The name of a pair's policy having fallen back, so that the rules end its trades."""
    return f"fallback {pair}"


class _Trouble(NamedTuple):
    """
    :ivar pair: that it concerns alone, None where it concerns the bot
    """

    message: str
    pair: str | None


class Owner:
    """Tells the owner of a bot, in the log and through freqtrade's own messages (Telegram, webhook, FreqUI).

    A *trouble* has a name of the caller's choosing, such as ``"training BTC/USDT:USDT"``. While it lasts it is told
    once, however often it is met. May be used from any thread.
    """

    def __init__(self) -> None:
        self._messenger: DataProvider | None = None
        self._troubles: dict[str, _Trouble] = {}
        self._lock = threading.Lock()

    def reach_by(self, messenger: DataProvider | None) -> None:
        """Send messages by a bot's data provider; without one they stand in the log alone.

        What was told before there was one, as the bot was started, and is not over is sent now.
        """
        with self._lock:
            is_first = self._messenger is None and messenger is not None
            self._messenger = messenger
            missed = list(self._troubles.values()) if is_first else []
        for trouble in missed:
            self._send(trouble.message)

    @property
    def troubles(self) -> dict[str, str]:
        """What is wrong now: the message that was told, by trouble."""
        with self._lock:
            return {name: trouble.message for name, trouble in self._troubles.items()}

    def troubles_of(self, pairs: Container[str]) -> dict[str, str]:
        """As :attr:`troubles`, without what concerns other pairs alone."""
        with self._lock:
            return {
                name: trouble.message
                for name, trouble in self._troubles.items()
                if trouble.pair is None or trouble.pair in pairs
            }

    def trouble(self, name: str, message: str, pair: str | None = None) -> bool:
        """Tell of something that is wrong, unless it has been told.

        :param name: by which it is known again
        :param message: what, where, and what to do; a later one under the same name is kept and not told
        :param pair: that it concerns alone: of no interest while the bot has nothing to do with it
        :return: whether it was told now
        """
        with self._lock:
            is_new = name not in self._troubles
            self._troubles[name] = _Trouble(message, pair)
        if is_new:
            logger.warning("%s", message)
            self._send(message)
        return is_new

    def healed(self, name: str, message: str) -> bool:
        """Tell that something is right again, if it was wrong.

        :param name: of the trouble
        :return: whether it was told now
        """
        with self._lock:
            was_wrong = self._troubles.pop(name, None) is not None
        if was_wrong:
            logger.info("%s", message)
            self._send(message)
        return was_wrong

    def _send(self, message: str) -> None:
        if self._messenger is not None:
            # freqtrade sends an equal message once a candle only; ours come once a trouble.
            self._messenger.send_msg(message, always_send=True)
