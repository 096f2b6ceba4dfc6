"""What is known against the locked packages, by pip-audit: a report, which fails nothing.

Where advisories cannot be had, as on a machine without a network, it says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONGEST_SECONDS = 180


def report(output: str, errors: str) -> str:
    """What pip-audit found.

    :param output: its JSON
    :param errors: what else it said
    """
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        said = errors.strip().splitlines()
        return f"audit: no report: pip-audit could not ask for advisories ({said[-1] if said else 'it said nothing'})"
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        return f"audit: no report: advisories cannot be had here for any of {len(packages)} packages"
    lines = [
        f"  {package['name']} {package['version']}: {advisory['id']}, "
        f"repaired in {', '.join(advisory['fix_versions']) or 'no version yet'}"
        for package in audited
        for advisory in package["vulns"]
    ]
    skipped = f", {len(packages) - len(audited)} could not be asked for" if len(audited) < len(packages) else ""
    return "\n".join(
        [f"audit: {len(lines)} advisories against {len(audited)} packages of requirements.lock{skipped}", *lines]
    )


def main() -> None:
    """Print the report."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(ROOT / "requirements.lock")]
    command += ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "5"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        print(f"audit: no report: pip-audit did not answer within {LONGEST_SECONDS} s")
        return
    print(report(done.stdout, done.stderr))


if __name__ == "__main__":
    main()
