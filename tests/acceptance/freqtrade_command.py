"""The freqtrade command, run to its end."""

import os
import subprocess
import sys
from pathlib import Path


def output_of(*arguments: str, cwd: Path) -> str:
    """Give what a command prints that succeeds.

    :param arguments: the subcommand and its options
    """
    process = subprocess.run(
        [sys.executable, "-m", "freqtrade", *arguments],
        cwd=cwd,
        # Wide enough for every line of a table to stay whole.
        env=os.environ | {"COLUMNS": "1000", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
        check=False,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout
