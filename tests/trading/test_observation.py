"""The trade as the policy sees it."""

import pytest
from builders import make_rules

from mtfscalper.trading.account import FLAT, Account
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.observation import HIGHEST, LOWEST, PROFIT_BOUND, TradeView, observe
from mtfscalper.trading.rules import mark

RULES = make_rules(fee_ratio=0.001, max_trade_duration_candles=20)
VIEW = TradeView(0.02)
LONG = FLAT._replace(side=1.0, leverage=2.0, open_rate=100.0, held_candles=5.0, best_profit=-1.0)


def state(account: Account, open_rate: float, view: TradeView = VIEW) -> dict[str, float]:
    account, profit, _ = mark(SCALAR, RULES, account, open_rate)
    seen = observe(SCALAR, RULES, view, 7, account, profit, True, False)
    assert seen.row == 7
    assert all(low <= value <= high for low, value, high in zip(LOWEST, seen, HIGHEST, strict=True))
    return {name: value for name, value in seen._asdict().items() if name != "row"}


def test_a_trade_shows_its_profit_after_fees_and_leverage_in_units_of_the_aim() -> None:
    seen = state(LONG, 103.0)
    # 2 x (103 x 0.999 / (100 x 1.001) - 1) / 0.02 = 2 x 0.0279421 / 0.02
    assert seen["profit"] == pytest.approx(2.79421, abs=1e-5)
    assert seen["side"] == 1


def test_a_short_shows_a_falling_price_as_profit() -> None:
    seen = state(LONG._replace(side=-1.0), 97.0)
    # 2 x (1 - 97 x 1.001 / (100 x 0.999)) / 0.02 = 2 x 0.0280581 / 0.02
    assert seen["profit"] == pytest.approx(2.80581, abs=1e-5)
    assert seen["side"] == -1


def test_the_best_profit_is_remembered_from_earlier_opens() -> None:
    risen, _, _ = mark(SCALAR, RULES, LONG, 103.0)
    seen = state(risen, 101.0)
    assert seen["best_profit"] == pytest.approx(2.79421, abs=1e-5)
    # 2 x (101 x 0.999 / 100.1 - 1) / 0.02
    assert seen["profit"] == pytest.approx(0.79820, abs=1e-5)


def test_held_is_the_share_of_the_longest_duration_and_never_above_one() -> None:
    assert state(LONG, 100.0)["held"] == 0.25
    assert state(LONG._replace(held_candles=25.0), 100.0)["held"] == 1


def test_permissions_are_shown_as_they_are() -> None:
    seen = state(FLAT, 100.0)
    assert (seen["long_permitted"], seen["short_permitted"]) == (1, 0)


def test_a_flat_account_shows_no_trade_whatever_its_last_one_left() -> None:
    seen = state(FLAT._replace(open_rate=50.0, best_profit=0.5), 100.0)
    assert [seen[name] for name in ("side", "profit", "best_profit", "held")] == [0, 0, 0, 0]


def test_without_state_info_the_policy_knows_its_side_and_what_it_may_do() -> None:
    shown, hidden = state(LONG, 103.0), state(LONG, 103.0, TradeView(0.02, state_info=False))
    assert {name for name in shown if shown[name] != hidden[name]} == {"profit", "best_profit", "held"}
    assert list(hidden.values()) == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(("rate", "bound"), [(1000.0, PROFIT_BOUND), (0.01, -PROFIT_BOUND)])
def test_profits_are_clipped(rate: float, bound: float) -> None:
    assert state(LONG, rate)["profit"] == bound
    assert -PROFIT_BOUND <= state(LONG, rate)["best_profit"] <= PROFIT_BOUND
