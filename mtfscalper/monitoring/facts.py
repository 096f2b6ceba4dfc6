"""What a watched run showed, as plain values: all that the checks judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Facts are judged without importing torch or freqtrade, so that the check of packages can say which is missing.
    from mtfscalper.monitoring.packages import PackageFact
    from mtfscalper.monitoring.sampler import PeakMemory
    from mtfscalper.training.report import TrainingReport


@dataclass(frozen=True)
class Asked:
    """What the configuration files ask for.

    :ivar torch_threads: intra-op threads, clamped to the processors there are; so ``torch_interop_threads``
    :ivar evaluates: whether candles are held out for evaluation
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
    """

    rows: int
    equal: int
    ties: int
    kinds: int
    unlike_untrained: int
    batch_rows: int
    rows_per_second: float


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
class RunFacts:
    """Everything about one run.

    :ivar processors: processors the run may use
    :ivar memory_bytes: memory of the machine
    :ivar most_threads: the most threads of the operating system that the freqtrade process had
    :ivar changed_settings: settings that were not in force as asked, in words
    :ivar processes_left: what was still alive after freqtrade had ended, process id to role
    :ivar environment_overrides: FREQTRADE__ variables, which freqtrade puts before the configuration files
    :ivar watching_cpu_seconds: processor time the watching itself cost
    """

    asked: Asked
    packages: tuple[PackageFact, ...]
    periods: tuple[TrainedPeriod, ...]
    trades: Trades
    memory: PeakMemory
    processors: int
    memory_bytes: int
    most_threads: int
    changed_settings: tuple[str, ...]
    processes_left: dict[int, str]
    environment_overrides: tuple[str, ...]
    freqtrade_seconds: float
    watching_cpu_seconds: float
