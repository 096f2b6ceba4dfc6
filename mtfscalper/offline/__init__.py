"""The stage: a synthetic market, and a loopback exchange that replays candles to an unmodified freqtrade.

Here is what ``mtfscalper --help`` shows, so that it imports nothing else.
"""

from pathlib import Path

# freqtrade's user directory of offline runs: their candles, models and results never mix with real ones.
OFFLINE_USER_DATA = Path("user_data/offline")
SYNTHETIC_DATADIR = OFFLINE_USER_DATA / "data" / "binance"

DEFAULT_SEED = 42
DEFAULT_PAIRS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
DEMO_TIMERANGE = "20241001-20241015"
# Of candles to begin with: 14 to backtest, 30 to train on and 17 for indicators before them, and some to try others.
OWN_CANDLES_DAYS = 90
# The port that configs/offline.json names.
DEFAULT_PORT = 8765

# What a bot with simulated money has in place of keys. The loopback exchange takes no other.
SIMULATED_KEY = "simulated-money-not-a-key"
SIMULATED_SECRET = "simulated-money-not-a-secret"

# What a shell says of a program that Ctrl-C has ended.
EXIT_INTERRUPTED = 130


class ReplayError(ValueError):
    """A refusal that the user can act on; the message names what, where, received, accepted and remedy."""
