"""What a policy was trained with, as values by name: a bot that finds it on disk compares them with its own.

What counts is whatever decides what a policy sees, may do and is paid for, and how it learns. What does not: candles
and dates, of which every training has others; the package's code and its libraries, so that an update stops no entry;
on what hardware and how fast a training runs; how decisions are asked for. Features count by their names: their values
are others at each candle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mtfscalper import artefacts
from mtfscalper.freqai.strategy_rules import UserParts
from mtfscalper.settings import NO_PART_OF_A_POLICY, Settings
from mtfscalper.trading.trading_rules import TradingRules

# Under this name a policy's manifest holds the values.
TRAINED_WITH = "trained_with"
ENTRY_MODE = "freqai.rl_config.entry_mode"
FALLBACK = "freqai.rl_config.fallback"
DROPS_PRICES = "freqai.rl_config.drop_ohlc_from_features"
# How its decisions are asked for, and how its sums are rounded.
_NOT_COMPARED = {*NO_PART_OF_A_POLICY, "decision_mode", "threads_per_job", "precision"}
# Of feature_parameters.
ONLY_SHOWN = {"plot_feature_importances"}
_RULES = "the trade's "
_CODE = "your code "
# Neither is known of a policy that an earlier version of this package trained.
_TAKEN_UP = "what is taken up by your code "
_READ = "what your reward reads of "
# Sections in which a name that is missing has a meaning.
_OPEN_SECTIONS = ("freqai.model_training_parameters.", "freqai.feature_parameters.", _CODE)
_MISSING = "not set"
# Of those that differ, as many are named.
_NAMED = 4


def trained_with(
    settings: Settings, user: UserParts, rules: TradingRules, feature_parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """What a policy that is trained now is trained with, as JSON holds it.

    :param user: the user's own code, of which its sources count
    :param rules: of the strategy, as they are the same at all candles
    :param feature_parameters: the section of that name of the config
    """
    rl = settings.rl.model_dump(mode="json", exclude=_NOT_COMPARED | {"model_reward_parameters"})
    freqai = {
        "conv_width": settings.lookback,
        "test_size": settings.test_size,
        "train_period_days": settings.train_period_days,
    }
    rewarded = settings.rl.model_reward_parameters.model_dump(mode="json")
    if user.reward is not None:
        rewarded |= user.reward.rl_config["model_reward_parameters"]
    sections: dict[str, Mapping[str, Any]] = {
        "freqai.": freqai,
        "freqai.rl_config.": rl | settings.ppo.model_dump(mode="json", exclude={"verbose"}),
        "freqai.rl_config.model_reward_parameters.": rewarded,
        "freqai.model_training_parameters.": settings.other_algorithm_kwargs,
        "freqai.feature_parameters.": {
            name: value for name, value in feature_parameters.items() if name not in ONLY_SHOWN
        },
        _RULES: asdict(rules),
        _CODE: {code.name: code.source_sha256 for code in user.codes},
        _TAKEN_UP: {code.name: code.values_sha256 for code in user.codes},
        _READ: {} if user.reward is None else {"the config": user.reward.config_read},
    }
    values = {f"{section}{name}": value for section, named in sections.items() for name, value in named.items()}
    plain: dict[str, Any] = artefacts.plain_json(values)
    return plain


def changes_since(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is in force now that a policy was not trained with, a few words each.

    :param then: what it was trained with, empty where nobody knows; a setting that is missing on either side, as one
        that another version of this package had, says nothing
    """
    if not then:
        return []
    names = then.keys() & now.keys()
    names |= {name for name in then.keys() ^ now.keys() if name.startswith(_OPEN_SECTIONS)}
    return [
        f"{name} is {_shown(now.get(name, _MISSING))} and was {_shown(then.get(name, _MISSING))}"
        for name in sorted(names)
        if then.get(name, _MISSING) != now.get(name, _MISSING)
    ]


def changed_rules(then: Mapping[str, Any], now: Mapping[str, Any]) -> frozenset[str]:
    """The names of the trade's rules among :func:`changes_since`."""
    return frozenset(
        name.removeprefix(_RULES)
        for name in then.keys() & now.keys()
        if name.startswith(_RULES) and then[name] != now[name]
    )


def features_apart(then: list[str], now: list[str]) -> Iterator[str]:
    """How the features that a strategy makes differ from those of a policy, a few words each.

    :param then: the policy's
    :param now: the strategy's
    """
    for what, names in (("no longer makes", set(then) - set(now)), ("also makes", set(now) - set(then))):
        if names:
            yield f"the strategy {what} {listed(sorted(names))}"


def summary(changes: Sequence[str]) -> str:
    """What has changed, in one line."""
    return listed(changes, "; ")


def listed(names: Sequence[str], between: str = ", ") -> str:
    """The first few of some names, and how many more there are."""
    more = len(names) - _NAMED
    return between.join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
