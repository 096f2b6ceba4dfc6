"""The policies of a run, found by path: the right one at every candle, and none that is not what it was."""

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
from mtfscalper.freqai.open_trade import PriceHistory
from mtfscalper.freqai.policy_store import (
    DecidingWindow,
    DecisionsError,
    PlannedWindow,
    PolicyRegistry,
    RunPlan,
    TradeTerms,
    WindowRows,
)
from mtfscalper.policy.inference import DeciderQuery, decider_for
from mtfscalper.policy.network import CandleWindowExtractor, MaskedActorCriticPolicy
from mtfscalper.trading.actions import Action
from mtfscalper.trading.observation import TradeView

PAIR = "BTC/USDT:USDT"
TAPE = random_tape(90)
STATE = (1.0, 0.2, 0.4, 0.1, 0.0, 0.0)


def model(leaves: bool, algorithm: type[Any] = PPO) -> Any:
    """A policy that always leaves, or never."""
    vec_env = build_vec_env("dummy", TAPE, env_settings(), 1, compact=algorithm is PPO)
    if algorithm is PPO:
        kwargs = {
            "net_arch": [8],
            "activation_fn": nn.ReLU,
            "features_extractor_class": CandleWindowExtractor,
            "features_extractor_kwargs": {"n_features": TAPE.n_features, "window": 1},
        }
        made = PPO(MaskedActorCriticPolicy, vec_env, n_steps=8, batch_size=8, policy_kwargs=kwargs, device="cpu")
    else:
        made = algorithm("MlpPolicy", vec_env, device="cpu")
    made.policy.action_net.bias.data[:] = 0.0
    made.policy.action_net.bias.data[Action.LONG_EXIT] = 50.0 if leaves else -50.0
    return made


def rows(start: int, stop: int) -> WindowRows:
    some = slice(start, stop)
    decidable = np.ones(stop - start, dtype=bool)
    return WindowRows(
        TAPE.dates_ms[some], decidable, TAPE.long_signal[some], TAPE.short_signal[some], TAPE.features[some]
    )


def seal(root: Path, name: str, start: int, made: Any, fingerprint: dict[str, str]) -> PlannedWindow:
    """A trained window of thirty rows on disk."""
    folder = root / name
    folder.mkdir(parents=True)
    made.save(folder / "model.zip")
    rows(start, start + 30).save(folder / "decisions.npz")
    files = {"model": folder / "model.zip", "decisions": folder / "decisions.npz"}
    artefacts.write_manifest(folder, fingerprint, files)
    first_ms = int(TAPE.dates_ms[start])
    return PlannedWindow(first_ms, first_ms + 30 * TAPE.timeframe_ms, name, fingerprint)


def write_run(root: Path, algorithm: type[Any] = PPO) -> None:
    """Three windows, of which the second alone leaves its trades."""
    windows = [
        seal(root, f"window-{index}", 30 * index, model(index == 1, algorithm), {"candles": str(index)})
        for index in range(3)
    ]
    history = PriceHistory.of(TAPE.timeframe_ms, TAPE.dates_ms, TAPE.open, TAPE.funding)
    RunPlan(PAIR, TradeTerms(RULES, TradeView(0.025), 1, algorithm.__name__), tuple(windows)).write(root, history)


def decided(registry: PolicyRegistry, row: int) -> int:
    window = registry.of_pair(PAIR).window_of(int(TAPE.dates_ms[row]))
    assert window is not None
    found = window.decidable_row(int(TAPE.dates_ms[row]))
    assert found is not None
    assert found == (row % 30, (TAPE.long_signal[row], TAPE.short_signal[row]))
    return window.query.decide([found[0]], [STATE])[0].action


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_every_candle_is_decided_by_the_policy_of_its_window(tmp_path: Path, algorithm: type[Any]) -> None:
    write_run(tmp_path, algorithm)
    registry = PolicyRegistry(tmp_path)
    leaves = [decided(registry, row) == Action.LONG_EXIT for row in (0, 29, 30, 59, 60, 89, 45, 10)]
    assert leaves == [False, False, True, True, False, False, True, False]
    policies = registry.of_pair(PAIR)
    assert policies.window_of(int(TAPE.dates_ms[0]) - 1) is None
    assert policies.window_of(int(TAPE.dates_ms[-1]) + TAPE.timeframe_ms) is None
    assert policies.terms.rules == RULES


