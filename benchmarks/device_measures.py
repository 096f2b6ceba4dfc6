"""What bench_device.py measures: populations, their rivals, environments, and ten whole trainings."""

import gc
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from device_task import TOY, Task
from env_contenders import on_device, vectorised
from kernels import KernelTimes, profiled

from mtfscalper.envs.batched_env import BatchedTradingEnv
from mtfscalper.envs.device_env import DeviceEnv
from mtfscalper.monitoring.ppo_rounds import Clock, Seconds, flops, one_round, rounds_of
from mtfscalper.monitoring.roofline import Roofline
from mtfscalper.trading.observation import N_ACCOUNT
from mtfscalper.training.memory import member_bytes
from mtfscalper.training.population import Population, train_population

# Dense products of bfloat16 in TFLOP/s by NVIDIA's data sheets; of cards that one name is part of, the first.
NOMINAL_TFLOPS = {"H100 PCIe": 756.0, "H100 NVL": 835.0, "H200 NVL": 835.0, "H100": 989.4, "H200": 989.4}
OURS, FUSED, SB3 = "population of 1", "FusedPPO, batched NumPy", "stable-baselines3 PPO, DummyVecEnv"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# Environments of the comparison on a CPU, and seconds that each contender steps in a round.
STEPPED_ENVS, STEP_SECONDS = 4096, 1.0


class Round(NamedTuple):
    """Seconds of a rollout, an update and an evaluation of a population."""

    rollout: float
    update: float
    evaluation: float


def round_with_evaluation(population: Population, clock: Clock) -> Round:
    seconds = one_round(population, clock)
    started = clock()
    population.evaluate()
    return Round(*seconds, clock() - started)


