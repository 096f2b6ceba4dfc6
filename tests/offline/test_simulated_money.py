"""A live bot starts with simulated money alone, and what it says of its money is compared with the exchange."""

from __future__ import annotations

import json
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from mtfscalper.offline import SIMULATED_KEY, SIMULATED_SECRET, ReplayError
from mtfscalper.offline.account import SimulatedAccount
from mtfscalper.offline.account_check import AccountCheck
from mtfscalper.offline.freqtrade_command import offline_config
from mtfscalper.offline.ledger import Fill, Position
from mtfscalper.offline.simulated_money import PLACEHOLDERS, check_simulated
from mtfscalper.offline.stage import Stage, StageHome
from mtfscalper.offline.synthetic import DEFAULT_START, write_market

URL = "http://127.0.0.1:8765"
BTC = "BTC/USDT:USDT"


def files(folder: Path, own: dict[str, Any] | None = None) -> list[Path]:
    """Configuration of a user's own, and after it the stage's."""
    overlay = offline_config(URL)
    overlay["exchange"] |= PLACEHOLDERS
    (folder / "own.json").write_text(json.dumps(own or {}))
    (folder / "stage.json").write_text(json.dumps(overlay | {"dry_run": False}))
    return [folder / "own.json", folder / "stage.json"]


def test_the_stages_own_configuration_is_taken(tmp_path: Path) -> None:
    check_simulated(files(tmp_path))
    # It lies over the keys and addresses of whoever has others.
    api = {"fapiPrivate": "https://fapi.binance.com/fapi/v1"}
    own = {"dry_run": True, "exchange": {"name": "binance", "key": "mine", "ccxt_config": {"urls": {"api": api}}}}
    check_simulated(files(tmp_path, own))


@pytest.mark.parametrize(
    ("exchange", "named"),
    [
        ({"ccxt_sync_config": {"urls": {"api": {"fapiPrivate": "https://fapi.binance.com/fapi/v1"}}}}, "fapiPrivate"),
        ({"ccxt_async_config": {"urls": {"api": {"fapiPublic": "http://10.0.0.7/fapi/v1"}}}}, "fapiPublic"),
        ({"ccxt_async_config": {"urls": {"api": {"fapiPublic": "http://me@127.0.0.1/fapi"}}}}, "fapiPublic"),
        ({"ccxt_config": {"urls": {"api": {"another": "https://example.org"}}}}, "urls.api.another"),
        ({"ccxt_config": {"httpsProxy": "http://127.0.0.1:3128"}}, "exchange.ccxt_config.httpsProxy"),
        ({"ccxt_config": {"aiohttp_proxy": "socks://there"}}, "exchange.ccxt_config.aiohttp_proxy"),
        ({"ccxt_config": {"hostname": "binance.us"}}, "exchange.ccxt_config.hostname"),
        ({"ccxt_config": {"apiKey": "topsecret"}}, "exchange.ccxt_config.apiKey"),
        ({"api_key": "topsecret"}, "exchange.api_key"),
        ({"password": "topsecret"}, "exchange.password"),
        ({"private_key": "topsecret"}, "exchange.private_key"),
    ],
)
def test_what_leads_away_from_this_machine_is_refused_by_name(
    tmp_path: Path, exchange: dict[str, Any], named: str
) -> None:
    with pytest.raises(ReplayError, match="simulated money: exchange") as refusal:
        check_simulated(files(tmp_path, {"exchange": exchange}))
    assert named in str(refusal.value)
    assert "topsecret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("KEY", "topsecret", "exchange.key is set"),
        ("SECRET", "topsecret", "exchange.secret is set"),
        ("NAME", "okx", "exchange.name is 'okx'"),
        ("CCXT_CONFIG__URLS__API__fapiPrivate", "https://fapi.binance.com/fapi/v1", "fapi"),
    ],
)
def test_the_environment_lies_over_the_files_and_is_looked_at_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, named: str
) -> None:
    monkeypatch.setenv(f"FREQTRADE__EXCHANGE__{name}", value)
    with pytest.raises(ReplayError) as refusal:
        check_simulated(files(tmp_path))
    assert named in str(refusal.value)
    assert "topsecret" not in str(refusal.value)


def test_a_mode_of_the_environments_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREQTRADE__DRY_RUN", "true")
    with pytest.raises(ReplayError, match="dry_run is True; accepted: false"):
        check_simulated(files(tmp_path))


