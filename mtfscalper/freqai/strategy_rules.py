"""The trading rules of a strategy: read from what freqtrade will trade."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from freqtrade.constants import UNLIMITED_STAKE_AMOUNT
from freqtrade.enums import TRADE_MODES
from freqtrade.exceptions import OperationalException
from freqtrade.exchange import Exchange, timeframe_to_minutes, timeframe_to_seconds
from freqtrade.strategy import IStrategy
from freqtrade.util import get_dry_run_wallet
from pandas import DataFrame

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.freqai.as_traded import Historic
from mtfscalper.freqai.bot_record import live_models_complaints
from mtfscalper.freqai.candles import PairCandles
from mtfscalper.freqai.entry_terms import Asker, EntryTerms, Stake
from mtfscalper.freqai.exit_policy import TradeTerms
from mtfscalper.freqai.own_reward_keys import without_own_keys
from mtfscalper.freqai.unconnected import pairs_of
from mtfscalper.freqai.written_config import as_written, not_written
from mtfscalper.market.tape import EXIT_COLUMNS, GATE_COLUMNS
from mtfscalper.settings import RLSettings, Settings, SettingsError
from mtfscalper.trading.reward import load_own_terms
from mtfscalper.trading.rules_text import rules_text
from mtfscalper.trading.trading_rules import RulesError, TradingRules
from mtfscalper.user_code import UserCode, UserCodeError, forget_user_code

if TYPE_CHECKING:
    from mtfscalper.freqai.own_reward import UsersReward
    from mtfscalper.policy.user_network import UserNetwork

logger = logging.getLogger(__name__)

_DAY_SECONDS = 86_400
_CANDLE_COLUMNS = ["date", "open", "high", "low", "close", "volume"]
# What freqtrade's own environments take where they are told of none.
_UNKNOWN_FEE = 0.0015
# What freqtrade calls otherwise than a policy's rules.
_NAMES_OF_RULES = {"stoploss": "stoploss_ratio"}


def settings_of_config(config: dict[str, Any], *, own_reward: bool = False) -> Settings:
    """The settings of a freqtrade config, wrong ones as the kind of error freqtrade prints and stops at.

    :param own_reward: whether the model's reward is the user's own, whose parameters are not checked
    :raises OperationalException: naming every wrong key, the value, the values accepted and the remedy
    """
    written = as_written(config)
    try:
        settings = Settings.from_config(without_own_keys(written) if own_reward else written, _unknown_arguments)
        UserParts.from_settings(settings, config)
    except (SettingsError, UserCodeError) as error:
        raise OperationalException(f"The config cannot be used:\n{error}") from error
    complaints = [*not_written(config)]
    complaints += [*_period_complaints(settings, config), *live_models_complaints(settings, config)]
    if complaints:
        raise OperationalException("The config cannot be used:\n" + "\n".join(complaints))
    return settings


def settings_of_strategy(config: dict[str, Any]) -> Settings:
    """What a strategy reads of its config: not the parameters of a reward, which may be those of the user's own.

    Whether they are, the FreqAI model knows, and checks them.

    :raises OperationalException: as :func:`settings_of_config`, naming everything that is wrong
    """
    try:
        return settings_of_config(config)
    except OperationalException:
        if not (config.get("freqai") or {}).get("enabled", False):
            raise
        with suppress(OperationalException):
            return settings_of_config(config, own_reward=True)
        raise


def _period_complaints(settings: Settings, config: Mapping[str, Any]) -> Iterator[str]:
    """Complaints about periods too short for a candle or for an episode.

    :param config: the freqtrade config; until a strategy has said its timeframe there may be none
    """
    timeframe = config.get("timeframe")
    if timeframe is None:
        return
    candle = timeframe_to_seconds(timeframe)
    if settings.backtest_period_days * _DAY_SECONDS < candle:
        yield (
            f"freqai.backtest_period_days is {settings.backtest_period_days!r}, shorter than a candle of {timeframe}; "
            f"accepted: number >= {candle / _DAY_SECONDS:.6f}; remedy: raise it"
        )
    candles = settings.train_period_days * _DAY_SECONDS // candle
    plan = settings.fold_plan
    if candles < settings.candles_needed and plan is not None:
        key = "fallback" if settings.rl.evaluation_folds is None else "evaluation_folds"
        yield (
            f"freqai.rl_config.{key} is {getattr(settings.rl, key)!r}, with which a training needs "
            f"{settings.candles_needed} candles (beside each held-out stretch lies an embargo of "
            f"{plan.embargo_candles}, conv_width + max_trade_duration_candles); accepted: what needs at most the "
            f"{candles} candles of {timeframe} in freqai.train_period_days {settings.train_period_days}; remedy: raise "
            "train_period_days, or hold out fewer stretches or another share (data_split_parameters.test_size)"
        )
    elif candles < settings.candles_needed:
        yield (
            f"freqai.conv_width is {settings.lookback!r}, with which a training needs {settings.candles_needed} "
            f"candles (conv_width + 2, beside the share {settings.test_size} held out); accepted: what needs at most "
            f"the {candles} candles of {timeframe} in freqai.train_period_days {settings.train_period_days}; remedy: "
            "lower conv_width or raise train_period_days"
        )


class UserParts(NamedTuple):
    """The user's own code that a config names.

    :ivar terms: of the reward
    :ivar network: a features extractor, None for none
    :ivar reward: of the FreqAI model's own environment, None for none
    """

    terms: tuple[UserCode, ...]
    network: UserNetwork | None
    reward: UsersReward | None = None

    @classmethod
    def from_settings(
        cls, settings: Settings, config: Mapping[str, Any], reward: UsersReward | None = None
    ) -> UserParts:
        """
        :param config: the freqtrade config, with its user directory
        :param reward: of the FreqAI model's own environment
        :raises UserCodeError: if something cannot be loaded
        """
        rl = settings.rl
        if not rl.model_reward_parameters.terms and rl.network is None:
            return cls((), None, reward)
        user_data = Path(config["user_data_dir"])
        forget_user_code()
        network = None
        if rl.network is not None:
            # Imports torch, which a strategy without a network of the user's can do without.
            from mtfscalper.policy.user_network import UserNetwork

            network = UserNetwork.from_name(rl.network, user_data)
        return cls(load_own_terms(rl.model_reward_parameters, user_data), network, reward)

    @property
    def codes(self) -> tuple[UserCode, ...]:
        """All of it."""
        parts = [part.code for part in (self.network, self.reward) if part is not None]
        return (*self.terms, *parts)


def _unknown_arguments(model_type: str, arguments: Mapping[str, Any]) -> list[str]:
    # Imports torch, which a strategy with PPO can do without.
    from mtfscalper.policy.algorithms import unknown_arguments

    return unknown_arguments(model_type, arguments)


class PairTerms:
    """How the trades of a strategy are learned, pair by pair; its rules are read once."""

    def __init__(
        self,
        strategy: IStrategy,
        config: dict[str, Any],
        exchange: Exchange,
        settings: Settings,
        own_terms: tuple[UserCode, ...],
    ) -> None:
        """
        :param config: the freqtrade config
        :param exchange: where the fee and the leverage tiers come from
        :param own_terms: of the reward
        """
        self._own_terms = own_terms
        self._strategy, self._config, self._exchange, self.settings = strategy, config, exchange, settings
        self._asker = Asker(strategy, config, exchange)
        self._rules_by_pair: dict[str, TradingRules] = {}
        self._has_signals: dict[str, bool] = {}

    def read(self, candles: PairCandles, frame: DataFrame, historic: Historic | None = None) -> PairCandles:
        """Read the rules of a pair's trades from what the strategy says of them on its candles.

        :param frame: of the candles: ``date``, open, high, low, close, volume; one row a candle
        :param historic: see :func:`mtfscalper.freqai.as_traded.signals_of`
        :return: the candles, with what is not the same at all of them
        :raises OperationalException: if trades under the rules cannot be learned
        """
        pair = candles.pair
        try:
            stake = stake_of_config(self._strategy, self._config)
            asked = frame[_CANDLE_COLUMNS].reset_index(drop=True)
            policy_enters = self.settings.rl.entry_mode != "classic"
            terms = self._asker.terms(pair, asked, stake, historic, policy_enters=policy_enters)
            rules = rules_of_strategy(self._strategy, self._config, self._exchange, pair, self.settings.rl, terms)
        except RulesError as error:
            raise OperationalException(f"The trades of {pair} cannot be learned: {error}") from error
        if rules != self._rules_by_pair.get(pair):
            alike = next((other for other, its in self._rules_by_pair.items() if its == rules and other != pair), None)
            said = f"as {alike}" if alike else rules_text(rules)
            logger.info("%s is trained as it is traded: %s.", pair, said)
        self._rules_by_pair[pair] = rules
        self._has_signals[pair] = not set(terms.columns).isdisjoint(GATE_COLUMNS + EXIT_COLUMNS)
        return candles._replace(traded=terms.columns)

    def with_signals(self, candles: PairCandles, frame: DataFrame) -> PairCandles:
        """The candles that a bot decides on, with the strategy's own conditions for entries and exits.

        :param frame: as for :meth:`read`
        """
        if not self._has_signals.get(candles.pair, True):
            return candles
        asked = frame[_CANDLE_COLUMNS].reset_index(drop=True)
        columns = self._asker.signal_columns(candles.pair, asked)
        self._has_signals.setdefault(candles.pair, bool(columns))
        return candles._replace(traded=asked[["date"]].assign(**columns))

    def rules(self, pair: str) -> TradingRules:
        """The rules of a pair, as they were read last.

        :raises OperationalException: if trades under them cannot be learned
        """
        if pair not in self._rules_by_pair:
            # A bot decides by the policy of an earlier run before it trains.
            self._rules_by_pair[pair] = self.rules_at_all_candles(pair)
        return self._rules_by_pair[pair]

    def rules_at_all_candles(self, pair: str) -> TradingRules:
        """The rules of a pair without what the strategy says of single candles, which only a training reads.

        :raises OperationalException: if trades under them cannot be learned
        """
        try:
            return rules_of_strategy(self._strategy, self._config, self._exchange, pair, self.settings.rl)
        except RulesError as error:
            raise OperationalException(f"The trades of {pair} cannot be learned: {error}") from error

    def environment(self, pair: str) -> EnvSettings:
        """What the environments of a pair's training are made of."""
        rl = self.settings.rl
        assert rl.entry_mode != "auto", "the strategy decides it, see mtfscalper.freqai.entry_modes"
        return EnvSettings(
            rules=self.rules(pair),
            reward=rl.model_reward_parameters,
            entry_mode=rl.entry_mode,
            lookback=self.settings.lookback,
            random_start=rl.randomize_starting_position,
            state_info=rl.add_state_info,
            own_terms=self._own_terms,
        )

    def terms(self, pair: str) -> TradeTerms:
        """How a trade is shown to the policy that is trained now."""
        return TradeTerms.from_environment(self.environment(pair), self.settings.rl.model_type)


def rules_of_strategy(
    strategy: IStrategy,
    config: dict[str, Any],
    exchange: Exchange,
    pair: str,
    rl: RLSettings,
    terms: EntryTerms | None = None,
) -> TradingRules:
    """The rules under which freqtrade will trade a strategy's signals.

    :param config: the freqtrade config
    :param exchange: where the fee comes from
    :param terms: what the strategy says of the pair's trades; None for a leverage of 1 and the stake that is proposed
    :raises RulesError: if the exits of a policy could not reach the trades, or the strategy holds a trade longer or
        shorter than the policy is trained for
    """
    if not strategy.use_exit_signal:
        raise RulesError(
            "use_exit_signal is False, so that no exit of the policy would reach a trade; accepted: True; remedy: "
            "set it in the strategy or the config"
        )
    own_duration = getattr(strategy, "max_trade_duration_candles", rl.max_trade_duration_candles)
    if own_duration != rl.max_trade_duration_candles:
        raise RulesError(
            f"the strategy's max_trade_duration_candles is {own_duration} and "
            f"freqai.rl_config.max_trade_duration_candles is {rl.max_trade_duration_candles}; accepted: one value; "
            "remedy: change one of the two"
        )
    terms = terms or EntryTerms((1.0, 1.0), (0.0, 0.0), 1.0, DataFrame())
    available, wallet = tradable_ratio(config), wallet_of(config)
    stake = min(stake_of_config(strategy, config).proposed * terms.stake_factor / wallet, available)
    is_fixed = config.get("stake_amount", UNLIMITED_STAKE_AMOUNT) != UNLIMITED_STAKE_AMOUNT
    return TradingRules(
        fee_ratio=fee_ratio(config, exchange, pair, pairs_of(config, strategy)),
        stoploss_ratio=abs(strategy.stoploss),
        max_trade_duration_candles=rl.max_trade_duration_candles,
        timeframe_minutes=timeframe_to_minutes(strategy.timeframe),
        leverage_long=terms.leverage[0],
        leverage_short=terms.leverage[1],
        minimal_roi=tuple(sorted((int(start), float(ratio)) for start, ratio in strategy.minimal_roi.items())),
        trailing_stop=bool(strategy.trailing_stop),
        trailing_stop_positive=strategy.trailing_stop_positive,
        trailing_stop_positive_offset=strategy.trailing_stop_positive_offset,
        trailing_only_offset_is_reached=strategy.trailing_only_offset_is_reached,
        can_short=bool(strategy.can_short),
        stake_ratio=available if is_fixed else stake,
        fixed_stake_ratio=stake if is_fixed else None,
        available_ratio=available,
        max_drawdown_ratio=rl.max_training_drawdown_pct,
        liquidation_long=terms.liquidation[0],
        liquidation_short=terms.liquidation[1],
    )


