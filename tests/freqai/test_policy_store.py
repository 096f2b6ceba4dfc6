"""The policies of a run, found by path: the right one at every candle, and none that is not what it was."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_markets import RULES, env_settings, random_tape
from stable_baselines3 import A2C, PPO
from torch import nn

from mtfscalper import artefacts
from mtfscalper.envs.build import build_vec_env
from mtfscalper.freqai.exit_policy import DecidingPeriod, PeriodRows, TradeTerms
from mtfscalper.freqai.open_trade import PriceHistory
from mtfscalper.freqai.policy_store import (
    DecisionsError,
    PlannedPeriod,
    PolicyStore,
    RunPlan,
    save_arrays,
)
from mtfscalper.policy.inference import WholeTradeDecider, decider_for
from mtfscalper.policy.network import LookbackExtractor, MaskedActorCriticPolicy
from mtfscalper.seals import Seals
from mtfscalper.trading.actions import Action
from mtfscalper.trading.observation import Observation, TradeView

PAIR = "BTC/USDT:USDT"
TAPE = random_tape(90)
HISTORY = PriceHistory.from_arrays(TAPE.timeframe_ms, TAPE.dates_ms, TAPE.open, TAPE.funding, float(TAPE.close[-1]))
SEEN = Observation(0, 1.0, 0.2, 0.4, 0.1, 0.0, 0.0)


def model(leaves: bool, algorithm: type[Any] = PPO) -> Any:
    """A policy that always leaves, or never."""
    vec_env = build_vec_env("dummy", TAPE, env_settings(), 1, compact=algorithm is PPO)
    if algorithm is PPO:
        kwargs = {
            "net_arch": [8],
            "activation_fn": nn.ReLU,
            "features_extractor_class": LookbackExtractor,
            "features_extractor_kwargs": {"n_features": TAPE.n_features, "lookback": 1},
        }
        made = PPO(MaskedActorCriticPolicy, vec_env, n_steps=8, batch_size=8, policy_kwargs=kwargs, device="cpu")
    else:
        made = algorithm("MlpPolicy", vec_env, device="cpu")
    made.policy.action_net.bias.data[:] = 0.0
    made.policy.action_net.bias.data[Action.LONG_EXIT] = 50.0 if leaves else -50.0
    return made


def rows(start: int, stop: int) -> PeriodRows:
    some = slice(start, stop)
    decidable = np.ones(stop - start, dtype=bool)
    return PeriodRows(
        TAPE.dates_ms[some], decidable, TAPE.long_signal[some], TAPE.short_signal[some], TAPE.features[some]
    )


def seal(root: Path, name: str, start: int, made: Any, fingerprint: dict[str, str]) -> PlannedPeriod:
    """A trained period of thirty rows on disk."""
    folder = root / name
    folder.mkdir(parents=True)
    made.save(folder / "model.zip")
    save_arrays(folder / "decisions.npz", rows(start, start + 30)._asdict())
    files = {"model": folder / "model.zip", "decisions": folder / "decisions.npz"}
    artefacts.write_manifest(folder, fingerprint, files, Seals(root))
    first_ms = int(TAPE.dates_ms[start])
    return PlannedPeriod(first_ms, first_ms + 30 * TAPE.timeframe_ms, name, fingerprint)


def write_run(root: Path, algorithm: type[Any] = PPO) -> None:
    """Three periods, of which the second alone leaves its trades."""
    periods = [
        seal(root, f"period-{index}", 30 * index, model(index == 1, algorithm), {"candles": str(index)})
        for index in range(3)
    ]
    RunPlan(PAIR, terms(algorithm), tuple(periods)).write(root, HISTORY)


def terms(algorithm: type[Any] = PPO) -> TradeTerms:
    return TradeTerms(RULES, TradeView(0.025), 1, algorithm.__name__)


def store_of(root: Path) -> PolicyStore:
    return PolicyStore(root, Seals(root))


def decided(store: PolicyStore, row: int) -> int:
    policy = store.exit_policy(PAIR, int(TAPE.dates_ms[row]))
    assert policy is not None
    period = policy.period
    found = period.row_of[int(TAPE.dates_ms[row])]
    assert found == row % 30
    permitted = period.long_permitted[found], period.short_permitted[found]
    assert permitted == (TAPE.long_signal[row], TAPE.short_signal[row])
    return period.decider.decide([SEEN._replace(row=found)])[0].action


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_every_candle_is_decided_by_the_policy_of_its_period(tmp_path: Path, algorithm: type[Any]) -> None:
    write_run(tmp_path, algorithm)
    store = store_of(tmp_path)
    first_ms, last_ms = int(TAPE.dates_ms[0]), int(TAPE.dates_ms[-1])
    leaves = [decided(store, row) == Action.LONG_EXIT for row in (0, 29, 30, 59, 60, 89, 45, 10)]
    assert leaves == [False, False, True, True, False, False, True, False]
    assert store.exit_policy(PAIR, first_ms - 1) is None
    assert store.exit_policy(PAIR, last_ms + TAPE.timeframe_ms) is None
    policy = store.exit_policy(PAIR, first_ms)
    assert policy is not None
    assert policy.terms == terms(algorithm)


def test_a_store_travels_to_another_process_without_what_it_has_loaded(tmp_path: Path) -> None:
    write_run(tmp_path)
    store = store_of(tmp_path)
    assert decided(store, 31) == Action.LONG_EXIT
    packed = pickle.dumps(store)
    assert len(packed) < 1000
    assert decided(pickle.loads(packed), 31) == Action.LONG_EXIT


def test_the_history_is_the_one_of_the_run(tmp_path: Path) -> None:
    write_run(tmp_path)
    policy = store_of(tmp_path).exit_policy(PAIR, int(TAPE.dates_ms[0]))
    assert policy is not None
    history = policy.history
    assert history.timeframe_ms == TAPE.timeframe_ms
    np.testing.assert_array_equal(history.open, TAPE.open)
    np.testing.assert_array_equal(history.funding, TAPE.funding)


def test_a_later_run_replaces_the_plan(tmp_path: Path) -> None:
    write_run(tmp_path / "first")
    store = store_of(tmp_path / "first")
    assert decided(store, 31) == Action.LONG_EXIT
    planned = seal(tmp_path / "first", "other", 30, model(leaves=False), {"candles": "other"})
    RunPlan(PAIR, terms(), (planned,)).write(tmp_path / "first", HISTORY)
    assert decided(store, 31) == Action.NEUTRAL


def test_a_period_that_is_not_what_it_was_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path)
    with pytest.raises(DecisionsError, match=r"ETH_USDT_USDT.json is missing.*remedy: run the backtest again"):
        store_of(tmp_path).exit_policy("ETH/USDT:USDT", int(TAPE.dates_ms[0]))
    zip_path = tmp_path / "period-1" / "model.zip"
    whole = zip_path.read_bytes()
    zip_path.write_bytes(whole[:-100])
    with pytest.raises(DecisionsError, match=r"period-1 cannot decide about trades: model.zip is damaged"):
        decided(store_of(tmp_path), 31)
    zip_path.write_bytes(whole)
    (tmp_path / "period-2" / "decisions.npz").unlink()
    with pytest.raises(DecisionsError, match=r"period-2 cannot decide about trades: decisions.npz is missing"):
        decided(store_of(tmp_path), 61)
    # A period that was trained anew since.
    artefacts.write_manifest(tmp_path / "period-1", {"candles": "other"}, {"model": zip_path}, Seals(tmp_path))
    with pytest.raises(DecisionsError, match=r"period-1 cannot decide about trades: changed since: candles"):
        decided(store_of(tmp_path), 31)
    [history] = (tmp_path / "trade_decisions").glob("*.npz")
    history.write_bytes(b"not what it was")
    with pytest.raises(DecisionsError, match=r"is missing or damaged; accepted: the candles of the last run"):
        decided(store_of(tmp_path), 1)


def test_a_plan_of_another_version_is_refused_and_the_remedy_named(tmp_path: Path) -> None:
    write_run(tmp_path)
    [file] = (tmp_path / "trade_decisions").glob("*.json")
    plan = json.loads(file.read_text())
    plan["terms"]["window"] = plan["terms"].pop("lookback")
    file.write_text(json.dumps(plan))
    with pytest.raises(DecisionsError, match=r"was written by another version of mtfscalper .*remedy: run the back"):
        decided(store_of(tmp_path), 1)


def test_rows_are_found_across_a_gap_and_where_their_lookback_is_whole() -> None:
    some = rows(0, 30)
    decidable = np.arange(30) != 5
    gappy = some._replace(dates_ms=some.dates_ms + np.where(np.arange(30) < 10, 0, 3_600_000), decidable=decidable)
    decider = WholeTradeDecider(decider_for(model(leaves=True), gappy.features, 1))
    period = DecidingPeriod(int(gappy.dates_ms[0]), int(gappy.dates_ms[-1]) + 1, gappy, decider)
    for row, known in ((9, True), (10, True), (29, True), (5, False)):
        assert (period.row_of.get(int(gappy.dates_ms[row])) == row) == known
    assert int(gappy.dates_ms[9]) + TAPE.timeframe_ms not in period.row_of
