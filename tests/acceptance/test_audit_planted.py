"""The audit beside freqtrade's own backtester: no false alarm on plain trades, and each planted difference named.

The strategies depart from their training by one callback or setting each; the audit is told of none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from freqai.freqai_runs import OTHER_PAIR, PAIR, ROOT, FreqtradeBacktest, Watch
from freqtrade.misc import deep_merge_dicts
from freqtrade.optimize.backtesting import Backtesting

from mtfscalper.freqai.policy_store import PolicyStore
from mtfscalper.offline.synthetic import write_market
from mtfscalper.reporting.audit.audit import Audit, audit_of
from mtfscalper.reporting.audit.causes import Cause
from mtfscalper.reporting.run_result import Asked

PAIRS = [PAIR, OTHER_PAIR]
STRATEGIES = ROOT / "tests" / "reporting" / "strategies"
OVERLAY: dict[str, Any] = {
    "max_open_trades": 2,
    "exchange": {"pair_whitelist": PAIRS},
    "freqai": {"rl_config": {"decision_mode": "exact", "entry_mode": "agent", "max_trade_duration_candles": 24}},
}
LONG_ENOUGH = "20240905-20240920"

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]

Run = Callable[..., Audit]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Backtests a strategy and audits what it exports: by the same policies, which are trained once."""
    home, market = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("market")
    write_market(market, start=datetime(2024, 9, 1, tzinfo=UTC), stop=datetime(2024, 9, 22, tzinfo=UTC), pairs=PAIRS)
    results = home / "backtest_results"
    results.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "strategies"))
        Watch(patch, "random", leaves=0.1)

        def audited(strategy: str, before: Callable[[], None] = lambda: None, **overlay: Any) -> Audit:
            given = deep_merge_dicts(overlay, deep_merge_dicts(OVERLAY, {}))
            made = FreqtradeBacktest(home, market, strategy=strategy, strategy_path=STRATEGIES, **given)
            # Else freqtrade would show an earlier result again.
            made.backtesting.config |= {"backtest_cache": "none"}
            made.backtesting.config |= {"export": "trades", "exportdirectory": results}
            try:
                made.backtesting.start()
            finally:
                Backtesting.cleanup()
            before()
            audit = audit_of(Asked(result=results, datadir=market, strategy_path=STRATEGIES))
            print(f"\n{strategy}: {audit.sentence}")
            for reason in audit.reasons:
                print(f"  {reason.name} {reason.count}: {reason.first}")
            assert audit.equal + sum(reason.count for reason in audit.reasons) == audit.compared
            return audit

        audited.home = home  # type: ignore[attr-defined]
        yield audited


def names(audit: Audit) -> set[str]:
    return {reason.name for reason in audit.reasons}


def test_no_false_alarm_on_five_hundred_plain_trades(run: Run) -> None:
    audit = run("Audited", timerange=LONG_ENOUGH)
    assert audit.compared >= 500
    assert (audit.equal, audit.reasons) == (audit.compared, ())
    assert not audit.notes


def test_no_false_alarm_where_the_strategy_has_exit_signals_of_its_own(run: Run) -> None:
    """Training knows them."""
    audit = run("OwnSignals")
    assert (audit.equal, audit.reasons) == (audit.compared, ())


def test_without_the_record_the_sealed_policies_say_the_same(run: Run) -> None:
    folder = run.home / "decisions" / "test"  # type: ignore[attr-defined]
    audit = run("Audited", before=lambda: [path.unlink() for path in folder.glob("*.feather")])  # type: ignore[arg-type]
    assert audit.compared > 100
    assert audit.reasons == ()
    assert "its sealed policies were asked again" in " ".join(audit.notes)


def test_no_false_alarm_where_exits_stand_in_the_columns(run: Run) -> None:
    audit = run("Audited", freqai={"rl_config": {"decision_mode": "replay"}})
    assert audit.compared > 100
    assert audit.reasons == ()


MINUTES = {"entry": 10, "exit": 10, "unit": "minutes"}


@pytest.mark.parametrize(
    ("strategy", "cause", "beside", "settings"),
    [
        ("MovesStop", Cause.STOP, set(), {}),
        ("TakesProfit", Cause.TAKE_PROFIT, set(), {}),
        ("Refuses", Cause.REFUSED, set(), {}),
        ("Audited", Cause.SLOT, set(), {"max_open_trades": 1}),
        ("Protects", Cause.PROTECTION, set(), {"enable_protections": True}),
        # An entry order away from the market is not always filled.
        ("EntersBelow", Cause.ENTRY_PRICE, {Cause.NOT_FILLED}, {}),
        ("FillsLate", Cause.LATE_FILL, {Cause.ENTRY_PRICE, Cause.NOT_FILLED}, {"unfilledtimeout": MINUTES}),
        ("Adjusts", Cause.POSITION, set(), {}),
        ("ExitsAtOwnPrice", Cause.EXIT_PRICE, {Cause.EXIT_REFUSED}, {}),
        ("HoldsOn", Cause.EXIT_REFUSED, set(), {}),
    ],
)
def test_a_planted_difference_is_named(
    run: Run, strategy: str, cause: Cause, beside: set[str], settings: dict[str, Any]
) -> None:
    audit = run(strategy, **settings)
    assert cause.value in names(audit) <= {cause.value, *beside}
    assert audit.compared > 100


def test_a_missed_candle_is_named(run: Run) -> None:
    folder = run.home / "decisions" / "test"  # type: ignore[attr-defined]

    def forget() -> None:
        """Take one question in the midst of a trade out of the record."""
        path = max(folder.glob("backtest_*.feather"), key=lambda one: one.stat().st_mtime_ns)
        _rewrite(path, lambda frame: frame.drop(index=frame.index[(frame["held_candles"] == 1) & ~frame["leave"]][0]))

    audit = run("Audited", before=forget)
    assert [(reason.name, reason.count) for reason in audit.reasons] == [("missed candle", 1)]


def test_a_stale_model_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy of the first period decides about all trades."""
    real = PolicyStore.exit_policy

    def first(store: PolicyStore, pair: str, row_ms: int) -> Any:
        policy = real(store, pair, row_ms)
        if policy is not None and policy.period.first_ms > datetime(2024, 9, 5, tzinfo=UTC).timestamp() * 1000:
            known = store._pairs[pair]
            older = known.load(0)
            policy.name = older.name
        return policy

    monkeypatch.setattr(PolicyStore, "exit_policy", first)
    audit = run("Audited")
    assert names(audit) == {"stale model"}


def _rewrite(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    import pyarrow as pa

    with pa.OSFile(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    changed = pa.Table.from_pandas(change(table.to_pandas()), table.schema, preserve_index=False)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(changed)
