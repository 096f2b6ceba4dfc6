"""Whatever trades do and training does not is named before training, and nothing else is."""

import inspect
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from freqai_runs import ROOT, FreqtradeBacktest, Watch
from freqtrade.commands.arguments import ARGS_BACKTEST
from freqtrade.config_schema import CONF_SCHEMA
from freqtrade.enums import MarginMode, RunMode
from freqtrade.persistence import Trade
from freqtrade.resolvers import StrategyResolver
from freqtrade.strategy import IStrategy

from mtfscalper.freqai import unsimulated
from mtfscalper.freqai.unsimulated import (
    EXITS_OF_COLUMNS,
    IRRELEVANT_METHODS,
    NAMED_METHODS,
    SIMULATED_METHODS,
    carries_out_policy,
    name_unsimulated,
)
from mtfscalper.settings import Settings
from mtfscalper.training.job import TrainingJob

DOC = (ROOT / "docs" / "simulated.md").read_text(encoding="utf-8")
LOGGER = "mtfscalper.freqai.unsimulated"

# Keys of the config, options of freqtrade's backtesting command and attributes of a strategy that training reads.
SIMULATED = {
    "can_short",
    "dry_run_wallet",
    "leverage",
    "liquidation_buffer",
    "max_trade_duration_candles",
    "minimal_roi",
    "stake_amount",
    "stake_currency",
    "stoploss",
    "timeframe",
    "tradable_balance_ratio",
    "trading_mode",
    "trailing_only_offset_is_reached",
    "trailing_stop",
    "trailing_stop_positive",
    "trailing_stop_positive_offset",
    # False is refused.
    "use_exit_signal",
}
# What is named, or decides whether something is.
NAMED = {
    "amend_last_stake_amount",
    "amount_reserve_percent",
    "available_capital",
    "enable_dynamic_pairlist",
    "enable_protections",
    "entry_pricing",
    "exit_pricing",
    "exit_profit_offset",
    "exit_profit_only",
    "external_message_consumer",
    "fee",
    "freqai",
    "ignore_buying_expired_candle_after",
    "ignore_roi_if_entry_signal",
    "last_stake_amount_min_ratio",
    "margin_mode",
    "max_entry_position_adjustment",
    "max_open_trades",
    "order_time_in_force",
    "order_types",
    "pairlists",
    "position_adjustment_enable",
    "position_stacking",
    "protections",
    "timeframe_detail",
    "unfilledtimeout",
    "use_custom_roi",
    "use_custom_stoploss",
}
# No trade of a policy is another one because of them.
IRRELEVANT = {
    # Where things lie, what is read, and what is searched for.
    *("add_config_files", "datadir", "dataformat_ohlcv", "dataformat_trades", "db_url", "download_trades", "exchange"),
    *("freqaimodel", "freqaimodel_path", "hyperopt_path", "new_pairs_days", "pairs", "recursive_strategy_search"),
    *("skip_wallet_history_migration", "strategy", "strategy_list", "strategy_path", "timerange", "user_data_dir"),
    *("analyze_per_epoch", "early_stop", "epochs", "hyperopt_jobs", "hyperopt_loss", "hyperopt_min_trades", "spaces"),
    *("hyperopt_random_state", "lookahead_analysis_exportfilename", "minimum_trade_amount", "print_all"),
    *(
        "startup_candle",
        "targeted_trade_amount",
        "disableparamexport",
        "freqai_backtest_live_models",
        "INTERFACE_VERSION",
    ),
    # What is shown, told and kept.
    *("api_server", "backtest_breakdown", "backtest_cache", "backtest_notes", "bot_name", "coingecko", "discord"),
    *("export", "exportdirectory", "exportfilename", "fiat_display_currency", "log_config", "plot_config", "telegram"),
    *("webhook", "liquidation_warn_ratio"),
    # How the bot is run, and by hand.
    *("cancel_open_orders_on_exit", "dry_run", "experimental", "force_entry_enable", "initial_state", "internals"),
    *("market_direction", "proxy_coin", "wallets"),
    # Features, which training gets as trading does. FreqAI refuses to trade with process_only_new_candles False.
    *(
        "disable_dataframe_checks",
        "orderflow",
        "process_only_new_candles",
        "reduce_df_footprint",
        "startup_candle_count",
    ),
    # Only with custom prices, which are named.
    "custom_price_max_distance_ratio",
}


