"""Training on a device against training on the CPU, members against themselves alone, graphs against none.

Compiled is the last alone: compiling for each number of members would take most of the time.
"""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from comparison import Check, largest
from device_task import Task
from torch import Tensor

from mtfscalper.training.device import DeviceUpdate
from mtfscalper.training.member import Member
from mtfscalper.training.population import Population


def parameters(model: Any) -> Tensor:
    """A policy's, one after the other, on the CPU."""
    return torch.cat([parameter.detach().flatten().cpu() for parameter in model.policy.parameters()])


def parameter_check(name: str, pairs: list[tuple[Tensor, Tensor]], device: torch.device, compared: str) -> Check:
    """Compare parameters: on the CPU 2e-6 is allowed beyond 1e-5 of them, on a GPU 1e-4 in all.

    :param pairs: ours and theirs
    """
    on_cpu = device.type == "cpu"
    apart = largest([largest((ours - theirs).abs()) for ours, theirs in pairs])
    beyond = [(ours - theirs).abs() - (1e-5 * theirs.abs() if on_cpu else 0.0) for ours, theirs in pairs]
    tolerance = 2e-6 if on_cpu else 1e-4
    return Check(name, largest(torch.stack(beyond)), tolerance, f"{compared}; apart by {apart:.1e} at most")


def update(task: Task) -> Iterator[Check]:
    """Ten epochs of three members, each against FusedPPO on the CPU, from one rollout and one order."""
    population, size = task.population(3, compile=False), task.size
    population.collect()
    start = [parameters(member.model) for member in population.members]
    theirs, orders, first_row = [], [], 0
    for number, member in enumerate(population.members):
        model = Member(Task(size, "cpu", task.precision).job(number), None).model
        own = slice(number * size.n_envs, (number + 1) * size.n_envs)
        for column, of_all in zip(model.rollout_buffer, population.rollout.buffer, strict=True):
            column.copy_(of_all[:, own])
        # Rows count along the candles of all members.
        model.rollout_buffer.observations[..., 0] -= first_row
        first_row += len(member.job.train)
        orders.append(numpy_orders(number, size.samples, size.n_epochs))
        np.random.seed(number)
        model.train()
        theirs.append(parameters(model))
    DeviceUpdate(population.networks, size.batch_size, size.n_epochs).run_in_order(
        population.rollout.buffer, population.settings, torch.stack(orders, dim=1).to(task.device)
    )
    population.networks.store()
    ours = [parameters(member.model) for member in population.members]
    moved = min(largest((after - before).abs()) for after, before in zip(ours, start, strict=True))
    pairs = list(zip(ours, theirs, strict=True))
    yield parameter_check("update against FusedPPO's on the CPU", pairs, task.device, f"moved by {moved:.1e} or more")


def numpy_orders(seed: int, n_rows: int, n_epochs: int) -> Tensor:
    """The orders of rows that FusedPPO draws after ``np.random.seed``, shape (n_epochs, n_rows)."""
    np.random.seed(seed)
    return torch.from_numpy(np.stack([np.random.permutation(n_rows) for _ in range(n_epochs)]))


def two_rounds(population: Population) -> list[torch.Tensor]:
    """Rollouts and updates; the actions of each rollout, and the policies written."""
    actions = []
    for _ in range(2):
        population.collect()
        actions.append(population.rollout.buffer.actions.clone())
        population.update()
    population.networks.store()
    return actions


def members(task: Task) -> Iterator[Check]:
    """Each of three members against itself alone: two rollouts and two updates."""
    together = task.population(3, compile=False)
    actions = two_rounds(together)
    n_envs, different, pairs = task.size.n_envs, [0, 0], []
    for number, member in enumerate(together.members):
        alone = task.population([number], compile=False)
        columns = slice(number * n_envs, (number + 1) * n_envs)
        for at, own in enumerate(two_rounds(alone)):
            different[at] += int((own != actions[at][:, columns]).sum())
        pairs.append((parameters(member.model), parameters(alone.members[0].model)))
    compared = f"{actions[0].numel()} actions"
    yield Check("member of three against itself: first rollout's actions", different[0], 0, compared)
    yield Check("member of three against itself: second rollout's actions", different[1], 0, compared)
    yield parameter_check("member of three against itself: parameters", pairs, task.device, "two updates")


def graphs(task: Task) -> Iterator[Check]:
    """Two rollouts and updates of three members by CUDA graphs, and the same where none can be captured."""
    with_graphs = task.population(3)
    actions = two_rounds(with_graphs)
    with patch("torch.cuda.graph", side_effect=RuntimeError("not captured on purpose")):
        without = task.population(3)
        plain = two_rounds(without)
    different = sum(int((one != two).sum()) for one, two in zip(actions, plain, strict=True))
    pairs = [
        (parameters(ours.model), parameters(theirs.model))
        for ours, theirs in zip(with_graphs.members, without.members, strict=True)
    ]
    yield Check("with CUDA graphs against without: actions", different, 0, f"{2 * actions[0].numel()} actions")
    yield parameter_check("with CUDA graphs against without: parameters", pairs, task.device, "two updates")