def differences_to_training(
    strategy: IStrategy, leverage: float, is_short: bool, trained: TradingRules, known: Collection[str] = ()
) -> set[str]:
    """Rules of a strategy that are no longer those its policy was trained for.

    :param leverage: of a trade that the strategy has entered, a short one or not
    :param known: names of rules that are left out, as :class:`TradingRules` has them
    :return: a sentence for each, naming both values
    """
    pairs: tuple[tuple[str, Any, Any], ...] = (
        ("stoploss", strategy.stoploss, -trained.stoploss_ratio),
        (
            "minimal_roi",
            {int(start): ratio for start, ratio in strategy.minimal_roi.items()},
            dict(trained.minimal_roi),
        ),
        ("trailing_stop", bool(strategy.trailing_stop), trained.trailing_stop),
    )
    trained_leverage = trained.leverage_short if is_short else trained.leverage_long
    # Where it depends on the candle, training asked for each.
    if trained_leverage is not None:
        pairs += (("leverage", leverage, trained_leverage),)
    if strategy.trailing_stop and trained.trailing_stop:
        pairs += tuple(
            (name, getattr(strategy, name), getattr(trained, name))
            for name in ("trailing_stop_positive", "trailing_stop_positive_offset", "trailing_only_offset_is_reached")
        )
    return {
        f"{name} is {now}, and was {then}"
        for name, now, then in pairs
        if now != then and _NAMES_OF_RULES.get(name, name) not in known
    }


def fee_ratio(config: dict[str, Any], exchange: Exchange, pair: str, pairs: Sequence[str] = ()) -> float:
    """The fee of a trade: the config's, else the dearer of taker and maker.

    A backtest takes that of the run's first pair for all of them (``Backtesting.set_fee``), a bot each pair's own.

    :param pairs: of the whole run, as far as they are known
    """
    if config.get("fee") is not None:
        return float(config["fee"])
    if pairs and config.get("runmode") not in TRADE_MODES:
        pair = pairs[0]
    asked = (exchange.get_fee(symbol=pair, taker_or_maker=kind) for kind in ("taker", "maker"))
    fees = [float(fee) for fee in asked if isinstance(fee, int | float)]
    if not fees:
        logger.warning("%s: nobody names a fee; training takes %s a side.", pair, _UNKNOWN_FEE)
    return max(fees, default=_UNKNOWN_FEE)


def stake_of_config(strategy: IStrategy, config: dict[str, Any]) -> Stake:
    """What freqtrade proposes to stake on the first entry of a run: of several slots, one's share.

    :raises RulesError: if no trade would be entered
    """
    wallet = wallet_of(config)
    available = wallet * tradable_ratio(config)
    stake = config.get("stake_amount", UNLIMITED_STAKE_AMOUNT)
    if stake == UNLIMITED_STAKE_AMOUNT:
        slots = float(config.get("max_open_trades", strategy.max_open_trades))
        return Stake(available / (slots if 0 < slots < math.inf else 1.0), available)
    if stake <= available:
        return Stake(float(stake), available)
    if config.get("dry_run", True):
        raise RulesError(
            f"stake_amount is {stake}, more than the wallet gives: no trade would be entered; accepted: up to "
            f"{available:g} (dry_run_wallet x tradable_balance_ratio), or 'unlimited'; remedy: lower it, or "
            "raise dry_run_wallet"
        )
    # A live wallet is not the config's: at the least it holds one stake.
    return Stake(available, available)


def tradable_ratio(config: Mapping[str, Any]) -> float:
    """Which share of the wallet may be staked; freqtrade's default where the config says nothing."""
    return float(config.get("tradable_balance_ratio", 0.99))


def wallet_of(config: Mapping[str, Any]) -> float:
    """What the wallet of a dry run or a backtest holds at the start, in stake currency."""
    return float(get_dry_run_wallet({"dry_run_wallet": 1000.0, **config}))
