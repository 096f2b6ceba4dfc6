"""The stage: a synthetic market, and a loopback exchange that replays candles to an unmodified freqtrade."""

from pathlib import Path

# freqtrade's user directory of offline runs: their candles, models and results never mix with real ones.
OFFLINE_USER_DATA = Path("user_data/offline")
SYNTHETIC_DATADIR = OFFLINE_USER_DATA / "data" / "binance"


class ReplayError(ValueError):
    """A refusal that the user can act on; the message names what, where, received, accepted and remedy."""
