"""Settings of the extension: parsed once from the freqtrade config, typed, validated, frozen.

Nothing else in the package reads the raw dictionaries. A key that is wrong stops the run before any data is
loaded, with the key, the value received, the values accepted and the remedy in one message.

``python -m mtfscalper.settings`` prints the tables of the reference.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Set
from typing import Annotated, Any, Literal

from pydantic import Field

from mtfscalper.environment_settings import impossible_environments
from mtfscalper.executor_settings import impossible_executors
from mtfscalper.fold_settings import impossible_folds
from mtfscalper.freqai_settings import FREQAI_SECTIONS, FreqaiSettings, parse_freqai
from mtfscalper.market.folds import FoldPlan
from mtfscalper.ppo_settings import PositiveInt, PPOSettings, Section
from mtfscalper.settings_text import parse_section, settings_table
from mtfscalper.stock_keys import unread_keys
from mtfscalper.trading.reward import RewardSettings
from mtfscalper.user_code import IMPORT_PATH


class SettingsError(ValueError):
    """A setting is wrong. The message names key, value received, values accepted and remedy."""


ModelType = Literal["PPO", "A2C", "DQN", "TRPO", "ARS", "RecurrentPPO", "MaskablePPO", "QRDQN"]
EntryMode = Literal["classic", "gated", "agent"]
EvaluationMode = Literal["mean", "lower"]
# What complains about arguments (values by name) that an algorithm does not take.
ArgumentsCheck = Callable[[str, Mapping[str, Any]], list[str]]

_Layers = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
# In messages and tables a group of a pattern is shown by its name.
_CudaDevice = Annotated[str, Field(pattern=r"^cuda:(?P<N>\d+)$")]
# Ray's own client (ray://) knows no streams of what a task tells.
_NodeAddress = Annotated[str, Field(pattern=r"^(?P<host>[^:/\s]+):(?P<port>\d+)$")]
_Digest = Annotated[str, Field(pattern=r"^sha256:(?P<digest>[0-9a-f]{64})$")]
_ImportPath = Annotated[str, Field(pattern=IMPORT_PATH)]


# A section of ``rl_config`` that says what a study searches. It changes nothing about a run, and
# :mod:`mtfscalper.search.space` reads it.
SEARCH_SPACE = "search_space"
# Of rl_config, what changes nothing about how a training computes: where it runs, what is shown, admitted and kept.
OUTSIDE_A_TRAINING = (
    *("executor", "workers", "ray_address", "live_training", "trust_models", "kept_runs", "progress_bar"),
)
# Of rl_config, what is no part of a policy: that, and how fast it is trained. A backtest, which repeats bit for bit,
# trains anew all the same where sums are rounded otherwise.
_HOW_FAST = ("env_workers", "cpu_count", "interop_threads", "device", "vec_env", "compile")
NO_PART_OF_A_POLICY = (*OUTSIDE_A_TRAINING, *_HOW_FAST)
# As many environments, of ``n_steps`` steps each, make the rollouts of ``n_envs`` "auto".
_N_ENVS = 8


class RLSettings(Section):
    """The section ``freqai.rl_config``, without PPO's own arguments (see :class:`PPOSettings`)."""

    train_cycles: PositiveInt = Field(
        30, description="passes over the training period. Timesteps = cycles × candles, rounded up to whole rollouts"
    )
    n_envs: Annotated[int, Field(ge=1, le=65_536)] | Literal["auto"] = Field(
        _N_ENVS,
        description="parallel environments; more than 1024 with `batched` and `torch` alone. `auto`: some numbers are "
        "timed on this machine with the first training's tape and network. `n_steps` then says what a rollout of 8 "
        "holds, and is less where there are more of them; an identifier keeps the number that was chosen first",
    )
    env_workers: PositiveInt | None = Field(
        None, description="worker processes of `subproc`, at most `n_envs`, which they share. null: one for each"
    )
    net_arch: _Layers = Field((512, 512, 256), description="hidden layers of the policy, and of the value network")
    net_arch_value: _Layers | None = Field(
        None, description="hidden layers of the value network. null: those of `net_arch`"
    )
    activation: Literal["relu", "tanh", "leaky_relu", "elu", "gelu", "silu"] = Field(
        "relu", description="activation of the hidden layers"
    )
    network: _ImportPath | None = Field(
        None,
        description="a features extractor of yours, with PPO. The hidden layers stand behind it; its module lies in "
        "the user directory or its `freqaimodels`, see `mtfscalper/policy/user_network.py`",
    )
    vec_env: Literal["subproc", "dummy", "batched", "torch", "auto"] = Field(
        "subproc",
        description="how environments run. `subproc`: a process for each, or `env_workers` of them; `dummy`: all in "
        "this process, one after the other; `batched`: all in this process, by one NumPy call; `torch`: on `device`, "
        "and with them the whole of PPO, all periods of a pair at once; `auto`: of the first three each is timed for "
        "about a second with this tape and network, the fastest trains and is remembered for this machine. One that "
        "cannot start falls back",
    )
    cpu_count: PositiveInt = Field(
        8, description="torch's intra-op threads. No more are started than there are processors"
    )
    interop_threads: PositiveInt = Field(
        2, description="torch's inter-op threads. No more are started than there are processors"
    )
    executor: Literal["inline", "processes", "population", "ray"] = Field(
        "inline",
        description="where a backtest's trainings run. `inline`: in its own process, one after the other, or with "
        "`vec_env` `torch` as `population` does where the device can; `processes`: side by side in `workers` "
        "processes; `population`: all periods of a pair at once on `device`, with `vec_env` `torch`; `ray`: on the "
        "machines of a cluster, see `ray_address` and `docs/clusters.md`. A bot's: see "
        "`live_training`; with `processes` and a number of `workers`, as many pairs that are due train side by side",
    )
    workers: PositiveInt | Literal["auto"] = Field(
        "auto",
        description="processes of `processes`. `auto`: some numbers are timed with the first training's tape and "
        "network, the fastest trains and is remembered for this machine. No more are started than free memory holds",
    )
    threads_per_job: PositiveInt | None = Field(
        None,
        description="torch's intra-op threads of each training, in the place of `cpu_count`. null: `cpu_count`, with "
        "`processes` divided among them. At equal ones a training gives the same wherever it runs, bit for bit; a "
        "backtest is refused where there are fewer processors",
    )
    ray_address: Literal["auto"] | _NodeAddress | None = Field(
        None,
        description="with `ray`: the cluster, of which this machine is a node; `auto` finds it. null: one of this "
        "machine alone is started and stopped, and listens on the loopback address",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] | _CudaDevice = Field("auto", description="where torch computes")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="of training. `bf16` rounds the hidden layers' products to bfloat16; `auto` does where the "
        "processor has instructions for it. Decisions are made in float32",
    )
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="whether `torch.compile` compiles PPO's loss, and the steps of `torch` environments. `auto`: the "
        "loss, on a GPU. Without a C++ compiler training goes on without, with one warning",
    )
    entry_mode: EntryMode | Literal["auto"] = Field(
        "auto",
        description="who enters. `classic`: signals enter, the policy only leaves; `gated`: a signal permits, the "
        "policy decides; `agent`: no signal needed; `auto`: `agent` where the strategy sets no classic signals, else "
        "`gated`",
    )
    decision_mode: Literal["exact", "replay"] = Field(
        "replay",
        description="how exits reach trades. `exact`: the strategy asks about its open trade in `custom_exit`; "
        "`replay`: the policy runs through the rules over each period, and its exits become columns, for strategies "
        "without callbacks",
    )
    # An untrained policy that leaves every second candle pays fees for nothing, and learns not to trade at all.
    initial_exit_probability: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.05,
        description="chance that the untrained PPO policy leaves a trade at a candle. Half would pay fees for nothing",
    )
    max_trade_duration_candles: PositiveInt = Field(
        96, description="a trade is closed at the open after so many candles"
    )
    max_training_drawdown_pct: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.5, description="share of the peak of equity that, once lost, ends a training episode"
    )
    model_reward_parameters: RewardSettings = Field(
        default_factory=RewardSettings, description="the reward, in a table of its own"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(42, description="environment i starts with seed + i")
    ensemble: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="how many policies are trained alike, each from a seed of its own, to decide as one: each action's "
        "probability is the mean of what they give it. With PPO; training takes so many times as long",
    )
    evaluation_folds: Annotated[int, Field(ge=2, le=100)] | None = Field(
        None,
        description="over how many stretches what is held out is spread, each between candles that nobody sees (an "
        "embargo of `conv_width` + `max_trade_duration_candles` on either side). null: one stretch, the newest",
    )
    evaluation_mode: EvaluationMode = Field(
        "mean",
        description="by what of its evaluations the best policy is chosen. `mean`: what it earned on all stretches; "
        "`lower`: the lower end of the 90 % interval of that, by how much the stretches differ",
    )
    fallback: Literal["classic"] | None = Field(
        None,
        description="what ends the trades of a policy that does not beat the same entries with classic exits. "
        "`classic`: the rules do (stop, ROI, the strategy's own signals, longest duration), until the next training. "
        "Half of what is held out judges and chooses nothing; fewer than 30 trades there count as not beaten, see "
        "`docs/guard.md`",
    )
    trust_models: tuple[_Digest, ...] = Field(
        (),
        description="policies that this user directory did not seal and that are unpickled all the same. The message "
        "that refuses one names its digest. A policy runs code as it is unpickled: name none that you did not train",
    )
    kept_runs: PositiveInt = Field(
        2,
        description="how many backtests' policies and predictions of a pair stay on disk under one identifier, beside "
        "the newest of each period and what still trades",
    )
    live_training: Literal["process", "thread"] = Field(
        "process",
        description="where a bot trains. `process`: in a process of its own with low priority, which the bot outlives "
        "and which can be ended when it hangs; `thread`: in the bot's own, which takes less memory, and no time to "
        "start",
    )
    # FreqAI's own keys.
    model_type: ModelType = Field(
        "PPO",
        description="the algorithm. Others than PPO train on ordinary observations of the lookback, with their own "
        "arguments in `model_training_parameters`. RecurrentPPO remembers, and decides in decision_mode `replay` alone "
        "(`docs/recurrent.md`)",
    )
    policy_type: str = Field(
        "MlpPolicy", description="the policy's name in stable-baselines3. With PPO only `MlpPolicy`: see `network`"
    )
    drop_ohlc_from_features: bool = Field(False, description="whether `%-raw_*` prices stay out of the features")
    randomize_starting_position: bool = Field(
        False, description="whether every episode starts at a random candle. Otherwise each environment's first does"
    )
    progress_bar: bool = Field(True, description="whether a backtest on a terminal shows how far its trainings are")
    add_state_info: bool = Field(
        False,
        description="whether the policy is shown its trade's profit, best profit and age. Otherwise it knows its side "
        "and what is permitted, no more",
    )

    @property
    def environments(self) -> int:
        """How many environments, of ``n_steps`` steps each, make a rollout; also while ``n_envs`` is "auto"."""
        return _N_ENVS if self.n_envs == "auto" else self.n_envs

    @property
    def torch_threads(self) -> int:
        """torch's intra-op threads that are asked for in the process of the run."""
        return self.cpu_count if self.threads_per_job is None else self.threads_per_job


