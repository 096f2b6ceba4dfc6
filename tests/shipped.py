"""The project's strategy as it is shipped: without the parameters that a hyperopt of yours has left beside it.

freqtrade trades by ``strategies/MtfScalper_RL_Hybrid.json`` wherever it lies beside the strategy; no test may.
"""

import atexit
import shutil
import tempfile
from pathlib import Path

from mtfscalper.offline.freqtrade_command import project_options

ROOT = Path(__file__).parents[1]


def _copied() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="mtfscalper-strategies-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for file in (ROOT / "strategies").glob("*.py"):
        shutil.copy(file, folder)
    return folder


# Of this process, and of those that it starts.
STRATEGIES = _copied()


def shipped_options() -> dict[str, str]:
    """Strategy and model of the project, and where they lie, for :func:`freqtrade_command`."""
    return project_options(ROOT) | {"strategy_path": str(STRATEGIES)}
