"""What a strategy asks in ``custom_exit``: the policy's decision on its open trade, in every run mode the same."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, cast

from freqtrade.enums import TRADE_MODES
from freqtrade.exceptions import OperationalException
from freqtrade.exchange import timeframe_to_msecs
from freqtrade.persistence import LocalTrade
from freqtrade.persistence.custom_data import CustomDataWrapper, _CustomData
from freqtrade.strategy import IStrategy

from mtfscalper import artefacts
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.bot_record import Answer, take_bots_timerange
from mtfscalper.freqai.candle_clock import candle_open_ms, milliseconds
from mtfscalper.freqai.decision_record import DecisionRecord, Question
from mtfscalper.freqai.exit_policy import ExitDecision, ExitPolicy, leaves
from mtfscalper.freqai.open_trade import OpenTrade, funding_received
from mtfscalper.freqai.policy_store import PolicyStore
from mtfscalper.freqai.result_cache import never_reuse_results
from mtfscalper.freqai.sharing import Readers
from mtfscalper.freqai.strategy_rules import differences_to_training, settings_of_strategy
from mtfscalper.seals import Seals

logger = logging.getLogger(__name__)

# Of a trade's custom data: the probability that the policy gave leaving, when it left.
PROBABILITY_KEY = "rl_exit_probability"
# Of a bot's open trade: the folder of the policy that decides about it, within the identifier's.
POLICY_KEY = "rl_policy"
# In the place of a plan's name: the backtest of what a bot did has none.
_NO_PLAN = "bot"


class ExitPolicySource(Protocol):
    """Where exit policies come from: the files of a backtest, or the FreqAI model of a bot."""

    def exit_policy(self, pair: str, row_ms: int) -> ExitPolicy | None:
        """What decides about a pair's trades.

        :param row_ms: the last closed candle, milliseconds since 1970
        :return: None where no policy decides, as before a bot's first prediction
        """
        ...


class BotsDecisions(ExitPolicySource, Protocol):
    """What a bot decided, for a backtest that repeats it. Moments are milliseconds since 1970.

    Its exit policies decide about the trades that the bot did not have.
    """

    def had(self, pair: str, entry_ms: int, side: str, candle_ms: int) -> bool:
        """Whether the bot, too, was in a trade as a candle opened.

        :param entry_ms: the candle of its entry
        """
        ...

    def answer(self, pair: str, entry_ms: int, side: str, candle_ms: int) -> Answer:
        """What it decided then."""
        ...

    def last_candle_ms(self, pair: str) -> int:
        """The last candle of the backtest's data."""
        ...


class DecisionLostError(KeyboardInterrupt):
    """A backtest cannot go on.

    freqtrade swallows ordinary exceptions of a strategy's callbacks and trades on; at a ``SystemExit`` its command ends
    with status 0, at this one with 130. The mixin makes an error of freqtrade's of it, with status 2.
    """


@dataclass
class _Followed:
    """The open trade of a pair, and the decision about it at the last candle: a bot asks again every few seconds.

    :ivar identity: what tells it from other trades of its pair
    :ivar policy: that decided last
    :ivar named: what the trade's custom data calls it
    :ivar decided_ms: the candle of ``decision``
    """

    identity: tuple[Any, ...]
    trade: OpenTrade
    policy: ExitPolicy
    named: str = ""
    decided_ms: int = 0
    decision: ExitDecision | None = None


