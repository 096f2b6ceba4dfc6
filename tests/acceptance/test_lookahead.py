"""freqtrade's own search for look-ahead and for indicators that depend on where they begin, on the whole strategy."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from freqtrade_command import output_of

from mtfscalper.market.signals import LONG_SIGNAL, SHORT_SIGNAL, STATE_COLUMNS
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import Option, freqtrade_command, write_overlay
from mtfscalper.offline.synthetic import write_market

ROOT = Path(__file__).parents[2]
STRATEGY = ROOT / "strategies" / "MtfScalper_RL_Hybrid.py"
TIMERANGE = "20241001-20241010"
# Beside the strategy's own 400: far too few, too few for the long EMA to settle, and more.
START_UP_CANDLES = ("50", "200", "800")
LARGEST_VARIANCE_PERCENT = 0.01

pytestmark = pytest.mark.acceptance

Analyse = Callable[..., str]


@pytest.fixture(scope="module")
def analyse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Analyse]:
    """Run an analysis of freqtrade's on the synthetic market, FreqAI switched off; gives its output."""
    scratch = tmp_path_factory.mktemp("analysis")
    write_market(scratch / "data")
    # The analyses remove the models of their identifier: in a folder of their own.
    (scratch / "user").mkdir()
    with ReplayExchange(scratch / "data") as exchange:
        freqai = {"enabled": False, "identifier": "analysis"}
        overlay = write_overlay(scratch / "overlay.json", exchange.url, {"freqai": freqai})

        def run(subcommand: str, strategies: Path = STRATEGY.parent, **options: Option) -> str:
            command = freqtrade_command(
                subcommand,
                [ROOT / "configs" / "config_rl_hybrid.json", overlay],
                timerange=TIMERANGE,
                no_color=True,
                userdir=scratch / "user",
                datadir=scratch / "data",
                strategy=STRATEGY.stem,
                strategy_path=strategies,
                **options,
            )
            return output_of(command, cwd=scratch)

        yield run


def table_of(output: str, title: str) -> list[list[str]]:
    """The rows of the table with a title, header first."""
    rows = []
    for line in output[output.rindex(f" {title} ") :].splitlines():
        cells = re.split("[│┃|]", line)
        if len(cells) > 2:
            rows.append([cell.strip() for cell in cells[1:-1]])
    return rows


def show(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def lookahead_table(output: str) -> dict[str, str]:
    rows = table_of(output, "Lookahead Analysis")
    print()
    show(rows)
    return dict(zip(*rows, strict=True))


def test_freqtrade_finds_no_look_ahead_in_the_strategy(analyse: Analyse) -> None:
    found = lookahead_table(analyse("lookahead-analysis", targeted_trade_amount=20))
    assert int(found["total_signals"]) >= 10
    assert found["has_bias"] == "No"
    assert found["biased_entry_signals"] == found["biased_exit_signals"] == "0"
    assert found["biased_indicators"] == ""


def test_freqtrade_finds_the_look_ahead_of_a_strategy_that_peeks(analyse: Analyse, tmp_path: Path) -> None:
    """The control: the hour's state taken before the hour has closed."""
    honest = 'state = candles[["date"]].assign(**timeframe_state(candles))'
    source = STRATEGY.read_text(encoding="utf-8")
    assert source.count(honest) == 1
    peeking = source.replace(honest, honest.replace("timeframe_state(candles)", "timeframe_state(candles).shift(-1)"))
    (tmp_path / STRATEGY.name).write_text(peeking, encoding="utf-8")
    found = lookahead_table(analyse("lookahead-analysis", strategies=tmp_path, targeted_trade_amount=20))
    assert found["has_bias"] == "Yes"
    assert "mtf_adx_1h" in found["biased_indicators"]


def test_signals_do_not_depend_on_where_the_candles_begin(analyse: Analyse) -> None:
    output = analyse("recursive-analysis", startup_candle=START_UP_CANDLES)
    header, *rows = table_of(output, "Recursive Analysis")
    print()
    show([header, *rows])
    assert "No lookahead bias on indicators found." in " ".join(output.split())
    assert header == ["Indicators", "50", "200", "400 (from strategy)", "800"]
    of_too_few, of_its_own = ({row[0]: variance(row[column]) for row in rows} for column in (1, 3))
    watched = {LONG_SIGNAL, SHORT_SIGNAL}
    watched |= {f"{name}_{timeframe}" for name in STATE_COLUMNS for timeframe in ("5m", "15m", "1h")}
    assert set(of_too_few) <= watched
    # The control: a start that is too short is seen.
    assert abs(of_too_few["mtf_adx_1h"]) > 10 * LARGEST_VARIANCE_PERCENT
    assert {name: value for name, value in of_its_own.items() if not abs(value) <= LARGEST_VARIANCE_PERCENT} == {}


def variance(cell: str) -> float:
    """Per cent; a dash stands for none."""
    return 0.0 if cell == "-" else float(cell.rstrip("%"))
