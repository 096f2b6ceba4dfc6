"""What FreqAI's ``predict`` returns: decisions as columns of a strategy's frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from freqtrade.persistence import LocalTrade

from mtfscalper.envs.episodes import EnvSettings, permitted_entries
from mtfscalper.freqai.columns import (
    ACTION_COLUMN,
    EXIT_COLUMN,
    FALLBACK_COLUMN,
    LONG_ENTER_COLUMN,
    SHORT_ENTER_COLUMN,
)
from mtfscalper.freqai.exit_policy import ExitPolicy, PeriodRows
from mtfscalper.freqai.open_trade import OpenTrade, funding_received
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy.closed_loop import FlatDecisions, decidable_rows, flat_decisions
from mtfscalper.policy.inference import Decider
from mtfscalper.trading.actions import N_ACTIONS, Action

# FreqAI's mark, in do_predict, of a policy that is older than freqai.expiration_hours.
EXPIRED = 2


def prediction_columns(
    labels: Sequence[str],
    actions: npt.NDArray[np.int64],
    flat: FlatDecisions,
    exit_probability: npt.NDArray[np.float32],
    falls_back: bool = False,
) -> pd.DataFrame:
    """The declared columns, one row a candle.

    :param labels: the labels the strategy declares
    :param actions: members of :class:`Action`, shape (n,)
    :param flat: what the policy would do flat, shape (n,)
    :param exit_probability: probability of leaving an open trade, else 0, shape (n,)
    :param falls_back: whether the rules end the policy's trades
    :raises ValueError: for a label that no model here fills
    """
    values = {
        ACTION_COLUMN: actions.astype(np.float64),
        LONG_ENTER_COLUMN: flat.probabilities[:, Action.LONG_ENTER].astype(np.float64),
        SHORT_ENTER_COLUMN: flat.probabilities[:, Action.SHORT_ENTER].astype(np.float64),
        EXIT_COLUMN: exit_probability.astype(np.float64),
        FALLBACK_COLUMN: np.full(len(actions), float(falls_back)),
    }
    unknown = sorted(set(labels) - set(values))
    if unknown:
        raise ValueError(
            f"the strategy's set_freqai_targets declares {', '.join(unknown)}; accepted: {', '.join(values)}; remedy: "
            "declare only these (mtfscalper.strategy.declare_prediction_columns does)"
        )
    return pd.DataFrame({name: values[name] for name in labels})


def period_rows(tape: MarketTape, environment: EnvSettings, n_rows: int) -> PeriodRows:
    """The first rows of a tape, as a policy sees them."""
    long_permitted, short_permitted = permitted_entries(tape, environment)
    return PeriodRows(
        dates_ms=tape.dates_ms[:n_rows],
        decidable=decidable_rows(tape, environment.lookback)[:n_rows],
        long_permitted=long_permitted[:n_rows],
        short_permitted=short_permitted[:n_rows],
        features=tape.features[:n_rows],
    )


def flat_columns(
    labels: Sequence[str],
    decider: Decider,
    tape: MarketTape,
    environment: EnvSettings,
    decidable: npt.NDArray[np.bool_],
    falls_back: bool = False,
) -> pd.DataFrame:
    """What would be done flat at every row, one row a candle; nothing where the policy cannot decide.

    :param decidable: shape (n,), of the tape's first n rows
    :param falls_back: whether the rules end the policy's trades
    """
    decided = np.flatnonzero(decidable)
    flat = flat_decisions(decider, tape, environment, decided)
    actions = np.zeros(len(decidable), dtype=np.int64)
    probabilities = np.zeros((len(decidable), N_ACTIONS), dtype=np.float32)
    actions[decided], probabilities[decided] = flat
    no_trade = np.zeros(len(decidable), dtype=np.float32)
    return prediction_columns(labels, actions, flat._replace(probabilities=probabilities), no_trade, falls_back)


def without_entries(columns: pd.DataFrame) -> pd.DataFrame:
    """Columns that enter nothing; what they say about open trades stays."""
    enters = columns[ACTION_COLUMN].isin([Action.LONG_ENTER, Action.SHORT_ENTER])
    entries = [name for name in (LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN) if name in columns]
    return columns.assign(
        **{ACTION_COLUMN: columns[ACTION_COLUMN].mask(enters, float(Action.NEUTRAL))}, **dict.fromkeys(entries, 0.0)
    )


def decide_in_columns(columns: pd.DataFrame, policy: ExitPolicy, trades: Iterable[LocalTrade], now_ms: int) -> None:
    """Put the decisions about open trades into the last row, where a strategy that reads columns alone finds them.

    :param columns: of flat decisions; changed in place
    :param trades: the pair's open trades
    :param now_ms: the candle that opens after the last row, milliseconds since 1970
    """
    last, rate = columns.index[-1], policy.history.last_close
    for trade in trades:
        columns.loc[last, ACTION_COLUMN] = Action.NEUTRAL
        followed = OpenTrade(trade, policy.terms.rules)
        if followed.open_ms >= now_ms:
            continue
        decision = policy.decide(followed, now_ms, rate, funding_received(trade))
        if decision is None:
            continue
        if decision.leave or decision.held_candles >= policy.terms.rules.max_trade_duration_candles:
            columns.loc[last, ACTION_COLUMN] = Action.SHORT_EXIT if trade.is_short else Action.LONG_EXIT
        if EXIT_COLUMN in columns:
            columns.loc[last, EXIT_COLUMN] = decision.probability
