"""The candles of a data directory."""

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from freqtrade.enums import CandleType

from mtfscalper.offline.candles import Candles, CandleStore, MissingCandlesError
from mtfscalper.offline.synthetic import DEFAULT_START, write_market

BTC = "BTC/USDT:USDT"


def test_a_candle_is_closed_from_its_end_on() -> None:
    candles = Candles(np.array([0, 300, 600]), np.arange(15.0).reshape(3, 5), length_ms=300)
    assert [len(candles.closed_by(now_ms).open_ms) for now_ms in (0, 299, 300, 899, 900)] == [0, 0, 1, 2, 3]


def test_candles_that_arrive_after_they_were_missed_are_found(tmp_path: Path) -> None:
    write_market(tmp_path, stop=DEFAULT_START + timedelta(days=1), pairs=[BTC])
    folder = tmp_path / "futures"
    later = folder / "BTC_USDT_USDT-1h-mark.feather"
    shutil.move(later, tmp_path)
    store = CandleStore(tmp_path)
    assert store.timeframes == {BTC: ["5m", "15m", "1h"]}
    with pytest.raises(MissingCandlesError, match="has no 1h mark candles of BTC"):
        store.candles(BTC, "1h", CandleType.MARK)
    shutil.move(tmp_path / later.name, folder)
    assert len(store.candles(BTC, "1h", CandleType.MARK).open_ms) == 24
