"""How many faults were tried, and what became of each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Group:
    """Faults of one kind.

    :ivar lost: what went wrong, a line for each fault
    :ivar told: those that survived although something could not be shown, which one line said
    """

    tried: int = 0
    lost: list[str] = field(default_factory=list)
    told: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def add(self, fault: object, wrong: str | None) -> None:
        """Count one.

        :param wrong: what went wrong, None if nothing did
        """
        self.tried += 1
        if wrong is not None:
            self.lost.append(f"{fault}: {wrong}")

    def check(self) -> None:
        """Fail if anything was lost, or nothing tried."""
        assert self.tried
        assert not self.lost, f"{len(self.lost)} of {self.tried} lost:\n" + "\n\n".join(self.lost)


class Tally:
    """The groups by name."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[Group]:
        """Count a group, and fail at the end if one of its faults was lost."""
        group = self.groups.setdefault(name, Group())
        started = time.monotonic()
        try:
            yield group
        finally:
            group.seconds += time.monotonic() - started
        group.check()

    def __str__(self) -> str:
        lines = [f"{'group':<58} {'tried':>6} {'survived':>9} {'lost':>5} {'seconds':>8}"]
        for name, group in self.groups.items():
            survived = group.tried - len(group.lost)
            lines.append(f"{name:<58} {group.tried:>6} {survived:>9} {len(group.lost):>5} {group.seconds:>8.0f}")
            lines += [f"    {note}" for note in group.notes]
        return "\n".join(lines)
