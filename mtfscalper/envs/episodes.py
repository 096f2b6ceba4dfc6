"""Where episodes begin, decide and end on a tape: worked out once, for every form of the environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mtfscalper.market.lookback import range_position
from mtfscalper.market.tape import EXIT_COLUMNS, MarketTape, TapeError
from mtfscalper.trading.account import Candle
from mtfscalper.trading.actions import ActionTable, entry_permissions
from mtfscalper.trading.arrays import BatchNamespace
from mtfscalper.trading.episode import Market, Scene
from mtfscalper.trading.observation import TradeView
from mtfscalper.trading.own_reward import OwnReward
from mtfscalper.trading.reward import RewardSettings, weighted_terms
from mtfscalper.trading.rules import may_run_out
from mtfscalper.trading.trading_rules import TradingRules
from mtfscalper.user_code import UserCode


@dataclass(frozen=True)
class EnvSettings:
    """What an environment is made of, beside its tape.

    :ivar lookback: candles of features an observation stands for
    :ivar random_start: whether every episode starts at a random candle, or only the first after a seeded reset
    :ivar own_terms: the functions that ``reward.terms`` names
    :ivar state_info: whether observations show the trade's profits and age (``add_state_info``)
    :ivar record_trades: whether the last info of an episode lists its closed trades
    :ivar own_reward: pays in the place of ``reward``'s terms, one account at a time; None where these do
    """

    rules: TradingRules
    reward: RewardSettings
    entry_mode: str
    lookback: int
    random_start: bool = False
    record_trades: bool = False
    state_info: bool = True
    own_terms: tuple[UserCode, ...] = ()
    own_reward: OwnReward | None = None

    @cached_property
    def view(self) -> TradeView:
        """How trades are shown."""
        return TradeView(self.reward.profit_aim, self.state_info)


def scene_on(
    market: Market,
    settings: EnvSettings,
    next_entry: npt.NDArray[np.int64] | None = None,
    xp: BatchNamespace | None = None,
) -> Scene:
    """The stage on which accounts trade a market.

    :param next_entry: where a flat account goes on to, see :class:`mtfscalper.trading.episode.Scene`
    :param xp: the namespace of many accounts; None for one account, in Python's numbers
    :raises ValueError: if many accounts shall be paid by a reward that is asked about one
    """
    if xp is not None and settings.own_reward is not None:
        raise ValueError(
            "own_reward is asked about one account at a time, and these environments step many at once; accepted: "
            "vec_env 'subproc' or 'dummy'; remedy: set one of them"
        )

    def laid_out(values: npt.NDArray[Any]) -> Any:
        return values.tolist() if xp is None else xp.asarray(values)

    return Scene(
        rules=settings.rules,
        reward=settings.reward,
        terms=() if settings.own_reward is not None else weighted_terms(settings.reward, settings.own_terms),
        entry_mode=settings.entry_mode,
        actions=ActionTable(*map(laid_out, ActionTable.from_entry_mode(settings.entry_mode))),
        moments=market.one_by_one() if xp is None else market.in_batches(xp),
        next_entry=None if next_entry is None else laid_out(next_entry),
    )


def permitted_entries(
    tape: MarketTape, settings: EnvSettings, rows: npt.NDArray[np.int64] | slice = slice(None)
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Where long and short entries are permitted at the open of the candle after a row, each of shape (n_rows,)."""

    def of_rows(signal: npt.NDArray[np.bool_] | None) -> Any:
        return None if signal is None else signal[rows]

    return entry_permissions(
        settings.entry_mode,
        settings.rules.can_short,
        of_rows(tape.long_signal),
        of_rows(tape.short_signal),
        gates=(of_rows(tape.long_gate), of_rows(tape.short_gate)),
        exits=(of_rows(tape.long_exit), of_rows(tape.short_exit)),
    )


def candles_of(tapes: Sequence[MarketTape]) -> Candle:
    """The candles of tapes laid end to end, as columns of shape (n_candles,).

    :raises TapeError: if only some of the tapes say what the others leave to the rules
    """
    columns: dict[str, Any] = {}
    for name in Candle._fields:
        parts = [getattr(tape, name) for tape in tapes]
        has = [part is not None for part in parts]
        if not any(has):
            continue
        if name in (*EXIT_COLUMNS, "funding_within"):
            parts = [np.zeros(len(tape)) if part is None else part for tape, part in zip(tapes, parts, strict=True)]
        elif not all(has):
            raise TapeError(
                f"{tapes[has.index(False)].pair} has no {name} for each candle, as {tapes[has.index(True)].pair} has; "
                "accepted: tapes of one strategy; remedy: train the pairs apart"
            )
        # A signal at the close of row k - 1 is carried out at the open of candle k.
        columns[name] = np.roll(np.concatenate(parts), 1 if name in EXIT_COLUMNS else 0)
    return Candle(**columns)


class Segment(NamedTuple):
    """A gap-free run of candles that can be played.

    :ivar first: the first candle that can be decided
    :ivar last: the candle that ends an episode
    """

    pair: str
    first: int
    last: int


class Start(NamedTuple):
    """The beginning of an episode: a segment and a candle of it."""

    segment: int
    candle: int


