"""The owner of a bot is told once of a trouble, and once of its end."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest
from freqtrade.data.dataprovider import DataProvider

from mtfscalper.freqai.owner import Owner


class Messenger:
    def __init__(self) -> None:
        self.sent: list[tuple[str, bool]] = []

    def send_msg(self, message: str, *, always_send: bool = False) -> None:
        self.sent.append((message, always_send))


@pytest.fixture
def messenger() -> Messenger:
    return Messenger()


@pytest.fixture
def owner(messenger: Messenger) -> Owner:
    owner = Owner()
    owner.reach_by(cast(DataProvider, cast(Any, messenger)))
    return owner


def test_a_trouble_is_told_once_until_it_is_over(owner: Owner, messenger: Messenger) -> None:
    assert owner.trouble("training", "failed once")
    assert not owner.trouble("training", "failed twice")
    assert owner.trouble("candles", "a gap")
    assert owner.troubles == {"training": "failed twice", "candles": "a gap"}
    assert owner.healed("training", "trained")
    assert not owner.healed("training", "trained again")
    assert owner.trouble("training", "failed anew")
    assert [message for message, _ in messenger.sent] == ["failed once", "a gap", "trained", "failed anew"]
    assert all(always for _, always in messenger.sent)


def test_without_a_messenger_it_stands_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    owner = Owner()
    with caplog.at_level(logging.INFO):
        owner.trouble("training", "failed")
        owner.healed("training", "trained")
    assert [record.getMessage() for record in caplog.records] == ["failed", "trained"]


def test_what_concerns_a_pair_alone_is_left_out_for_other_pairs(owner: Owner) -> None:
    owner.trouble("markets", "none")
    owner.trouble("training BTC", "failed", "BTC")
    assert owner.troubles_of(["ETH"]) == {"markets": "none"}
    assert owner.troubles_of(["ETH", "BTC"]) == owner.troubles == {"markets": "none", "training BTC": "failed"}


def test_what_was_told_before_anybody_could_be_reached_is_sent_once_somebody_can(messenger: Messenger) -> None:
    owner = Owner()
    owner.trouble("clock", "it is behind")
    owner.trouble("markets", "none")
    owner.healed("markets", "they are back")
    for _ in range(2):
        owner.reach_by(cast(DataProvider, cast(Any, messenger)))
    assert [message for message, _ in messenger.sent] == ["it is behind"]
