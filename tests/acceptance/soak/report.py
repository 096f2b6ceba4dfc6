"""A soak's report: what was found, the faults, and a picture of memory."""

from __future__ import annotations

from pathlib import Path

from soak.checks import Finding, faults_of, lost_to, quiet_samples, stopped_traders
from soak.journal import Journal
from soak.plan import Plan

from mtfscalper.offline.stage import StageHome

PICTURE = "soak.png"


def write_report(folder: Path, found: list[Finding], home: StageHome, journal: Journal, plan: Plan) -> Path:
    """Write ``soak.md`` and :data:`PICTURE`.

    :return: where the report lies
    """
    is_whole = all(finding.is_good for finding in found)
    events = [event["kind"] for event in journal.events]
    served = faults_of(home)
    faults, lost = served["kind"].value_counts(), lost_to(served, stopped_traders(home))
    ended = events.count("ended")
    lines = [
        f"# {(plan.stop - plan.start).total_seconds() / 3600:g} simulated hours",
        "",
        "| asked | found | |",
        "|---|---|---|",
        *(f"| {finding.name} | {'yes' if finding.is_good else '**no**'} | {finding.text} |" for finding in found),
        "",
        "| fault | tried | survived | lost |",
        "|---|---:|---:|---:|",
        *(f"| `{kind}` | {count} | {count - lost[kind]} | {lost[kind]} |" for kind, count in faults.items()),
        f"| kill -9 | {events.count('kill')} | {events.count('kill') - ended} | {ended} |",
        f"| stop | {events.count('stop')} | {events.count('stop')} | 0 |",
        "",
        "Lost: freqtrade stopped its trader right after it, or the bot ended by itself. Survived: it traded on, or was",
        "started again and did, with nothing repaired by hand. What went undecided meanwhile is counted above.",
        "",
        f"![Memory, handles and log]({PICTURE})",
    ]
    if not is_whole:
        lines.insert(1, "\n**Not everything is as it should be.**")
    path = folder / "soak.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(journal, plan, folder / PICTURE)
    return path


def draw(journal: Journal, plan: Plan, path: Path) -> None:
    """Draw what the bots needed over the whole time; the last one, whose growth is judged, darker."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import dates, pyplot

    samples, quiet = journal.samples, quiet_samples(journal, plan)
    if not len(samples):
        return
    figure, axes = pyplot.subplots(3, 1, figsize=(9, 6), sharex=True, layout="constrained")
    for axis, (name, label) in zip(
        axes, (("rss", "memory, MiB"), ("handles", "file handles"), ("log", "log, MiB")), strict=True
    ):
        axis.plot(samples["time"], samples[name], ".", markersize=2, color="0.6")
        axis.plot(quiet["time"], quiet[name], ".", markersize=2, color="C0")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("simulated time; grey: bots that were killed, blue: the last one")
    axes[-1].xaxis.set_major_formatter(dates.DateFormatter("%b %d"))
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