@dataclass(frozen=True, eq=False)
class EpisodeMap:
    """The candles of one or more tapes laid end to end, and what can be decided on them.

    :ivar dates_ms: opening times, shape (n_candles,), as every array here
    :ivar next_entry: the candle itself where an entry is permitted, else the next such candle of its segment, else
        the segment's last
    """

    timeframe_ms: int
    dates_ms: npt.NDArray[np.int64]
    market: Market
    segments: tuple[Segment, ...]
    next_entry: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.dates_ms)

    @classmethod
    def from_tapes(cls, tapes: MarketTape | Sequence[MarketTape], settings: EnvSettings) -> EpisodeMap:
        """Find the segments that can be played, and their decisions.

        :param tapes: one, or one for each pair, of one timeframe
        :raises TapeError: if no segment has room for a decision, or no entry is ever permitted
        """
        if isinstance(tapes, MarketTape):
            tapes = [tapes]
        timeframes = {tape.timeframe_ms for tape in tapes}
        if len(timeframes) != 1:
            raise TapeError(
                f"the tapes of a batch have candles of {sorted(timeframes)} ms; accepted: one timeframe; "
                "remedy: give every pair the same timeframe"
            )
        permissions = [permitted_entries(tape, settings) for tape in tapes]
        long_permitted, short_permitted = (np.concatenate(side) for side in zip(*permissions, strict=True))
        permitted = long_permitted | short_permitted
        n = len(permitted)
        segments = []
        next_entry = np.full(n, n, dtype=np.int64)
        offset = 0
        for tape in tapes:
            for start, stop in tape.segments:
                first, last = offset + start + settings.lookback, offset + stop - 1
                if last <= first:
                    continue
                # Decision k needs a permission at row k - 1.
                candidates = np.arange(first, last)[permitted[first - 1 : last - 1]]
                if len(candidates):
                    segments.append(Segment(tape.pair, first, last))
                    at = np.searchsorted(candidates, np.arange(first, last))
                    next_entry[first:last] = np.append(candidates, last)[at]
            offset += len(tape)
        if not segments:
            raise TapeError(_no_decision(tapes, settings, permitted))
        next_entry = np.minimum(next_entry, n - 1)
        for segment in segments:
            next_entry[segment.last] = segment.last
        size = settings.reward.timing_candles
        return cls(
            timeframe_ms=timeframes.pop(),
            dates_ms=np.concatenate([tape.dates_ms for tape in tapes]),
            market=Market(
                candles_of(tapes),
                # Of each pair alone: a range never looks back into another one.
                np.concatenate([range_position(tape.high, tape.low, tape.open, size) for tape in tapes]),
                long_permitted,
                short_permitted,
            ),
            segments=tuple(segments),
            next_entry=next_entry,
        )

    def scene(self, settings: EnvSettings, xp: BatchNamespace | None = None) -> Scene:
        """The stage of the episodes, see :func:`scene_on`."""
        always_permitted = (self.market.long_permitted | self.market.short_permitted).all()
        jumps = may_run_out(settings.rules) or not always_permitted
        return scene_on(self.market, settings, self.next_entry if jumps else None, xp)

    def random_start(self, generator: np.random.Generator) -> Start:
        """Any candle that can be decided, each as likely as the others."""
        lengths = np.array([last - first for _, first, last in self.segments], dtype=np.float64)
        segment = int(generator.choice(len(lengths), p=lengths / lengths.sum()))
        _, first, last = self.segments[segment]
        return Start(segment, int(generator.integers(first, last)))

    def start_after(self, segment: int) -> Start:
        """The first candle of the next segment, in turn."""
        following = (segment + 1) % len(self.segments)
        return Start(following, self.segments[following].first)

    def no_living_trade(self) -> TapeError:
        """The error of candles on which classic entries never leave anything to decide."""
        pairs = ", ".join(dict.fromkeys(segment.pair for segment in self.segments))
        return TapeError(
            f"{pairs}: every trade of {len(self)} candles ends in its entry candle, so that there is "
            "nothing to decide; accepted: a stop and ROI that let a trade live; remedy: widen the strategy's stoploss"
        )


def _no_decision(tapes: Sequence[MarketTape], settings: EnvSettings, permitted: npt.NDArray[np.bool_]) -> str:
    pairs = ", ".join(tape.pair for tape in tapes)
    if not permitted.any() and settings.entry_mode == "agent":
        return (
            f"{pairs}: at none of {len(permitted)} candles does the strategy enter where the policy would, by its own "
            "conditions in populate_entry_trend; accepted: at least one; remedy: loosen them, or train on more days"
        )
    if not permitted.any():
        return (
            f"{pairs}: none of {len(permitted)} candles carries a classic signal, so that entry_mode "
            f"{settings.entry_mode!r} permits no entry; accepted: at least one; remedy: loosen the signals' "
            "thresholds, train on more days, or set freqai.rl_config.entry_mode to 'agent'"
        )
    longest = max((stop - start for tape in tapes for start, stop in tape.segments), default=0)
    return (
        f"{pairs}: the longest run of candles without a gap has {longest}, and no entry is permitted inside "
        f"one; accepted: runs longer than conv_width + 2 = {settings.lookback + 2} candles with a signal; "
        "remedy: train on more days, or download the missing candles"
    )
