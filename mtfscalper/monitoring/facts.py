"""What a watched run showed, as plain values: all that the checks judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Facts are judged without importing torch or freqtrade, so that the check of packages can say which is missing.
    from mtfscalper.monitoring.packages import PackageFact
    from mtfscalper.monitoring.sampler import PeakMemory
    from mtfscalper.monitoring.timing import Timed
    from mtfscalper.training.report import TrainingReport


@dataclass(frozen=True)
class Asked:
    """What the configuration files ask for.

    :ivar n_envs: of a rollout of ``n_steps`` each; what trains may be split otherwise, see ``chooses_n_envs``
    :ivar torch_threads: intra-op threads, clamped to the processors there are; so ``torch_interop_threads``
    :ivar evaluates: whether candles are held out for evaluation
    :ivar device: where torch computes on this machine
    :ivar chooses_n_envs: whether a measurement decides how many environments share a rollout (``n_envs`` "auto")
    :ivar env_workers: processes of ``subproc``, None for one for each environment
    """

    vec_env: str
    n_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int
    net_arch: tuple[int, ...]
    net_arch_value: tuple[int, ...]
    train_cycles: int
    torch_threads: int
    torch_interop_threads: int
    entry_mode: str
    evaluates: bool
    decision_mode: str = "exact"
    tensorboard: bool = True
    device: str = "cpu"
    chooses_n_envs: bool = False
    env_workers: int | None = None


@dataclass(frozen=True)
class PhaseUsage:
    """Processor time in all phases of one name, from outside.

    :ivar count: phases
    :ivar seconds: their duration
    :ivar samples: samples taken within them
    :ivar training_process_cpu_seconds: of the freqtrade process
    :ivar workers_cpu_seconds: of the worker processes
    :ivar tree_cpu_seconds: of the freqtrade process and all its descendants
    :ivar machine_busy_seconds: of everything that ran on the machine
    :ivar computing_threads: threads of the freqtrade process that computed, None where it cannot be seen
    """

    count: int
    seconds: float
    samples: int
    training_process_cpu_seconds: float
    workers_cpu_seconds: float
    tree_cpu_seconds: float
    machine_busy_seconds: float
    computing_threads: int | None


@dataclass(frozen=True)
class WatchedTraining:
    """One training, seen from outside.

    :ivar in_watched_process: whether the process that wrote the report is the one that was watched
    :ivar samples: samples taken between its first rollout and its last update
    :ivar worker_counts: the numbers of worker processes in these samples, each number once
    :ivar worker_pids: ids of all these workers
    :ivar workers_left: workers of it still alive when the next training began or freqtrade ended
    """

    in_watched_process: bool
    samples: int
    worker_counts: tuple[int, ...]
    worker_pids: tuple[int, ...]
    workers_left: tuple[int, ...]
    rollout: PhaseUsage
    update: PhaseUsage


@dataclass(frozen=True)
class SavedPolicy:
    """A model file, opened with ``stable_baselines3.PPO.load``.

    :ivar policy_layers: hidden layers of the policy network, read from its weights; so ``value_layers``
    :ivar epochs_run: passes over a rollout that it was trained with
    :ivar tensors: trained parameter tensors
    :ivar tensors_moved: of these, how many differ from the untrained network of the same seed
    :ivar relative_change: norm of that difference over the norm of the untrained parameters
    :ivar finite: whether every parameter is a finite number
    """

    n_steps: int
    n_envs: int
    batch_size: int
    n_epochs: int
    policy_layers: tuple[int, ...]
    value_layers: tuple[int, ...]
    epochs_run: int
    tensors: int
    tensors_moved: int
    relative_change: float
    finite: bool


@dataclass(frozen=True)
class Decided:
    """Decisions of a saved policy on the features it was trained with.

    :ivar rows: rows decided both ways, in one batch and one by one
    :ivar equal: rows with the same action
    :ivar ties: rows with different actions whose probabilities differ by rounding alone
    :ivar kinds: different actions among them
    :ivar unlike_untrained: rows that the untrained network decides differently
    :ivar batch_rows: rows of the batch that was timed
    :ivar rows_per_second: of the batched decisions, median of several
    :ivar singly_per_second: of the decisions one by one
    """

    rows: int
    equal: int
    ties: int
    kinds: int
    unlike_untrained: int
    batch_rows: int
    rows_per_second: float
    singly_per_second: float


@dataclass(frozen=True)
class TrainedPeriod:
    """One training, of a pair and period or of a member of its ensemble: its report, what was seen, what is on disk."""

    name: str
    report: TrainingReport
    watched: WatchedTraining
    saved: SavedPolicy
    decided: Decided


@dataclass(frozen=True)
class Trades:
    """Trades in freqtrade's backtest result."""

    total: int
    long: int
    short: int
    exit_reasons: dict[str, int]