class Bench:
    """What is measured of one task; every method is a part by itself."""

    def __init__(self, task: Task, n_rounds: int, clock: Clock) -> None:
        self.task, self.n_rounds, self._clock = task, n_rounds, clock
        self.is_cuda = task.device.type == "cuda"
        # The one that was measured last, and the size of its minibatches.
        self._latest: tuple[Population, int] | None = None

    def peaks(self) -> dict[str, float | None]:
        """Of products of matrices, in TFLOP/s: by the card's data sheet, and measured here for each precision."""
        roofline = Roofline(DTYPES.values(), self.task.device)
        roofline.measure()
        name = torch.cuda.get_device_name(self.task.device) if self.is_cuda else ""
        nominal = next((tflops for card, tflops in NOMINAL_TFLOPS.items() if card in name), None)
        measured = {precision: 1e-3 * roofline.peak(dtype) for precision, dtype in DTYPES.items()}
        return {"nominal_bf16": nominal, **measured}

    def population(self, n_members: int, batch_size: int, peaks: dict[str, float | None]) -> dict[str, Any]:
        """A population's rounds and its memory."""
        size, task = self.task.size, self.task
        self._forget()
        before, started = self._memory(), time.perf_counter()
        population = task.population(n_members, batch_size=batch_size)
        self._latest = population, batch_size
        round_with_evaluation(population, self._clock)
        ready = time.perf_counter()
        rounds = [round_with_evaluation(population, self._clock) for _ in range(self.n_rounds)]
        memory = self._memory() - before
        rollout, update, evaluation = np.median(rounds, axis=0).tolist()
        n_minibatches = size.n_minibatches(batch_size)
        job, precision = population.members[0].job, population.members[0].report.precision
        n_candles = sum(len(tape) for tape in (job.train, job.evaluation) if tape is not None)
        figures = {
            "members": n_members,
            "batch_size": batch_size,
            "precision": precision,
            "prepare_seconds": ready - started,
            "rollout_seconds": rollout,
            "update_seconds": update,
            "evaluation_seconds": evaluation,
            "samples_per_second": n_members * size.samples / (rollout + update),
            "minibatch_us": 1e6 * update / n_minibatches,
            "member_mib": memory / n_members / 2**20,
            "member_bytes_mib": member_bytes(job.settings, job.train.n_features, n_candles) / 2**20,
            "rounds": rounds,
        }
        return figures | self._shares_of_peak(n_members, update, precision, peaks)

    def _shares_of_peak(
        self, n_members: int, update_seconds: float, precision: str, peaks: dict[str, float | None]
    ) -> dict[str, float | None]:
        """The operations of an update over its time and over what the device gives at best.

        Of each sample and epoch the two networks have ``ppo_rounds.flops``: with P weights, of which P_first are
        in the first layers, 2 P forward, 2 P for the weights' gradients and 2 (P - P_first) for the inputs'. What else
        an update does counts as nothing.
        """
        size, job = self.task.size, self.task.job(0)
        n_inputs = job.train.n_features * job.settings.lookback + N_ACCOUNT
        operations = n_members * size.n_epochs * size.samples * flops(n_inputs, size.net_arch)[0]
        tflops = 1e-12 * operations / update_seconds
        nominal = peaks["nominal_bf16"] if precision == "bf16" else None
        return {
            "update_tflops": tflops,
            "share_of_measured_peak": tflops / peaks[precision],
            "share_of_nominal_peak": tflops / nominal if nominal else None,
        }

    def kernels(self) -> dict[str, Any]:
        """Kernels of a rollout and an update of the latest population; the profiler's own time counts as idle."""
        if self._latest is None:
            raise RuntimeError("there is no population to profile")
        population, batch_size = self._latest
        rollout, update = profiled(population.collect), profiled(population.update)
        n_minibatches = self.task.size.n_minibatches(batch_size)

        def share(times: KernelTimes) -> float:
            return times.kernel_seconds / times.wall_seconds

        return {
            "rollout_share": share(rollout),
            "update_share": share(update),
            "kernels_per_minibatch": update.n_kernels / n_minibatches,
            "launches_per_minibatch": update.n_graph_launches / n_minibatches,
            "rollout_kernels": rollout._asdict(),
            "update_kernels": update._asdict(),
        }

    def rivals(self) -> dict[str, dict[str, Any]]:
        """One training beside its rivals, round by round, each with as many environments and samples."""
        self._forget()
        population = self.task.population(1)
        contenders: dict[str, Callable[[], Seconds]] = {
            OURS: lambda: one_round(population, self._clock),
            FUSED: rounds_of(self.task.fused(), self._clock),
            SB3: rounds_of(self.task.stable_baselines3(), self._clock),
        }
        rounds: dict[str, list[Seconds]] = {name: [] for name in contenders}
        for _ in range(1 + self.n_rounds):
            for name, run in contenders.items():
                rounds[name].append(run())
        figures: dict[str, dict[str, Any]] = {}
        for name, own in rounds.items():
            # The first round warms up.
            rollout, update = np.median(own[1:], axis=0).tolist()
            rate = self.task.size.samples / (rollout + update)
            ours = figures.get(OURS, {"samples_per_second": rate, "update_seconds": update})
            figures[name] = {
                "rollout_seconds": rollout,
                "update_seconds": update,
                "samples_per_second": rate,
                "x_of_one": ours["samples_per_second"] / rate,
                "x_of_one_update": update / ours["update_seconds"],
                "rounds": own,
            }
        return figures

    def environments(self) -> dict[str, dict[str, float]]:
        """Steps a second of many environments over tensors and over NumPy's arrays, round by round."""
        job, n_envs = self.task.job(0), self.task.size.n_envs if self.task.size is TOY else STEPPED_ENVS
        seconds = 0.05 if self.task.size is TOY else STEP_SECONDS
        contenders = {
            "NumPy": vectorised(BatchedTradingEnv(job.train, job.env, n_envs), self._clock),
            "torch": on_device(DeviceEnv([job.train], job.env, n_envs, "cpu"), self._clock),
        }
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(1 + self.n_rounds):
            for name, run in contenders.items():
                rates[name].append(run(seconds))
        medians = {name: float(np.median(own[1:])) for name, own in rates.items()}
        return {
            f"{name} x {n_envs}": {"steps_per_second": median, "x_numpy": median / medians["NumPy"]}
            for name, median in medians.items()
        }

    def mission(self) -> dict[str, dict[str, float]]:
        """Ten whole trainings, two pairs in five periods, as one population: from the jobs to the policies."""
        self._forget()
        cycles = self.task.size.mission_cycles
        jobs = [self.task.job(member, train_cycles=cycles) for member in range(10)]
        started = time.perf_counter()
        reports = [report for _, report in train_population(jobs)]
        seconds = time.perf_counter() - started
        first = reports[0]
        name = f"{len(jobs)} trainings of {cycles} cycles, {first.train_candles} candles each"
        return {
            name: {
                "seconds": seconds,
                "rollout_seconds": first.seconds_of("rollout"),
                "update_seconds": first.seconds_of("update"),
                "evaluation_seconds": sum(evaluation["seconds"] for evaluation in first.evaluations),
                "timesteps": sum(report.timesteps for report in reports),
                "trained_at_once": first.population,
            }
        }

    def _forget(self) -> None:
        """Let go of the population before, and of what was compiled for its shapes: the compiler keeps only a few."""
        self._latest = None
        gc.collect()
        torch.compiler.reset()
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.task.device)

    def _memory(self) -> int:
        """Bytes in use: of a GPU the most since the last :meth:`_forget`, on a CPU the process's resident ones now."""
        if self.is_cuda:
            return torch.cuda.max_memory_allocated(self.task.device)
        return psutil.Process().memory_info().rss
