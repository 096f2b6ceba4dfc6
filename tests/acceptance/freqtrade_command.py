"""A freqtrade command, run to its end."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path


def output_of(command: list[str], cwd: Path, environment: Mapping[str, str] = os.environ) -> str:
    """Give what a command prints that succeeds.

    :param command: as :func:`mtfscalper.offline.freqtrade_command.freqtrade_command` builds it
    """
    process = subprocess.run(
        command,
        cwd=cwd,
        # Wide enough for every line of a table to stay whole.
        env={**environment, "COLUMNS": "1000", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
        check=False,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout
