"""How a policy stands to what is in force: it may have been trained with something else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.freqai.exit_policy import TradeTerms
from mtfscalper.freqai.trained_with import DROPS_PRICES, ENTRY_MODE, changed_rules, changes_since, features_apart
from mtfscalper.freqai.training_folder import Origin
from mtfscalper.market.signals import LONG_SIGNAL, SHORT_SIGNAL
from mtfscalper.settings import RLSettings


class Standing(NamedTuple):
    """How a policy stands to what is in force.

    :ivar environment: what it decides in: that of its own training, as far as it is known
    :ivar terms: by which trades are shown to it
    :ivar drops_prices: whether it was trained without raw prices (``drop_ohlc_from_features``)
    :ivar changes: what it was not trained with; while there is any it decides about open trades alone
    :ivar changed_rules: names of the trade's rules among them
    :ivar lacking: columns it was trained on that the strategy no longer makes: without them it cannot decide
    :ivar falls_back: whether the rules end its trades (``rl_config.fallback``)
    """

    environment: EnvSettings
    terms: TradeTerms
    drops_prices: bool
    changes: tuple[str, ...] = ()
    changed_rules: frozenset[str] = frozenset()
    lacking: tuple[str, ...] = ()
    falls_back: bool = False

    @property
    def can_decide(self) -> bool:
        """Whether the strategy still makes all that it was trained on."""
        return not self.lacking

    @classmethod
    def in_force(cls, environment: EnvSettings, rl: RLSettings, terms: TradeTerms | None = None) -> Standing:
        """That of a policy that is trained with what is in force; where it must be judged, of one that was not.

        :param terms: that its folder names
        """
        terms = terms or TradeTerms.from_environment(environment, rl.model_type)
        return cls(environment, terms, rl.drop_ohlc_from_features, falls_back=rl.fallback is not None)

    def since(self, origin: Origin, now: Mapping[str, Any], features: list[str], columns: Collection[str]) -> Standing:
        """That of a policy whose training may be longer ago: it decides as it was trained, where that is known.

        :param origin: of the policy
        :param now: what it would be trained with now
        :param features: that it was trained on
        :param columns: of the strategy's frame as it is made now
        """
        changes = changes_since(origin.trained_with, now)
        changes += [f"{origin.files_changed} changed"] if origin.files_changed else []
        changes += features_apart(features, [name for name in columns if "%" in name])
        then = {**now, **origin.trained_with}
        needed = [*features, *([LONG_SIGNAL, SHORT_SIGNAL] if then[ENTRY_MODE] != "agent" else [])]
        lacking = tuple(sorted(set(needed) - set(columns)))
        if not changes:
            return self._replace(lacking=lacking)
        terms = self.terms
        return self._replace(
            environment=replace(
                self.environment, rules=terms.rules, lookback=terms.lookback, entry_mode=then[ENTRY_MODE]
            ),
            drops_prices=then[DROPS_PRICES],
            changes=tuple(changes),
            changed_rules=changed_rules(origin.trained_with, now),
            lacking=lacking,
        )
