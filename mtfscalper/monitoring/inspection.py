"""From what a run left on disk, and a recording of it, to facts."""

from __future__ import annotations

import copy
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from freqtrade.data.btanalysis import load_backtest_stats
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import set_random_seed
from torch import nn

from mtfscalper import artefacts
from mtfscalper.monitoring.facts import (
    Decided,
    PhaseUsage,
    SavedPolicy,
    Trades,
    TrainedPeriod,
    WatchedTraining,
)
from mtfscalper.monitoring.sampler import ROOT, WORKER, Recording, Span
from mtfscalper.policy.inference import PolicyDecider
from mtfscalper.policy.joined_model import split_model
from mtfscalper.policy.network import MaskedActorCriticPolicy, features_extractor, hidden_layers, prefer_holding
from mtfscalper.settings import Settings
from mtfscalper.trading.observation import Observation
from mtfscalper.training.report import TrainingReport

ROWS_COMPARED = 1000
TIMINGS = 5
# Many rows in one matrix product are rounded differently than one by one: two probabilities this close are equal.
TIE = 1e-4


class ArtefactError(RuntimeError):
    """A file that a training should have left is missing or unreadable. Names it."""


def trained_periods(models: Path, recording: Recording, settings: Settings) -> tuple[TrainedPeriod, ...]:
    """Every training of a run, in the order they ran.

    :param models: ``user_data/models/<identifier>``
    :raises ArtefactError: if a training left no model, report or features that can be read
    """
    folders = sorted(models.glob("sub-train-*"))
    reports = sorted(((read_report(folder), folder) for folder in folders), key=lambda item: _began(item[0]))
    began = [_began(training) for report, _ in reports for training in report.trainings]
    periods: list[TrainedPeriod] = []
    for report, folder in reports:
        model_path, features_path = _only(folder, "*_model.zip"), _only(folder, "*_trained_df.pkl")
        try:
            members = split_model(PPO.load(model_path, device=settings.rl.device))
            features = np.asarray(pd.read_pickle(features_path), dtype=np.float32)
        except Exception as error:
            raise ArtefactError(f"a file in {folder} cannot be read: {type(error).__name__}: {error}") from error
        for training, model in zip(report.trainings, members, strict=True):
            untrained = untrained_policy(model, settings)
            following = next(iter(began[len(periods) + 1 :]), None)
            periods.append(
                TrainedPeriod(
                    name=f"{report.pair} {folder.name.rsplit('_', 1)[-1]}",
                    report=training,
                    watched=watched_training(training, recording, following),
                    saved=saved_policy(model, untrained),
                    decided=decided(model, untrained, features, settings),
                )
            )
    return tuple(periods)