class Plain(IStrategy):
    """Nothing of its own but columns."""

    timeframe = "5m"
    stoploss = -0.1
    can_short = True

    def populate_indicators(self, dataframe: Any, metadata: Any) -> Any:
        return self.freqai.start(dataframe, metadata, self)

    def populate_entry_trend(self, dataframe: Any, metadata: Any) -> Any:
        return dataframe

    def populate_exit_trend(self, dataframe: Any, metadata: Any) -> Any:
        return dataframe


def strategy_of(made: type[IStrategy], config: dict[str, Any]) -> IStrategy:
    """As freqtrade loads it: values of the config come first, and defaults last."""
    config.setdefault("trading_mode", "futures")
    strategy = made(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StrategyResolver, "_load_strategy", staticmethod(lambda *_, **__: strategy))
        StrategyResolver.load_strategy(config | {"strategy": made.__name__})
    return StrategyResolver.validate_strategy(strategy)


def named(
    caplog: pytest.LogCaptureFixture,
    config: dict[str, Any] | None = None,
    made: type[IStrategy] = Plain,
    decision_mode: str = "exact",
    **attributes: Any,
) -> tuple[dict[str, str], dict[str, str]]:
    """What is warned of, and what is told of bots: names to consequences."""
    config = {"runmode": RunMode.BACKTEST} | (config or {})
    strategy = strategy_of(type(made.__name__, (made,), attributes) if attributes else made, config)
    settings = Settings.from_config({"freqai": {"rl_config": {"decision_mode": decision_mode}}})
    caplog.clear()
    with caplog.at_level(logging.INFO, LOGGER):
        name_unsimulated(strategy, config, settings)
    found: dict[int, dict[str, str]] = {logging.WARNING: {}, logging.INFO: {}}
    for record in caplog.records:
        if record.name != LOGGER:
            continue
        # One block of each kind.
        assert not found[record.levelno]
        head, *lines = record.getMessage().split("\n  ")
        assert head.startswith(made.__name__)
        for line in lines:
            name, consequence = line.split(": ", 1)
            assert len(consequence) < 120
            assert "training" in consequence
            found[record.levelno][name] = consequence
    return found[logging.WARNING], found[logging.INFO]


def own(name: str) -> Any:
    """A method of the user's with an effect."""
    return lambda self, *arguments, **keywords: self.timeframe


# ---------------------------------------------------------------------- everything is classified


def methods_of_freqtrade() -> set[str]:
    return {name for name, value in inspect.getmembers(IStrategy, callable) if not name.startswith("_")}


def test_every_method_of_freqtrades_strategies_is_simulated_named_or_irrelevant() -> None:
    kinds = [set(SIMULATED_METHODS), set(NAMED_METHODS), set(IRRELEVANT_METHODS)]
    # No method is of two kinds, and none is of none.
    assert sorted(name for kind in kinds for name in kind) == sorted(methods_of_freqtrade())


def test_every_switch_of_config_command_and_strategy_is_simulated_named_or_irrelevant() -> None:
    attributes = {
        name
        for name, value in inspect.getmembers(IStrategy, lambda value: not callable(value))
        if not name.startswith("_")
    } | {name for name in IStrategy.__annotations__ if not name.startswith("_")} - {"dp"}
    resolved = set(re.findall(r'\("(\w+)", ', inspect.getsource(StrategyResolver.load_strategy)))
    known = set(CONF_SCHEMA["properties"]) | set(ARGS_BACKTEST) | attributes | resolved
    kinds = [SIMULATED - {"leverage", "max_trade_duration_candles"}, NAMED, IRRELEVANT]
    assert sorted(name for kind in kinds for name in kind) == sorted(known)


def test_the_table_in_the_documentation_has_every_method_and_switch() -> None:
    rows = [line for line in DOC.splitlines() if line.startswith("| `")]
    first = {name for row in rows for name in re.findall(r"`([\w.]+)", row.split("|")[1])}
    workings = {name for name, consequence in NAMED_METHODS.items() if consequence == unsimulated._WORKINGS}
    populates = {name for name in SIMULATED_METHODS if name.startswith(("populate_", "feature_", "set_"))}
    assert first >= (set(NAMED_METHODS) - workings) | (set(SIMULATED_METHODS) - populates) | SIMULATED | NAMED
    assert all(len(row.split("|")) == 6 for row in rows)


