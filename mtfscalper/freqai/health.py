"""The health of a bot as a file: what a running bot writes, and what ``mtfscalper status`` reads. Without torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mtfscalper import artefacts
from mtfscalper.freqai.sharing import Process

# In the identifier's folder, beside FreqAI's files.
HEALTH_NAME = "health.json"


class HealthError(ValueError):
    """A health file cannot be read. Says which and why."""


@dataclass(frozen=True)
class PairHealth:
    """One pair of a bot. Times are by the bot's clock, seconds since 1970; 0 where there has been none.

    :ivar trained_at: of the policy in use
    :ivar expires_at: when it enters no more, 0 for never
    :ivar retrain_at: when it is trained again; after a failure, the next attempt; 0 while it is not on the whitelist
    :ivar n_features: that it sees of a candle
    :ivar training_since: of a training that runs now
    :ivar ended_at: of the last training
    :ivar seconds: that it took
    :ivar error: by which it failed, "" where it went well
    :ivar n_failures: of trainings in a row
    :ivar candle_at: the last closed candle that was decided on, by its open
    :ivar do_predict: FreqAI's, of that candle: 1 where its decision counts
    :ivar action: member of :class:`mtfscalper.trading.actions.Action` by name, as the columns say
    :ivar probability: that the policy gave it
    :ivar asked_at: the open at which the policy was last asked about an open trade
    :ivar leave: what it answered
    :ivar leave_probability: which it gave leaving
    :ivar falls_back: whether its policy did not beat classic exits, so that the rules end its trades
        (``rl_config.fallback``); None where it need not
    :ivar met_at: since when the bot, as it runs now, trades it
    :ivar is_listed: whether it is on the whitelist. One that has left it is neither entered nor trained; it is told of
        as long as a trade of it is open
    """

    trained_at: float = 0.0
    expires_at: float = 0.0
    retrain_at: float = 0.0
    n_features: int = 0
    training_since: float = 0.0
    ended_at: float = 0.0
    seconds: float = 0.0
    error: str = ""
    n_failures: int = 0
    candle_at: float = 0.0
    do_predict: int = 0
    action: str = ""
    probability: float = 0.0
    asked_at: float = 0.0
    leave: bool = False
    leave_probability: float = 0.0
    falls_back: bool | None = None
    met_at: float = 0.0
    is_listed: bool = True


@dataclass(frozen=True)
class BotHealth:
    """A bot, as it told of itself last. Times as of :class:`PairHealth`.

    :ivar process: fields of :class:`mtfscalper.freqai.sharing.Process`
    :ivar runmode: ``dry_run`` or ``live``
    :ivar at: when it was written
    :ivar looked_at: when the bot last passed over a pair
    :ivar candle_seconds: of the strategy's timeframe
    :ivar retrain_seconds: ``live_retrain_hours``
    :ivar stopped_at: when it was stopped, 0 while it runs
    :ivar trains: whether its training thread runs
    :ivar troubles: what its owner has been told of and is not over, by name; nothing of pairs that have left the
        whitelist and have no open trade
    :ivar pairs: those of the whitelist, and those of open trades
    """

    identifier: str
    process: dict[str, Any]
    runmode: str
    at: float
    looked_at: float
    candle_seconds: float
    retrain_seconds: float
    stopped_at: float = 0.0
    trains: bool = True
    troubles: dict[str, str] = field(default_factory=dict)
    pairs: dict[str, PairHealth] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it into the identifier's folder, whole."""
        artefacts.write_json(folder / HEALTH_NAME, artefacts.plain_json(asdict(self)))


def read_health(folder: Path) -> BotHealth:
    """What the bot of an identifier's folder last told of itself.

    :raises HealthError: where there is nothing, or nothing that can be read
    """
    path = folder / HEALTH_NAME
    try:
        value = json.loads(path.read_bytes())
        pairs = {pair: PairHealth(**each) for pair, each in value.pop("pairs").items()}
        health = BotHealth(**value, pairs=pairs)
        Process(**health.process)
        return health
    except FileNotFoundError:
        raise HealthError(f"{path} does not exist: no bot of this version has run with the identifier") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise HealthError(
            f"{path} cannot be read ({type(error).__name__}: {error}): another version of mtfscalper wrote it, or it "
            "is damaged; a running bot writes it anew within a candle"
        ) from error
