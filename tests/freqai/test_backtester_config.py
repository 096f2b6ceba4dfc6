"""A config that freqtrade's schema refuses is named by its key, where this package's commands load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from freqtrade.exceptions import ConfigurationError

from mtfscalper.freqai.backtester import backtest_config

SHIPPED = Path(__file__).parents[2] / "configs" / "config_rl_hybrid.json"


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [("net_arch", None, '"array"'), ("net_arch", {"pi": [8]}, '"array"'), ("train_cycles", "1", '"integer"')],
)
def test_a_value_that_freqtrade_refuses_is_named_with_its_key(
    tmp_path: Path, key: str, value: Any, accepted: str
) -> None:
    config = json.loads(SHIPPED.read_text())
    config["freqai"]["rl_config"][key] = value
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    (tmp_path / "user_data").mkdir()
    named = ["--config", str(path), "--userdir", str(tmp_path / "user_data")]
    with pytest.raises(ConfigurationError) as error:
        backtest_config([*named, "--strategy", "Any", "--timerange", "20240901-20240902"])
    said = str(error.value)
    assert said.startswith(f"freqai.rl_config.{key} is {json.dumps(value)}, and freqtrade refuses that (")
    assert said.endswith(f"); accepted: type {accepted}; remedy: correct or remove it")
