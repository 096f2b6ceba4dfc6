"""Several policies that decide as one: each action's probability is the mean of what the members give it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from mtfscalper.policy.network import LookbackExtractor, MaskedActorCriticPolicy

# Of an ensemble's arguments, which its model is saved with.
N_MEMBERS = "n_members"


def mean_probabilities(probabilities: Sequence[Tensor]) -> Tensor:
    """What the members of an ensemble give each action, on average.

    :param probabilities: of each member, shape (n, 5)
    :return: shape (n, 5); of one member, its own to the last bit
    """
    # One after the other: how a reduction over a stack is summed may depend on how many rows it has.
    return reduce(torch.add, probabilities) / len(probabilities)


class EnsemblePolicy(ActorCriticPolicy):
    """Policies over one tape whose probabilities and values are averaged. It decides; its members learn by themselves.

    Its zip opens with plain ``stable_baselines3.PPO.load``. The members compute in float32, whatever they were trained
    in.

    :ivar members: each a :class:`mtfscalper.policy.network.MaskedActorCriticPolicy`
    :ivar features_extractor: gathers for all of them
    """

    features_extractor: LookbackExtractor
    members: nn.ModuleList

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        n_members: int,
        features_extractor_kwargs: Mapping[str, Any],
        **member_arguments: Any,
    ) -> None:
        """
        :param features_extractor_kwargs: of each member
        :param member_arguments: what else each member is made with
        """
        self._n_members = n_members
        self._member_arguments = {"features_extractor_kwargs": dict(features_extractor_kwargs), **member_arguments}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            features_extractor_class=LookbackExtractor,
            # A network of the user's has weights, which every member has its own of.
            features_extractor_kwargs={**features_extractor_kwargs, "network": None},
        )

    def _build(self, lr_schedule: Schedule) -> None:
        # The weights come from trained members, so that drawing them with care would be time lost.
        arguments = {**self._member_arguments, "ortho_init": False}
        self.members = nn.ModuleList(
            MaskedActorCriticPolicy(self.observation_space, self.action_space, lr_schedule, **arguments)
            for _ in range(self._n_members)
        )
        groups = [{"params": list(member.parameters())} for member in self.members]
        self.optimizer = self.optimizer_class(groups, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """
        :return: actions, values and log-probabilities of the actions, each of shape (n, ...)
        """
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.predict_values(obs), distribution.log_prob(actions)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        :return: values, log-probabilities of ``actions``, entropy
        """
        distribution = self.get_distribution(obs)
        return self.predict_values(obs), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Any) -> Distribution:
        """The distribution over the actions that can be done: :func:`mean_probabilities` of the members'."""
        return _categorical(
            mean_probabilities(
                [member.distribution_of(gathered, obs).distribution.probs for member, gathered in self._gathered(obs)]
            )
        )

    def predict_values(self, obs: Any) -> Tensor:
        """The mean of the values that the members estimate, shape (n, 1)."""
        values: list[Tensor] = [member.values_of(gathered) for member, gathered in self._gathered(obs)]
        return reduce(torch.add, values) / len(values)

    def in_full_precision(self) -> AbstractContextManager[None]:
        """See :class:`mtfscalper.policy.network.MaskedActorCriticPolicy`; an ensemble has no other precision."""
        return nullcontext()

    def _gathered(self, obs: Tensor) -> Iterator[tuple[Any, Tensor]]:
        """Each member, and what its observations stand for: gathered anew, as a user's network may write over it."""
        for member in self.members:
            yield member, self.features_extractor.gathered(obs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            N_MEMBERS: self._n_members,
            **self._member_arguments,
        }


def _categorical(probabilities: Tensor) -> CategoricalDistribution:
    """The distribution of some probabilities, which it holds to the last bit.

    :param probabilities: shape (n, 5)
    """
    made = CategoricalDistribution(probabilities.shape[1])
    made.proba_distribution(probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log())
    # torch would normalise them again, by which the greatest two could become equal.
    made.distribution.probs = probabilities
    return made


def members_of(policy: MaskedActorCriticPolicy | EnsemblePolicy) -> list[MaskedActorCriticPolicy]:
    """The policies that decide as one; of a policy that is none of an ensemble, itself."""
    if isinstance(policy, MaskedActorCriticPolicy):
        return [policy]
    return [member for member in policy.members if isinstance(member, MaskedActorCriticPolicy)]


def member_states(state: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The parameters of each member among those of a policy; of a policy that is no ensemble, all."""
    own = [name.split(".", 2) for name in state if name.startswith("members.")]
    if not own:
        return [dict(state)]
    members: list[dict[str, Tensor]] = [{} for _ in {number for _, number, _ in own}]
    for prefix, number, name in own:
        members[int(number)][name] = state[f"{prefix}.{number}.{name}"]
    return members
