"""The checks and the advice as one page of HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from mtfscalper.monitoring.advice import Advice
from mtfscalper.monitoring.table import passed
from mtfscalper.monitoring.verdicts import Check

if TYPE_CHECKING:
    from mtfscalper.monitoring.plan import Change

_STYLE = """
:root { color-scheme: light dark; --text: #1a1c1f; --dim: #5d646d; --line: #d9dce1; --back: #ffffff; --box: #f4f5f7;
  --ok: #18703a; --note: #8a5a00; --failed: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --dim: #9aa2ad; --line: #343a42; --back: #15181c;
  --box: #1f242a; --ok: #63c787; --note: #e0a94a; --failed: #ff8a80; } }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 3rem; font: 15px/1.45 system-ui, sans-serif;
  color: var(--text); background: var(--back); }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; } .dim { color: var(--dim); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th { text-align: left; color: var(--dim); font-weight: 600; }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr.group td { border-bottom: 0; padding-top: 1rem; color: var(--dim); font-weight: 600; }
td.name { white-space: nowrap; } .ok { color: var(--ok); } .note { color: var(--note); }
.FAILED { color: var(--failed); font-weight: 700; }
@media (max-width: 40rem) { .checks th { display: none; } .checks tr { display: block; padding: .4rem 0;
  border-bottom: 1px solid var(--line); } .checks td { display: block; border: 0; padding: 0; white-space: normal; }
  .checks td.verdict { float: right; } .checks td.name { font-weight: 600; } .checks tr.group { border: 0; }
  .checks td.expected::before { content: "expected: "; color: var(--dim); } }
pre { background: var(--box); padding: .8rem 1rem; border-radius: .4rem; overflow-x: auto; }
"""


def page(outcome: str, checks: Sequence[Check], advice: Advice | None, changes: Sequence[Change]) -> str:
    """The whole page.

    :param outcome: the checks in one line
    :param advice: None where nothing could be timed
    :param changes: what differs from the user's configuration
    """
    verdict = "All checks passed" if passed(checks) else "Checks failed"
    parts = [
        f"<h1 class='{'ok' if passed(checks) else 'FAILED'}'>{verdict}</h1>",
        f"<p>{escape(outcome)}</p>",
        *(() if advice is None else _advice(advice)),
        "<h2>Checks</h2>",
        _table(("verdict", "check", "seen", "expected"), _rows(checks), "checks"),
        *(() if not changes else _changes(changes)),
    ]
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>validate_monitoring: {verdict}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _advice(advice: Advice) -> list[str]:
    pasted = [f"<pre id='advice'>{escape(advice.pasted)}</pre>"] if advice.config else []
    rows = [
        f"<tr><td>{escape(a)}</td><td>{escape(b)}</td><td class='dim'>{escape(c)}</td></tr>" for a, b, c in advice.rows
    ]
    return [
        "<h2>Advice for this machine</h2>",
        f"<p>{escape(advice.headline)}</p>",
        *pasted,
        _table(("way to train", "times as fast", "90 % interval"), rows),
        *(f"<p class='dim'>{escape(remark)}</p>" for remark in advice.remarks),
    ]


def _changes(changes: Sequence[Change]) -> list[str]:
    rows = [
        f"<tr><td class='name'>{escape(one.key)}</td><td>{escape(one.before)}</td><td>{escape(one.after)}</td></tr>"
        for one in changes
    ]
    return ["<h2>Changed from your configuration, for this run alone</h2>", _table(("key", "yours", "here"), rows)]


def _rows(checks: Sequence[Check]) -> list[str]:
    rows, group = [], ""
    for check in checks:
        if check.group != group:
            rows.append(f"<tr class='group'><td colspan='4'>{escape(check.group)}</td></tr>")
            group = check.group
        remedy = f"<br><span class='{check.verdict}'>→ {escape(check.remedy)}</span>" if check.remedy else ""
        rows.append(
            f"<tr><td class='verdict {check.verdict}'>{check.verdict}</td><td class='name'>{escape(check.name)}</td>"
            f"<td>{escape(check.seen)}</td><td class='expected'>{escape(check.expected)}{remedy}</td></tr>"
        )
    return rows


def _table(headings: Sequence[str], rows: Sequence[str], name: str = "") -> str:
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    return f"<div class='wide'><table class='{name}'><tr>{head}</tr>\n" + "\n".join(rows) + "\n</table></div>"
