"""Settings of the extension: parsed once from the freqtrade config, typed, validated, frozen.

Nothing else in the package reads the raw dictionaries. A key that is wrong stops the run before any data is
loaded, with the key, the value received, the values accepted and the remedy in one message.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence, Set
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from mtfscalper.trading.reward import RewardSettings


class SettingsError(ValueError):
    """A setting is wrong. The message names key, value received, values accepted and remedy."""


_S = TypeVar("_S", bound=BaseModel)

ModelType = Literal["PPO", "A2C", "DQN", "TRPO", "ARS", "RecurrentPPO", "MaskablePPO", "QRDQN"]
EntryMode = Literal["classic", "gated", "agent"]

_PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
_NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
_UnitInterval = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
_PositiveInt = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PPOSettings(_Section):
    """Arguments of stable-baselines3's PPO, under its own names (https://arxiv.org/abs/1707.06347)."""

    n_steps: _PositiveInt = Field(4096, description="integer >= 1 (steps of each environment per rollout)")
    batch_size: Annotated[int, Field(ge=2)] = Field(256, description="integer >= 2 (samples per minibatch)")
    n_epochs: _PositiveInt = Field(10, description="integer >= 1")
    learning_rate: _PositiveFloat = Field(3e-4, description="number > 0")
    gamma: _UnitInterval = Field(0.99, description="number in [0, 1]")
    gae_lambda: _UnitInterval = Field(0.95, description="number in [0, 1]")
    clip_range: _PositiveFloat = Field(0.2, description="number > 0")
    clip_range_vf: _PositiveFloat | None = Field(None, description="number > 0, or null")
    normalize_advantage: bool = Field(True, description="true or false")
    ent_coef: _NonNegativeFloat = Field(0.01, description="number >= 0")
    vf_coef: _NonNegativeFloat = Field(0.5, description="number >= 0")
    max_grad_norm: _PositiveFloat = Field(0.5, description="number > 0")
    target_kl: _PositiveFloat | None = Field(None, description="number > 0, or null")
    stats_window_size: _PositiveInt = Field(100, description="integer >= 1 (episodes in the averages logged)")
    verbose: Annotated[int, Field(ge=0, le=2)] = Field(0, description="0, 1 or 2")


