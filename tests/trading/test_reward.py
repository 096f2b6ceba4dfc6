"""Every term of the reward against numbers worked by hand."""

import math
from typing import Any

import numpy as np
import pytest
from builders import make_rules, make_tape, random_candles
from pydantic import ValidationError

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.envs.trading_env import TradingEnv
from mtfscalper.trading import reward
from mtfscalper.trading.account import FLAT, ExitReason, Fill
from mtfscalper.trading.actions import Action, ActionTable
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.reward import TERMS, RewardSettings, Transition, reward_terms, weighted_terms

NO_FILL = Fill(False, False, ExitReason.NONE, 0.0, 0.0, 0.0, 0.0, 0.0)
LONG = FLAT._replace(side=1.0, open_rate=100.0, held_candles=24.0, best_profit=0.03)
SHORT = LONG._replace(side=-1.0)
ENTERED = NO_FILL._replace(entered=True)
LEFT_LONG = NO_FILL._replace(exited=True, reason=ExitReason.EXIT_SIGNAL, side=1.0)
LEFT_SHORT = LEFT_LONG._replace(side=-1.0)

ACTIONS = ActionTable(*(column.tolist() for column in ActionTable.from_entry_mode("gated")))


def asked(action: Action, long_permitted: bool = False, side: int = 0) -> int:
    """The place in the table of what an account asks for."""
    return int(ActionTable.permission_offset(np.bool_(long_permitted), np.bool_(False))) + 5 * side + action


# A flat candle that was accepted, declined nothing, in the middle of its range.
NOTHING = Transition(
    before=FLAT,
    after=FLAT,
    fill=NO_FILL,
    profit_after=0.0,
    equity_before=1.0,
    equity_after=1.0,
    range_position=0.5,
    max_trade_duration_candles=96,
    staked_ratio=1.0,
    asked=asked(Action.NEUTRAL),
    actions=ACTIONS,
)


def term(name: str, transition: Transition, weight: float = 1.0, **settings: Any) -> float:
    """One term alone, with the longest duration at 96 candles."""
    weights = {"equity_weight": 0.0, f"{name}_weight": weight}
    given = RewardSettings(**(weights | settings))
    terms = reward_terms(SCALAR, given, weighted_terms(given), transition)
    assert set(terms) == {name}
    return float(terms[name])


def test_equity_does_not_depend_on_the_number_of_slots() -> None:
    """A loss of a tenth of the stake: of the whole equity, or of a tenth of it."""
    one = NOTHING._replace(equity_after=0.9)
    ten = NOTHING._replace(equity_after=0.99, staked_ratio=0.1)
    assert term("equity", ten) == pytest.approx(term("equity", one), rel=0.06)


def test_equity_is_the_log_return_between_two_opens() -> None:
    transition = NOTHING._replace(equity_before=1.25, equity_after=1.0)
    # ln(0.8) = -0.2231435513
    assert term("equity", transition) == pytest.approx(-0.2231435513, abs=1e-10)


def test_profit_quality_pays_a_loss_in_units_of_the_profit_aimed_at() -> None:
    transition = NOTHING._replace(fill=LEFT_LONG._replace(profit_ratio=-0.01))
    # -0.01 / 0.025
    assert term("profit_quality", transition) == pytest.approx(-0.4)


@pytest.mark.parametrize(
    ("profit", "quality"),
    [
        # Just below rr x profit_aim = 1.5 x 0.02 = 0.03: 0.028 / 0.02; above: 3 x 0.032 / 0.02
        (0.028, 1.4),
        (0.032, 4.8),
    ],
)
def test_profit_quality_multiplies_wins_above_the_risk_reward_aim(profit: float, quality: float) -> None:
    settings = {"rr": 1.5, "profit_aim": 0.02, "win_reward_factor": 3.0}
    transition = NOTHING._replace(fill=LEFT_LONG._replace(profit_ratio=profit))
    assert term("profit_quality", transition, **settings) == pytest.approx(quality)


def test_profit_quality_is_paid_at_exits_alone() -> None:
    assert term("profit_quality", NOTHING._replace(after=LONG, fill=ENTERED, profit_after=0.05)) == 0


def test_drawdown_costs_the_distance_from_the_best_profit() -> None:
    # (0.03 - 0.02) / 0.025
    assert term("drawdown", NOTHING._replace(after=LONG, profit_after=0.02)) == pytest.approx(-0.4)
    assert term("drawdown", NOTHING._replace(after=LONG, profit_after=0.03)) == 0


def test_drawdown_costs_nothing_once_flat() -> None:
    assert term("drawdown", NOTHING._replace(after=FLAT._replace(best_profit=0.03), fill=LEFT_LONG)) == 0


