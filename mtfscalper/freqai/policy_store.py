"""The policies of a backtest, found by path: which period decides at which candle, and with what.

Nothing here is held in FreqAI's memory, whose models in a backtest are those of the last period, and which a
hyperopt worker does not have at all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from functools import cached_property
from typing import Any

import numpy as np

from mtfscalper import artefacts
from mtfscalper.freqai.archive import Archive, why_not_that_version
from mtfscalper.freqai.exit_policy import DecidingPeriod, ExitPolicy, PeriodRows
from mtfscalper.freqai.open_trade import PriceHistory
from mtfscalper.freqai.run_plan import DecisionsError, RunPlan
from mtfscalper.seals import Seals

# Of a pair: the period that decides and the one before it.
PERIODS_IN_MEMORY = 2
# Files of a period that decide about trades.
_ROLES = ("model", "decisions")


class PolicyStore:
    """Loads what decides about a run's open trades, when it is asked for. Can be pickled: only names travel."""

    def __init__(self, archive: Archive, seals: Seals) -> None:
        """
        :param archive: of the identifier
        :param seals: of the user directory
        """
        self._archive, self._seals = archive, seals
        self._plans: dict[str, str] = {}
        self._pairs: dict[str, _PairPolicies] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_archive": self._archive, "_seals": self._seals, "_plans": self._plans, "_pairs": {}}

    def follow(self, pair: str, plan: str) -> None:
        """Decide about a pair's trades by the plan of this run, whatever others leave meanwhile.

        :param plan: its name
        """
        self._plans[pair] = plan
        self._pairs.pop(pair, None)

    def exit_policy(self, pair: str, row_ms: int) -> ExitPolicy | None:
        """The policy of the period that a closed candle belongs to.

        :param row_ms: the candle, milliseconds since 1970
        :return: None before the first period and after the last
        :raises DecisionsError: if this run has planned nothing for the pair, or files are missing, damaged or others
            than the plan's
        """
        known = self._pairs.get(pair)
        if known is None:
            if pair not in self._plans:
                raise DecisionsError(
                    f"{pair}: this run has trained and predicted nothing, so that nothing can decide about its trades; "
                    "accepted: a strategy whose populate_indicators calls self.freqai.start for every pair; remedy: "
                    "let it, or leave the pair out"
                )
            known = self._pairs[pair] = _PairPolicies(self._archive, self._seals, pair, self._plans[pair])
        at = bisect_right(known.starts, row_ms) - 1
        if at < 0 or row_ms >= known.periods[at].stop_ms:
            return None
        return known.loaded.get(at) or known.load(at)


class _PairPolicies:
    """The plan of one pair, and the policies of it that were asked for last."""

    def __init__(self, archive: Archive, seals: Seals, pair: str, name: str) -> None:
        self._archive, self._seals, self._pair = archive, seals, pair
        self._plan = RunPlan.read(archive, pair, name)
        self.terms, self.periods = self._plan.terms, self._plan.periods
        self.starts = [period.first_ms for period in self.periods]
        self.loaded: OrderedDict[int, ExitPolicy] = OrderedDict()

    @cached_property
    def history(self) -> PriceHistory:
        """The candles of the run.

        :raises DecisionsError: if the file is not the one that the plan was written with
        """
        path = self._plan.history_path(self._archive)
        if not path.is_file() or artefacts.file_hash(path) != self._plan.history_sha256:
            raise DecisionsError(
                f"{self._pair}: {path} is missing or damaged; accepted: the candles of the run; remedy: run the "
                "backtest again"
            )
        with np.load(path) as arrays:
            return PriceHistory(**{name: values.tolist() for name, values in arrays.items()})

    def load(self, at: int) -> ExitPolicy:
        """Load the policy of a period, and forget the one asked for longest ago.

        :param at: position of the period in the plan
        :raises DecisionsError: see :meth:`PolicyStore.exit_policy`
        """
        period = self.periods[at]
        folder = self._archive.root / period.folder
        stale = why_not_that_version(folder, _ROLES, self._seals)
        if stale is not None:
            raise DecisionsError(
                f"{self._pair}: the policy in {folder} cannot decide about trades: {stale}; accepted: the one that "
                "the columns of this run were predicted with; remedy: run the backtest again, with decision_mode "
                "'exact'"
            )
        with np.load(artefacts.sealed_path(folder, "decisions")) as arrays:
            rows = PeriodRows(**arrays)
        # Here, because it imports torch: a strategy is loaded long before a policy is, and often without one.
        from mtfscalper.policy.inference import trade_decider_from_zip

        model, terms = artefacts.sealed_path(folder, "model"), self.terms
        decider = trade_decider_from_zip(model, terms.model_type, rows.features, terms.lookback)
        deciding = DecidingPeriod(period.first_ms, period.stop_ms, rows, decider)
        policy = ExitPolicy(self.terms, self.history, deciding, period.folder, falls_back=period.falls_back)
        self.loaded[at] = policy
        while len(self.loaded) > PERIODS_IN_MEMORY:
            self.loaded.popitem(last=False)
        return policy