class Settings(Section):
    """Everything the extension reads from a freqtrade config.

    :ivar lookback: candles an observation looks back (``freqai.conv_width``)
    :ivar test_size: share of the training period held out for evaluation, 0 for none
    :ivar train_period_days: days that each period is trained on
    :ivar backtest_period_days: days that each period of a backtest decides on
    :ivar other_algorithm_kwargs: ``model_training_parameters`` of an algorithm other than PPO
    """

    rl: RLSettings
    ppo: PPOSettings
    lookback: int
    test_size: float
    train_period_days: int
    backtest_period_days: float
    continual_learning: bool
    tensorboard: bool
    save_backtest_models: bool
    other_algorithm_kwargs: dict[str, Any]

    @property
    def candles_needed(self) -> int:
        """Candles of the shortest training: an episode takes ``lookback`` + 2, beside what is held out."""
        if self.fold_plan is not None:
            return self.fold_plan.candles_needed(self.lookback + 2)
        # scikit-learn trains on the floor of this share of all rows.
        return math.ceil(round((self.lookback + 2) / (1 - self.test_size), 6))

    @property
    def fold_plan(self) -> FoldPlan | None:
        """How a training period is cut; None where FreqAI's one stretch at its end is held out, without an embargo."""
        rl = self.rl
        if rl.evaluation_folds is None and rl.fallback is None:
            return None
        embargo = self.lookback + rl.max_trade_duration_candles
        return FoldPlan(self.test_size, rl.evaluation_folds, rl.fallback is not None, embargo)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], arguments_check: ArgumentsCheck | None = None) -> Settings:
        """Parse and validate a freqtrade config.

        :param config: the whole freqtrade config, as loaded
        :param arguments_check: what to ask about ``model_training_parameters`` of an algorithm other than PPO
        :raises SettingsError: with every wrong key of the sections read here
        """
        freqai_section = config.get("freqai") or {}
        unread = unread_keys(freqai_section)
        section, training_parameters = (
            {key: value for key, value in (freqai_section.get(name) or {}).items() if key not in unread[name]}
            for name in ("rl_config", "model_training_parameters")
        )
        section.pop(SEARCH_SPACE, None)
        ppo_keys = set(PPOSettings.model_fields)
        complaints: list[str] = []
        # Some stand among an algorithm's arguments in other models' configs.
        moved = {key: value for key, value in training_parameters.items() if key in RLSettings.model_fields}
        training_parameters = {key: value for key, value in training_parameters.items() if key not in moved}
        rl_values = _merge(section, moved, complaints, set(RLSettings.model_fields))
        rl_values = {key: value for key, value in rl_values.items() if key not in ppo_keys}
        elsewhere = dict.fromkeys(set(moved) - set(section), "freqai.model_training_parameters")
        rl = parse_section(RLSettings, rl_values, complaints, "freqai.rl_config", elsewhere, also_known=ppo_keys)
        if rl_values.get("model_type", "PPO") == "PPO":
            ppo_section = {key: section[key] for key in PPOSettings.model_fields if key in section}
            merged = _merge(ppo_section, training_parameters, complaints, ppo_keys)
            # Where each argument stands that is not in rl_config.
            elsewhere = dict.fromkeys(set(training_parameters) - set(section), "freqai.model_training_parameters")
            ppo = parse_section(PPOSettings, merged, complaints, "freqai.rl_config", elsewhere)
            other: dict[str, Any] = {}
        else:
            ppo = PPOSettings()
            other = training_parameters
        freqai = parse_freqai(freqai_section, complaints)
        if rl is not None and ppo is not None:
            complaints += _impossible_combinations(rl, ppo)
            if other and arguments_check is not None:
                complaints += arguments_check(rl.model_type, other)
        if rl is not None and freqai is not None:
            complaints += _exact_without_models(rl, freqai)
            is_reversed = bool((freqai_section.get("feature_parameters") or {}).get("reverse_train_test_order"))
            complaints += impossible_folds(rl, freqai, is_reversed)
        if rl is None or ppo is None or freqai is None or complaints:
            raise SettingsError("\n".join(complaints))
        return cls(
            rl=rl,
            ppo=ppo,
            lookback=freqai.conv_width,
            test_size=freqai.test_size,
            train_period_days=freqai.train_period_days,
            backtest_period_days=freqai.backtest_period_days,
            continual_learning=freqai.continual_learning,
            tensorboard=freqai.activate_tensorboard,
            save_backtest_models=freqai.save_backtest_models,
            other_algorithm_kwargs=other,
        )

    def for_strategy(self, sets_signals: bool) -> Settings:
        """These settings with ``entry_mode`` "auto" decided.

        :param sets_signals: whether the strategy sets classic signals
        """
        if self.rl.entry_mode != "auto":
            return self
        mode = "gated" if sets_signals else "agent"
        return self.model_copy(update={"rl": self.rl.model_copy(update={"entry_mode": mode})})

    def with_environments(self, n_envs: int) -> Settings:
        """These settings with ``n_envs`` "auto" decided: rollouts keep their size.

        :param n_envs: divides a rollout
        """
        n_steps, rest = divmod(self.rl.environments * self.ppo.n_steps, n_envs)
        assert rest == 0, n_envs
        rl = self.rl.model_copy(update={"n_envs": n_envs})
        return self.model_copy(update={"rl": rl, "ppo": self.ppo.model_copy(update={"n_steps": n_steps})})

    def ignored_ppo_keys(self, config: Mapping[str, Any]) -> list[str]:
        """PPO's keys in ``rl_config`` that the chosen algorithm does not read, for one warning."""
        if self.rl.model_type == "PPO":
            return []
        return sorted(set(PPOSettings.model_fields) & set((config.get("freqai") or {}).get("rl_config") or {}))


