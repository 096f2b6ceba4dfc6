"""Arguments of PPO, and the types that settings share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
_PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
_UnitInterval = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
# Beyond, products of float32 overflow, and training ends in NaN.
_LossWeight = Annotated[float, Field(ge=0.0, le=1e5, allow_inf_nan=False)]


class Section(BaseModel):
    """A section of the config: typed, frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PPOSettings(Section):
    """Arguments of stable-baselines3's PPO, under its own names (https://arxiv.org/abs/1707.06347)."""

    n_steps: PositiveInt = Field(4096, description="steps of each environment per rollout")
    batch_size: Annotated[int, Field(ge=2)] = Field(
        256, description="samples per minibatch. At most `n_envs` × `n_steps`"
    )
    n_epochs: PositiveInt = Field(10, description="passes over a rollout")
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)] = Field(
        3e-4, description="step size of Adam"
    )
    gamma: _UnitInterval = Field(0.99, description="discount per candle")
    gae_lambda: _UnitInterval = Field(0.95, description="bias against variance of the advantages")
    clip_range: _PositiveFloat = Field(
        0.2, description="how far an update may move an action's probability, as a ratio"
    )
    clip_range_vf: _PositiveFloat | None = Field(
        None, description="how far an update may move a value. null: without limit"
    )
    normalize_advantage: bool = Field(
        True, description="whether each minibatch's advantages get mean 0 and deviation 1"
    )
    ent_coef: _LossWeight = Field(0.01, description="weight of the entropy in the loss")
    vf_coef: _LossWeight = Field(0.5, description="weight of the value network's error in the loss")
    max_grad_norm: _PositiveFloat = Field(0.5, description="longer gradients are cut to this length")
    target_kl: _PositiveFloat | None = Field(
        None, description="divergence from the old policy that ends an update. null: none does"
    )
    stats_window_size: PositiveInt = Field(100, description="episodes in the averages logged")
    verbose: Annotated[int, Field(ge=0, le=2)] = Field(0, description="what stable-baselines3 prints")