class TradeDecisions:
    """Decisions about open trades, one for each closed candle and trade, none in the entry candle.

    In backtests and hyperopt the policy of the candle's period is found by path; a bot asks the FreqAI model for the
    one that predicted last.
    """

    def __init__(
        self, config: dict[str, Any], strategy: IStrategy, leaves: Callable[[ExitDecision], bool] | None = None
    ) -> None:
        """
        :param config: the freqtrade config, with its run mode
        :param strategy: whose ``custom_exit`` asks
        :param leaves: whether a decision is to leave; None leaves whenever the policy prefers to
        """
        self._strategy = strategy
        self._leaves = leaves
        self._live = config.get("runmode") in TRADE_MODES
        seals = Seals(Path(config["user_data_dir"]), settings_of_strategy(config).rl.trust_models)
        self._store = PolicyStore(Archive.from_config(config), seals)
        self._bots: dict[str, BotsDecisions] = {}
        # By pair, the trade and the candle of the bot's answer that was given last.
        self._repeated: dict[str, tuple[tuple[Any, ...], int]] = {}
        self._warned: set[str] = set()
        take_bots_timerange(config)
        never_reuse_results(config)
        self._record = DecisionRecord.from_config(config, type(strategy).__name__)
        self._begin()

    def _begin(self) -> None:
        self._followed: dict[str, _Followed] = {}
        # Of the backtest at hand: freqtrade's list of custom data, and what of it is ours, by trade.
        self._entries: list[_CustomData] = []
        self._noted: dict[int, _CustomData] = {}
        if self._record is not None:
            # When nobody asks any more, at the latest as the process ends.
            weakref.finalize(self, self._record.close)

    def __getstate__(self) -> dict[str, Any]:
        # Trades are followed anew; a policy is no small thing to copy.
        return {name: value for name, value in vars(self).items() if name not in ("_followed", "_entries", "_noted")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def leave_by(self, leaves: Callable[[ExitDecision], bool]) -> None:
        """Let a rule say which decisions leave, where none was given."""
        self._leaves = self._leaves or leaves

    def follow(self, pair: str, plan: str) -> None:
        """Decide by the policies of a run; see :meth:`mtfscalper.freqai.policy_store.PolicyStore.follow`."""
        self._store.follow(pair, plan)
        self._bots.pop(pair, None)
        self._followed.pop(pair, None)
        if self._record is not None:
            self._record.follow(pair, plan)

    def follow_bot(self, pair: str, bot: BotsDecisions) -> None:
        """Decide about a pair's trades as a bot did, and by no plan of an earlier run."""
        self.follow(pair, _NO_PLAN)
        self._bots[pair] = bot

    def decide(self, trade: LocalTrade, current_time: datetime, current_rate: float) -> ExitDecision | None:
        """Ask the policy about an open trade.

        :param current_rate: as ``custom_exit`` gets it; in a backtest the candle's open
        :return: None in the entry candle, and on candles whose features are incomplete: the trade is held
        :raises DecisionLostError: in backtests, if the policy of the candle is missing or damaged
        """
        # Asked for here: a strategy gets the config's timeframe, and its FreqAI model, after it has been made.
        timeframe_ms = timeframe_to_msecs(self._strategy.timeframe)
        now_ms = candle_open_ms(timeframe_ms, milliseconds(current_time))
        open_ms = milliseconds(trade.open_date_utc)
        if open_ms >= now_ms:
            return None
        followed = self._followed.get(trade.pair)
        identity = (open_ms, trade.is_short, trade.open_rate, trade.leverage)
        bot = self._bots.get(trade.pair)
        if bot is not None:
            entry_ms, side = candle_open_ms(timeframe_ms, open_ms), "short" if trade.is_short else "long"
            if bot.had(trade.pair, entry_ms, side, now_ms):
                answer = bot.answer(trade.pair, entry_ms, side, now_ms)
                # With --timeframe-detail a backtest asks several times in a candle, as a bot does.
                if self._repeated.get(trade.pair) != (identity, now_ms):
                    self._repeated[trade.pair] = identity, now_ms
                    self._note(trade, current_time, answer, now_ms, bot.last_candle_ms(trade.pair))
                return answer.decision
        if followed is not None and followed.identity != identity:
            followed = None
        if followed is not None and followed.decided_ms == now_ms:
            return followed.decision
        if followed is None and self._live and self._record is not None:
            # A bot that was stopped within the candle: it was asked, and may have acted on the answer.
            before = self._record.answered(trade.pair, open_ms, now_ms)
            if before is not None:
                return before.decision
        try:
            row_ms = now_ms - timeframe_ms
            policy = followed.policy if followed is not None else None
            if policy is None or not policy.decides(row_ms):
                source = cast(ExitPolicySource, self._strategy.freqai) if self._live else bot or self._store
                policy = source.exit_policy(trade.pair, row_ms)
            if policy is None:
                return None
            if followed is None:
                rules, leverage = policy.terms.rules, trade.leverage or 1.0
                # A policy decides as it was trained; hyperopt and a restarted bot may trade under other rules.
                others = differences_to_training(self._strategy, leverage, trade.is_short, rules, policy.told_rules)
                for other in sorted(others - self._warned):
                    logger.warning("%s: the policy was trained for another value: %s.", trade.pair, other)
                self._warned |= others
                followed = _Followed(identity, OpenTrade(trade, rules), policy)
                self._followed[trade.pair] = followed
            elif policy is not followed.policy and policy.terms.rules != followed.policy.terms.rules:
                # Its successor was trained for other rules, and is shown the trade by those, from the entry on.
                followed.trade = OpenTrade(trade, policy.terms.rules)
            followed.policy = policy
            if self._live and followed.named != policy.name:
                _note_policy(trade, policy.name)
                followed.named = policy.name
            rate, funding = current_rate, None
            if self._live:
                # Not the book's price: the last close stands for the open of the candle that is forming.
                rate, funding = policy.history.last_close, funding_received(trade)
            decision = policy.decide(followed.trade, now_ms, rate, funding)
        except Exception as error:
            if self._live:
                # The stop on the exchange stays; freqtrade logs this and asks again.
                raise
            raise _lost(trade, current_time, error) from error
        if decision is not None:
            followed.decided_ms, followed.decision = now_ms, decision
            self._note(trade, current_time, Answer(decision, policy.name), now_ms, policy.history.dates_ms[-1])
        return decision

    def _note(self, trade: LocalTrade, current_time: datetime, answer: Answer, now_ms: int, end_ms: int) -> None:
        """Put an answer on record.

        :param now_ms: the candle that opened, milliseconds since 1970, as the next
        :param end_ms: the last candle of a backtest's data
        """
        if self._record is None or answer.decision is None:
            return
        decision = answer.decision
        self._record.add(
            Question(
                pair=trade.pair,
                candle_ms=now_ms,
                opened_ms=milliseconds(trade.open_date_utc),
                side="short" if trade.is_short else "long",
                profit=decision.profit,
                best_profit=decision.best_profit,
                held_candles=decision.held_candles,
                probability=decision.probability,
                leave=self.leaves(trade, current_time, decision),
                policy=answer.policy,
                falls_back=decision.falls_back,
            ),
            end_ms,
        )

    def last(self, pair: str) -> tuple[int, ExitDecision] | None:
        """The last decision about a pair's open trade, and the candle's open, milliseconds since 1970."""
        followed = self._followed.get(pair)
        if followed is None or followed.decision is None:
            return None
        return followed.decided_ms, followed.decision

    def leaves(self, trade: LocalTrade, current_time: datetime, decision: ExitDecision) -> bool:
        """Whether a decision is to leave.

        :raises DecisionLostError: in backtests, if whoever is asked for that fails
        """
        try:
            return leaves(decision, self._leaves)
        except Exception as error:
            if self._live:
                raise
            raise _lost(trade, current_time, error) from error

    def note_exit(self, trade: LocalTrade, decision: ExitDecision) -> None:
        """Leave the probability of an exit in the trade's custom data, as :data:`PROBABILITY_KEY`."""
        if CustomDataWrapper.use_db:
            # A bot asks again while the exit order waits.
            if trade.get_custom_data(PROBABILITY_KEY) != decision.probability:
                trade.set_custom_data(PROBABILITY_KEY, decision.probability)
            return
        # In a backtest that looks through the data of all trades, each time: 10,000 exits took 11 s.
        if self._entries is not CustomDataWrapper.custom_data:
            self._entries, self._noted = CustomDataWrapper.custom_data, {}
        noted = self._noted.get(trade.id)
        if noted is None:
            noted = self._noted[trade.id] = _CustomData(
                ft_trade_id=trade.id, cd_key=PROBABILITY_KEY, cd_type="float", created_at=datetime.now(UTC)
            )
            self._entries.append(noted)
        noted.cd_value = str(decision.probability)

    def at_loop(self, current_time: datetime) -> None:
        """A bot's loop begins, or a candle of a backtest: the record of decisions is written down where it is due."""
        if self._record is not None:
            self._record.at_loop(milliseconds(current_time))

    def close(self) -> None:
        """Write down what is left of the record of decisions."""
        if self._record is not None:
            self._record.close()


def trade_decisions_of(strategy: IStrategy) -> list[TradeDecisions]:
    """Whatever a strategy asks about its open trades, for the mixin or by hand."""
    # A copy: a bot's training thread looks too, while its loop sets attributes.
    return [value for value in list(vars(strategy).values()) if isinstance(value, TradeDecisions)]


def follow_plan(strategy: IStrategy, pair: str, plan: str, archive: Archive) -> None:
    """Let a strategy decide about a pair's trades by the plan of its run, which nobody removes meanwhile.

    :param plan: its name
    :param archive: of the identifier
    """
    with artefacts.told(f"{pair}: that this run is in use"):
        Readers(archive).note(strategy, pair, plan)
    for decisions in trade_decisions_of(strategy):
        decisions.follow(pair, plan)


def check_asks_for_decisions(strategy: IStrategy) -> None:
    """Whether a strategy's open trades are decided about at all with decision_mode "exact".

    :raises OperationalException: if the strategy neither has the mixin nor holds a :class:`TradeDecisions`
    """
    prepare = getattr(strategy, "prepare_to_ask", None)
    if callable(prepare):
        # The mixin's: here already, so that what follows finds it.
        prepare()
    if not trade_decisions_of(strategy):
        name = type(strategy).__name__
        raise OperationalException(
            f"freqai.rl_config.decision_mode is 'exact', and {name} does not ask for decisions about its open trades; "
            f"accepted: `class {name}(PolicyExits, IStrategy)` with mtfscalper.strategy.PolicyExits, or a strategy "
            "that holds mtfscalper.strategy.TradeDecisions and asks it in custom_exit; remedy: add the mixin, or set "
            "decision_mode to 'replay', which writes exits into the columns"
        )


def _note_policy(trade: LocalTrade, name: str) -> None:
    """Leave in a bot's database which policy decides about a trade, whatever settings are deployed after it."""
    if CustomDataWrapper.use_db and trade.get_custom_data(POLICY_KEY) != name:
        trade.set_custom_data(POLICY_KEY, name)


def _lost(trade: LocalTrade, current_time: datetime, error: Exception) -> DecisionLostError:
    message = f"{trade.pair}, {current_time}: no decision about an open trade: {error}"
    # freqtrade's command ends at an interruption without saying why.
    logger.error("%s", message)
    return DecisionLostError(message)
