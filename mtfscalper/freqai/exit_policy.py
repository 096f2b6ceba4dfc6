"""An exit policy: a trained policy over the candles of its period, asked about one open trade at a time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.freqai.open_trade import OpenTrade, PriceHistory
from mtfscalper.trading.account import Account
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import NUMPY, SCALAR
from mtfscalper.trading.observation import Observation, TradeView, observe
from mtfscalper.trading.rules import profit_ratio
from mtfscalper.trading.trading_rules import TradingRules

if TYPE_CHECKING:
    # Importing it imports torch, which a strategy that only reads columns does without.
    from mtfscalper.policy.inference import TradeDecider, TradeDecision

# How many candles ahead a trade's questions are answered in one go: the time goes into reading the network's weights
# from memory, and one reading serves them all.
PREPARED_CANDLES = 32


class ExitDecision(NamedTuple):
    """The policy on an open trade at a candle's open.

    :ivar leave: whether the policy prefers to leave
    :ivar probability: which it gives leaving
    :ivar profit: ratio to the stake if closed at this open, costs and leverage included
    :ivar best_profit: highest such ratio at the opens so far
    :ivar held_candles: candles since the entry candle
    :ivar falls_back: whether the rules end the trades of this policy, whatever it prefers: it never leaves
    """

    leave: bool
    probability: float
    profit: float
    best_profit: float
    held_candles: int
    falls_back: bool = False


def leaves(decision: ExitDecision, own: Callable[[ExitDecision], bool] | None) -> bool:
    """Whether a decision is to leave: the strategy's own word counts, but not of a policy that has fallen back.

    :param own: the strategy's; None takes what the policy prefers
    """
    return decision.leave if own is None or decision.falls_back else bool(own(decision))


class TradeTerms(NamedTuple):
    """How a trade is shown to the policy that was trained for it.

    :ivar lookback: candles in an observation
    :ivar model_type: stable-baselines3's algorithm
    """

    rules: TradingRules
    view: TradeView
    lookback: int
    model_type: str

    @classmethod
    def from_environment(cls, environment: EnvSettings, model_type: str) -> TradeTerms:
        """The terms of a training."""
        return cls(environment.rules, environment.view, environment.lookback, model_type)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TradeTerms:
        """The terms that :meth:`as_json` wrote.

        :raises TypeError: if another version of this package wrote them, as KeyError
        """
        rules = dict(value["rules"])
        rules["minimal_roi"] = tuple((start, ratio) for start, ratio in rules["minimal_roi"])
        return cls(**{**value, "rules": TradingRules(**rules), "view": TradeView(*value["view"])})

    def as_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads."""
        return self._asdict() | {"rules": asdict(self.rules)}


class PeriodRows(NamedTuple):
    """The rows of a period, as its policy sees them; arrays of shape (n_rows,) but for the features.

    :ivar decidable: whether the whole lookback of candles up to the row is there
    :ivar features: scaled, float32, shape (n_rows, n_features)
    """

    dates_ms: npt.NDArray[np.int64]
    decidable: npt.NDArray[np.bool_]
    long_permitted: npt.NDArray[np.bool_]
    short_permitted: npt.NDArray[np.bool_]
    features: npt.NDArray[np.float32]


class DecidingPeriod:
    """A policy over the rows of its period.

    :ivar first_ms: the first row that it decides on
    :ivar stop_ms: the first row that it no longer decides on
    :ivar decider: the policy, asked about open trades
    :ivar row_of: time of a closed candle to its row, of those whose whole lookback is there
    :ivar long_permitted: whether a long entry is permitted on a row, as ``short_permitted``
    """

    def __init__(self, first_ms: int, stop_ms: int, rows: PeriodRows, decider: TradeDecider) -> None:
        self.first_ms, self.stop_ms = first_ms, stop_ms
        self.decider = decider
        # A dictionary and lists, because single look-ups in NumPy arrays are slow. One flat list for each side rather
        # than a pair for each row: thousands of small tuples would start Python's garbage collector again and again.
        decidable = rows.decidable.nonzero()[0]
        self.row_of = dict(zip(rows.dates_ms[decidable].tolist(), decidable.tolist(), strict=True))
        self.long_permitted, self.short_permitted = rows.long_permitted.tolist(), rows.short_permitted.tolist()