@dataclass(frozen=True)
class LeftBehind:
    """What a run left on disk, beside its policies.

    :ivar tags: TensorBoard's tags by the folder of their run
    :ivar bad_manifests: of a training's folder, what is wrong with its manifest or a file that it seals, in words
    :ivar manifests: trainings' folders that were looked at
    :ivar predicted_rows: candles of the trained periods that were predicted
    :ivar frame_rows: rows of the strategy's frame that a trade followed, within the trained periods
    :ivar frame_equal: of these, the ones that hold the predictions of their period
    :ivar questions: about open trades that the strategy asked
    :ivar answered: of these, the ones with a probability of a policy that was trained
    """

    tags: dict[str, tuple[str, ...]]
    bad_manifests: tuple[str, ...]
    manifests: int
    predicted_rows: int
    frame_rows: int
    frame_equal: int
    questions: int
    answered: int


@dataclass(frozen=True)
class TimedRun:
    """The run's training timed by itself, with nothing else to do, and what the machine gives at best.

    :ivar peak_flops: of matrix products by second, in the training's precision and threads
    :ivar copied_bytes_per_second: read, and as many written
    :ivar update_flop: operations of one sample in one epoch; so ``decision_flop`` of one environment step
    :ivar step_bytes: that one environment step reads and writes
    :ivar seconds: that the timing took
    :ivar gpus: their names
    :ivar others_cores: processors that other programs used meanwhile, in the mean
    :ivar rest_share: of the run's trainings, what was neither rollout nor update: workers' start, evaluations
    """

    timed: Timed
    peak_flops: float
    copied_bytes_per_second: float
    update_flop: float
    decision_flop: float
    step_bytes: float
    n_epochs: int
    seconds: float
    gpus: tuple[str, ...]
    others_cores: float
    rest_share: float


@dataclass(frozen=True)
class RunFacts:
    """Everything about one run.

    :ivar processors: processors the run may use
    :ivar memory_bytes: memory of the machine
    :ivar most_threads: the most threads of the operating system that the freqtrade process had
    :ivar changed_settings: settings that were not in force as asked, in words
    :ivar processes_left: what was still alive after freqtrade had ended, process id to role
    :ivar environment_overrides: FREQTRADE__ variables, which freqtrade puts before the configuration files
    :ivar watching_cpu_seconds: processor time the watching itself cost
    :ivar gpu_bytes: the most GPU memory that came to be used meanwhile; None where no driver tells
    :ivar why_untimed: why the training could not be timed by itself
    """

    asked: Asked
    packages: tuple[PackageFact, ...]
    periods: tuple[TrainedPeriod, ...]
    trades: Trades
    left: LeftBehind
    timed: TimedRun | None
    memory: PeakMemory
    processors: int
    memory_bytes: int
    most_threads: int
    changed_settings: tuple[str, ...]
    processes_left: dict[int, str]
    environment_overrides: tuple[str, ...]
    freqtrade_seconds: float
    watching_cpu_seconds: float
    gpu_bytes: int | None = None
    why_untimed: str = ""
