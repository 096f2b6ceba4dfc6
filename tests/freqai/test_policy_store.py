"""The policies of a run, found by path: the right one at every candle, and none that is not what it was."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import DAMAGES
from random_markets import RULES, env_settings, random_tape
from stable_baselines3 import A2C, PPO
from torch import nn

from mtfscalper import artefacts
from mtfscalper.envs.build import build_vec_env
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.exit_policy import DecidingPeriod, PeriodRows, TradeTerms
from mtfscalper.freqai.open_trade import PriceHistory
from mtfscalper.freqai.policy_store import PolicyStore
from mtfscalper.freqai.run_plan import DecisionsError, PlannedPeriod, RunPlan, save_arrays, write_plan
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


def archive_of(root: Path) -> Archive:
    return Archive("test", root, root / "locks")


def seal(root: Path, start: int, made: Any, fingerprint: dict[str, str]) -> PlannedPeriod:
    """A trained period of thirty rows, kept."""
    folder = root / "made" / f"{start}-{len(list(root.glob('made/*')))}"
    folder.mkdir(parents=True)
    made.save(folder / "model.zip")
    save_arrays(folder / "decisions.npz", rows(start, start + 30)._asdict())
    files = {"model": folder / "model.zip", "decisions": folder / "decisions.npz"}
    artefacts.write_manifest(folder, fingerprint, files, Seals(root))
    version = archive_of(root).versions(PAIR, f"period-{start}").add(folder)
    first_ms = int(TAPE.dates_ms[start])
    return PlannedPeriod(first_ms, first_ms + 30 * TAPE.timeframe_ms, str(version.relative_to(root)))


def write_run(root: Path, algorithm: type[Any] = PPO) -> str:
    """Three periods, of which the second alone leaves its trades."""
    periods = [seal(root, 30 * index, model(index == 1, algorithm), {"candles": str(index)}) for index in range(3)]
    return write_plan(archive_of(root), PAIR, terms(algorithm), tuple(periods), HISTORY)


def terms(algorithm: type[Any] = PPO) -> TradeTerms:
    return TradeTerms(RULES, TradeView(0.025), 1, algorithm.__name__)


def store_of(root: Path, plan: str) -> PolicyStore:
    store = PolicyStore(archive_of(root), Seals(root))
    store.follow(PAIR, plan)
    return store


def version_of(root: Path, start: int) -> Path:
    [version] = archive_of(root).versions(PAIR, f"period-{start}").newest_first()
    return version


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
    store = store_of(tmp_path, write_run(tmp_path, algorithm))
    first_ms, last_ms = int(TAPE.dates_ms[0]), int(TAPE.dates_ms[-1])
    leaves = [decided(store, row) == Action.LONG_EXIT for row in (0, 29, 30, 59, 60, 89, 45, 10)]
    assert leaves == [False, False, True, True, False, False, True, False]
    assert store.exit_policy(PAIR, first_ms - 1) is None
    assert store.exit_policy(PAIR, last_ms + TAPE.timeframe_ms) is None
    policy = store.exit_policy(PAIR, first_ms)
    assert policy is not None
    assert policy.terms == terms(algorithm)


def test_a_store_travels_to_another_process_without_what_it_has_loaded(tmp_path: Path) -> None:
    store = store_of(tmp_path, write_run(tmp_path))
    assert decided(store, 31) == Action.LONG_EXIT
    packed = pickle.dumps(store)
    assert len(packed) < 1000
    assert decided(pickle.loads(packed), 31) == Action.LONG_EXIT


def test_the_history_is_the_one_of_the_run(tmp_path: Path) -> None:
    policy = store_of(tmp_path, write_run(tmp_path)).exit_policy(PAIR, int(TAPE.dates_ms[0]))
    assert policy is not None
    history = policy.history
    assert history.timeframe_ms == TAPE.timeframe_ms
    np.testing.assert_array_equal(history.open, TAPE.open)
    np.testing.assert_array_equal(history.funding, TAPE.funding)


def test_a_later_run_changes_nothing_for_the_one_that_trades(tmp_path: Path) -> None:
    store = store_of(tmp_path, write_run(tmp_path))
    assert decided(store, 31) == Action.LONG_EXIT
    planned = seal(tmp_path, 30, model(leaves=False), {"candles": "other"})
    later = write_plan(archive_of(tmp_path), PAIR, terms(), (planned,), HISTORY)
    assert RunPlan.newest(archive_of(tmp_path), PAIR).periods == (planned,)
    for of_the_first in (store, pickle.loads(pickle.dumps(store))):
        assert decided(of_the_first, 31) == Action.LONG_EXIT
        assert decided(of_the_first, 61) == Action.NEUTRAL
    assert decided(store_of(tmp_path, later), 31) == Action.NEUTRAL
    # A pair's next run in one process, as FreqUI makes them.
    store.follow(PAIR, later)
    assert decided(store, 31) == Action.NEUTRAL


def test_a_pair_that_this_run_has_not_planned_is_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path, write_run(tmp_path))
    with pytest.raises(DecisionsError, match=r"ETH/USDT:USDT: this run has trained and predicted nothing.*remedy: let"):
        store.exit_policy("ETH/USDT:USDT", int(TAPE.dates_ms[0]))


def test_a_period_that_is_not_what_it_was_is_refused(tmp_path: Path) -> None:
    plan = write_run(tmp_path)
    zip_path = version_of(tmp_path, 30) / "model.zip"
    whole = zip_path.read_bytes()
    zip_path.write_bytes(whole[:-100])
    with pytest.raises(DecisionsError, match=r"cannot decide about trades: model.zip is damaged"):
        decided(store_of(tmp_path, plan), 31)
    zip_path.write_bytes(whole)
    (version_of(tmp_path, 60) / "decisions.npz").unlink()
    with pytest.raises(DecisionsError, match=r"cannot decide about trades: decisions.npz is missing"):
        decided(store_of(tmp_path, plan), 61)
    # Sealed here, but not what the plan was written with.
    artefacts.write_manifest(
        zip_path.parent,
        {"candles": "other"},
        {"model": zip_path, "decisions": zip_path.with_name("decisions.npz")},
        Seals(tmp_path),
    )
    with pytest.raises(DecisionsError, match=r"cannot decide about trades: its manifest is that of another version"):
        decided(store_of(tmp_path, plan), 31)
    [history] = archive_of(tmp_path).plans(PAIR).glob("*.npz")
    history.write_bytes(b"not what it was")
    with pytest.raises(DecisionsError, match=r"is missing or damaged; accepted: the candles of the run"):
        decided(store_of(tmp_path, plan), 1)


@pytest.mark.parametrize("harm", DAMAGES, ids=lambda harm: harm.__name__)
def test_a_plan_that_is_not_what_was_written_is_refused_and_the_remedy_named(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    plan = write_run(tmp_path)
    [file] = archive_of(tmp_path).plans(PAIR).glob("*.json")
    harm(file)
    with pytest.raises(DecisionsError, match=rf"{PAIR}: .*{plan}.json is (damaged|missing).*remedy: run the backtest"):
        decided(store_of(tmp_path, plan), 1)


def test_a_plan_of_another_version_is_refused_and_the_remedy_named(tmp_path: Path) -> None:
    plan = write_run(tmp_path)
    file = archive_of(tmp_path).plans(PAIR) / f"{plan}.json"
    value = json.loads(file.read_text())
    del value["written"]
    value["terms"]["window"] = value["terms"].pop("lookback")
    other = artefacts.value_hash(value)
    file.with_stem(other).write_text(json.dumps(value))
    with pytest.raises(DecisionsError, match=r"was written by another version of mtfscalper .*remedy: run the back"):
        decided(store_of(tmp_path, other), 1)


def test_rows_are_found_across_a_gap_and_where_their_lookback_is_whole() -> None:
    some = rows(0, 30)
    decidable = np.arange(30) != 5
    gappy = some._replace(dates_ms=some.dates_ms + np.where(np.arange(30) < 10, 0, 3_600_000), decidable=decidable)
    decider = WholeTradeDecider(decider_for(model(leaves=True), gappy.features, 1))
    period = DecidingPeriod(int(gappy.dates_ms[0]), int(gappy.dates_ms[-1]) + 1, gappy, decider)
    for row, known in ((9, True), (10, True), (29, True), (5, False)):
        assert (period.row_of.get(int(gappy.dates_ms[row])) == row) == known
    assert int(gappy.dates_ms[9]) + TAPE.timeframe_ms not in period.row_of
