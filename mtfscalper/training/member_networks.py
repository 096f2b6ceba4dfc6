"""The networks of K policies of one shape, computed as one: forward, backward and Adam's steps on one device.

What :class:`mtfscalper.training.paired_networks.PairedNetworks` does for the two networks of one policy is done here
for the 2K networks of K members. Nothing waits for the device, and memory stays where it is: a forward, a backward and
a step can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mtfscalper.policy.network import (
    HiddenLayer,
    LookbackExtractor,
    MaskedActorCriticPolicy,
    hidden_layers,
    through_layers,
)
from mtfscalper.trading.actions import N_ACTIONS
from mtfscalper.training.member_adam import MemberAdam
from mtfscalper.training.paired_networks import PairedNetworks

# Widths are multiples of this many numbers: of bfloat16 the 16 bytes that a GPU's matrix units read at once.
_ALIGNMENT = 8


class _Matrices(NamedTuple):
    """Parameters, or their gradients, as views of a buffer; see :class:`MemberNetworks` for what stands in them.

    :ivar hidden: of each hidden layer, shape (2K, n_outputs, n_inputs + 1 and more)
    :ivar head: shape (2K, 8, n_inputs + 1 and more)
    """

    hidden: list[Tensor]
    head: Tensor


class _Memory(NamedTuple):
    """Where a forward of n observations of each member is written.

    :ivar inputs: of each layer, the heads' last, shape (2K, n, n_inputs + 1 and more): behind what a layer reads stands
        a column of ones, by which its biases are multiplied, and zeros up to the aligned width
    :ivar latent: the heads' inputs in the heads' precision
    :ivar answers: shape (2K, n, 8)
    :ivar layers: the hidden layers, each of which writes the next one's inputs
    """

    inputs: list[Tensor]
    latent: Tensor
    answers: Tensor
    layers: list[HiddenLayer]


class _GradientMemory(NamedTuple):
    """Where a backward of n observations of each member is written.

    :ivar hidden: of each hidden layer, with respect to what goes into ReLU, shape (2K, n, n_outputs)
    :ivar latent: with respect to what the heads read, in the heads' precision
    :ivar answers: shape (2K, n, 8), zero where a head has no answer
    """

    hidden: list[Tensor]
    latent: Tensor
    answers: Tensor


class MemberNetworks:
    """The networks of K members.

    Network ``2 * k`` is member k's policy network, ``2 * k + 1`` its value network. Each has one row of parameters:
    layer after layer a matrix whose first columns are the weights, the next one the biases; a head's matrix has 8 rows.
    What is not filled is zero and stays zero, as its gradient is. A member's two rows lie side by side, so that the
    norm of its gradient is one sum and its step one pass.

    The policies are read by :meth:`load` and written by :meth:`store`, and may lie on another device.

    :ivar policies: of each member
    """

    def __init__(self, policies: Sequence[MaskedActorCriticPolicy], features: Tensor) -> None:
        """
        :param policies: of one shape and one precision, each one that ``PairedNetworks.fits``
        :param features: of :meth:`LookbackExtractor.as_tape`, the candles of all members end to end, on the device that
            computes; an observation's row counts along them, and as float32 is exact up to 2^24
        """
        first = policies[0]
        assert all(PairedNetworks.fits(policy) for policy in policies)
        assert len({(policy.precision, *_widths(policy)) for policy in policies}) == 1
        assert isinstance(first.features_extractor, LookbackExtractor)
        self.policies = list(policies)
        self._extractor = first.features_extractor
        self._widths = _widths(first)
        exact = first.value_net.weight.dtype
        self._is_bf16 = first.precision == "bf16"
        sizes = [rows * columns for rows, columns in self._shapes()]
        self._n_hidden, n_parameters = sum(sizes[:-1]), sum(sizes)
        self._flat = torch.zeros(len(policies), 2 * n_parameters, dtype=exact, device=features.device)
        self._gradient = torch.zeros_like(self._flat)
        self._best = torch.zeros_like(self._flat)
        self._adam = MemberAdam(self._flat, self._gradient, [policy.optimizer for policy in policies])
        self._exact = self._matrices(self._flat)
        self._gradients = self._matrices(self._gradient)
        # Hidden layers compute with the parameters themselves, or with what they round to.
        dtype = torch.bfloat16 if self._is_bf16 else exact
        self._tape, self._exact_tape = features.to(dtype), features.to(exact)
        self._working = self._hidden_part(self._flat).to(dtype)
        self._working_gradient = self._hidden_part(self._gradient).to(dtype)
        self._weights, self._weight_gradients = (
            self._hidden_matrices(part) for part in (self._working, self._working_gradient)
        )
        self._memories: dict[tuple[int, bool], _Memory] = {}
        self._gradient_memories: dict[int, _GradientMemory] = {}

    @torch.no_grad()
    def load(self) -> None:
        """Take in the policies' parameters and their optimizers' moments and numbers of steps."""
        for member, policy in enumerate(self.policies):
            for parameter, own in self._places(member, self._flat):
                own.copy_(parameter)
            for name, moment in self._adam.moments.items():
                for parameter, own in self._places(member, moment):
                    state = policy.optimizer.state[parameter]
                    # An optimizer that has not stepped yet keeps nothing.
                    own.copy_(state[name]) if name in state else own.zero_()
            self._adam.steps[member] = float(state.get("step", 0.0))
        self._round()

    @torch.no_grad()
    def store(self) -> None:
        """Give the policies their parameters, and their optimizers what torch's Adam goes on from."""
        for member, policy in enumerate(self.policies):
            for parameter, own in self._places(member, self._flat):
                parameter.copy_(own)
                policy.optimizer.state[parameter]["step"] = self._adam.steps[member].to(policy.device, copy=True)
            for name, moment in self._adam.moments.items():
                for parameter, own in self._places(member, moment):
                    policy.optimizer.state[parameter][name] = torch.empty_like(parameter).copy_(own)

    @torch.no_grad()
    def forward(self, observations: Tensor, *, exact: bool = False) -> tuple[Tensor, Tensor]:
        """
        :param observations: compact, shape (K, n, 1 + n_account)
        :param exact: compute in float32 whatever the precision, as a decision is made
        :return: logits before any mask, shape (K, n, 5), and values, shape (K, n); the next forward of so many rows
            writes over them
        """
        n_members, n_rows, _ = observations.shape
        memory = self._memory(n_rows, exact)
        # A member's two networks read the same.
        read = observations.unsqueeze(1).expand(-1, 2, -1, -1).flatten(0, 2)
        inputs = memory.inputs[0].flatten(0, 1)[:, : self._extractor.n_gathered]
        self._extractor.gather(self._exact_tape if exact else self._tape, read, inputs)

        def heads(latent: Tensor) -> Tensor:
            if latent.dtype != memory.latent.dtype:
                latent = memory.latent.copy_(latent)
            return torch.bmm(latent, self._exact.head.transpose(1, 2), out=memory.answers)

        answers = through_layers(memory.inputs[0], memory.layers, heads).view(n_members, 2, n_rows, _ALIGNMENT)
        return answers[:, 0, :, :N_ACTIONS], answers[:, 1, :, 0]

    @torch.no_grad()
    def backward(self, logits_gradient: Tensor, values_gradient: Tensor) -> None:
        """Work out the gradient of every parameter, for the rows of the last :meth:`forward` of as many that was not
        exact.

        :param logits_gradient: the loss's, shape (K, n, 5)
        :param values_gradient: the loss's, shape (K, n)
        """
        n_members, n_rows = values_gradient.shape
        forward, memory = self._memory(n_rows, exact=False), self._gradient_memory(n_rows)
        answers = memory.answers.view(n_members, 2, n_rows, _ALIGNMENT)
        answers[:, 0, :, :N_ACTIONS] = logits_gradient
        answers[:, 1, :, 0] = values_gradient
        torch.bmm(memory.answers.transpose(1, 2), forward.latent, out=self._gradients.head)
        torch.bmm(memory.answers, self._exact.head[..., : self._widths[-1]], out=memory.latent)
        if self._is_bf16:
            memory.hidden[-1].copy_(memory.latent)
        for layer in reversed(range(len(self._weights))):
            gradient, width = memory.hidden[layer], self._widths[layer + 1]
            hidden = forward.inputs[layer + 1][..., :width]
            # ReLU passes a gradient on where it passed the value.
            torch.ops.aten.threshold_backward.grad_input(gradient, hidden, 0, grad_input=gradient)
            torch.bmm(gradient.transpose(1, 2), forward.inputs[layer], out=self._weight_gradients[layer])
            if layer:
                weight = self._weights[layer][..., : self._widths[layer]]
                torch.bmm(gradient, weight, out=memory.hidden[layer - 1])

    @torch.no_grad()
    def step(self, learning_rate: Tensor, max_grad_norm: Tensor, active: Tensor) -> None:
        """Clip each member's gradient of the last :meth:`backward`, and step its Adam.

        :param learning_rate: shape (K,), as ``max_grad_norm``
        :param active: bool, shape (K,); the parameters, moments and steps of the others stay
        """
        if self._is_bf16:
            self._hidden_part(self._gradient).copy_(self._working_gradient)
        self._adam.step(learning_rate, max_grad_norm, active)
        self._round()

    @torch.no_grad()
    def keep_best(self, better: Tensor) -> None:
        """Keep the parameters of some members as the best so far.

        :param better: of whom, bool, shape (K,)
        """
        torch.where(better.unsqueeze(1), self._flat, self._best, out=self._best)

    @torch.no_grad()
    def restore_best(self, kept: Tensor) -> None:
        """Give some members the parameters that were kept as their best.

        :param kept: whom, bool, shape (K,)
        """
        torch.where(kept.unsqueeze(1), self._best, self._flat, out=self._flat)
        self._round()

    def _round(self) -> None:
        if self._is_bf16:
            self._working.copy_(self._hidden_part(self._flat))

    def _shapes(self) -> list[tuple[int, int]]:
        """Rows and columns of each layer's matrix, the head's last."""
        return [
            (n_outputs, _aligned(n_inputs + 1))
            for n_inputs, n_outputs in zip(self._widths, [*self._widths[1:], _ALIGNMENT], strict=True)
        ]

    def _hidden_part(self, buffer: Tensor) -> Tensor:
        """What belongs to the hidden layers in a buffer of all parameters, shape (2K, n_hidden)."""
        return buffer.view(2 * len(self.policies), -1)[:, : self._n_hidden]

    def _hidden_matrices(self, part: Tensor) -> list[Tensor]:
        """
        :param part: of :meth:`_hidden_part`
        """
        shapes = self._shapes()[:-1]
        parts = torch.split(part, [rows * columns for rows, columns in shapes], dim=1)
        return [torch.unflatten(matrix, 1, shape) for matrix, shape in zip(parts, shapes, strict=True)]

    def _matrices(self, buffer: Tensor) -> _Matrices:
        """
        :param buffer: of all parameters, shape (K, 2 * n_parameters)
        """
        head = buffer.view(2 * len(self.policies), -1)[:, self._n_hidden :]
        return _Matrices(self._hidden_matrices(self._hidden_part(buffer)), torch.unflatten(head, 1, self._shapes()[-1]))

    def _places(self, member: int, buffer: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Each parameter of a member's policy, and where it stands in a buffer of all parameters."""
        matrices = self._matrices(buffer)
        for index, linears in enumerate(_networks(self.policies[member])):
            for linear, matrix in zip(linears, [*matrices.hidden, matrices.head], strict=True):
                n_outputs, n_inputs = linear.weight.shape
                own = matrix[2 * member + index, :n_outputs]
                yield linear.weight, own[:, :n_inputs]
                yield linear.bias, own[:, n_inputs]

    def _memory(self, n_rows: int, exact: bool) -> _Memory:
        """Memory for so many rows; an exact forward has its own, so that it does not disturb a backward."""
        key = n_rows, exact
        if key not in self._memories:
            # A rollout asks for it in inference mode, and an update could not write there.
            with torch.inference_mode(False):
                self._memories[key] = self._new_memory(n_rows, exact)
        return self._memories[key]

    def _new_memory(self, n_rows: int, exact: bool) -> _Memory:
        weights = self._exact.hidden if exact else self._weights
        inputs = []
        for width in self._widths:
            inputs.append(weights[0].new_zeros(2 * len(self.policies), n_rows, _aligned(width + 1)))
            inputs[-1][..., width] = 1
        layers: list[HiddenLayer] = [
            # ReLU leaves ones and zeros as they are.
            (_Linear(weight, outputs), torch.relu_)
            for weight, outputs in zip(weights, inputs[1:], strict=True)
        ]
        latent = inputs[-1].to(self._flat.dtype)
        return _Memory(inputs, latent, latent.new_empty(*latent.shape[:2], _ALIGNMENT), layers)

    def _gradient_memory(self, n_rows: int) -> _GradientMemory:
        if n_rows not in self._gradient_memories:
            hidden = [self._working.new_empty(2 * len(self.policies), n_rows, width) for width in self._widths[1:]]
            latent = hidden[-1].to(self._flat.dtype)
            answers = latent.new_zeros(*latent.shape[:2], _ALIGNMENT)
            self._gradient_memories[n_rows] = _GradientMemory(hidden, latent, answers)
        return self._gradient_memories[n_rows]


class _Linear:
    """A hidden layer's matrix product, written where the next layer reads."""

    def __init__(self, weight: Tensor, outputs: Tensor) -> None:
        """
        :param weight: of :class:`_Matrices`
        :param outputs: the next layer's inputs
        """
        self._weight = weight.transpose(1, 2)
        self._outputs = outputs
        self._hidden = outputs[..., : weight.shape[1]]

    def __call__(self, inputs: Tensor) -> Tensor:
        torch.bmm(inputs, self._weight, out=self._hidden)
        return self._outputs


def _aligned(width: int) -> int:
    """The next multiple of :data:`_ALIGNMENT`."""
    return -(-width // _ALIGNMENT) * _ALIGNMENT


def _networks(policy: MaskedActorCriticPolicy) -> list[list[nn.Linear]]:
    """The linear layers of the policy network and of the value network, heads last."""
    networks: list[tuple[nn.Sequential, Any]] = [
        (policy.mlp_extractor.policy_net, policy.action_net),
        (policy.mlp_extractor.value_net, policy.value_net),
    ]
    return [[*(linear for linear, _ in hidden_layers(hidden)), head] for hidden, head in networks]


def _widths(policy: MaskedActorCriticPolicy) -> list[int]:
    """How many numbers each layer of a policy's two networks reads, the heads last."""
    return [linear.in_features for linear in _networks(policy)[0]]
