"""What a training really did. Read and written without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mtfscalper.artefacts import plain_json
from mtfscalper.training.paired_result import PairedResult, must_fall_back

# Below these, the policy that was best is so by chance as much as by merit.
ENOUGH_TRADES = 20
ENOUGH_EVALUATIONS = 3


@dataclass
class TrainingReport:
    """What a training really did, as measured while it ran. Written beside the model as JSON.

    :ivar fused: whether rollouts and updates were this package's own, not stable-baselines3's
    :ivar rollout_timesteps: of all environments between two updates; 0 for an algorithm without rollouts
    :ivar population: trainings that ran at once, as one batch, itself included; they share seconds and phases
    :ivar phases: (name, start, stop) of every rollout and update, seconds since 1970
    :ivar reward_terms: sums by name over all rollouts
    :ivar reward_profit_correlation: see :func:`mtfscalper.training.reward_check.reward_profit_correlation`
    :ivar best_evaluation: of the policy that was chosen, on the candles held out; None without one, as the next
    :ivar training_evaluation: of the same policy, on the candles that it was trained on
    :ivar judged: where ``rl_config.fallback`` is set, the policy beside classic exits, on trades that chose nothing
    :ivar members: of an ensemble, one report for each. Its own counts and times are then sums over them, its
        evaluation is one of all together
    :ivar files_read: by the user's own code, each with its hash, see :mod:`mtfscalper.files_read`
    """

    pair: str
    model_type: str
    timesteps_asked: int
    timesteps: int = 0
    seconds: float = 0.0
    process_id: int = 0
    vec_env: str = ""
    n_envs: int = 0
    rollout_timesteps: int = 0
    population: int = 1
    worker_pids: list[int] = field(default_factory=list)
    torch_threads: int = 0
    torch_interop_threads: int = 0
    precision: str = "fp32"
    fused: bool = False
    compiled: bool = False
    train_candles: int = 0
    train_tape_sha256: str = ""
    evaluation_candles: int = 0
    phases: list[tuple[str, float, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    best_evaluation: dict[str, float] | None = None
    training_evaluation: dict[str, float] | None = None
    reward_terms: dict[str, float] = field(default_factory=dict)
    reward_profit_correlation: float = 0.0
    judged: PairedResult | None = None
    members: list[TrainingReport] = field(default_factory=list)
    files_read: dict[str, str] = field(default_factory=dict)

    @property
    def timesteps_planned(self) -> int:
        """Timesteps that are asked for, in whole rollouts."""
        rollout = max(self.rollout_timesteps, 1)
        return -(-self.timesteps_asked // rollout) * rollout

    @property
    def trainings(self) -> list[TrainingReport]:
        """One report for each policy that was trained."""
        return self.members or [self]

    def seconds_of(self, phase: str) -> float:
        """Seconds spent in the phases of one name."""
        return sum(stop - start for name, start, stop in self.phases if name == phase)

    def summary(self) -> str:
        """The training in one sentence, for a log."""
        best = self.best_evaluation
        found = f"{best['log_return']:+.4f} log return after costs, {best['trades']:.0f} trades" if best else "none"
        if self.members:
            each = [member.best_evaluation for member in self.members]
            alone = ", ".join(f"{one['log_return']:+.4f}" if one else "none" for one in each)
            found = f"evaluation of all {len(each)} as one: {found}; best of each by itself: {alone}"
        else:
            found = f"best of {len(self.evaluations)} evaluations: {found}"
        if self.judged is not None:
            ends = (
                "the rules end its trades (fallback)" if must_fall_back(self.judged) else "the policy ends its trades"
            )
            found += f"; {self.judged.in_words()}, {ends}"
        at_once = f", one of {self.population} at once" if self.population > 1 else ""
        return (
            f"trained {self.timesteps} timesteps ({self.timesteps_asked} asked, in whole rollouts) on "
            f"{self.train_candles} candles in {self.seconds:.0f} s ({self.vec_env} x {self.n_envs}{at_once}; rollouts "
            f"{self.seconds_of('rollout'):.0f} s, updates {self.seconds_of('update'):.0f} s); {found}."
        )

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; numbers that are not finite become None."""
        return plain_json(asdict(self))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainingReport:
        """The report that :meth:`as_json` made.

        :raises TypeError: if a value is missing or unknown
        """
        phases = [(str(name), float(start), float(stop)) for name, start, stop in values["phases"]]
        members = [cls.from_json(member) for member in values.get("members", ())]
        judged = values.get("judged")
        judged = None if judged is None else PairedResult.from_json(judged)
        return cls(**{**values, "phases": phases, "members": members, "judged": judged})


def doubts(reports: Sequence[TrainingReport]) -> str | None:
    """Why little can be said of the policies that trainings of one pair chose, in one warning for all of them.

    :param reports: of one training, or of those of a whole backtest
    :return: None where there is nothing to doubt
    """
    lines = list(_doubts([training for report in reports for training in report.trainings]))
    if not lines:
        return None
    return "\n  ".join([f"{reports[0].pair}: little can be said of what was trained:", *lines])


def _doubts(reports: Sequence[TrainingReport]) -> Iterator[str]:
    def among(doubted: Sequence[TrainingReport]) -> str:
        return "" if len(reports) == 1 else f"in {len(doubted)} of {len(reports)} trainings "

    short = [report for report in reports if report.timesteps_asked < report.rollout_timesteps]
    if short:
        yield (
            f"{among(short)}{_span(report.timesteps_asked for report in short)} timesteps (train_cycles x candles) are "
            f"fewer than one rollout of {_span(report.rollout_timesteps for report in short)} (n_envs x n_steps): the "
            "policy was updated once; remedy: raise train_cycles, or lower n_steps"
        )
    few = [report for report in reports if 0 < len(report.evaluations) < ENOUGH_EVALUATIONS]
    if few:
        yield (
            f"{among(few)}evaluations to choose the best policy from: {_span(len(one.evaluations) for one in few)}, "
            f"fewer than {ENOUGH_EVALUATIONS}; remedy: raise train_cycles, or lower n_steps"
        )
    judged = [(report, int(report.best_evaluation["trades"])) for report in reports if report.best_evaluation]
    idle = [report for report, trades in judged if trades == 0]
    if idle:
        yield (
            f"{among(idle)}the best policy made no trade on the candles held out (0 trades): nothing that was tried "
            "earned more than doing nothing; remedy: look at the reward and the fee, at how often entries are "
            "permitted, or train longer"
        )
    scant = [(report, trades) for report, trades in judged if 0 < trades < ENOUGH_TRADES]
    if scant:
        yield (
            f"{among([report for report, _ in scant])}trades that the best policy was chosen by: "
            f"{_span(trades for _, trades in scant)}, fewer than {ENOUGH_TRADES}; remedy: raise "
            "data_split_parameters.test_size or train_period_days"
        )


def _span(numbers: Iterator[int]) -> str:
    values = sorted(numbers)
    return str(values[0]) if values[0] == values[-1] else f"{values[0]} to {values[-1]}"
