"""When a bot's policy expires (``freqai.expiration_hours``): from then on it enters nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Expiry(NamedTuple):
    """FreqAI's rule, by times in seconds since 1970.

    :ivar hours: for which a policy serves; 0 or less for ever
    """

    hours: float

    @classmethod
    def from_freqai(cls, freqai: Mapping[str, Any]) -> Expiry:
        """
        :param freqai: the section ``freqai`` of the config
        """
        return cls(float(freqai.get("expiration_hours") or 0))

    def expires_at(self, trained_at: float) -> float | None:
        """When a policy expires, None if it never does.

        :param trained_at: when it was trained
        """
        return trained_at + 3600.0 * self.hours if self.hours > 0 else None

    def has_expired(self, trained_at: float, now: float) -> bool:
        """Whether a policy is older than it may be."""
        expires_at = self.expires_at(trained_at)
        return expires_at is not None and now > expires_at
