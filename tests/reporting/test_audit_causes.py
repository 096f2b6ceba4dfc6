"""What an audit calls the differences of one trade, and a bot's database audited by the command."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from freqai.freqai_runs import PAIR, ROOT
from shipped import STRATEGIES

from mtfscalper import cli
from mtfscalper.freqai.decision_record import DecisionRecord, Question
from mtfscalper.offline.synthetic import write_market
from mtfscalper.reporting.audit.causes import EXACT, Cause, Decided, Expected, Limits, Seen, departure
from mtfscalper.trading.reliving import NEVER

TF = 300_000
START = int(datetime(2024, 9, 5, tzinfo=UTC).timestamp() * 1000)
SEEN = Seen(
    "A/B", "long", START, START, START, 100.0, 100.0, START + 4 * TF, 101.0, "rl_exit", 0.009, 98.0, 98.0, None, 1
)
LEFT = Expected(START + 4 * TF, 101.0, "exit_signal", 0.009, leaves=True)
HELD = Expected(START + 9 * TF, 103.0, "roi", 0.029, leaves=False)
STOPPED = Expected(START + 4 * TF, 98.0, "stop_loss", -0.021, leaves=False)
KNOWN = Decided(4, known=True)
BOT = Limits(rates=5e-4, is_bot=True)


def test_a_trade_that_ends_as_it_does_re_lived_does_not_depart() -> None:
    assert departure(SEEN, LEFT, KNOWN, Limits(), leverage=1.0) is None
    # A strategy that asks by hand has its own word for an exit of the policy.
    assert departure(SEEN._replace(reason="policy says so"), LEFT, KNOWN, Limits()) is None


@pytest.mark.parametrize(
    ("cause", "seen", "expected", "limits"),
    [
        (Cause.LATE_FILL, {"filled_ms": START + TF}, LEFT, Limits()),
        (Cause.ENTRY_PRICE, {"open_rate": 99.9}, LEFT, Limits()),
        (Cause.SLIPPAGE, {"open_rate": 100.1}, LEFT, BOT),
        (Cause.LEVERAGE, {"leverage": 3.0}, LEFT, Limits()),
        (Cause.POSITION, {"adjusted_ms": START + TF}, LEFT, Limits()),
        (Cause.EXIT_PRICE, {"close_rate": 101.1}, LEFT, Limits()),
        (Cause.SLIPPAGE, {"close_rate": 101.1}, LEFT, BOT),
        (Cause.COSTS, {"profit_ratio": 0.008}, LEFT, Limits()),
        (Cause.STOP, {"reason": "trailing_stop_loss", "last_stop": 101.0}, HELD, Limits()),
        (Cause.STOP, {"exit_ms": START + 6 * TF, "last_stop": 97.0}, STOPPED, Limits()),
        (Cause.ROI, {"reason": "roi"}, HELD, Limits()),
        (Cause.PRICES, {"reason": "roi"}, HELD, BOT),
        (Cause.TAKE_PROFIT, {"reason": "enough"}, HELD, Limits()),
        (Cause.OWN_EXIT, {"reason": "enough", "profit_ratio": -0.01}, HELD, Limits()),
        (Cause.OWN_SIGNAL, {"reason": "exit_signal"}, HELD, Limits()),
        (Cause.NOT_DECIDED, {}, HELD, Limits()),
        (Cause.EXIT_REFUSED, {"exit_ms": START + 5 * TF}, LEFT, Limits()),
        (Cause.EXIT_REFUSED, {"reason": "stop_loss", "close_rate": 98.0}, LEFT, Limits()),
        (Cause.BY_HAND, {"reason": "force_exit"}, HELD, BOT),
        (Cause.PRICES, {"exit_ms": None}, STOPPED, BOT),
    ],
)
def test_a_difference_is_named_by_what_the_trade_shows(
    cause: Cause, seen: dict[str, Any], expected: Expected, limits: Limits
) -> None:
    found = departure(SEEN._replace(**seen), expected, KNOWN, limits, leverage=1.0)
    assert found is not None
    assert found.cause is cause


def test_what_comes_first_is_the_cause() -> None:
    late = SEEN._replace(exit_ms=START + 6 * TF)
    missed, stale = (KNOWN._replace(**one) for one in ({"missed_ms": START + TF}, {"stale_ms": START + TF}))
    for decided, cause in ((missed, Cause.MISSED), (stale, Cause.STALE), (KNOWN, Cause.EXIT_REFUSED)):
        found = departure(late, LEFT, decided, Limits())
        assert found is not None
        assert (found.cause, found.at_ms) == (cause, START + (4 if decided is KNOWN else 1) * TF)


def test_rates_count_as_equal_within_the_limit_alone() -> None:
    limits = Limits(rates=1e-3)
    assert departure(SEEN._replace(open_rate=100.09), LEFT, KNOWN, limits) is None
    assert departure(SEEN._replace(open_rate=100.11), LEFT, KNOWN, limits) is not None
    assert EXACT < 1e-7
    assert NEVER > 1e9


# ---------------------------------------------------------------------- a bot's database


def bots_home(folder: Path) -> tuple[Path, Path, list[str]]:
    """A bot's database, record and config, with one plain trade and one for each difference of a bot.

    :return: the database, the candles, and further arguments of the command
    """
    home, market = folder / "home", folder / "market"
    home.mkdir()
    write_market(market, start=datetime(2024, 9, 1, tzinfo=UTC), stop=datetime(2024, 9, 6, tzinfo=UTC), pairs=(PAIR,))
    frame = pd.read_feather(market / "futures" / "BTC_USDT_USDT-5m-futures.feather")
    opens = frame.set_index(frame["date"].dt.as_unit("ms").astype("int64"))["open"].to_dict()
    record = DecisionRecord(home / "decisions" / "audited", "dry_run", "MtfScalper_RL_Hybrid")
    with sqlite3.connect(home / "bot.sqlite") as connection:
        trades, orders = [], []
        for number, (entry, off, missed, age) in enumerate(
            ((0, 0, 0, 1), (10, 2e-3, 0, 1), (20, 0, 2, 1), (30, 0, 0, 90))
        ):
            opened, closed = (START + (entry + held) * TF + 5000 for held in (0, 4))
            rates = opens[opened - 5000] * (1 + off), opens[closed - 5000]
            policy = f"sub-train-BTC_{(START + entry * TF) // 1000 - age * 3600}"
            for held in range(1, 5):
                if held != missed:
                    row = Question(PAIR, opened - 5000 + held * TF, opened, "long", 0, 0, held, 0.5, held == 4, policy)
                    record.add(row)
            stamps = [datetime.fromtimestamp(moment / 1000, UTC).isoformat(" ") for moment in (opened, closed)]
            trades.append(
                {
                    **{"id": number, "pair": PAIR, "is_open": 0, "is_short": 0, "leverage": 1.0, "amount": 1.0},
                    **{"fee_open": 0.0005, "fee_close": 0.0005, "stake_amount": 100.0, "funding_fees": 0.0},
                    **{"open_rate": rates[0], "close_rate": rates[1], "open_date": stamps[0], "close_date": stamps[1]},
                    **{"exit_reason": "rl_exit", "strategy": "MtfScalper_RL_Hybrid", "close_profit": 0.0},
                    **{"close_profit_abs": 0.0, "stop_loss": 0.0, "initial_stop_loss": 0.0},
                }
            )
            orders += [
                {
                    **{"id": 2 * number + at, "ft_trade_id": number, "ft_order_side": side, "filled": 1.0},
                    **{"average": rates[at], "price": rates[at], "order_date": stamps[at]},
                    "order_filled_date": stamps[at],
                }
                for at, side in enumerate(("buy", "sell"))
            ]
        pd.DataFrame(trades).to_sql("trades", connection, index=False)
        pd.DataFrame(orders).to_sql("orders", connection, index=False)
    connection.close()
    record.close()
    config = folder / "overlay.json"
    config.write_text(
        json.dumps(
            {"freqai": {"identifier": "audited", "expiration_hours": 48}, "exchange": {"pair_whitelist": [PAIR]}}
        )
    )
    main = ROOT / "configs" / "config_rl_hybrid.json"
    configs = ["--config", str(main), "--config", str(config)]
    where = ["--userdir", str(home), "--datadir", str(market), "--strategy-path", str(STRATEGIES)]
    return home / "bot.sqlite", market, [*configs, *where]


def test_a_bots_database_is_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database, _, arguments = bots_home(tmp_path)
    content, file = database.read_bytes(), tmp_path / "audit.json"
    assert cli.main(["audit", str(database), *arguments, "--json", str(file)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "1 of 4 trades are what training assumed." in said
    found = json.loads(file.read_text())
    reasons = {reason["name"]: reason["first"] for reason in found["reasons"]}
    assert set(reasons) == {"slippage", "missed candle", "stale model"}
    assert "+20.0 bps" in reasons["slippage"]
    assert f"{PAIR} long of 2024-09-05 01:40, 2024-09-05 01:50" in reasons["missed candle"]
    assert "90 hours old, and expires after 48" in reasons["stale model"]
    assert (found["compared"], found["equal"]) == (4, 1)
    assert "policies that decided are no longer kept" in said
    assert "slippage of 8 fills" in said
    assert database.read_bytes() == content


def test_a_wider_limit_lets_slippage_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database, _, arguments = bots_home(tmp_path)
    assert cli.main(["audit", str(database), *arguments, "--slippage-bps", "25"]) == 1
    assert "2 of 4 trades are what training assumed." in capsys.readouterr().out


def test_what_cannot_be_audited_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = tmp_path / "bot.sqlite"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE other (id)")
    connection.close()
    main = str(ROOT / "configs" / "config_rl_hybrid.json")
    for arguments, words in (
        ([str(tmp_path / "nowhere.zip")], "does not exist"),
        ([str(database)], "give it with --config"),
        ([str(database), "--config", main], "accepted: the database of a freqtrade bot"),
    ):
        assert cli.main(["audit", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
