"""The main configuration, from which the benchmarks take their hyper-parameters."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MAIN_CONFIG: dict[str, Any] = json.loads((ROOT / "configs" / "config_rl_hybrid.json").read_text(encoding="utf-8"))
RL_CONFIG: dict[str, Any] = MAIN_CONFIG["freqai"]["rl_config"]
_PPO = (
    "n_steps",
    "batch_size",
    "learning_rate",
    "n_epochs",
    "gamma",
    "gae_lambda",
    "clip_range",
    "ent_coef",
    "vf_coef",
    "max_grad_norm",
)
# Under stable-baselines3's names.
PPO_ARGUMENTS: dict[str, Any] = {name: RL_CONFIG[name] for name in _PPO}