def test_a_registry_travels_to_another_process_without_what_it_has_loaded(tmp_path: Path) -> None:
    write_run(tmp_path)
    registry = PolicyRegistry(tmp_path)
    assert decided(registry, 31) == Action.LONG_EXIT
    packed = pickle.dumps(registry)
    assert len(packed) < 1000
    assert decided(pickle.loads(packed), 31) == Action.LONG_EXIT


def test_the_history_is_the_one_of_the_run(tmp_path: Path) -> None:
    write_run(tmp_path)
    history = PolicyRegistry(tmp_path).of_pair(PAIR).history
    assert history.timeframe_ms == TAPE.timeframe_ms
    np.testing.assert_array_equal(history.open, TAPE.open)
    np.testing.assert_array_equal(history.funding, TAPE.funding)


def test_a_later_run_replaces_the_plan(tmp_path: Path) -> None:
    write_run(tmp_path / "first")
    registry = PolicyRegistry(tmp_path / "first")
    assert decided(registry, 31) == Action.LONG_EXIT
    planned = seal(tmp_path / "first", "other", 30, model(leaves=False), {"candles": "other"})
    history = PriceHistory.of(TAPE.timeframe_ms, TAPE.dates_ms, TAPE.open, TAPE.funding)
    RunPlan(PAIR, TradeTerms(RULES, TradeView(0.025), 1, "PPO"), (planned,)).write(tmp_path / "first", history)
    assert decided(registry, 31) == Action.NEUTRAL


def test_a_window_that_is_not_what_it_was_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path)
    with pytest.raises(DecisionsError, match=r"ETH_USDT_USDT.json is missing.*remedy: run the backtest again"):
        PolicyRegistry(tmp_path).of_pair("ETH/USDT:USDT")
    zip_path = tmp_path / "window-1" / "model.zip"
    whole = zip_path.read_bytes()
    zip_path.write_bytes(whole[:-100])
    with pytest.raises(DecisionsError, match=r"window-1 cannot decide about trades: model.zip is damaged"):
        decided(PolicyRegistry(tmp_path), 31)
    zip_path.write_bytes(whole)
    (tmp_path / "window-2" / "decisions.npz").unlink()
    with pytest.raises(DecisionsError, match=r"window-2 cannot decide about trades: decisions.npz is missing"):
        decided(PolicyRegistry(tmp_path), 61)
    # A window that was trained anew since.
    artefacts.write_manifest(tmp_path / "window-1", {"candles": "other"}, {"model": zip_path})
    with pytest.raises(DecisionsError, match=r"window-1 cannot decide about trades: changed since: candles"):
        decided(PolicyRegistry(tmp_path), 31)
    [history] = (tmp_path / "trade_decisions").glob("*.npz")
    history.write_bytes(b"not what it was")
    with pytest.raises(DecisionsError, match=r"is missing or damaged; accepted: the candles of the last run"):
        _ = PolicyRegistry(tmp_path).of_pair(PAIR).history


def test_rows_are_found_across_a_gap_and_where_their_window_is_whole(tmp_path: Path) -> None:
    some = rows(0, 30)
    decidable = np.arange(30) != 5
    gappy = some._replace(dates_ms=some.dates_ms + np.where(np.arange(30) < 10, 0, 3_600_000), decidable=decidable)
    window = DecidingWindow(gappy, DeciderQuery(decider_for(model(leaves=True), gappy.features, 1)))
    for row, known in ((9, True), (10, True), (29, True), (5, False)):
        found = window.decidable_row(int(gappy.dates_ms[row]))
        assert (found is not None and found[0] == row) == known
    assert window.decidable_row(int(gappy.dates_ms[9]) + TAPE.timeframe_ms) is None
    path = tmp_path / "rows.npz"
    gappy.save(path)
    for ours, theirs in zip(WindowRows.load(path), gappy, strict=True):
        np.testing.assert_array_equal(ours, theirs)
