"""What a training really did. Read and written without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mtfscalper.artefacts import plain_json


@dataclass
class TrainingReport:
    """What a training really did, as measured while it ran. Written beside the model as JSON.

    :ivar fused: whether rollouts and updates were this package's own, not stable-baselines3's
    :ivar phases: (name, start, stop) of every rollout and update, seconds since 1970
    :ivar reward_terms: sums by name over all rollouts
    :ivar reward_profit_correlation: see :func:`mtfscalper.training.reward_check.reward_profit_correlation`
    """

    pair: str
    model_type: str
    timesteps_asked: int
    timesteps: int = 0
    seconds: float = 0.0
    process_id: int = 0
    vec_env: str = ""
    n_envs: int = 0
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
    reward_terms: dict[str, float] = field(default_factory=dict)
    reward_profit_correlation: float = 0.0

    def seconds_of(self, phase: str) -> float:
        """Seconds spent in the phases of one name."""
        return sum(stop - start for name, start, stop in self.phases if name == phase)

    def summary(self) -> str:
        """The training in one sentence, for a log."""
        best = self.best_evaluation
        found = f"{best['log_return']:+.4f} log return after costs, {best['trades']:.0f} trades" if best else "none"
        return (
            f"{self.pair}: trained {self.timesteps} timesteps on {self.train_candles} candles in {self.seconds:.0f} s "
            f"({self.vec_env} x {self.n_envs}; rollouts {self.seconds_of('rollout'):.0f} s, updates "
            f"{self.seconds_of('update'):.0f} s); best of {len(self.evaluations)} evaluations: {found}."
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
        return cls(**{**values, "phases": phases})