def reference_tables() -> dict[str, str]:
    """The tables of settings in docs/reference, by what they are about."""
    return {
        "freqai.rl_config": settings_table(RLSettings),
        "arguments of PPO": settings_table(PPOSettings),
        "freqai": settings_table(FreqaiSettings, FREQAI_SECTIONS),
        "freqai.rl_config.model_reward_parameters": settings_table(RewardSettings),
    }


def _merge(
    section: Mapping[str, Any], training_parameters: Mapping[str, Any], complaints: list[str], keys: Set[str]
) -> dict[str, Any]:
    """Keys may stand in either section, but not in both with two values."""
    complaints += [
        f"freqai.rl_config.{key} is {section[key]!r} and freqai.model_training_parameters.{key} is "
        f"{training_parameters[key]!r}; accepted: one value; remedy: remove one of the two"
        for key in sorted(keys & set(section) & set(training_parameters))
        if training_parameters[key] != section[key]
    ]
    return {**training_parameters, **section}


# Policies that can be built on these observations, of algorithms that have others than MlpPolicy.
_POLICIES = {"ARS": ("MlpPolicy", "LinearPolicy"), "RecurrentPPO": ("MlpLstmPolicy",)}
# What only PPO's training here can do, and what another algorithm's may say of it.
_PPO_ALONE: dict[str, tuple[Any, ...]] = {
    "precision": ("auto", "fp32"),
    "compile": ("auto", False),
    "initial_exit_probability": (RLSettings.model_fields["initial_exit_probability"].default,),
    "ensemble": (1,),
}
_WITHOUT_VALUE_NETWORK = {"DQN", "QRDQN", "ARS"}


