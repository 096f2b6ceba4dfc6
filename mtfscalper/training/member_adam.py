"""Adam's steps of K members, each with a learning rate, a clipped gradient and a count of steps of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# What Adam keeps of each parameter.
MOMENTS = ("exp_avg", "exp_avg_sq")
# Parameters that one block of a GPU takes: with 65,536, torch's own, most of a GPU would stand idle.
_CUDA_PIECE = 2**14


class MemberAdam:
    """Adam as torch computes it in one pass over a member's parameters.

    :ivar moments: by Adam's names, each of the parameters' shape
    :ivar steps: how many each member has made, float32, shape (K,)
    """

    def __init__(self, parameters: Tensor, gradient: Tensor, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """
        :param parameters: which a step changes, shape (K, n)
        :param gradient: which a step reads, in the same shape, and scales
        :param optimizers: of each member: betas, eps and weight decay are theirs
        """
        self.moments = {name: torch.zeros_like(parameters) for name in MOMENTS}
        self.steps = torch.zeros(len(parameters), dtype=torch.float32, device=parameters.device)
        self._gradient = gradient
        self._idle = torch.zeros_like(self.steps)
        self._groups = [optimizer.param_groups[0] for optimizer in optimizers]
        piece = _CUDA_PIECE if parameters.is_cuda else parameters.shape[1]
        buffers = parameters, gradient, *self.moments.values()
        # Of each member each buffer in pieces.
        self._pieces = [
            [list(torch.split(buffer[member], piece)) for buffer in buffers] for member in range(len(parameters))
        ]

    @torch.no_grad()
    def step(self, learning_rate: Tensor, max_grad_norm: Tensor, active: Tensor) -> None:
        """Clip each member's gradient by its norm, as ``clip_grad_norm_`` does, and step.

        :param learning_rate: shape (K,), as ``max_grad_norm``
        :param active: bool, shape (K,); where it does not hold nothing but the gradient changes
        """
        norms = torch.linalg.vector_norm(self._gradient, dim=1)
        scale = (max_grad_norm / (norms + 1e-6)).clamp_(max=1.0)
        self._gradient.mul_(scale.unsqueeze(1))
        self.steps.add_(active)
        torch.logical_not(active, out=self._idle)
        if learning_rate.is_cuda:
            # There torch reads it as float32, whatever the parameters are.
            learning_rate = learning_rate.float()
        for member, (pieces, group) in enumerate(zip(self._pieces, self._groups, strict=True)):
            parameters, gradients, exp_avgs, exp_avg_sqs = pieces
            beta1, beta2 = group["betas"]
            torch._fused_adam_(
                parameters,
                gradients,
                exp_avgs,
                exp_avg_sqs,
                [],
                [self.steps[member]] * len(parameters),
                lr=learning_rate[member],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
                # Made for mixed precision, where a step with infinite gradients is left out.
                found_inf=self._idle[member],
            )