def read_report(folder: Path) -> TrainingReport:
    """The report that a training wrote beside its model.

    :raises ArtefactError: if there is none that can be read
    """
    path = folder / artefacts.REPORT_NAME
    try:
        return TrainingReport.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtefactError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def changed_settings(models: Path, settings: Settings) -> tuple[str, ...]:
    """Settings that freqtrade ran with, where they are not those asked for.

    :param models: ``user_data/models/<identifier>``, where freqtrade records what it ran with
    :return: one sentence each
    :raises ArtefactError: if the record cannot be read
    """
    path = models / "run_params.json"
    try:
        ran = Settings.from_config(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    had, has = _flat(settings), _flat(ran)
    return tuple(f"{name} was {has[name]!r}, not {had[name]!r}" for name in had if has[name] != had[name])


def _flat(settings: Settings) -> dict[str, Any]:
    values = settings.model_dump()
    return {**values.pop("rl"), **values.pop("ppo"), **values}


# ---------------------------------------------------------------------- seen from outside


def watched_training(report: TrainingReport, recording: Recording, next_began: float | None) -> WatchedTraining:
    """What a recording shows of one training.

    :param next_began: when the next training began, None if it was the last one
    """
    began, ended = _began(report), max((stop for _, _, stop in report.phases), default=0.0)
    samples = recording.within(began, ended)
    workers = [recording.workers_in(sample) for sample in samples]
    pids = frozenset().union(*workers)
    after = [sample for sample in recording.samples if sample.time > ended]
    if next_began is not None:
        after = [sample for sample in after if sample.time >= next_began]
    # The last sample of freqtrade's life, or the first one of the next training.
    at_the_end = (after[0] if next_began is not None else after[-1]) if after else None
    mine = pids | set(report.worker_pids)
    left = mine & recording.workers_in(at_the_end) if at_the_end is not None else mine & set(recording.left_running)
    return WatchedTraining(
        in_watched_process=report.process_id in recording.roles,
        samples=len(samples),
        worker_counts=tuple(sorted({len(found) for found in workers})),
        worker_pids=tuple(sorted(pids)),
        workers_left=tuple(sorted(left)),
        rollout=phase_usage(report, recording, "rollout"),
        update=phase_usage(report, recording, "update"),
    )


def phase_usage(report: TrainingReport, recording: Recording, phase: str) -> PhaseUsage:
    """Processor time of the phases of one name."""
    spans: list[Span] = [(start, stop) for name, start, stop in report.phases if name == phase]
    return PhaseUsage(
        count=len(spans),
        seconds=sum(stop - start for start, stop in spans),
        samples=sum(len(recording.within(*span)) for span in spans),
        training_process_cpu_seconds=recording.cpu_seconds(spans, ROOT),
        workers_cpu_seconds=recording.cpu_seconds(spans, WORKER),
        tree_cpu_seconds=recording.cpu_seconds(spans),
        machine_busy_seconds=recording.machine_busy_seconds(spans),
        computing_threads=recording.computing_threads(spans),
    )


# ---------------------------------------------------------------------- the saved policy


def untrained_policy(model: PPO, settings: Settings) -> ActorCriticPolicy:
    """The policy that a model's training began with: same network, same seed, built as in training."""
    set_random_seed(model.seed or 0)
    policy = model.policy_class(
        model.observation_space, model.action_space, model.lr_schedule, use_sde=model.use_sde, **model.policy_kwargs
    )
    assert isinstance(policy, ActorCriticPolicy)
    twin = copy.copy(model)
    twin.policy = policy.to(model.device)
    prefer_holding(twin, settings.rl.initial_exit_probability)
    return twin.policy


def saved_policy(model: PPO, untrained: ActorCriticPolicy) -> SavedPolicy:
    """What a model file says of itself, layer sizes from the weights."""
    extractor = model.policy.mlp_extractor
    before, after = dict(untrained.named_parameters()), dict(model.policy.named_parameters())
    with torch.no_grad():
        changes = {name: (after[name] - before[name]).double().norm().item() for name in after}
        norm_before = sum(value.double().norm().item() ** 2 for value in before.values()) ** 0.5
        finite = all(bool(torch.isfinite(value).all()) for value in after.values())
    return SavedPolicy(
        n_steps=model.n_steps,
        n_envs=model.n_envs,
        batch_size=model.batch_size,
        n_epochs=model.n_epochs,
        policy_layers=_layers(extractor.policy_net),
        value_layers=_layers(extractor.value_net),
        epochs_run=model._n_updates,
        tensors=len(after),
        tensors_moved=sum(change != 0 for change in changes.values()),
        relative_change=sum(change**2 for change in changes.values()) ** 0.5 / norm_before,
        finite=finite,
    )


def _layers(network: nn.Sequential) -> tuple[int, ...]:
    return tuple(linear.out_features for linear, _ in hidden_layers(network))


def decided(model: PPO, untrained: ActorCriticPolicy, features: npt.NDArray[np.float32], settings: Settings) -> Decided:
    """Decide on the features a policy was trained with: in one batch, one by one, and untrained.

    :param features: scaled, shape (n_candles, n_features)
    """
    assert isinstance(model.policy, MaskedActorCriticPolicy)
    assert isinstance(untrained, MaskedActorCriticPolicy)
    everything = observations(np.arange(settings.lookback - 1, len(features)), settings.rl.seed)
    picked = np.linspace(0, len(everything) - 1, min(ROWS_COMPARED, len(everything))).astype(np.int64)
    compared = everything[picked]
    decider = PolicyDecider(model.policy, features)
    batched = decider.decide(compared)

    extractor = features_extractor(model)
    extractor.set_features(features)
    # A policy trained in bfloat16 decides in float32, whoever asks it.
    began = time.perf_counter()
    with model.policy.in_full_precision():
        singly = np.array([int(model.predict(row, deterministic=True)[0]) for row in compared])
    singly_seconds = time.perf_counter() - began
    rows = np.arange(len(compared))
    gap = np.abs(batched.probabilities[rows, batched.actions] - batched.probabilities[rows, singly])
    differs = batched.actions != singly
    return Decided(
        rows=len(compared),
        equal=int((~differs).sum()),
        ties=int((differs & (gap <= TIE)).sum()),
        kinds=len(np.unique(batched.actions)),
        unlike_untrained=int((PolicyDecider(untrained, features).decide(compared).actions != batched.actions).sum()),
        batch_rows=len(everything),
        rows_per_second=_rows_per_second(decider, everything),
        singly_per_second=len(compared) / singly_seconds,
    )


def observations(rows: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.float32]:
    """Compact observations after some rows: in turn flat, long and short, with drawn profits, ages and permissions.

    :param rows: the last closed candle of each observation
    :return: shape (len(rows), 1 + n_account)
    """
    rng = np.random.default_rng(seed)
    n = len(rows)
    side = np.resize([0.0, 1.0, -1.0], n)
    profit = rng.normal(0.0, 0.5, n) * (side != 0)
    observations = Observation(
        row=rows,
        side=side,
        profit=profit,
        best_profit=np.maximum(profit, rng.normal(0.0, 0.5, n)) * (side != 0),
        held=rng.uniform(0.0, 1.0, n) * (side != 0),
        long_permitted=rng.integers(0, 2, n).astype(np.float64),
        short_permitted=rng.integers(0, 2, n).astype(np.float64),
    )
    return np.stack(observations, axis=1).astype(np.float32)


def _rows_per_second(decider: PolicyDecider, rows: npt.NDArray[np.float32]) -> float:
    seconds = []
    for _ in range(TIMINGS):
        started = time.perf_counter()
        decider.decide(rows)
        seconds.append(time.perf_counter() - started)
    return float(len(rows) / np.median(seconds))


# ---------------------------------------------------------------------- the backtest


def trades_of_result(path: Path) -> Trades:
    """The trades in a backtest result.

    :param path: freqtrade's zip
    """
    (strategy,) = load_backtest_stats(path)["strategy"].values()
    trades: Sequence[dict[str, Any]] = strategy["trades"]
    short = sum(bool(trade["is_short"]) for trade in trades)
    reasons = Counter(str(trade["exit_reason"]) for trade in trades)
    return Trades(len(trades), len(trades) - short, short, dict(reasons.most_common()))


def _began(report: TrainingReport) -> float:
    return min((start for _, start, _ in report.phases), default=0.0)


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise ArtefactError(f"{folder} holds {len(found)} files {pattern}, one was expected")
    return found[0]
