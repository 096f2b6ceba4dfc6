"""What a benchmark ran on."""

import platform
import subprocess
import sys
from typing import Any

import torch
from main_config import ROOT

from mtfscalper.machine import usable_processors, why_device_is_missing


def facts() -> dict[str, str]:
    """What a benchmark ran on, and how to run it again."""
    describe = ["git", "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(describe, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except FileNotFoundError:
        # A machine that only runs the benchmarks need not have git.
        commit = ""
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit or "not known",
        "machine": f"{platform.machine()}, {usable_processors()} processors",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def device_of(name: str) -> torch.device:
    """The device that an option names; "auto" is a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if why := why_device_is_missing(name):
        raise SystemExit(f"--device is {name!r}, and {why}; accepted: 'auto', 'cpu'; remedy: leave it out")
    return torch.device(name)


def device_facts(device: torch.device) -> dict[str, Any]:
    """What the figures are of."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return facts() | {
        "device": f"cuda: {card}" if card else f"CPU, {torch.get_num_threads()} threads",
        "card": card,
        "cuda": torch.version.cuda,
    }