@pytest.mark.parametrize(
    ("change", "timing"),
    [
        # The open lies at 0.1 of the recent range: cheap by 0.4.
        ({"after": LONG, "fill": ENTERED}, 0.4),
        ({"after": SHORT, "fill": ENTERED}, -0.4),
        ({"before": LONG, "fill": LEFT_LONG}, -0.4),
        ({"before": SHORT, "fill": LEFT_SHORT}, 0.4),
        # Only what was decided is judged, not a stop; an entry that is stopped at once was decided.
        ({"before": LONG, "fill": LEFT_LONG._replace(reason=ExitReason.STOP_LOSS)}, 0.0),
        ({"fill": LEFT_LONG._replace(entered=True, reason=ExitReason.STOP_LOSS)}, 0.4),
        ({"before": LONG, "after": LONG}, 0.0),
    ],
)
def test_timing_pays_entries_and_exits_near_the_favourable_end_of_the_range(
    change: dict[str, Any], timing: float
) -> None:
    assert term("timing", NOTHING._replace(range_position=0.1, **change)) == pytest.approx(timing)


def test_duration_costs_the_share_of_the_longest_duration_held() -> None:
    # 24 / 96
    assert term("duration", NOTHING._replace(after=LONG)) == pytest.approx(-0.25)
    assert term("duration", NOTHING) == 0


def test_invalid_costs_one_for_an_action_that_cannot_be_done() -> None:
    assert term("invalid", NOTHING._replace(asked=asked(Action.LONG_EXIT))) == -1
    assert term("invalid", NOTHING) == 0


def test_idle_costs_one_for_declining_a_permitted_entry() -> None:
    assert term("idle", NOTHING._replace(asked=asked(Action.NEUTRAL, long_permitted=True))) == -1
    assert term("idle", NOTHING) == 0


@pytest.mark.parametrize("name", TERMS)
def test_a_weight_multiplies_its_term(name: str) -> None:
    transition = Transition(
        before=LONG,
        after=LONG,
        fill=LEFT_LONG._replace(profit_ratio=0.05),
        profit_after=0.01,
        equity_before=1.0,
        equity_after=1.1,
        range_position=0.9,
        max_trade_duration_candles=96,
        staked_ratio=1.0,
        asked=asked(Action.NEUTRAL, long_permitted=True) if name == "idle" else asked(Action.LONG_EXIT),
        actions=ACTIONS,
    )
    once = term(name, transition)
    assert once != 0
    assert term(name, transition, weight=-2.5) == pytest.approx(-2.5 * once)


def test_terms_without_a_weight_are_left_out() -> None:
    assert [term.name for term in weighted_terms(RewardSettings())] == ["equity"]
    everything = RewardSettings(**{f"{name}_weight": 0.1 for name in TERMS})
    assert set(reward_terms(SCALAR, everything, weighted_terms(everything), NOTHING)) == set(TERMS)


def test_every_weight_of_the_settings_has_a_term() -> None:
    weights = {name.removesuffix("_weight") for name in RewardSettings.model_fields if name.endswith("_weight")}
    assert weights == set(TERMS)


def test_the_order_of_the_table_changes_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = RewardSettings(**{f"{name}_weight": 0.1 * k for k, name in enumerate(TERMS, 1)})
    transition = NOTHING._replace(after=LONG, equity_after=1.1, asked=asked(Action.LONG_EXIT))
    before = reward_terms(SCALAR, everything, weighted_terms(everything), transition)
    monkeypatch.setattr(reward, "TERMS", dict(reversed(TERMS.items())))
    after = reward_terms(SCALAR, everything, weighted_terms(everything), transition)
    assert after == before
    assert list(after) == list(reversed(before))


@pytest.mark.parametrize("entry_mode", ["classic", "gated", "agent"])
def test_by_default_the_rewards_of_an_episode_add_up_to_the_log_of_the_final_equity(entry_mode: str) -> None:
    signals = np.arange(400) % 7 == 0
    tape = make_tape(random_candles(3, 400), signals, np.roll(signals, 3))
    rules = make_rules(leverage_long=2.0, minimal_roi=((0, 0.01),), stake_ratio=0.9)
    env = TradingEnv(tape, EnvSettings(rules, RewardSettings(), entry_mode, lookback=1, record_trades=True))
    rng, total, ended = np.random.default_rng(0), 0.0, False
    env.reset(seed=1)
    while not ended:
        action = rng.choice(np.flatnonzero(env.action_masks()))
        _, reward, terminated, truncated, info = env.step(action)
        total += reward
        ended = terminated or truncated
    assert len(info["trades"]) > 10
    assert info["final_equity"] != 1
    # Of nine tenths of the equity.
    assert total == pytest.approx(math.log(info["final_equity"]) / 0.9, abs=1e-12)
    assert info["reward_terms"]["equity"] == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize(
    ("key", "value"),
    [("profit_aim", 0.0), ("rr", -1.0), ("equity_weight", float("nan")), ("timing_candles", 1), ("idle_wieght", 1.0)],
)
def test_settings_that_make_no_reward_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValidationError, match=key):
        RewardSettings(**{key: value})
