"""When a policy expires: FreqAI's rule, in one place."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import time_machine
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen

import mtfscalper
from mtfscalper.freqai.expiry import Expiry

NOW = datetime(2024, 9, 8, 12, tzinfo=UTC)


@pytest.mark.parametrize("hours", [None, 0, -1, 1, 1.5, 48])
@pytest.mark.parametrize("age", [0, 3599, 3600, 3601, 5401, 200_000])
def test_a_policy_expires_when_freqai_says_so(hours: float | None, age: int) -> None:
    freqai = {} if hours is None else {"expiration_hours": hours}
    kitchen: Any = SimpleNamespace(freqai_config=freqai)
    trained = int(NOW.timestamp()) - age
    with time_machine.travel(NOW, tick=False):
        expected = FreqaiDataKitchen.check_if_model_expired(kitchen, trained)
    expiry = Expiry.from_freqai(freqai)
    assert expiry.has_expired(trained, NOW.timestamp()) == expected
    expires_at = expiry.expires_at(trained)
    assert (expires_at is None) == (not hours or hours < 0)
    assert expected == (expires_at is not None and expires_at < NOW.timestamp())


def test_nobody_else_reads_the_setting() -> None:
    package = Path(mtfscalper.__file__).parent
    readers = {path.name for path in package.rglob("*.py") if '"expiration_hours"' in path.read_text()}
    # The second names the keys that FreqAI knows.
    assert readers == {"expiry.py", "stock_keys.py"}
