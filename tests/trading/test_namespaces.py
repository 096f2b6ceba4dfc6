"""One function, two array libraries: equal step by step."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from builders import make_rules, make_tape, random_candles, tape_candles

from mtfscalper.trading.namespace import NUMPY, SCALAR
from mtfscalper.trading.observation import ACCOUNT_FIELDS, account_state
from mtfscalper.trading.reward import REWARD_TERMS, RewardSettings, Transition, reward_terms
from mtfscalper.trading.rules import (
    FLAT,
    Account,
    Candle,
    ExitReason,
    TradingRules,
    equity_at,
    force_exit,
    profit_ratio,
    see_open,
    step,
)

N_CANDLES = 160
ALL_TERMS = RewardSettings(**{f"{name}_weight": 1.0 for name in REWARD_TERMS})
EVERY_RULE: dict[str, Any] = {
    "stoploss_ratio": 0.015,
    "max_trade_duration_candles": 8,
    "leverage_long": 3.0,
    "leverage_short": 2.0,
    "minimal_roi": ((0, 0.03), (15, 0.01)),
    "trailing_stop": True,
    "trailing_stop_positive": 0.008,
    "trailing_stop_positive_offset": 0.012,
}


def play(
    xp: Any, rules: TradingRules, account: Account, actions: list[Any], candles: list[Candle]
) -> list[dict[str, Any]]:
    """Everything the rules, the reward and the observation say, candle by candle."""
    rows = []
    for k in range(len(candles) - 1):
        account = see_open(xp, rules, account, candles[k].open)
        state = account_state(xp, rules, 0.025, account, candles[k].open, True, False)
        if k == len(candles) - 2:
            after, fill = force_exit(xp, rules, account, candles[k])
        else:
            after, fill = step(xp, rules, account, actions[k], candles[k])
        following = candles[k + 1].open
        transition = Transition(
            before=account,
            after=after,
            fill=fill,
            profit_after=profit_ratio(rules, after, following),
            equity_before=equity_at(xp, rules, account, candles[k].open),
            equity_after=equity_at(xp, rules, after, following),
            accepted=account.side == 0,
            declined=account.side != 0,
            range_position=0.25,
        )
        terms = reward_terms(xp, ALL_TERMS, rules.max_trade_duration_candles, transition)
        assert tuple(terms) == REWARD_TERMS
        rows.append(
            dict(zip(ACCOUNT_FIELDS, state, strict=True))
            | {f"account_{name}": value for name, value in after._asdict().items()}
            | {f"fill_{name}": value for name, value in fill._asdict().items()}
            | {f"reward_{name}": value for name, value in terms.items()}
            | {"equity": transition.equity_after}
        )
        account = after
    return rows


@pytest.mark.parametrize("offset_only", [False, True])
@pytest.mark.parametrize("batch", [1, 64])
def test_numpy_in_batches_equals_python_numbers(batch: int, offset_only: bool) -> None:
    rules = make_rules(**EVERY_RULE, trailing_only_offset_is_reached=offset_only)
    rng = np.random.default_rng(batch)
    tapes = [tape_candles(make_tape(random_candles(seed, N_CANDLES))) for seed in range(batch)]
    # Paid every twentieth candle.
    tapes = [[candle._replace(funding=0.05 * (k % 20 == 0)) for k, candle in enumerate(candles)] for candles in tapes]
    actions = rng.integers(0, 5, (N_CANDLES, batch))
    candles = [Candle(*(np.array(values) for values in zip(*row, strict=True))) for row in zip(*tapes, strict=True)]
    flat = Account(*(np.full(batch, value) for value in FLAT))

    together = play(NUMPY, rules, flat, list(actions), candles)
    reasons: Counter[ExitReason] = Counter()
    for member in range(batch):
        alone = play(SCALAR, rules, FLAT, actions[:, member].tolist(), tapes[member])
        for one, many in zip(alone, together, strict=True):
            reasons[ExitReason(one["fill_reason"])] += 1
            same = {name: np.broadcast_to(value, batch)[member] for name, value in many.items()}
            # The logarithms of two libraries may differ in the last bit. Nothing else may.
            assert one.pop("reward_equity") == pytest.approx(same.pop("reward_equity"), rel=1e-13, abs=1e-16)
            assert one == same
    if batch > 1:
        assert set(reasons) == set(ExitReason)
