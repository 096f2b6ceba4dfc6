"""What a study searches: the section ``freqai.rl_config.search_space``, typed like Optuna's distributions.

A key names a setting: one of ``rl_config`` by its own name, ``reward.…`` one of ``model_reward_parameters``,
``freqai.…`` one of FreqAI's own, ``strategy.…`` a parameter of the strategy. A key that nothing reads is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from freqtrade.misc import deep_merge_dicts

from mtfscalper.freqai.strategy_parameters import STRATEGY_PARAMETERS
from mtfscalper.freqai_settings import FreqaiSettings
from mtfscalper.ppo_settings import PPOSettings
from mtfscalper.search.errors import StudyError
from mtfscalper.settings import NO_PART_OF_A_POLICY, SEARCH_SPACE, RLSettings
from mtfscalper.settings_text import did_you_mean
from mtfscalper.trading.reward import RewardSettings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

SECTION = f"freqai.rl_config.{SEARCH_SPACE}"
# Of keys that name a term of the user's own.
TERMS = "reward.terms."
# Of FreqAI's own keys: others hold out other candles, or make other periods, whose figures cannot be compared.
_OF_FREQAI = ("conv_width", "train_period_days", "continual_learning")
# Why a key of rl_config cannot be searched.
_SAME_EITHER_WAY = "changes nothing that a trial is judged by"
_NOT_SEARCHED: dict[str, str] = {
    **dict.fromkeys(
        (*NO_PART_OF_A_POLICY, "threads_per_job", "decision_mode", "verbose", "stats_window_size"),
        _SAME_EITHER_WAY,
    ),
    "seed": "is the study's own: every trial is trained from the same ones",
    "model_type": "decides which other keys are read: begin a study for each algorithm",
    "policy_type": "decides which other keys are read: begin a study for each",
    "model_reward_parameters": "is a section: name its keys, such as reward.drawdown_weight",
}
_JSON_CHOICE = bool | int | float | str | None


@dataclass(frozen=True)
class Floats:
    """A range of numbers, both ends included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.step, log=self.log, kind=(int, float))

    @property
    def extremes(self) -> tuple[Any, ...]:
        """What is tried before a study begins."""
        return float(self.low), float(self.high)

    def distribution(self) -> BaseDistribution:
        """As Optuna has it."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(float(self.low), float(self.high), log=self.log, step=self.step)


@dataclass(frozen=True)
class Integers:
    """A range of whole numbers, both ends included."""

    low: int
    high: int
    log: bool = False
    step: int = 1

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, None if self.log and self.step == 1 else self.step, log=self.log, kind=(int,))

    @property
    def extremes(self) -> tuple[Any, ...]:
        """What is tried before a study begins."""
        return self.low, self.high

    def distribution(self) -> BaseDistribution:
        """As Optuna has it."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True)