def _impossible_combinations(rl: RLSettings, ppo: PPOSettings) -> list[str]:
    complaints = []
    rollout = rl.environments * ppo.n_steps
    if rl.model_type == "PPO" and ppo.batch_size > rollout:
        complaints.append(
            f"freqai.rl_config.batch_size is {ppo.batch_size}; accepted: at most n_envs x n_steps = "
            f"{rl.environments} x {ppo.n_steps} = {rollout}; remedy: lower batch_size or raise n_steps"
        )
    complaints += impossible_environments(rl)
    complaints += impossible_executors(rl)
    policies = _POLICIES.get(rl.model_type, ("MlpPolicy",))
    if rl.policy_type not in policies:
        own = ", and name a network of your own in freqai.rl_config.network" if rl.model_type == "PPO" else ""
        complaints.append(
            f"freqai.rl_config.policy_type is {rl.policy_type!r}; accepted: {' or '.join(map(repr, policies))} with "
            f"{rl.model_type}, on observations that are rows of numbers; remedy: set it so{own}"
        )
    for key, others in _PPO_ALONE.items() if rl.model_type != "PPO" else ():
        if getattr(rl, key) not in others:
            complaints.append(
                f"freqai.rl_config.{key} is {getattr(rl, key)!r}; accepted: {' or '.join(map(json.dumps, others))} "
                f"with {rl.model_type}, which trains as stable-baselines3 trains it; remedy: remove the key"
            )
    if rl.model_type != "PPO" and rl.network is not None:
        complaints.append(
            f"freqai.rl_config.network is {rl.network!r}; accepted: null with {rl.model_type} (only PPO is given a "
            "network of yours); remedy: remove the key, or set model_type to 'PPO'"
        )
    if rl.model_type in _WITHOUT_VALUE_NETWORK and rl.net_arch_value is not None:
        complaints.append(
            f"freqai.rl_config.net_arch_value is {list(rl.net_arch_value)}; accepted: null with {rl.model_type}, which "
            "has no value network; remedy: remove the key"
        )
    if rl.policy_type == "LinearPolicy" and rl.activation != RLSettings.model_fields["activation"].default:
        complaints.append(
            f"freqai.rl_config.activation is {rl.activation!r}; accepted: none with policy_type 'LinearPolicy', which "
            "has no hidden layers; remedy: remove the key"
        )
    return complaints


def _exact_without_models(rl: RLSettings, freqai: FreqaiSettings) -> list[str]:
    if rl.decision_mode != "exact" or freqai.save_backtest_models:
        return []
    return [
        "freqai.save_backtest_models is false and freqai.rl_config.decision_mode is 'exact'; accepted: true, because "
        "the policy of each period is asked about open trades after the training; remedy: set save_backtest_models to "
        "true, or decision_mode to 'replay'"
    ]


if __name__ == "__main__":
    for title, table in reference_tables().items():
        print(f"{title}\n\n{table}\n")
