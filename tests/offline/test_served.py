"""``mtfscalper replay-exchange`` serves the past as the present, and writes the configuration for freqtrade."""

import json
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mtfscalper.offline import DEFAULT_PORT, ReplayError, served
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import offline_config
from mtfscalper.offline.served import ReplayRequest, serve, shift_of
from mtfscalper.offline.synthetic import DEFAULT_START, write_market

NOW = datetime(2026, 11, 27, 13, 37, tzinfo=UTC)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market")
    write_market(folder, stop=DEFAULT_START + timedelta(days=10), pairs=["BTC/USDT:USDT"])
    return folder


def test_a_day_of_the_candles_is_today_and_the_time_of_day_stays(market: Path) -> None:
    start = DEFAULT_START + timedelta(days=2)
    shift = shift_of(ReplayRequest(market, start=start), NOW)
    assert (NOW - shift) == start.replace(hour=13, minute=37)
    # A week is left where nobody says when.
    assert (NOW - shift_of(ReplayRequest(market), NOW)).date() == (DEFAULT_START + timedelta(days=2)).date()
    assert shift_of(ReplayRequest(market), DEFAULT_START + timedelta(days=9, hours=5)) == timedelta(0)


@pytest.mark.parametrize("days", [-1, 10])
def test_a_day_without_candles_is_refused(market: Path, days: int) -> None:
    with pytest.raises(ReplayError, match=r"accepted: a day among 2024-08-15 and 2024-08-24"):
        shift_of(ReplayRequest(market, start=DEFAULT_START + timedelta(days=days)), NOW)


def test_a_start_and_own_dates_exclude_each_other(market: Path) -> None:
    with pytest.raises(ReplayError, match="exclude each other"):
        serve(ReplayRequest(market, start=DEFAULT_START, as_dated=True))


def test_a_bot_by_true_time_gets_the_candles_up_to_now(
    market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    last: list[int] = []

    def ask(self: ReplayExchange) -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"{self.url}/fapi/v1/klines?symbol=BTCUSDT&interval=5m&limit=2"
        last.extend(kline[0] for kline in json.load(opener.open(url)))
        raise KeyboardInterrupt

    monkeypatch.setattr(ReplayExchange, "wait", ask)
    config = tmp_path / "exchange.json"
    assert serve(ReplayRequest(market, port=0, config=config)) == 0
    now_ms = datetime.now(UTC).timestamp() * 1000
    assert last[1] <= now_ms < last[1] + 600_000
    said = capsys.readouterr().out
    assert "are served as today's" in said
    assert f"--config {config}" in said
    url = said.split("Replay exchange at ")[1].split(",")[0]
    assert json.loads(config.read_text()) == offline_config(url)
    assert url.rpartition(":")[2] != str(DEFAULT_PORT)


def test_candles_as_dated_are_served_for_downloads(
    market: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shifts = []

    class Watched(ReplayExchange):
        def __init__(self, *arguments: object, **options: object) -> None:
            shifts.append(options["shift"])
            super().__init__(*arguments, **options)  # type: ignore[arg-type]

        def wait(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(served, "ReplayExchange", Watched)
    assert serve(ReplayRequest(market, port=0, as_dated=True)) == 0
    assert shifts == [timedelta(0)]
    assert "--write-config" in capsys.readouterr().out
