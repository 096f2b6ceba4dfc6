"""A bot's kept policies, asked in a backtest about trades that the bot did not have."""

from __future__ import annotations

import json
import logging
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import cloudpickle
import numpy as np
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from pandas import DataFrame

from mtfscalper import artefacts
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.candles import PairCandles
from mtfscalper.freqai.exit_policy import DecidingPeriod, ExitPolicy, TradeTerms
from mtfscalper.freqai.fallback import falls_back, judged_in
from mtfscalper.freqai.predictions import period_rows
from mtfscalper.freqai.preparation import Preparation
from mtfscalper.freqai.training_folder import trained_terms
from mtfscalper.policy.inference import trade_decider_from_zip
from mtfscalper.seals import Seals
from mtfscalper.settings import Settings

logger = logging.getLogger(__name__)

# Of a pair: the policy that decides and the one before it.
_POLICIES_IN_MEMORY = 2
_ROLES = ("model", "metadata", "feature_pipeline")


class PairRows(NamedTuple):
    """What a pair's policies look at.

    :ivar rows: of the strategy's frame with its features, one row a candle
    :ivar environment: how the pair is traded now
    """

    kitchen: FreqaiDataKitchen
    rows: DataFrame
    candles: PairCandles
    environment: EnvSettings
    settings: Settings


class KeptPolicies:
    """Loads policies of a bot by the names of their folders."""

    def __init__(self, folder: Path, archive: Archive, seals: Seals) -> None:
        """
        :param folder: FreqAI's, of the identifier
        """
        self._folders = (folder, archive.bot)
        self._seals = seals
        self._loaded: dict[str, OrderedDict[tuple[str, int], ExitPolicy]] = {}
        self._lost: set[str] = set()

    def trained_before(self, pair: str, row_ms: int) -> tuple[str, int, int] | None:
        """The policy that was trained last before a row, where no journal says which one decided.

        :param row_ms: milliseconds since 1970
        :return: its folder's name, when it was trained, and when the next one was; None, after a warning, where none is
            kept
        """
        base = pair.split("/")[0]
        names = {path.name for folder in self._folders for path in folder.glob(f"sub-train-{base}_*")}
        trained = sorted(int(end) * 1000 for name in names if (end := name.rsplit("_", 1)[1]).isdigit())
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
        return f"sub-train-{base}_{trained[at] // 1000}", trained[at], stop_ms

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
        folder = self._sound(name)
        if folder is None:
            return None
        metadata = json.loads(artefacts.sealed_path(folder, "metadata").read_text())
        pipeline = cloudpickle.loads(artefacts.sealed_path(folder, "feature_pipeline").read_bytes())
        rl = pair.settings.rl
        terms = trained_terms(folder) or TradeTerms.from_environment(pair.environment, rl.model_type)
        # What was in use, and before it what its first rows look back on.
        dates_ms = pair.rows["date"].dt.as_unit("ms").astype("int64").to_numpy()
        first = max(0, int(np.searchsorted(dates_ms, first_ms)) - terms.lookback + 1)
        rows = pair.rows.iloc[first : int(np.searchsorted(dates_ms, stop_ms))]
        if rows.empty:
            return None
        features, usable = Preparation(pipeline, metadata["training_features_list"]).scaled(
            pair.kitchen, rows, drops_prices=rl.drop_ohlc_from_features
        )
        tape = pair.candles.tape(rows, features, usable)
        seen = period_rows(tape, replace(pair.environment, lookback=terms.lookback), len(tape))
        decider = trade_decider_from_zip(
            artefacts.sealed_path(folder, "model"), terms.model_type, tape.features, terms.lookback
        )
        fallen = rl.fallback is not None and falls_back(judged_in(folder), pair.candles.pair)
        period = DecidingPeriod(first_ms, stop_ms, seen, decider)
        policy = ExitPolicy(terms, pair.candles.history(), period, name, falls_back=fallen)
        loaded[(name, first_ms)] = policy
        while len(loaded) > _POLICIES_IN_MEMORY:
            loaded.popitem(last=False)
        return policy

    def _sound(self, name: str) -> Path | None:
        """The folder of a policy that may be loaded."""
        if name in self._lost:
            return None
        whys = []
        for folder in (parent / name for parent in self._folders):
            why = artefacts.why_stale(folder, {}, _ROLES, self._seals) if folder.is_dir() else "it is missing"
            if why is None:
                return folder
            whys.append(f"{folder}: {why}")
        self._lost.add(name)
        logger.warning(
            "A trade that the bot did not have would be decided about by its policy %s, which is no longer kept (%s). "
            "Such trades are held until their stop, ROI or longest duration. freqai.purge_old_models says how many are "
            "kept.",
            name,
            "; ".join(whys),
        )
        return None
