"""A bot's kept policies, asked in a backtest about trades that the bot did not have."""

from __future__ import annotations

import json
import logging
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from pandas import DataFrame

from mtfscalper import artefacts
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.candles import PairCandles
from mtfscalper.freqai.exit_policy import DecidingPeriod, ExitPolicy
from mtfscalper.freqai.fallback import falls_back
from mtfscalper.freqai.policy_folders import PolicyFolders
from mtfscalper.freqai.policy_places import PolicyName
from mtfscalper.freqai.predictions import period_rows
from mtfscalper.freqai.preparation import Preparation
from mtfscalper.freqai.standing import Standing
from mtfscalper.freqai.trained_with import FALLBACK, listed, summary
from mtfscalper.freqai.training_folder import Origin
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy.algorithms import algorithm_class
from mtfscalper.policy.closed_loop import decidable_rows, flat_decisions
from mtfscalper.policy.inference import decider_for, trade_decider_from_zip
from mtfscalper.policy.recurrent import RecurrentPolicyError
from mtfscalper.seals import Seals
from mtfscalper.settings import Settings
from mtfscalper.trading.actions import Action

logger = logging.getLogger(__name__)

# Of a pair: the policy that decides and the one before it.
_POLICIES_IN_MEMORY = 2
_ROLES = ("model", "metadata", "feature_pipeline")


class PairRows(NamedTuple):
    """What a pair's policies look at.

    :ivar rows: of the strategy's frame with its features, one row a candle
    :ivar environment: how the pair is traded now
    :ivar trained_with: what a policy of the pair would be trained with now
    """

    kitchen: FreqaiDataKitchen
    rows: DataFrame
    candles: PairCandles
    environment: EnvSettings
    settings: Settings
    trained_with: Mapping[str, Any]


class _Prepared(NamedTuple):
    """A policy before it is loaded.

    :ivar tape: what it looks at
    :ivar model: its zip
    :ivar falls_back: whether the rules end its trades
    """

    standing: Standing
    tape: MarketTape
    model: Path
    falls_back: bool