# ---------------------------------------------------------------------- methods

NEEDED: dict[str, dict[str, Any]] = {
    "adjust_trade_position": {"position_adjustment_enable": True},
    "custom_roi": {"use_custom_roi": True},
    "custom_stoploss": {"use_custom_stoploss": True},
}


OLD_NAMES = ("check_buy_timeout", "check_sell_timeout", "custom_sell")


@pytest.mark.parametrize("name", sorted(set(NAMED_METHODS) - set(OLD_NAMES)))
def test_a_method_of_the_users_own_is_named(name: str, caplog: pytest.LogCaptureFixture) -> None:
    attributes = {name: own(name), **NEEDED.get(name, {})}
    warned, _ = named(caplog, **attributes)
    assert warned == {name: NAMED_METHODS[name]}


@pytest.mark.parametrize("name", OLD_NAMES)
def test_the_old_names_of_methods_are_named_where_freqtrade_still_takes_them(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    warned, _ = named(caplog, {"trading_mode": "spot"}, can_short=False, **{name: own(name)})
    assert warned == {name: NAMED_METHODS[name]}


@pytest.mark.parametrize("name", sorted(SIMULATED_METHODS | IRRELEVANT_METHODS - {"load_freqAI_model"}))
def test_a_method_that_training_follows_or_that_no_trade_depends_on_is_not_named(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Loading calls some of these.
    real = getattr(Plain, name)
    warned, _ = named(caplog, **{name: lambda self, *arguments, **keywords: real(self, *arguments, **keywords)})
    assert warned == {}


def test_a_strategy_of_columns_alone_is_simulated_whole(caplog: pytest.LogCaptureFixture) -> None:
    trailing = {"trailing_stop": True, "trailing_stop_positive": 0.01, "trailing_stop_positive_offset": 0.02}
    lapses = {"unfilledtimeout": {"entry": 5, "exit": 5}}
    warned, _ = named(caplog, lapses, minimal_roi={"0": 0.1}, trailing_only_offset_is_reached=True, **trailing)
    assert warned == {}


def test_a_callback_that_freqtrade_adds_later_is_named_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(IStrategy, "custom_liquidation", lambda self, **_: None, raising=False)
    assert named(caplog)[0] == {}
    warned, _ = named(caplog, custom_liquidation=own("custom_liquidation"))
    assert warned == {"custom_liquidation": unsimulated._UNKNOWN}


def test_a_method_of_the_users_that_freqtrade_does_not_know_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    assert named(caplog, my_helper=own("my_helper"), _custom_exit=own("_custom_exit"))[0] == {}


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("custom_stoploss", {"use_custom_stoploss": False}),
        ("custom_roi", {"use_custom_roi": False}),
        ("adjust_trade_position", {"position_adjustment_enable": False}),
        ("custom_entry_price", {"order_types": {"entry": "market", "exit": "limit"}}),
        ("custom_exit_price", {"order_types": {"entry": "limit", "exit": "market"}}),
    ],
)
def test_a_method_that_freqtrade_does_not_call_is_not_named(
    name: str, attributes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    if "order_types" in attributes:
        attributes["order_types"] |= {"stoploss": "limit", "stoploss_on_exchange": False}
    assert named(caplog, **attributes, **{name: own(name)})[0] == {}


def templates() -> dict[str, Any]:
    """The methods that ``freqtrade new-strategy --template advanced`` writes, which do nothing."""
    import freqtrade

    file = Path(freqtrade.__file__).parent / "templates" / "strategy_subtemplates" / "strategy_methods_advanced.j2"
    code = "from __future__ import annotations\n" + "\n".join(
        line for line in file.read_text().splitlines() if not line.startswith("use_")
    )
    made: dict[str, Any] = {}
    exec(compile(code, str(file), "exec"), made)
    return {name: value for name, value in made.items() if inspect.isfunction(value)}


def test_what_a_template_wrote_and_nobody_changed_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    written = templates()
    assert len(written) > 12
    on = {name: True for needed in NEEDED.values() for name in needed}
    assert named(caplog, **written, **on)[0] == {}


def test_a_custom_stop_that_is_only_switched_on_is_named_for_freqtrades_own_lets_it_trail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert list(named(caplog, use_custom_stoploss=True)[0]) == ["custom_stoploss"]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("confirm_trade_entry", True, False),
        ("confirm_trade_entry", False, True),
        ("custom_exit", None, False),
        ("custom_exit", False, False),
        ("custom_exit", "end", True),
        ("check_entry_timeout", True, True),
        ("order_filled", 3, False),
        ("bot_loop_start", None, False),
        ("custom_entry_price", 1.5, True),
    ],
)
def test_a_method_that_gives_a_constant_is_named_where_that_has_an_effect(
    name: str, value: Any, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    made = eval(f"lambda self, *arguments, **keywords: {value!r}")
    assert (name in named(caplog, **{name: made})[0]) == told


@pytest.mark.parametrize(("given", "told"), [("proposed_rate", False), ("current_time", True)])
def test_a_price_that_is_given_back_is_no_price_of_the_users(
    given: str, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    made = eval(f"lambda self, proposed_rate, current_time, **keywords: {given}")
    assert ("custom_entry_price" in named(caplog, custom_entry_price=made)[0]) == told


def locks_inside(self: Any, **keywords: Any) -> None:
    def lock() -> None:
        self.lock_pair("BTC/USDT:USDT", until=None)

    lock()


def test_a_strategy_that_locks_pairs_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    assert "pairs that it locks" in named(caplog, my_helper=locks_inside)[0]["lock_pair"]


def leverage_by_open_trades(self: Any, **keywords: Any) -> float:
    return 1.0 + Trade.get_open_trade_count()


def stake_by_the_wallet(self: Any, **keywords: Any) -> float:
    return self.my_share()  # type: ignore[no-any-return]


def my_share(self: Any) -> float:
    return 0.1 * self.wallets.get_total_stake_amount()  # type: ignore[no-any-return]


def test_what_is_asked_before_a_training_and_looks_at_the_moment_is_named(caplog: pytest.LogCaptureFixture) -> None:
    assert "it looks at Trade: " in named(caplog, leverage=leverage_by_open_trades)[0]["leverage"]
    told = named(caplog, custom_stake_amount=stake_by_the_wallet, my_share=my_share)[0]
    assert "it looks at wallets: " in told["custom_stake_amount"]


# ---------------------------------------------------------------------- the policy's own callbacks


def test_callbacks_that_carry_out_the_policy_are_not_named_and_the_users_inside_them_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours = carries_out_policy(own("custom_exit"))
    assert named(caplog, custom_exit=ours)[0] == {}
    wrapping_nothing = carries_out_policy(own("custom_exit"), original=IStrategy.custom_exit)
    assert named(caplog, custom_exit=wrapping_nothing)[0] == {}
    wrapping = carries_out_policy(own("custom_exit"), original=own("custom_exit"))
    assert list(named(caplog, custom_exit=wrapping)[0]) == ["custom_exit"]
    twice = carries_out_policy(own("custom_exit"), original=wrapping)
    assert list(named(caplog, custom_exit=twice)[0]) == ["custom_exit"]
    nothing_twice = carries_out_policy(own("custom_exit"), original=ours)
    assert named(caplog, custom_exit=nothing_twice)[0] == {}


# ---------------------------------------------------------------------- switches

PAIRS = {"exchange": {"pair_whitelist": ["BTC/USDT:USDT", "ETH/USDT:USDT"]}}
GUARD = [{"method": "StoplossGuard"}]
# By what is named: the config, the strategy's attributes, what is told of it, and whether of a bot alone.
SWITCHES: list[tuple[str, dict[str, Any], dict[str, Any], str, bool]] = [
    ("timeframe_detail", {"timeframe_detail": "1m"}, {}, "candles of 1m, in training in those of 5m", False),
    ("position_stacking", {"position_stacking": True}, {}, "several trades at once", False),
    ("enable_dynamic_pairlist", {"enable_dynamic_pairlist": True}, {}, "pairs off the list", False),
    ("protections", {"enable_protections": True}, {"protections": GUARD}, "StoplossGuard", False),
    ("protections", {}, {"protections": GUARD}, "StoplossGuard", True),
    ("max_open_trades", PAIRS, {"max_open_trades": 1}, "1 slots for 2 pairs", False),
    ("ignore_roi_if_entry_signal", {}, {"ignore_roi_if_entry_signal": True}, "minimal_roi waits", False),
    ("margin_mode", {"margin_mode": MarginMode.CROSS}, {}, "the whole wallet", False),
    ("available_capital", {"available_capital": 500}, {}, "shares of it", False),
    ("amend_last_stake_amount", {"amend_last_stake_amount": True}, {}, "may be smaller", False),
    ("amount_reserve_percent", {"amount_reserve_percent": 0.2}, {}, "the exchange's smallest", False),
    ("order_types", {}, {}, "limit for an entry and limit for an exit", True),
    ("order_time_in_force", {}, {"order_time_in_force": {"entry": "FOK", "exit": "GTC"}}, "given up", True),
    ("unfilledtimeout", {"unfilledtimeout": {"entry": 5, "exit": 5}}, {}, "given up", True),
    ("entry_pricing, exit_pricing", {"exit_pricing": {"price_side": "same"}}, {}, "book or ticker", True),
    (
        "check_depth_of_market",
        {"entry_pricing": {"price_side": "same", "check_depth_of_market": {"enabled": True}}},
        {},
        "refused by the order book",
        True,
    ),
    ("ignore_buying_expired_candle_after", {}, {"ignore_buying_expired_candle_after": 60}, "60 s after the open", True),
    ("fee", {"fee": 0.001}, {}, "charges its own fee", True),
    ("pairlists", {"pairlists": [{"method": "VolumePairList"}]}, {}, "join and leave", True),
    ("external_message_consumer", {"external_message_consumer": {"enabled": True}}, {}, "another bot", True),
    ("freqai.expiration_hours", {"freqai": {"expiration_hours": 48}}, {}, "older than 48 hours", True),
]
ON_EXCHANGE = {"entry": "market", "exit": "limit", "stoploss": "market", "stoploss_on_exchange": True}


@pytest.mark.parametrize("runmode", [RunMode.BACKTEST, RunMode.HYPEROPT, RunMode.DRY_RUN, RunMode.LIVE])
@pytest.mark.parametrize(("name", "config", "attributes", "told", "bots_only"), SWITCHES)
def test_a_switch_is_named_where_it_has_an_effect(
    name: str,
    config: dict[str, Any],
    attributes: dict[str, Any],
    told: str,
    bots_only: bool,
    runmode: RunMode,
    caplog: pytest.LogCaptureFixture,
) -> None:
    warned, of_bots = named(caplog, config | {"runmode": runmode}, **attributes)
    plain, plain_of_bots = named(caplog, {"runmode": runmode})
    is_bot = runmode in (RunMode.DRY_RUN, RunMode.LIVE)
    found = warned if is_bot or not bots_only else of_bots
    assert told in found[name]
    # What every strategy has, and this alone: a depth of the market comes with prices.
    others = {"order_types", "entry_pricing, exit_pricing"}
    assert set(warned) - set(plain) - others <= {name}
    assert set(of_bots) - set(plain_of_bots) - others <= {name}
    assert not (is_bot and of_bots)


def test_a_stop_on_the_exchange_is_named_to_bots(caplog: pytest.LogCaptureFixture) -> None:
    warned, _ = named(caplog, {"runmode": RunMode.LIVE}, order_types=ON_EXCHANGE)
    assert "market for an entry and limit for an exit" in warned["order_types"]
    assert "the exchange fills the stop" in warned["stoploss_on_exchange"]


def test_exits_in_profit_only_are_named_where_the_policy_leaves_by_columns(caplog: pytest.LogCaptureFixture) -> None:
    profit_only = {"exit_profit_only": True, "exit_profit_offset": 0.01}
    warned, _ = named(caplog, decision_mode="replay", **profit_only)
    assert "exit_profit_offset (0.01)" in warned["exit_profit_only"]
    # freqtrade does not ask custom_exit for a profit.
    assert named(caplog, decision_mode="exact", **profit_only)[0] == {}


WAITING: dict[str, Any] = {
    "trailing_stop": True,
    "trailing_stop_positive": 0.005,
    "trailing_stop_positive_offset": 0.01,
    "trailing_only_offset_is_reached": True,
}


@pytest.mark.parametrize(
    ("timeouts", "told"),
    [
        (None, True),
        ({"entry": 5}, True),
        ({"exit": 10}, True),
        ({"exit": 301, "unit": "seconds"}, True),
        ({"exit": 300, "unit": "seconds"}, False),
        ({"exit": 5, "unit": "minutes"}, False),
    ],
)
def test_exit_orders_that_wait_for_a_later_candle_are_named_in_backtests(
    timeouts: dict[str, Any] | None, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """tests/parity/test_odd_markets.py shows the trade that is another one then."""
    config = {} if timeouts is None else {"unfilledtimeout": timeouts}
    assert ("unfilledtimeout.exit" in named(caplog, config, **WAITING)[0]) == told
    # Without leverage, or an offset that the stop waits for, it lies inside its candle.
    assert "unfilledtimeout.exit" not in named(caplog, config | {"trading_mode": "spot"}, can_short=False, **WAITING)[0]
    assert "unfilledtimeout.exit" not in named(caplog, config, trailing_stop=True, trailing_stop_positive=0.005)[0]


def test_as_many_slots_as_pairs_are_enough(caplog: pytest.LogCaptureFixture) -> None:
    assert named(caplog, PAIRS, max_open_trades=2)[0] == {}
    assert named(caplog, PAIRS, max_open_trades=-1)[0] == {}


def test_every_switch_that_is_classified_as_named_has_a_case() -> None:
    cases = {key for _, config, attributes, _, _ in SWITCHES for key in (*config, *attributes)} - {"exchange"}
    elsewhere = {
        "exit_profit_offset",
        "exit_profit_only",
        "order_types",
        *(name for one in NEEDED.values() for name in one),
    }
    # These only shape what another switch turns on.
    shaping = {"last_stake_amount_min_ratio", "max_entry_position_adjustment"}
    assert cases | elsewhere | shaping == NAMED


def test_what_others_find_stands_in_the_same_block(caplog: pytest.LogCaptureFixture) -> None:
    config = {"runmode": RunMode.BACKTEST}
    strategy = strategy_of(type("Own", (Plain,), {"custom_exit": own("custom_exit")}), config)
    with caplog.at_level(logging.WARNING, LOGGER):
        name_unsimulated(strategy, config, Settings.from_config({}), [EXITS_OF_COLUMNS])
    [record] = [record for record in caplog.records if record.name == LOGGER]
    names = [line.partition(":")[0] for line in record.getMessage().split("\n  ")[1:]]
    assert names == ["custom_exit", "populate_exit_trend"]


# ---------------------------------------------------------------------- in a run


def run(tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, **overlay: Any) -> list[str]:
    """A backtest; gives the warnings and the trainings in their order."""
    Watch(monkeypatch)
    events: list[str] = []
    real = TrainingJob.run

    def train(job: TrainingJob, *arguments: Any) -> Any:
        events.append("training")
        return real(job, *arguments)

    class Noted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING:
                events.append(record.getMessage())

    handler = Noted()
    logging.getLogger(LOGGER).addHandler(handler)
    monkeypatch.setattr(TrainingJob, "run", train)
    try:
        FreqtradeBacktest(tmp_path, market, **overlay).run()
    finally:
        logging.getLogger(LOGGER).removeHandler(handler)
    return events


def test_the_strategy_of_this_package_is_simulated_whole(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freqai = {"rl_config": {"decision_mode": "exact"}}
    assert run(tmp_path, market, monkeypatch, freqai=freqai) == ["training"] * 3


def test_what_is_not_simulated_is_named_once_before_the_first_training(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = {"pair_whitelist": ["BTC/USDT:USDT", "ETH/USDT:USDT"]}
    warning, *trainings = run(tmp_path, market, monkeypatch, exchange=pairs, ignore_roi_if_entry_signal=True)
    assert trainings == ["training"] * 6
    head, *lines = warning.split("\n  ")
    assert head == "MtfScalper_RL_Hybrid is traded with what training does not simulate (docs/simulated.md):"
    assert [line.partition(":")[0] for line in lines] == ["ignore_roi_if_entry_signal", "max_open_trades"]
