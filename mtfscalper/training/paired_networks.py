"""The policy's and the value network, computed as one: forward, backward and Adam's step without autograd.

Both networks have hidden layers of the same widths. Each layer is one batched matrix product over the two, written
into memory that is kept; parameters, gradients and Adam's moments lie in one buffer each, and a step goes through them
piece by piece.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.optim.adam import adam

from mtfscalper.policy.network import (
    HiddenLayer,
    LookbackExtractor,
    MaskedActorCriticPolicy,
    has_relu_layers,
    hidden_layers,
    through_layers,
)
from mtfscalper.training.member_adam import MOMENTS

# Options of Adam that a step here does not have.
_VARIANTS = ("amsgrad", "maximize", "decoupled_weight_decay")
# Parameters that a step takes at once: their gradients in float32 stay in the processor's cache.
_PIECE = 2**19


class _Slot(NamedTuple):
    """Where parameters lie in a buffer.

    :ivar parameters: the policy's; those of two networks lie one after the other
    :ivar shape: of all of them together
    """

    parameters: list[nn.Parameter]
    shape: tuple[int, ...]


class _Memory(NamedTuple):
    """Where a forward and a backward of n rows are written; hidden layers have shape (2, n, width).

    :ivar inputs: shape (n, n_inputs)
    :ivar hidden: of each layer, after ReLU
    :ivar gradients: of each layer, with respect to what goes into ReLU
    :ivar latent: what the heads see, in the heads' precision
    :ivar latent_gradient: in that precision too
    :ivar layers: the hidden layers, each of which writes its ``hidden``
    """

    inputs: Tensor
    hidden: list[Tensor]
    gradients: list[Tensor]
    latent: Tensor
    latent_gradient: Tensor
    layers: list[HiddenLayer]


class _Piece(NamedTuple):
    """Parameters next to each other, that a step takes at once.

    :ivar gradient: as Adam reads it
    :ivar steps: how many were made
    :ivar working: parameters and gradient in bfloat16, which the hidden layers compute with; None in full precision
    """

    parameters: Tensor
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    steps: Tensor
    working: tuple[Tensor, Tensor] | None


class PairedNetworks:
    """The two networks of a policy.

    The policy's parameters and its optimizer's moments become views of the buffers here: there is one copy of each,
    and whatever reads or saves the policy sees it.
    """

    def __init__(self, policy: MaskedActorCriticPolicy) -> None:
        """
        :param policy: one that :meth:`fits`
        """
        assert self.fits(policy)
        self.policy = policy
        extractor = policy.features_extractor
        assert isinstance(extractor, LookbackExtractor)
        self._extractor = extractor
        hidden = _hidden_slots(policy)
        heads = [
            _Slot([p], tuple(p.shape)) for head in (policy.action_net, policy.value_net) for p in head.parameters()
        ]
        self._slots = hidden + heads
        exact, device = heads[0].parameters[0].dtype, policy.device
        n_hidden, n_heads = (sum(math.prod(slot.shape) for slot in slots) for slots in (hidden, heads))
        self._flat = torch.zeros(n_hidden + n_heads, dtype=exact, device=device)
        self._moments = {name: torch.zeros_like(self._flat) for name in MOMENTS}
        # Hidden layers compute with the parameters themselves, or with what they round to.
        self._dtype = torch.bfloat16 if policy.precision == "bf16" else exact
        self._is_bf16 = self._dtype != exact
        self._working = self._flat[:n_hidden].to(self._dtype)
        gradient = torch.zeros_like(self._working)
        head_gradient = torch.zeros(n_heads, dtype=exact, device=device)
        self._pieces = self._into_pieces(gradient, head_gradient)
        values, gradients = _views(self._working, hidden), _views(gradient, hidden)
        self._weights, self._biases = values[::2], values[1::2]
        self._weight_gradients, self._bias_gradients = gradients[::2], gradients[1::2]
        self._heads = _views(self._flat[n_hidden:], heads)
        self._head_gradients = _views(head_gradient, heads)
        self._memories: dict[int, _Memory] = {}

    @staticmethod
    def fits(policy: ActorCriticPolicy) -> bool:
        """Whether a policy's networks and optimizer are what is computed here.

        They are where nothing stands between what is gathered from the tape and the hidden layers, where these are as
        many and as wide in both networks, with ReLU, and where the optimizer is Adam as stable-baselines3 sets it up.
        """
        if not has_relu_layers(policy):
            return False
        networks = policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net
        ours, theirs = ([linear.weight.shape for linear, _ in hidden_layers(network)] for network in networks)
        groups = policy.optimizer.param_groups
        is_adam = type(policy.optimizer) is torch.optim.Adam and len(groups) == 1
        return ours == theirs != [] and is_adam and not any(groups[0].get(name) for name in _VARIANTS)

    @torch.no_grad()
    def load(self) -> None:
        """Take in whatever of the policy's parameters, moments and tape has been replaced since the last time."""
        states = self.policy.optimizer.state
        moments = {name: _views(moment, self._slots) for name, moment in self._moments.items()}
        for at, (view, slot) in enumerate(zip(_views(self._flat, self._slots), self._slots, strict=True)):
            for index, parameter in enumerate(slot.parameters):
                own = _member(view, slot, index).view_as(parameter)
                if parameter.data_ptr() != own.data_ptr():
                    own.copy_(parameter)
                    parameter.data = own
                state = states[parameter]
                # An optimizer that has not stepped yet keeps nothing.
                steps = float(state.get("step", 0.0))
                for name, views in moments.items():
                    own = _member(views[at], slot, index).view_as(parameter)
                    kept = state.get(name)
                    if kept is None:
                        own.zero_()
                    elif kept.data_ptr() != own.data_ptr():
                        own.copy_(kept)
                    state[name] = own
        for piece in self._pieces:
            piece.steps.fill_(steps)
        self.count_steps()
        if self._is_bf16:
            self._working.copy_(self._flat[: len(self._working)])
        self._tape = self._extractor.features.to(self._dtype)

    @torch.no_grad()
    def release(self) -> None:
        """Give the policy and its optimizer arrays of their own again: a view is pickled with all that it is a view of,
        and a trained model is sent from process to process."""
        for slot in self._slots:
            for parameter in slot.parameters:
                parameter.data = parameter.data.clone()
                state = self.policy.optimizer.state.get(parameter, {})
                state.update({name: state[name].clone() for name in MOMENTS if name in state})

    def count_steps(self) -> None:
        """Tell the policy's optimizer how many steps were made; each parameter keeps a number of its own."""
        for slot in self._slots:
            for parameter in slot.parameters:
                self.policy.optimizer.state[parameter]["step"] = self._pieces[0].steps.clone()

    @torch.no_grad()
    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param observations: compact, shape (n, 1 + n_account)
        :return: logits before any mask, shape (n, 5), and values, shape (n, 1)
        """
        memory = self._memory(len(observations))

        def heads(latent: Tensor) -> tuple[Tensor, Tensor]:
            if self._is_bf16:
                latent = memory.latent.copy_(latent)
            action_weight, action_bias, value_weight, value_bias = self._heads
            logits = torch.addmm(action_bias, latent[0], action_weight.T)
            return logits, torch.addmm(value_bias, latent[1], value_weight.T)

        self._extractor.gather(self._tape, observations, memory.inputs)
        return through_layers(memory.inputs.expand(2, -1, -1), memory.layers, heads)

    @torch.no_grad()
    def backward(self, logits_gradient: Tensor, values_gradient: Tensor) -> None:
        """Work out the gradient of every parameter, for the rows of the last :meth:`forward`.

        :param logits_gradient: the loss's, shape (n, 5)
        :param values_gradient: the loss's, shape (n, 1)
        """
        memory = self._memory(len(logits_gradient))
        for index, gradient in enumerate((logits_gradient, values_gradient)):
            torch.mm(gradient.T, memory.latent[index], out=self._head_gradients[2 * index])
            torch.sum(gradient, 0, out=self._head_gradients[2 * index + 1])
            torch.mm(gradient, self._heads[2 * index], out=memory.latent_gradient[index])
        if self._is_bf16:
            memory.gradients[-1].copy_(memory.latent_gradient)
        inputs = [memory.inputs.expand(2, -1, -1), *memory.hidden]
        for layer in reversed(range(len(self._weights))):
            gradient, hidden = memory.gradients[layer], memory.hidden[layer]
            # ReLU passes a gradient on where it passed the value.
            torch.ops.aten.threshold_backward.grad_input(gradient, hidden, 0, grad_input=gradient)
            torch.bmm(gradient.transpose(1, 2), inputs[layer], out=self._weight_gradients[layer])
            torch.sum(gradient, 1, keepdim=True, out=self._bias_gradients[layer])
            if layer:
                torch.bmm(gradient, self._weights[layer], out=memory.gradients[layer - 1])

    @torch.no_grad()
    def step(self, learning_rate: float, max_grad_norm: float) -> None:
        """Clip the gradient of the last :meth:`backward` by its norm, as ``clip_grad_norm_`` does, and step Adam."""
        squares = []
        for piece in self._pieces:
            gradient = self._upcast(piece)
            squares.append(torch.dot(gradient, gradient))
        scale = (max_grad_norm / (torch.stack(squares).sum().sqrt() + 1e-6)).clamp_(max=1.0)
        group = self.policy.optimizer.param_groups[0]
        betas = group["betas"]
        for piece in self._pieces:
            adam(
                [piece.parameters],
                [self._upcast(piece).mul_(scale)],
                exp_avgs=[piece.exp_avg],
                exp_avg_sqs=[piece.exp_avg_sq],
                max_exp_avg_sqs=[],
                state_steps=[piece.steps],
                fused=True,
                amsgrad=False,
                maximize=False,
                lr=learning_rate,
                beta1=betas[0],
                beta2=betas[1],
                eps=group["eps"],
                weight_decay=group["weight_decay"],
            )
            if piece.working is not None:
                piece.working[0].copy_(piece.parameters)

    def _upcast(self, piece: _Piece) -> Tensor:
        """A piece's gradient as Adam reads it, good until the next piece's."""
        return piece.gradient if piece.working is None else piece.gradient.copy_(piece.working[1])

    def _into_pieces(self, gradient: Tensor, head_gradient: Tensor) -> list[_Piece]:
        """
        :param gradient: of the hidden layers' parameters, which come first
        :param head_gradient: of the heads'
        """
        n_hidden = len(gradient)
        # One for all pieces: 2 MiB, where the whole gradient of a lookback of 30 takes 10.
        upcast = self._flat.new_empty(min(_PIECE, n_hidden) if self._is_bf16 else 0)
        pieces = []
        for start, stop in pairwise([*range(0, n_hidden, _PIECE), n_hidden, len(self._flat)]):
            part = slice(start, stop)
            working = None
            if start == n_hidden:
                own = head_gradient
            elif self._is_bf16:
                own, working = upcast[: stop - start], (self._working[part], gradient[part])
            else:
                own = gradient[part]
            moments = {name: moment[part] for name, moment in self._moments.items()}
            steps = torch.zeros((), device=gradient.device)
            pieces.append(_Piece(self._flat[part], own, **moments, steps=steps, working=working))
        return pieces

    def _memory(self, n_rows: int) -> _Memory:
        """Memory for so many rows: a rollout's step, a minibatch, the last one of an epoch."""
        if n_rows not in self._memories:
            # A rollout asks for it in inference mode, and an update could not write there.
            with torch.inference_mode(False):
                self._memories[n_rows] = self._new_memory(n_rows)
        return self._memories[n_rows]

    def _new_memory(self, n_rows: int) -> _Memory:
        like = self._working
        hidden = [like.new_empty(2, n_rows, weight.shape[1]) for weight in self._weights]
        gradients = [torch.empty_like(layer) for layer in hidden]
        latent, latent_gradient = hidden[-1], gradients[-1]
        if self._is_bf16:
            latent, latent_gradient = (layer.to(self._flat.dtype) for layer in (latent, latent_gradient))
        layers: list[HiddenLayer] = [
            (partial(torch.baddbmm, bias, batch2=weight.transpose(1, 2), out=out), torch.relu_)
            for weight, bias, out in zip(self._weights, self._biases, hidden, strict=True)
        ]
        inputs = like.new_empty(n_rows, self._weights[0].shape[2])
        return _Memory(inputs, hidden, gradients, latent, latent_gradient, layers)


def _hidden_slots(policy: MaskedActorCriticPolicy) -> list[_Slot]:
    """Weights and biases of each hidden layer, the policy network's and the value network's together."""
    networks = policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net
    layers = [[linear for linear, _ in hidden_layers(network)] for network in networks]
    slots = []
    for ours, theirs in zip(*layers, strict=True):
        n_out, n_in = ours.weight.shape
        slots.append(_Slot([ours.weight, theirs.weight], (2, n_out, n_in)))
        slots.append(_Slot([ours.bias, theirs.bias], (2, 1, n_out)))
    return slots


def _views(buffer: Tensor, slots: list[_Slot]) -> list[Tensor]:
    """The parts of a buffer in which slots lie, one after the other."""
    parts = torch.split(buffer, [math.prod(slot.shape) for slot in slots])
    return [part.view(slot.shape) for part, slot in zip(parts, slots, strict=True)]


def _member(view: Tensor, slot: _Slot, index: int) -> Tensor:
    """One parameter's part of a slot's view."""
    return view[index] if len(slot.parameters) > 1 else view