class Choices:
    """Values without an order, each of which JSON can hold."""

    choices: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.choices or len({json.dumps(choice) for choice in self.choices}) < len(self.choices):
            raise ValueError("its choices are none, or one twice; accepted: a list of different values")

    @property
    def extremes(self) -> tuple[Any, ...]:
        """What is tried before a study begins."""
        return self.choices

    def distribution(self) -> BaseDistribution:
        """As Optuna has it, which stores single values alone: a list is its JSON."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution([self.stored(choice) for choice in self.choices])

    def stored(self, value: Any) -> _JSON_CHOICE:
        """A value as Optuna stores it."""
        return value if isinstance(value, _JSON_CHOICE) else json.dumps(value)

    def value(self, stored: Any) -> Any:
        """The value that Optuna stored."""
        return next(choice for choice in self.choices if self.stored(choice) == stored)


Searched = Floats | Integers | Choices
_TYPES: dict[str, Callable[..., Searched]] = {"float": Floats, "int": Integers, "categorical": Choices}
_KEYS = {"float": ("low", "high", "log", "step"), "int": ("low", "high", "log", "step"), "categorical": ("choices",)}


@dataclass(frozen=True)
class SearchSpace:
    """What is searched, by key."""

    searched: Mapping[str, Searched]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SearchSpace:
        """Read a freqtrade config's section.

        :raises StudyError: with every wrong entry
        """
        section = ((config.get("freqai") or {}).get("rl_config") or {}).get(SEARCH_SPACE)
        if not section:
            raise StudyError(
                f"{SECTION} is {section!r}, so that there is nothing to search; accepted: an object of keys and what "
                'each is searched over, such as {"learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3, "log": '
                "true}}; remedy: add --config configs/search_space.json, or write your own"
            )
        return cls.from_json(section)

    @classmethod
    def from_json(cls, section: Any) -> SearchSpace:
        """The space that :meth:`as_json` made, or that a config holds; an entry that is null is none.

        :raises StudyError: with every wrong entry
        """
        if not isinstance(section, Mapping):
            raise StudyError(f"{SECTION} is {section!r}; accepted: an object of keys and what each is searched over")
        complaints: list[str] = []
        searched: dict[str, Searched] = {}
        for key, entry in section.items():
            if entry is None:
                continue
            try:
                searched[key] = _parsed(entry)
            except (ValueError, TypeError) as error:
                complaints.append(f"{SECTION}.{key} is {json.dumps(entry)}: {error}")
        if complaints:
            raise StudyError("\n".join(complaints))
        return cls(searched)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {key: _written(entry) for key, entry in self.searched.items()}

    def complaints(
        self, config: Mapping[str, Any], parameters: Mapping[str, Any], *, own_reward: bool = False
    ) -> Iterator[str]:
        """Complaints about keys that nothing reads, one line each.

        :param config: the freqtrade config
        :param parameters: of the strategy, by name
        :param own_reward: whether the model's reward is the user's own, which reads what it likes
        """
        rl = (config.get("freqai") or {}).get("rl_config") or {}
        model_type = rl.get("model_type", "PPO")
        of_rl = {*RLSettings.model_fields, *(PPOSettings.model_fields if model_type == "PPO" else ())}
        known = sorted(
            {
                *(of_rl - set(_NOT_SEARCHED)),
                *(f"freqai.{key}" for key in _OF_FREQAI),
                *(f"reward.{key}" for key in RewardSettings.model_fields if key != "terms"),
                *(f"strategy.{name}" for name in parameters),
            }
        )
        for key in self.searched:
            if key in known or key.startswith("reward." if own_reward else TERMS):
                continue
            reason = _NOT_SEARCHED.get(key, "is a key that nothing reads")
            if key in PPOSettings.model_fields and model_type != "PPO":
                reason = f"is an argument of PPO, and freqai.rl_config.model_type is {model_type!r}"
            elif key in FreqaiSettings.model_fields and f"freqai.{key}" in known:
                reason = f"stands in the section freqai: its name is freqai.{key}"
            yield f"{SECTION}.{key} {reason}; accepted: {', '.join(known)}; remedy: {did_you_mean(key, known)}"

    # ------------------------------------------------------------------ a trial's values

    def distributions(self) -> dict[str, BaseDistribution]:
        """What Optuna draws from, by key."""
        return {key: entry.distribution() for key, entry in self.searched.items()}

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Let Optuna choose a trial's values, by key."""
        return self.values({key: trial._suggest(key, of) for key, of in self.distributions().items()})  # type: ignore[attr-defined]

    def values(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's values, by key.

        :param stored: as Optuna keeps them (``trial.params``)
        """
        return {
            key: entry.value(stored[key]) if isinstance(entry, Choices) else stored[key]
            for key, entry in self.searched.items()
        }

    def stored(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values as Optuna keeps them; the opposite of :meth:`values`."""
        return {
            key: entry.stored(values[key]) if isinstance(entry, Choices) else values[key]
            for key, entry in self.searched.items()
            if key in values
        }

    def overlay(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values as a freqtrade config.

        :param values: by key
        """
        overlay: dict[str, Any] = {}
        for key, value in values.items():
            *sections, name = path_of(key)
            within = overlay
            for section in sections:
                within = within.setdefault(section, {})
            within[name] = value
        return overlay

    def apply(self, config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """A freqtrade config with values in force, as if its user had written them; the config is left as it is.

        :param values: by key
        """
        overlay = self.overlay(values)
        applied: dict[str, Any] = deep_merge_dicts(overlay, deepcopy(dict(config)))
        if "original_config" in applied:
            # By this it is known what the user wrote, and what freqtrade's schema filled in.
            applied["original_config"] = deep_merge_dicts(overlay, applied["original_config"])
        return applied


def path_of(key: str) -> tuple[str, ...]:
    """Where a key stands in a freqtrade config, section by section."""
    section, _, name = key.partition(".")
    if key.startswith(TERMS):
        return "freqai", "rl_config", "model_reward_parameters", "terms", key.removeprefix(TERMS)
    if section == "reward" and name:
        return "freqai", "rl_config", "model_reward_parameters", name
    if section == "freqai" and name:
        return "freqai", name
    if section == "strategy" and name:
        return STRATEGY_PARAMETERS, name
    return "freqai", "rl_config", key


def _parsed(entry: Any) -> Searched:
    accepted = 'accepted: an object with "type": "float", "int" or "categorical"'
    if not isinstance(entry, Mapping) or entry.get("type") not in _TYPES:
        raise ValueError(accepted)
    kind = str(entry["type"])
    values = {key: value for key, value in entry.items() if key != "type"}
    if unknown := [key for key in values if key not in _KEYS[kind]]:
        raise ValueError(
            f"{unknown[0]!r} is unknown beside type {kind!r}; accepted: {', '.join(_KEYS[kind])}; remedy: "
            f"{did_you_mean(unknown[0], _KEYS[kind])}"
        )
    needed = ("choices",) if kind == "categorical" else ("low", "high")
    if missing := [key for key in needed if key not in values]:
        raise ValueError(f"{missing[0]!r} is missing, which type {kind!r} needs; remedy: add it")
    if kind == "categorical":
        if not isinstance(values["choices"], list | tuple):
            raise ValueError(f"choices is {values['choices']!r}; accepted: a list of different values")
        return Choices(tuple(values["choices"]))
    return _TYPES[kind](**values)


def _check_range(low: Any, high: Any, step: Any, *, log: Any, kind: tuple[type[float], ...]) -> None:
    of_kind = "whole numbers" if kind == (int,) else "finite numbers"
    given: dict[str, Any] = {"low": low, "high": high, "step": step}
    for name, value in given.items():
        if value is None and name == "step":
            continue
        if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
            raise ValueError(f"{name} is {value!r}; accepted: {of_kind}")
    if not isinstance(log, bool):
        raise ValueError(f"log is {log!r}; accepted: true, false")
    if low > high:
        raise ValueError(f"low {low} is above high {high}; accepted: low <= high; remedy: exchange them")
    if log and low <= 0:
        raise ValueError(f"log is true and low {low}; accepted: low > 0; remedy: raise it, or remove log")
    if log and step is not None:
        raise ValueError(f"log is true and step {step}; accepted: one of the two; remedy: remove one")
    if step is not None and step <= 0:
        raise ValueError(f"step is {step}; accepted: more than 0")
    if step is not None and abs((high - low) / step - round((high - low) / step)) > 1e-9:
        raise ValueError(f"step {step} does not lead from low {low} to high {high}; remedy: change high or step")


def _written(entry: Searched) -> dict[str, Any]:
    if isinstance(entry, Choices):
        return {"type": "categorical", "choices": list(entry.choices)}
    kind = "int" if isinstance(entry, Integers) else "float"
    return {"type": kind, "low": entry.low, "high": entry.high, "log": entry.log, "step": entry.step}
