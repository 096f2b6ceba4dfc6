"""One function, two array libraries: equal step by step."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from builders import make_tape, random_candles, tape_candles
from equivalence import every_rule

from mtfscalper.trading.account import FLAT, Account, Candle, ExitReason
from mtfscalper.trading.actions import Action, ActionTable
from mtfscalper.trading.arrays import NUMPY, SCALAR, BatchNamespace
from mtfscalper.trading.observation import TradeView, observe
from mtfscalper.trading.reward import TERMS, RewardSettings, Transition, reward_terms, weighted_terms
from mtfscalper.trading.rules import force_exit, mark, profit_ratio, step
from mtfscalper.trading.torch_arrays import TorchNamespace
from mtfscalper.trading.trading_rules import TradingRules

N_CANDLES = 160
NAMESPACES = [pytest.param(NUMPY, id="numpy"), pytest.param(TorchNamespace(), id="torch")]
ALL_TERMS = RewardSettings(**{f"{name}_weight": 1.0 for name in TERMS})
DECLINED = int(ActionTable.permission_offset(np.bool_(True), np.bool_(False))) + Action.NEUTRAL
IMPOSSIBLE = DECLINED + 5 + Action.LONG_ENTER


def play(
    xp: Any, rules: TradingRules, account: Account, actions: list[Any], candles: list[Candle]
) -> list[dict[str, Any]]:
    """Everything the rules, the reward and the observation say, candle by candle."""
    rows = []
    table = ActionTable.from_entry_mode("gated")
    laid_out = np.ndarray.tolist if xp is SCALAR else xp.asarray
    table = ActionTable(*map(laid_out, table))
    for k in range(len(candles) - 1):
        account, profit, equity = mark(xp, rules, account, candles[k].open)
        seen = observe(xp, rules, TradeView(0.025), k, account, profit, True, False)
        if k == len(candles) - 2:
            after, fill = force_exit(xp, rules, account, candles[k])
        else:
            after, fill = step(xp, rules, account, actions[k], candles[k])
        following = candles[k + 1].open
        _, profit_after, equity_after = mark(xp, rules, after, following)
        transition = Transition(
            before=account,
            after=after,
            fill=fill,
            profit_after=profit_after,
            equity_before=equity,
            equity_after=equity_after,
            range_position=0.25,
            max_trade_duration_candles=rules.max_trade_duration_candles,
            staked_ratio=rules.staked_ratio,
            # Flat, an entry is declined; in a trade an impossible entry is asked for.
            asked=xp.to_index(xp.where(account.side == 0, DECLINED, IMPOSSIBLE)),
            actions=table,
        )
        terms = reward_terms(xp, ALL_TERMS, weighted_terms(ALL_TERMS), transition)
        assert set(terms) == set(TERMS)
        rows.append(
            seen._asdict()
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
    # With little leverage the stops lie beyond these liquidations.
    liquidations = {"liquidation_long": 0.995, "liquidation_short": 1.008}
    rules = every_rule(max_drawdown_ratio=0.5, trailing_only_offset_is_reached=offset_only, **liquidations)
    rng = np.random.default_rng(batch)
    tapes = [tape_candles(make_tape(random_candles(seed, N_CANDLES))) for seed in range(batch)]
    # Paid every twentieth candle.
    tapes = [[candle._replace(funding=0.05 * (k % 20 == 0)) for k, candle in enumerate(candles)] for candles in tapes]
    actions = rng.integers(0, 5, (N_CANDLES, batch))
    candles = [
        Candle(*(None if values[0] is None else np.array(values) for values in zip(*row, strict=True)))
        for row in zip(*tapes, strict=True)
    ]
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


@pytest.mark.parametrize("xp", NAMESPACES)
@pytest.mark.parametrize("holds", [0.0, 0.3, 1.0])
def test_where_each_is_where_of_each_pair_and_leaves_what_it_is_given(xp: BatchNamespace, holds: float) -> None:
    rng = np.random.default_rng(0)
    condition, rates, other = rng.random(9) < holds, rng.random(9), rng.random(9)
    pairs = ((rates, other), (0.5, other), (False, rates > 0.5), (rates > 0.5, other > 0.5))
    given = [[xp.asarray(value) if isinstance(value, np.ndarray) else value for value in pair] for pair in pairs]
    chosen = xp.where_each(xp.asarray(condition), *zip(*given, strict=True))
    for (when_true, when_false), got in zip(pairs, chosen, strict=True):
        assert xp.to_numpy(got).dtype == when_false.dtype
        np.testing.assert_array_equal(xp.to_numpy(got), np.where(condition, when_true, when_false))
    np.testing.assert_array_equal(other, xp.to_numpy(given[0][1]))
    for member in range(9):
        ours, theirs = ([np.broadcast_to(value, 9)[member] for value in side] for side in zip(*pairs, strict=True))
        assert [xp.to_numpy(got)[member] for got in chosen] == SCALAR.where_each(condition[member], ours, theirs)


@pytest.mark.parametrize("xp", NAMESPACES)
@pytest.mark.parametrize("holds", [0, 1, 3])
def test_if_any_spares_only_what_nobody_needs(xp: BatchNamespace, holds: int) -> None:
    mask = np.arange(3) < holds
    assert xp.if_any(xp.asarray(mask), lambda: "worked out", "spared") == (
        "worked out" if holds or isinstance(xp, TorchNamespace) else "spared"
    )
    assert SCALAR.if_any(bool(mask[0]), lambda: "worked out", "spared") == ("worked out" if holds else "spared")


def test_mark_sees_the_open_and_values_the_trade_there() -> None:
    rules = every_rule(fee_ratio=0.001, leverage_short=3.0)
    account = FLAT._replace(side=-1.0, leverage=3.0, open_rate=100.0, best_profit=0.01, funding=0.2, stake=0.9)
    for open_rate in (95.0, 100.0, 130.0):
        seen, profit, equity = mark(SCALAR, rules, account, open_rate)
        assert profit == profit_ratio(rules, account, open_rate)
        assert seen == account._replace(best_profit=max(0.01, profit))
        # The stake refers to the open value without its fee, here of a short.
        assert equity == 1 + profit * 0.9 * (1 - 0.001)