class RLSettings(_Section):
    """The section ``freqai.rl_config``, without PPO's own arguments (see :class:`PPOSettings`)."""

    train_cycles: _PositiveInt = Field(30, description="integer >= 1 (timesteps = cycles x candles)")
    n_envs: Annotated[int, Field(ge=1, le=1024)] = Field(8, description="integer from 1 to 1024")
    net_arch: Annotated[tuple[_PositiveInt, ...], Field(min_length=1)] = Field(
        (512, 512, 256), description="list of integers >= 1 (hidden layers of the policy and of the value network)"
    )
    net_arch_value: Annotated[tuple[_PositiveInt, ...], Field(min_length=1)] | None = Field(
        None, description="list of integers >= 1 (hidden layers of the value network), or null for those of net_arch"
    )
    activation: Literal["relu", "tanh", "leaky_relu", "elu", "gelu", "silu"] = Field(
        "relu", description="'relu', 'tanh', 'leaky_relu', 'elu', 'gelu' or 'silu' (after each hidden layer)"
    )
    network: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = Field(
        None, description="'module:Class' (a features extractor of your own), or null"
    )
    vec_env: Literal["subproc", "dummy", "batched", "auto"] = Field(
        "subproc", description="'subproc', 'dummy', 'batched' or 'auto'"
    )
    cpu_count: _PositiveInt = Field(8, description="integer >= 1 (torch intra-op threads)")
    interop_threads: _PositiveInt = Field(2, description="integer >= 1 (torch inter-op threads)")
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = Field(
        "auto", description="'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="'auto', 'fp32' or 'bf16'")
    compile: bool | Literal["auto"] = Field("auto", description="true, false or 'auto'")
    entry_mode: EntryMode = Field("gated", description="'classic', 'gated' or 'agent'")
    decision_mode: Literal["exact", "replay"] = Field("replay", description="'exact' or 'replay'")
    # An untrained policy that leaves every second candle pays fees for nothing, and learns not to trade at all.
    initial_exit_probability: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.05, description="number between 0 and 1 (chance that the untrained PPO policy leaves a trade at a candle)"
    )
    max_trade_duration_candles: _PositiveInt = Field(96, description="integer >= 1")
    max_training_drawdown_pct: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.5, description="number in (0, 1]: the share of the peak that, once lost, ends a training episode"
    )
    model_reward_parameters: RewardSettings = Field(
        default_factory=RewardSettings, description="an object (see the reward table in the README)"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(42, description="integer >= 0")
    # FreqAI's own keys.
    model_type: ModelType = Field(
        "PPO", description="'PPO', 'A2C', 'DQN', 'TRPO', 'ARS', 'RecurrentPPO', 'MaskablePPO' or 'QRDQN'"
    )
    policy_type: str = Field("MlpPolicy", description="'MlpPolicy' (other names only with other algorithms than PPO)")
    drop_ohlc_from_features: bool = Field(False, description="true or false")
    randomize_starting_position: bool = Field(False, description="true or false")
    progress_bar: bool = Field(True, description="true or false")
    add_state_info: bool = Field(False, description="true or false")


class Settings(_Section):
    """Everything the extension reads from a freqtrade config.

    :ivar window: candles an observation looks back (``freqai.conv_width``)
    :ivar test_size: share of the training window held out for evaluation, 0 for none
    :ivar other_algorithm_kwargs: ``model_training_parameters`` of an algorithm other than PPO
    """

    rl: RLSettings
    ppo: PPOSettings
    window: _PositiveInt
    test_size: float
    continual_learning: bool
    tensorboard: bool
    save_backtest_models: bool
    other_algorithm_kwargs: dict[str, Any]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Settings:
        """Parse and validate a freqtrade config.

        :param config: the whole freqtrade config, as loaded
        :raises SettingsError: with every wrong key of the sections read here
        """
        freqai = config.get("freqai") or {}
        section = dict(freqai.get("rl_config") or {})
        training_parameters = dict(freqai.get("model_training_parameters") or {})
        ppo_keys = set(PPOSettings.model_fields)
        complaints = _combinations_not_built(section)
        rl_values = {key: value for key, value in section.items() if key not in ppo_keys}
        rl = _parse(RLSettings, rl_values, complaints, also_known=ppo_keys)
        if section.get("model_type", "PPO") == "PPO":
            merged = _merge_ppo(section, training_parameters, complaints)
            ppo = _parse(PPOSettings, merged, complaints, other_section=set(training_parameters) - set(section))
            other: dict[str, Any] = {}
        else:
            ppo = PPOSettings()
            other = training_parameters
        complaints += _unusable_freqai_keys(freqai)
        if rl is not None and ppo is not None:
            complaints += _impossible_combinations(rl, ppo, other)
            complaints += _exact_without_models(rl, freqai)
        if rl is None or ppo is None or complaints:
            raise SettingsError("\n".join(complaints))
        return cls(
            rl=rl,
            ppo=ppo,
            window=freqai.get("conv_width", 1),
            test_size=float((freqai.get("data_split_parameters") or {}).get("test_size", 0.1)),
            continual_learning=bool(freqai.get("continual_learning", False)),
            tensorboard=bool(freqai.get("activate_tensorboard", True)),
            save_backtest_models=bool(freqai.get("save_backtest_models", True)),
            other_algorithm_kwargs=other,
        )

    def ignored_ppo_keys(self, config: Mapping[str, Any]) -> list[str]:
        """PPO's keys in ``rl_config`` that the chosen algorithm does not read, for one warning."""
        if self.rl.model_type == "PPO":
            return []
        return sorted(set(PPOSettings.model_fields) & set((config.get("freqai") or {}).get("rl_config") or {}))


def _merge_ppo(
    section: Mapping[str, Any], training_parameters: Mapping[str, Any], complaints: list[str]
) -> dict[str, Any]:
    """PPO's arguments may stand in either section, but not in both with two values."""
    merged = dict(training_parameters)
    for key in PPOSettings.model_fields:
        if key not in section:
            continue
        if key in training_parameters and training_parameters[key] != section[key]:
            complaints.append(
                f"freqai.rl_config.{key} is {section[key]!r} and freqai.model_training_parameters.{key} is "
                f"{training_parameters[key]!r}; accepted: one value; remedy: remove one of the two"
            )
        merged[key] = section[key]
    return merged


# Values that the design names and a later release builds: refused by name rather than as a typing error.
_NOT_BUILT: dict[str, dict[str, str]] = {
    "vec_env": {"torch": "'subproc', 'dummy', 'batched' or 'auto'"},
}


def _combinations_not_built(section: dict[str, Any]) -> list[str]:
    complaints = []
    for key, names in _NOT_BUILT.items():
        value = section.get(key)
        if isinstance(value, str) and value in names:
            complaints.append(
                f"freqai.rl_config.{key} is {value!r}, which this release does not have yet; "
                f"accepted: {names[value]}; remedy: set one of these"
            )
            del section[key]
    return complaints


_WITHOUT_VALUE_NETWORK = {"DQN", "QRDQN", "ARS"}


def _impossible_combinations(rl: RLSettings, ppo: PPOSettings, other: Mapping[str, Any]) -> list[str]:
    complaints = []
    rollout = rl.n_envs * ppo.n_steps
    if rl.model_type == "PPO" and ppo.batch_size > rollout:
        complaints.append(
            f"freqai.rl_config.batch_size is {ppo.batch_size}; accepted: at most n_envs x n_steps = "
            f"{rl.n_envs} x {ppo.n_steps} = {rollout}; remedy: lower batch_size or raise n_steps"
        )
    if rl.model_type == "PPO" and rl.policy_type != "MlpPolicy":
        complaints.append(
            f"freqai.rl_config.policy_type is {rl.policy_type!r}; accepted: 'MlpPolicy' with PPO (the policy that "
            "masks impossible actions is built on it); remedy: remove the key"
        )
    if rl.model_type != "PPO" and rl.network is not None:
        complaints.append(
            f"freqai.rl_config.network is {rl.network!r} and model_type is {rl.model_type!r}; accepted: a network of "
            "your own with PPO alone; remedy: remove the key, or set model_type to 'PPO'"
        )
    if rl.model_type in _WITHOUT_VALUE_NETWORK and rl.net_arch_value is not None:
        complaints.append(
            f"freqai.rl_config.net_arch_value is {list(rl.net_arch_value)} and model_type is {rl.model_type!r}, which "
            "has no value network; accepted: null; remedy: remove the key"
        )
    complaints += _unknown_algorithm_arguments(rl, other)
    return complaints


def _exact_without_models(rl: RLSettings, freqai: Mapping[str, Any]) -> list[str]:
    if rl.decision_mode != "exact" or freqai.get("save_backtest_models", True):
        return []
    return [
        "freqai.save_backtest_models is False and freqai.rl_config.decision_mode is 'exact'; accepted: true, because "
        "the policy of each window is asked about open trades after the training; remedy: set save_backtest_models to "
        "true, or decision_mode to 'replay'"
    ]


def _unusable_freqai_keys(freqai: Mapping[str, Any]) -> list[str]:
    """What FreqAI's own keys must hold for this package."""
    complaints = []
    window = freqai.get("conv_width", 1)
    if not isinstance(window, int) or isinstance(window, bool) or window < 1:
        complaints.append(
            f"freqai.conv_width is {window!r}; accepted: integer >= 1 (candles an observation looks back); "
            "remedy: set it to 1 or remove it"
        )
    test_size = (freqai.get("data_split_parameters") or {}).get("test_size", 0.1)
    if not isinstance(test_size, int | float) or isinstance(test_size, bool) or not 0 <= test_size < 1:
        complaints.append(
            f"freqai.data_split_parameters.test_size is {test_size!r}; accepted: number in [0, 1), the share held "
            "out for evaluation; remedy: set it to 0.1"
        )
    if (freqai.get("feature_parameters") or {}).get("shuffle_after_split", False):
        complaints.append(
            "freqai.feature_parameters.shuffle_after_split is True; accepted: false (an episode needs candles in "
            "their order); remedy: remove the key"
        )
    return complaints


# Set by this package, so that a value in model_training_parameters would silently lose.
_OWNED_ARGUMENTS = {"self", "policy", "env", "policy_kwargs", "tensorboard_log", "seed", "device", "_init_setup_model"}


def _unknown_algorithm_arguments(rl: RLSettings, other: Mapping[str, Any]) -> list[str]:
    if not other:
        return []
    from mtfscalper.policy.algorithms import algorithm_class

    accepted = sorted(set(inspect.signature(algorithm_class(rl.model_type)).parameters) - _OWNED_ARGUMENTS)
    return [
        f"freqai.model_training_parameters.{key} is {value!r}, which {rl.model_type} does not take; accepted: "
        f"{', '.join(accepted)}; remedy: {_did_you_mean(key, accepted)}"
        for key, value in other.items()
        if key not in accepted
    ]


def _parse(
    model: type[_S],
    values: Mapping[str, Any],
    complaints: list[str],
    also_known: Set[str] = frozenset(),
    other_section: Set[str] = frozenset(),
) -> _S | None:
    """Validate values of ``rl_config``.

    :param also_known: keys of the section that another model validates
    :param other_section: keys that stand in ``model_training_parameters`` instead
    """
    try:
        return model.model_validate(_lists_to_tuples(values))
    except ValidationError as error:
        known = set(model.model_fields) | also_known
        # One complaint a key, however many items of a list are wrong.
        by_key: dict[str, str] = {}
        for detail in error.errors():
            path = [str(part) for part in detail["loc"]]
            section = "freqai.model_training_parameters" if path[0] in other_section else "freqai.rl_config"
            # What follows a key is the place in a list, or which of several types was tried.
            key = ".".join(path[:2] if _section_of(model, path[0]) else path[:1])
            by_key.setdefault(key, _complaint(model, section, path, detail["type"], detail["input"], known))
        complaints.extend(by_key.values())
        return None


def _complaint(
    model: type[BaseModel], section: str, path: Sequence[str], kind: str, received: Any, known: set[str]
) -> str:
    field: FieldInfo | None = None
    keys = []
    holder: type[BaseModel] | None = model
    for part in path:
        if holder is None or part not in holder.model_fields:
            break
        keys.append(part)
        field = holder.model_fields[part]
        holder = _section_of(holder, part)
    if kind == "extra_forbidden":
        known_here = sorted(known if holder is model or not keys else set((holder or model).model_fields))
        name = ".".join([section, *path])
        return (
            f"{name} is {received!r}, an unknown key; accepted: {', '.join(known_here)}; "
            f"remedy: {_did_you_mean(path[-1], known_here)}"
        )
    assert field is not None
    default = field.get_default(call_default_factory=True, validated_data={})
    default, received = (list(value) if isinstance(value, tuple) else value for value in (default, received))
    index = f"[{path[-1]}]" if path[-1].isdigit() else ""
    shown = "remove the key" if isinstance(default, BaseModel) else f"set it so, or remove it for {default!r}"
    return f"{'.'.join([section, *keys])}{index} is {received!r}; accepted: {field.description}; remedy: {shown}"


def _section_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The model of a key that holds an object, None for any other key."""
    annotation: Any = model.model_fields[key].annotation if key in model.model_fields else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _did_you_mean(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "remove it"


def _lists_to_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    # JSON has no tuples, and strict validation of a frozen model takes no list for one.
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
