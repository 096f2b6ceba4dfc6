"""A deployed config (``mtfscalper study deploy``) beside the user's other files: whether it is what decides.

freqtrade merges config files key by key, the later over the earlier. A key that the deployed file does not have stays
as another file has it, and a file that is named after the deployed one overrides it: what runs is then not what was
judged, and neither file shows it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtfscalper.freqai.written_config import flat
from mtfscalper.settings import NO_PART_OF_A_POLICY, SEARCH_SPACE

# The section of a deployed config that says where it comes from. freqtrade passes over it.
SECTION = "mtfscalper_deployment"
# Of the config files of a study, what decides which trades are made. Money, keys, messengers and whether orders are
# real are the bot's own affair: a search must not change them.
DECIDING = (
    *("strategy", "freqaimodel", "timeframe", "timeframe_detail", "fee", "trading_mode", "margin_mode", "freqai"),
    "strategy_parameters",
    *("use_exit_signal", "exit_profit_only"),
    *("exit_profit_offset", "ignore_roi_if_entry_signal", "stoploss", "minimal_roi", "trailing_stop"),
    *("trailing_stop_positive", "trailing_stop_positive_offset", "trailing_only_offset_is_reached"),
)
# Of FreqAI's section, what decides about a policy; the rest is a bot's own, such as how often it trains.
_OF_FREQAI = (
    *("conv_width", "train_period_days", "continual_learning"),
    *("rl_config", "model_training_parameters", "feature_parameters", "data_split_parameters"),
)
# Of rl_config, what changes nothing about one.
_CHANGES_NOTHING = {*NO_PART_OF_A_POLICY, "verbose", SEARCH_SPACE}
_NAMED = 5


def why_not_as_deployed(config: Mapping[str, Any]) -> str | None:
    """What decides in a run of a deployed config and is none of it, in one line; None where nothing does.

    :param config: the freqtrade config
    """
    if SECTION not in config:
        return None
    files = [Path(file) for file in config.get("config_files", ())]
    found = next(((file, read) for file in reversed(files) if SECTION in (read := _read(file))), None)
    if found is None:
        return None
    file, read = found
    deployed, in_force = _deciding(read), _deciding(config.get("original_config") or config)
    others = [
        f"{key} is {value!r} and there {repr(deployed[key]) if key in deployed else 'not set'}"
        for key, value in sorted(in_force.items())
        if key not in deployed or deployed[key] != value
    ]
    if not others:
        return None
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    return (
        f"{file} is deployed, and other config files decide beside it, so that what runs is not what was judged: "
        f"{'; '.join(others[:_NAMED])}{more}. Remedy: name it as the last --config, and remove these keys from the "
        "others."
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Not as the deployed one is written: freqtrade takes comments.
        return {}
    return read if isinstance(read, dict) else {}


def _deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: config[key] for key in DECIDING if key in config}
    freqai = {key: value for key, value in (kept.pop("freqai", None) or {}).items() if key in _OF_FREQAI}
    rl = freqai.get("rl_config") or {}
    freqai["rl_config"] = {key: value for key, value in rl.items() if key not in _CHANGES_NOTHING}
    # A section without a key decides nothing.
    return {key: value for key, value in flat({**kept, "freqai": freqai}).items() if value != {}}
