"""Is what the device computes what the CPU computes? On the device at hand, at a small size.

- The environments over tensors against the batched NumPy environment: the same starts and actions, every entry mode.
- On a GPU the same compiled, as a training has them.
- Ten epochs of an update against FusedPPO's on the CPU, from one rollout and one order.
- A member among three against the same member alone.
- Training by CUDA graphs against training without, on a GPU.

Exits with 1 where a check fails.

    python benchmarks/device_checks.py --json device_checks.json
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import training_checks
from comparison import Check
from device_task import SMALL, TOY, Size, Task
from env_checks import environments
from rich.console import Console
from rich.table import Table
from run_facts import device_facts, device_of
from tables import wide_console

from mtfscalper.envs.device_env import EXACT_ARITHMETIC
from mtfscalper.training.compiled import CompiledFunction

# Short enough that episodes end at the last candle too.
N_CANDLES = 540
# A training small enough that rounding does not grow over its updates: 80 minibatches.
CHECKED = Size("checked", 8, 64, 64, 10, (32, 32), N_CANDLES * 10 // 9, (), (), 1, 0)


def checks(device: torch.device, n_steps: int) -> Iterator[Check]:
    """All of them; one that raises has failed, and the others go on.

    :param n_steps: of the environments in each entry mode
    """
    task = Task(CHECKED, str(device), "fp32")
    job = task.job(0)
    parts: dict[str, Callable[[], Iterator[Check]]] = {
        mode: partial(environments, job.train, replace(job.env, entry_mode=mode), device, n_steps)
        for mode in ("classic", "gated", "agent")
    }
    parts |= {"update": partial(training_checks.update, task), "members": partial(training_checks.members, task)}
    if device.type == "cuda":
        # As a training steps there.
        compiler = partial(CompiledFunction, options=EXACT_ARITHMETIC)
        parts["compiled"] = partial(parts["gated"], compiler=compiler)
        parts["graphs"] = partial(training_checks.graphs, task)
    for name, part in parts.items():
        try:
            yield from part()
        except Exception as error:
            traceback.print_exc()
            yield Check(name, float("nan"), 0, f"{type(error).__name__}: {error}")


def show(done: list[Check], device: str, console: Console) -> None:
    table = Table(title=f"the device against the CPU: {device}")
    table.add_column("check")
    for column in ("tolerance", "seen"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("of")
    table.add_column("verdict")
    for check in done:
        verdict = "equal" if check.passes else "FAILED"
        table.add_row(check.name, f"{check.tolerance:.3g}", f"{check.seen:.3g}", check.compared, verdict)
    console.print(table)
    if "cuda" not in device:
        console.print("left out: training with CUDA graphs against without; this device has none.")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any")
    parser.add_argument("--toy", action="store_true", help="fewer steps of the environments")
    parser.add_argument("--json", type=Path, help="where the findings go as well")
    options = parser.parse_args(argv)
    device = device_of(options.device)
    found = device_facts(device)
    done = list(checks(device, (TOY if options.toy else SMALL).check_steps))
    show(done, found["device"], wide_console())
    if options.json:
        rows = [check._asdict() | {"passes": check.passes} for check in done]
        options.json.write_text(json.dumps(found | {"checks": rows}, indent=1))
    return 0 if all(check.passes for check in done) else 1


if __name__ == "__main__":
    sys.exit(main())
