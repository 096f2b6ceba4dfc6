"""It learns what can be learned, and finds nothing where there is nothing."""

from __future__ import annotations

from typing import Any

import pytest
from markets import best_log_return, leaked_future, random_walk

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.settings import Settings
from mtfscalper.trading.trading_rules import TradingRules
from mtfscalper.training.evaluation import evaluate
from mtfscalper.training.job import TrainingJob

# Stop far away and no ROI: the oracle of these markets knows decisions only.
RULES = TradingRules(
    fee_ratio=0.0005, stoploss_ratio=0.9, max_trade_duration_candles=288, timeframe_minutes=5, max_drawdown_ratio=0.9
)
SEEDS = (1, 2, 3)


def settings(seed: int, cycles: int, **changes: Any) -> Settings:
    """
    :param changes: keys of ``rl_config``
    """
    return Settings.from_config(
        {
            "freqai": {
                "rl_config": {
                    "vec_env": "dummy",
                    "n_envs": 8,
                    "n_steps": 512,
                    "batch_size": 256,
                    "net_arch": [128, 128],
                    "learning_rate": 0.0005,
                    "gamma": 0.97,
                    "ent_coef": 0.003,
                    "train_cycles": cycles,
                    "entry_mode": "agent",
                    "progress_bar": False,
                    "randomize_starting_position": True,
                    "seed": seed,
                    "model_reward_parameters": {"equity_weight": 100.0},
                }
                | changes
            }
        }
    )


def env_settings(run: Settings) -> EnvSettings:
    return EnvSettings(RULES, run.rl.model_reward_parameters, run.rl.entry_mode, run.lookback, random_start=True)


@pytest.mark.acceptance
@pytest.mark.parametrize("seed", SEEDS)
def test_a_leaked_future_is_exploited_to_nine_tenths_of_the_best_possible_profit(seed: int) -> None:
    run = settings(seed, cycles=12)
    train, held_out, unseen = (leaked_future(seed * 10 + part, n) for part, n in enumerate((6000, 1500, 3000)))
    model, report = TrainingJob(run, train, held_out, env_settings(run)).run()
    result = evaluate(model, unseen, env_settings(run))
    oracle = best_log_return(unseen, RULES, first=run.lookback)
    print(
        f"\nseed {seed}: log return {result.log_return:.3f} of the oracle's {oracle:.3f} "
        f"({result.log_return / oracle:.1%}), {result.trades} trades; {report.timesteps} steps, {report.seconds:.0f} s"
    )
    assert result.trades > 50
    assert result.log_return >= 0.9 * oracle


@pytest.mark.acceptance
@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_walk_with_fees_shows_no_profit(seed: int) -> None:
    run = settings(seed, cycles=12)
    train, held_out, unseen = (random_walk(seed * 10 + part, n) for part, n in enumerate((6000, 1500, 6000)))
    model, report = TrainingJob(run, train, held_out, env_settings(run)).run()
    result = evaluate(model, unseen, env_settings(run))
    oracle = best_log_return(unseen, RULES, first=run.lookback)
    print(
        f"\nseed {seed}: log return {result.log_return:+.3f} (the oracle's {oracle:.2f}), {result.trades} trades, "
        f"best on held-out {max(e['log_return'] for e in report.evaluations):+.3f}"
    )
    # One standard deviation of holding all the while is 0.001 * sqrt(6000) = 0.077.
    assert result.log_return <= 0.1 * oracle
    assert result.log_return <= 2 * 0.077
