"""Networks of other kinds through FreqAI: trained, saved, asked about open trades from their zips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import own_networks
import pytest
from exact_runs import policys_trades
from freqai_runs import IDENTIFIER, FreqtradeBacktest, Watch
from freqtrade.exceptions import OperationalException

from mtfscalper.policy.inference import WholeTradeDecider


@pytest.fixture
def users_module(tmp_path: Path) -> str:
    """A module that lies in the user directory alone."""
    name = f"users_networks_{tmp_path.name.strip('_')}"
    (tmp_path / "freqaimodels").mkdir()
    (tmp_path / "freqaimodels" / f"{name}.py").write_text(Path(own_networks.__file__).read_text())
    return name


@pytest.mark.parametrize("kind", ["own", "tanh, another value network"])
def test_the_trades_of_a_network_of_another_kind_are_those_it_makes_in_closed_loop(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, users_module: str, kind: str
) -> None:
    asked: list[int] = []
    real = WholeTradeDecider.decide

    def counted(self: WholeTradeDecider, observations: Any) -> Any:
        asked.append(len(observations))
        return real(self, observations)

    monkeypatch.setattr(WholeTradeDecider, "decide", counted)
    watch = Watch(monkeypatch, "random", leaves=0.15)
    own = {"network": f"{users_module}:Mean"}
    rl = own if kind == "own" else {"activation": "tanh", "net_arch_value": [8, 8]}
    made = {}
    for mode in ("exact", "replay"):
        freqai = {"conv_width": 2, "rl_config": rl | {"decision_mode": mode}}
        made[mode] = FreqtradeBacktest(tmp_path, market, freqai=freqai)
        made[mode].run()
        if mode == "exact":
            # Its evaluations in training asked too.
            asked.clear()
            backtest = policys_trades(made[mode].trades())
            assert sum(asked) > 20
    # Both judge one policy: nothing was trained for the second.
    assert len(watch.trained) == 3
    rollout = [trade for period in watch.replayed for trade in period.trades]
    if backtest[-1].exit_reason == "force_exit":
        # The backtester closes what is open when its data end; the rollout is still in it.
        backtest.pop()
    assert len(backtest) > 10
    assert "exit_signal" in {trade.exit_reason for trade in backtest}
    for theirs, ours in zip(backtest, rollout, strict=True):
        assert ours._replace(profit_ratio=theirs.profit_ratio) == theirs
        assert ours.profit_ratio == pytest.approx(theirs.profit_ratio, abs=1e-12)


def test_a_users_network_is_trained_anew_when_its_code_has_changed(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, users_module: str
) -> None:
    watch = Watch(monkeypatch)
    freqai = {"rl_config": {"network": f"{users_module}:Mean"}}
    FreqtradeBacktest(tmp_path, market, freqai=freqai).run()
    assert len(watch.trained) == 3
    FreqtradeBacktest(tmp_path, market, freqai=freqai).run()
    assert len(watch.trained) == 3
    file = tmp_path / "freqaimodels" / f"{users_module}.py"
    file.write_text(file.read_text().replace("torch.tanh(", "torch.sin("))
    FreqtradeBacktest(tmp_path, market, freqai=freqai).run()
    assert len(watch.trained) == 6


def test_a_network_that_is_not_there_stops_the_run_before_any_candle_is_used(
    tmp_path: Path, market: Path, users_module: str
) -> None:
    said = r"rl_config\.network names '.*:Missing', and .* defines no .* Missing"
    with pytest.raises(OperationalException, match=said):
        FreqtradeBacktest(tmp_path, market, freqai={"rl_config": {"network": f"{users_module}:Missing"}})
    assert not (tmp_path / "models" / IDENTIFIER).exists()