class KeptPolicies:
    """Loads policies of a bot by the names of their folders."""

    def __init__(self, folder: Path, archive: Archive, seals: Seals) -> None:
        """
        :param folder: FreqAI's, of the identifier
        """
        self._folders = PolicyFolders(folder, archive, seals)
        self._seals = seals
        self._loaded: dict[str, OrderedDict[tuple[str, int], ExitPolicy]] = {}
        self._lost: set[str] = set()
        self._told: set[tuple[str, str]] = set()

    def trained_before(self, pair: str, row_ms: int) -> tuple[str, int, int] | None:
        """The policy that was trained last before a row, where no journal says which one decided.

        :param row_ms: milliseconds since 1970
        :return: its folder's name, when it was trained, and when the next one was; None, after a warning, where none is
            kept
        """
        names = self._by_pair.get(pair, [])
        trained = [1000 * name.trained_timestamp for name in names]
        at = bisect_right(trained, row_ms) - 1
        if at < 0:
            if pair not in self._lost:
                self._lost.add(pair)
                logger.warning(
                    "%s: no policy is kept that the bot had at %s, to decide about a trade that the bot did not have. "
                    "Such trades are held until their stop, ROI or longest duration.",
                    pair,
                    datetime.fromtimestamp(row_ms / 1000, UTC),
                )
            return None
        stop_ms = trained[at + 1] if at + 1 < len(trained) else 2**62
        return names[at].folder.name, trained[at], stop_ms

    @cached_property
    def _by_pair(self) -> dict[str, list[PolicyName]]:
        """The policies of each pair, the one trained first first: a backtest's bot trains no others meanwhile."""
        return {pair: names[::-1] for pair, names in self._folders.by_pair().items()}

    def load(self, name: str, first_ms: int, stop_ms: int, pair: PairRows) -> ExitPolicy | None:
        """A policy over the rows that it was in use for.

        :param name: of its folder
        :param first_ms: the first row, milliseconds since 1970
        :param stop_ms: the first row that is no longer its own
        :return: None where it is no longer kept: one warning says why
        """
        loaded = self._loaded.setdefault(pair.candles.pair, OrderedDict())
        if (name, first_ms) in loaded:
            return loaded[(name, first_ms)]
        known = self._prepared(name, first_ms, stop_ms, pair)
        if known is None:
            return None
        terms, tape = known.standing.terms, known.tape
        seen = period_rows(tape, known.standing.environment, len(tape))
        try:
            decider = trade_decider_from_zip(known.model, terms.model_type, tape.features, terms.lookback)
        except RecurrentPolicyError as error:
            self._lose(name, str(error))
            return None
        period = DecidingPeriod(first_ms, stop_ms, seen, decider)
        policy = ExitPolicy(
            terms,
            pair.candles.history(),
            period,
            name,
            falls_back=known.falls_back,
            told_rules=known.standing.changed_rules,
        )
        loaded[(name, first_ms)] = policy
        while len(loaded) > _POLICIES_IN_MEMORY:
            loaded.popitem(last=False)
        return policy

    def flat_actions(self, name: str, rows_ms: Collection[int], pair: PairRows) -> dict[int, Action] | None:
        """What a policy does flat after rows that it decided nothing on.

        :param name: of its folder
        :param rows_ms: milliseconds since 1970
        :return: by row, of those that have candles and a whole lookback; None where it is no longer kept
        :raises RecurrentPolicyError: if it remembers, so that its answer depends on candles that are not asked about
        """
        known = self._prepared(name, min(rows_ms), max(rows_ms) + 1, pair)
        if known is None:
            return None
        terms, tape = known.standing.terms, known.tape
        wanted = decidable_rows(tape, terms.lookback) & np.isin(tape.dates_ms, list(rows_ms))
        rows = np.flatnonzero(wanted)
        if not len(rows):
            return {}
        model = algorithm_class(terms.model_type).load(known.model, device="cpu")
        decider = decider_for(model, tape.features, terms.lookback)
        actions = flat_decisions(decider, tape, known.standing.environment, rows).actions
        return dict(zip(tape.dates_ms[rows].tolist(), map(Action, actions.tolist()), strict=True))

    def _prepared(self, name: str, first_ms: int, stop_ms: int, pair: PairRows) -> _Prepared | None:
        """A policy and what it looks at from its first row to the one before the last."""
        folder = self._sound(name, pair.candles.pair)
        if folder is None:
            return None
        origin = self._folders.origin(PolicyName(folder, ""))
        metadata = json.loads(artefacts.sealed_path(folder, "metadata").read_text())
        prepared = Preparation(
            cloudpickle.loads(artefacts.sealed_path(folder, "feature_pipeline").read_bytes()),
            metadata["training_features_list"],
        )
        standing = self._standing(name, origin, prepared.features, pair)
        if standing is None:
            return None
        # What was in use, and before it what its first rows look back on.
        dates_ms = pair.rows["date"].dt.as_unit("ms").astype("int64").to_numpy()
        first = max(0, int(np.searchsorted(dates_ms, first_ms)) - standing.terms.lookback + 1)
        rows = pair.rows.iloc[first : int(np.searchsorted(dates_ms, stop_ms))]
        if rows.empty:
            return None
        features, usable = prepared.scaled(pair.kitchen, rows, drops_prices=standing.drops_prices)
        tape = pair.candles.tape(rows, features, usable)
        fallen = standing.falls_back and falls_back(origin.judged, pair.candles.pair)
        return _Prepared(standing, tape, artefacts.sealed_path(folder, "model"), fallen)

    def _standing(self, name: str, origin: Origin, features: list[str], pair: PairRows) -> Standing | None:
        """How a policy stands to the backtest: it decides as it was trained; what it decides by is told.

        :param features: that it was trained on
        :return: None where it cannot decide so: one warning says why
        """
        if origin.terms is None:
            self._lose(name, "its folder does not say which trades it was trained for")
            return None
        environment = replace(pair.environment, lookback=origin.terms.lookback)
        standing = Standing.in_force(environment, pair.settings.rl, origin.terms)
        # Whether it had to be judged was the bot's to say, not the backtest's.
        guard = origin.trained_with.get(FALLBACK, pair.settings.rl.fallback)
        standing = standing.since(origin, pair.trained_with, features, pair.rows.columns)
        standing = standing._replace(falls_back=guard is not None)
        if not standing.can_decide:
            self._lose(name, f"it was trained on {listed(standing.lacking)}, which the strategy no longer makes")
            return None
        told = None
        if not origin.trained_with:
            told = "does not say what it was trained with: it decides by the settings of now"
        elif standing.changes:
            told = f"was trained with something else: {summary(standing.changes)}. It decides as it was trained"
        if told is not None and (pair.candles.pair, told) not in self._told:
            self._told.add((pair.candles.pair, told))
            logger.warning("%s: the bot's policy %s %s.", pair.candles.pair, name, told)
        return standing

    def _sound(self, name: str, pair: str) -> Path | None:
        """The folder of a pair's policy that may be loaded."""
        if name in self._lost:
            return None
        whys = []
        for folder in self._folders.folders(name):
            why = artefacts.why_stale(folder, {}, _ROLES, self._seals)
            sealed_for = (artefacts.read_manifest(folder) or {}).get("pair")
            # `mtfscalper seal` seals a policy without knowing its pair: there the journal's word counts.
            if why is None and sealed_for in (None, pair):
                return folder
            whys.append(f"{folder}: {why or f'it is the policy of {sealed_for}'}")
        why = "; ".join(whys) or "its folder is missing"
        self._lose(name, f"it is no longer kept ({why}); freqai.purge_old_models says how many are kept")
        return None

    def _lose(self, name: str, why: str) -> None:
        """Say once that a policy cannot be asked."""
        if name not in self._lost:
            self._lost.add(name)
            logger.warning(
                "Trades that the bot did not have are held until their stop, ROI or longest duration, where its policy "
                "%s would decide about them: %s.",
                name,
                why,
            )