def test_a_stage_writes_live_bots_a_configuration_that_is_checked(tmp_path: Path) -> None:
    market, own = tmp_path / "market", tmp_path / "own.json"
    write_market(market, stop=DEFAULT_START.replace(day=DEFAULT_START.day + 1), pairs=[BTC])
    own.write_text(json.dumps({"dry_run": True, "exchange": {"key": "mine"}}))
    with Stage(StageHome(tmp_path / "live", is_live=True), market, DEFAULT_START, None) as stage:
        written = json.loads(stage.write_config([own], [BTC], {}).read_text())
        assert written["dry_run"] is False
        assert (written["exchange"]["key"], written["exchange"]["secret"]) == (SIMULATED_KEY, SIMULATED_SECRET)
        command = stage.command([own])
        assert "--dry-run" not in command
        assert any("simulated_money.sqlite" in part for part in command)
        own.write_text(json.dumps({"exchange": {"ccxt_sync_config": {"urls": {"api": {"sapi": "https://x.org"}}}}}))
        with pytest.raises(ReplayError, match="sapi"):
            stage.write_config([own], [BTC], {})
    with Stage(StageHome(tmp_path / "dry"), market, DEFAULT_START, None) as stage:
        written = json.loads(stage.write_config([own], [BTC], {}).read_text())
        assert (written["dry_run"], written["exchange"]["key"]) == (True, "")
        assert "--dry-run" in stage.command([own])


# ---------------------------------------------------------------------- the account beside the database


def database(folder: Path, n_trades: int = 1) -> Path:
    path = folder / "trades.sqlite"
    trade = {"pair": BTC, "is_open": 1, "is_short": 1, "amount": 0.2, "open_rate": 100.0, "fee_open": 0.0005}
    order = {"order_id": "1", "filled": 0.2, "average": 100.0}
    with sqlite3.connect(path) as connection:
        frame = pd.DataFrame([trade | {"funding_fees": 0.5, "close_profit_abs": None}] * n_trades)
        frame.to_sql("trades", connection, index=False)
        pd.DataFrame([order, {"order_id": "2", "filled": None, "average": None}]).to_sql(
            "orders", connection, index=False
        )
    return path


def account_of(*numbers: int) -> SimulatedAccount:
    """An account that was short by 0.2 with each order, paid the fee and was given half a coin of funding."""
    account = SimulatedAccount(Decimal(1000))
    for number in numbers:
        fill = Fill(
            number, number, "BTCUSDT", False, Decimal(100), Decimal("0.2"), Decimal("0.01"), Decimal(0), False, 0
        )
        account.fills.append(fill)
        account.wallet -= fill.fee
    account.wallet += Decimal("0.5")
    account._positions["BTCUSDT"] = Position(amount=Decimal("-0.2") * len(numbers))
    return account


def test_a_database_and_an_account_that_say_the_same_do_not_differ(tmp_path: Path) -> None:
    check = AccountCheck.of(database(tmp_path), account_of(1), {"BTCUSDT": BTC})
    assert check.differences == ()
    assert check.positions == {BTC: (-0.2, -0.2)}
    assert check.wallet == pytest.approx((1000.49, 1000.49))
    assert check.fills == 1


def test_what_the_bot_does_not_know_is_named(tmp_path: Path) -> None:
    check = AccountCheck.of(database(tmp_path), account_of(1, 7), {"BTCUSDT": BTC})
    position, order, wallet = check.differences
    assert position == f"{BTC}: the exchange holds -0.4, the bot's open trades -0.2"
    assert order == f"order 7: sold 0.2 of {BTC} at 100, 1970-01-01 00:00:00 UTC; the bot knows nothing of it"
    assert "-0.0100" in wallet
    console = Console(record=True, width=120)
    console.print(check.table("USDT"))
    said = console.export_text()
    assert "-0.4" in said
    assert "1000.4800" in said


def test_what_only_the_bot_knows_is_named(tmp_path: Path) -> None:
    account = account_of(1)
    account.fills[0] = account.fills[0]._replace(price=Decimal(101))
    check = AccountCheck.of(database(tmp_path), account, {"BTCUSDT": BTC})
    assert check.differences == ("order 1: the exchange filled 0.2 at 101, the bot has 0.2 at 100",)
    account.fills.clear()
    check = AccountCheck.of(tmp_path / "trades.sqlite", account, {"BTCUSDT": BTC})
    assert "order 1 is filled in the bot's database, and not on the exchange" in check.differences


def test_a_bot_that_was_ended_early_has_no_trades(tmp_path: Path) -> None:
    check = AccountCheck.of(tmp_path / "none.sqlite", SimulatedAccount(), {"BTCUSDT": BTC})
    assert check.differences == ()
