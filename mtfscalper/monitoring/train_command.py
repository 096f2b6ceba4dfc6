"""The work of ``mtfscalper train``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich.console import Console
from stable_baselines3.common.utils import get_device

from mtfscalper.machine import usable_processors
from mtfscalper.monitoring.roofline import Roofline
from mtfscalper.monitoring.run_estimate import Machine
from mtfscalper.monitoring.train_run import config_of, plan_run, train_run
from mtfscalper.monitoring.train_tables import print_plan, print_trained


def train(arguments: Sequence[str], workers: int | None, *, plans_only: bool, console: Console) -> int:
    """Train what a backtest lacks, or print what that would be.

    :param arguments: of ``freqtrade backtesting``
    :param workers: as many trainings side by side, in place of the config's own
    :return: exit status: 0 all there, 1 some trainings failed
    :raises freqtrade.exceptions.FreqtradeException: if the run cannot be
    """
    config = config_of(arguments, workers)
    if not plans_only:
        trained = train_run(config)
        print_trained(trained, console)
        return 0 if trained.is_whole else 1
    plans = plan_run(config)
    for plan in plans:
        print_plan(plan, _this_machine(get_device(plan.settings.rl.device)), console)
    return 0


def _this_machine(device: torch.device) -> Machine:
    roofline = Roofline([torch.float32], device)
    roofline.measure()
    peak_flops = 1e9 * roofline.peak(torch.float32)
    return Machine(usable_processors(), peak_flops, torch.get_num_threads(), device.type != "cpu")
