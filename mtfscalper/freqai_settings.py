"""FreqAI's own settings that are read here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from mtfscalper.ppo_settings import PositiveInt, Section
from mtfscalper.settings_text import did_you_mean, parse_section

# A century: what is longer leaves the dates that pandas knows.
_Days = Annotated[float, Field(gt=0.0, le=36_500, allow_inf_nan=False)]
_WholeDays = Annotated[int, Field(ge=1, le=36_500)]


class FreqaiSettings(Section):
    """FreqAI's own keys that are read here, of the section ``freqai`` and of :data:`FREQAI_SECTIONS`."""

    conv_width: PositiveInt = Field(1, description="candles an observation looks back")
    test_size: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.1, description="share of the training period held out for evaluation"
    )
    train_size: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        None, description="share of the training period trained on. null: what is not held out"
    )
    stratify: None = Field(None, description="an episode needs candles in their order")
    shuffle: Literal[False] = Field(False, description="an episode needs candles in their order")
    shuffle_after_split: Literal[False] = Field(False, description="an episode needs candles in their order")
    train_period_days: _WholeDays = Field(
        30, description="days that each period is trained on. freqtrade loads candles by it, and wants it written"
    )
    backtest_period_days: _Days = Field(7, description="days that each period of a backtest decides on")
    continual_learning: bool = Field(False, description="whether training goes on from the last model, on a copy")
    activate_tensorboard: bool = Field(True, description="whether TensorBoard logs are written")
    save_backtest_models: bool = Field(
        True, description="whether a backtest keeps its models. `exact` decisions need them"
    )


FREQAI_SECTIONS = {
    "test_size": "data_split_parameters",
    "train_size": "data_split_parameters",
    "stratify": "data_split_parameters",
    "shuffle": "data_split_parameters",
    "shuffle_after_split": "feature_parameters",
}
# FreqAI hands this section on to scikit-learn's train_test_split, which fails at an argument that it does not know.
SPLIT_ARGUMENTS = ("random_state", "shuffle", "stratify", "test_size", "train_size")


def parse_freqai(section: Mapping[str, Any], complaints: list[str]) -> FreqaiSettings | None:
    """The settings of the section ``freqai``.

    :param complaints: gets a message for each that is wrong
    :return: None where one is
    """
    values = {}
    for key in FreqaiSettings.model_fields:
        holder = section.get(FREQAI_SECTIONS[key]) or {} if key in FREQAI_SECTIONS else section
        if key in holder:
            values[key] = holder[key]
    elsewhere = {key: f"freqai.{name}" for key, name in FREQAI_SECTIONS.items()}
    complaints += [
        f"freqai.data_split_parameters.{key} is {value!r}, an unknown key; accepted: {', '.join(SPLIT_ARGUMENTS)}; "
        f"remedy: {did_you_mean(key, SPLIT_ARGUMENTS)}"
        for key, value in (section.get("data_split_parameters") or {}).items()
        if key not in SPLIT_ARGUMENTS
    ]
    if not str(section.get("identifier", "unset")).strip(" ./\\"):
        complaints.append(
            f"freqai.identifier is {section['identifier']!r}; accepted: a name, of the folder in user_data/models that "
            "holds this model alone (freqtrade's analyses remove it whole); remedy: set one"
        )
    freqai = parse_section(FreqaiSettings, values, complaints, "freqai", elsewhere)
    if freqai is None or freqai.train_size is None:
        return freqai
    if "test_size" not in values:
        # As scikit-learn takes it.
        return freqai.model_copy(update={"test_size": 1 - freqai.train_size})
    if freqai.train_size + freqai.test_size > 1:
        complaints.append(
            f"freqai.data_split_parameters.train_size is {freqai.train_size}, and test_size {freqai.test_size}; "
            "accepted: shares of at most 1 together; remedy: lower one, or remove train_size"
        )
    return freqai