class ExitPolicy:
    """Terms, price history and period: all that is needed to decide about an open trade.

    :ivar name: where the policy lies: for a bot its folder's name in FreqAI's, in a backtest its folder in the archive
    :ivar told_rules: names of rules that it was not trained for, and of which that has been told

    In a backtest :class:`mtfscalper.freqai.policy_store.PolicyStore` makes one for each period, from files; for a bot
    :mod:`mtfscalper.freqai.live` makes one at each closed candle, from the policy in memory.
    """

    def __init__(
        self,
        terms: TradeTerms,
        history: PriceHistory,
        period: DecidingPeriod,
        name: str = "",
        *,
        falls_back: bool = False,
        told_rules: frozenset[str] = frozenset(),
    ) -> None:
        self.name, self.falls_back, self.told_rules = name, falls_back, told_rules
        self.terms = terms
        self.history = history
        self.period = period
        # Of the trade asked about last, by candle: what will be seen there, and the answer to it.
        self._prepared: dict[int, tuple[Observation, TradeDecision]] = {}
        self._prepared_for: OpenTrade | None = None

    def decides(self, row_ms: int) -> bool:
        """Whether a row belongs to its period.

        :param row_ms: milliseconds since 1970
        """
        return self.period.first_ms <= row_ms < self.period.stop_ms

    def decide(
        self, trade: OpenTrade, now_ms: int, now_rate: float, funding: float | None = None
    ) -> ExitDecision | None:
        """The policy's decision about a trade at the open of a candle after that of its entry.

        :param now_ms: the candle that opens, milliseconds since 1970
        :param now_rate: its open
        :param funding: on one unit of the asset until now, where the trade knows better than the history
        :return: None where the lookback of features before the candle is not whole
        """
        terms, history, period = self.terms, self.history, self.period
        row = period.row_of.get(now_ms - history.timeframe_ms)
        if row is None:
            return None
        account, profit = trade.at(history, now_ms, now_rate, funding)
        permitted = period.long_permitted[row], period.short_permitted[row]
        seen = observe(SCALAR, terms.rules, terms.view, row, account, profit, *permitted)
        known = None
        # A backtest knows the opens to come; a bot's history ends before the candle that opens now.
        if now_ms <= history.dates_ms[-1]:
            if self._prepared_for is not trade or now_ms not in self._prepared:
                self._prepared, self._prepared_for = self._prepare(account, now_ms), trade
            known = self._prepared.pop(now_ms, None)
        if known is not None and known[0] == seen:
            action, probability = known[1]
        else:
            [(action, probability)] = period.decider.decide([seen])
        return ExitDecision(
            leave=action != Action.NEUTRAL and not self.falls_back,
            probability=probability,
            profit=profit,
            best_profit=account.best_profit,
            held_candles=int(account.held_candles),
            falls_back=self.falls_back,
        )

    def _prepare(self, now: Account, now_ms: int) -> dict[int, tuple[Observation, TradeDecision]]:
        """The answers to the questions of this candle and the next ones, if the trade lives so long.

        Each answer is worked out from the state at its own open, and is given only if that is the state then; one pass
        through the network's weights serves them all.

        :param now: the trade's account at the open of this candle, whose features are there
        """
        terms, history, period = self.terms, self.history, self.period
        first = bisect_left(history.dates_ms, now_ms)
        dates_ms = history.dates_ms[first : first + PREPARED_CANDLES]
        found = (period.row_of.get(date_ms - history.timeframe_ms) for date_ms in dates_ms)
        # Up to where a lookback of features is not whole, or the policy's own period ends.
        rows = [row for row in takewhile(lambda row: row is not None, found) if row is not None]
        n = len(rows)
        due = np.array(history.funding[first : first + n - 1])
        if history.funding_within:
            due = due + np.array(history.funding_within[first : first + n - 1])
        accounts = now._replace(
            funding=np.cumsum(np.append(now.funding, -now.side * due)),
            held_candles=now.held_candles + np.arange(n),
        )
        profits = profit_ratio(terms.rules, accounts, np.array(history.open[first : first + n]))
        best = np.maximum.accumulate(np.maximum(profits, now.best_profit))
        accounts = accounts._replace(best_profit=best)
        permitted = np.array([(period.long_permitted[row], period.short_permitted[row]) for row in rows]).T
        columns = observe(NUMPY, terms.rules, terms.view, np.array(rows), accounts, profits, *permitted)
        seen = list(map(Observation._make, np.stack(np.broadcast_arrays(*columns), axis=1).tolist()))
        answers = zip(seen, period.decider.decide(seen), strict=True)
        return dict(zip(dates_ms, answers, strict=False))
