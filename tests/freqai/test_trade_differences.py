"""A bot's trades beside a backtest's: the same ones are found, and each difference has its name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mtfscalper.freqai.bot_journal import NOT_FILLED, BotTrade, Journal, Pass
from mtfscalper.freqai.bot_record import BotRecord
from mtfscalper.freqai.trade_differences import Comparison, Kind, Scene, compare

PAIR, OTHER = "BTC/USDT:USDT", "ETH/USDT:USDT"
START_MS, CANDLE_MS = 1_725_235_200_000, 300_000
N_CANDLES = 40
PRICES = (100.0, 101.0, 99.0, 100.0)


def at(candle: float) -> int:
    """A moment within a candle."""
    return START_MS + int(candle * CANDLE_MS)


def trade(entry: float, end: float | None, reason: str | None = "rl_exit", **values: Any) -> BotTrade:
    values = {"pair": PAIR, "side": "long", "open_rate": 100.0, "close_rate": 101.0, **values}
    if end is None:
        values["close_rate"] = reason = None
    closed = None if end is None else at(end)
    return BotTrade(opened_ms=at(entry), closed_ms=closed, exit_reason=reason, **values)


def passes(rows: Any = range(N_CANDLES), late: Any = (), revised: Any = (), locked: Any = ()) -> list[Pass]:
    return [
        Pass(
            at(row + 2.5 if row in late else row + 1.01),
            pair,
            at(row),
            (100.0, 101.0, 99.0, 100.5) if row in revised else PRICES,
            {"do_predict": 1.0},
            "sub-train-BTC_1",
            ("StoplossGuard",) if row in locked else (),
        )
        for row in rows
        for pair in (PAIR, OTHER)
    ]


def compared(
    bots: list[BotTrade],
    backtests: list[BotTrade],
    seen: list[Pass] | None = None,
    starts: tuple[float, ...] = (0,),
    slots: float = 2,
    lost: tuple[int, ...] = (),
    **more: Any,
) -> Comparison:
    candles = {pair: {at(row): PRICES for row in range(N_CANDLES)} for pair in (PAIR, OTHER)}
    for row in more.pop("without", ()):
        del candles[PAIR][at(row)]
    leaving = more.pop("leaving", {})
    journal = Journal([at(start) for start in starts], passes() if seen is None else seen, bots)
    scene = Scene(CANDLE_MS, journal, candles, leaving, slots, frozenset((PAIR, at(candle)) for candle in lost))
    return compare(bots, backtests, scene)


def kinds(*arguments: Any, **more: Any) -> list[Kind]:
    return [difference.kind for difference in compared(*arguments, **more).differences]


def test_a_trade_is_the_same_by_its_candles_side_and_reason_whatever_the_second_and_the_rate() -> None:
    bots = [trade(3.02, 6.02, open_rate=100.1), trade(8.02, None), trade(9.5, 12.2, "stoploss_on_exchange", pair=OTHER)]
    theirs = [trade(3, 6), trade(8, 39, "force_exit"), trade(9, 12, "stop_loss", pair=OTHER)]
    found = compared(bots, theirs)
    assert found.differences == []
    assert len(found.same) == 3
    assert found.rate_differences[-1] == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("bots", "theirs", "more", "expected"),
    [
        # Of the bot alone.
        ([trade(3, 6)], [], {}, [Kind.UNEXPLAINED]),
        ([trade(3, 6)], [], {"without": (2,)}, [Kind.NO_CANDLE]),
        ([trade(3, 6)], [], {"seen": passes(late=(2,))}, [Kind.LATE]),
        ([trade(3, 6)], [], {"seen": passes(revised=(2,))}, [Kind.REVISED]),
        ([trade(3, 6)], [trade(3, 6, pair=OTHER)], {"slots": 1}, [Kind.MAX_OPEN_TRADES] * 2),
        # Of the backtest alone.
        ([], [trade(3, 6)], {}, [Kind.UNEXPLAINED]),
        ([], [trade(3, 6)], {"seen": passes([0, 1, 3, 4])}, [Kind.LEFT_OUT]),
        ([], [trade(3, 6)], {"seen": passes([0, 1, 8, 9]), "starts": (0, 8.5)}, [Kind.DOWN]),
        ([], [trade(3, 6)], {"seen": passes([0, 1, 2, 8]), "starts": (0, 8.5)}, [Kind.DOWN]),
        ([], [trade(3, 6)], {"seen": passes(late=(2,))}, [Kind.LATE]),
        ([], [trade(3, 6)], {"seen": passes(locked=(2,))}, [Kind.LOCKED]),
        ([], [trade(3, 6)], {"seen": passes(revised=(2,))}, [Kind.REVISED]),
        ([trade(3, 3.5, NOT_FILLED)], [trade(3, 6)], {}, [Kind.NOT_FILLED]),
        ([trade(4, 6)], [trade(3, 6)], {}, [Kind.ENTRY_WAITED, Kind.FOLLOWS]),
        # Of both.
        ([trade(3, 5, "stop_loss")], [trade(3, 6)], {}, [Kind.PRICES]),
        ([trade(3, 9)], [trade(3, 6, "roi")], {}, [Kind.PRICES]),
        ([trade(3, 6, "stop_loss")], [trade(3, 6)], {}, [Kind.PRICES]),
        ([trade(3, 5, "force_exit")], [trade(3, 6)], {}, [Kind.BY_HAND]),
        ([trade(3, 8)], [trade(3, 6)], {"leaving": {(PAIR, at(3), "long"): {at(6)}}}, [Kind.EXIT_WAITED]),
        ([trade(3, 9)], [trade(3, 6)], {"seen": passes([0, 1, 2, 3, 8]), "starts": (0, 8.5)}, [Kind.DOWN]),
        ([trade(3, 8)], [trade(3, 6)], {"seen": passes(late=(5,))}, [Kind.LATE]),
        ([trade(3, 5)], [trade(3, 9, "max_duration")], {"lost": (5, 6)}, [Kind.POLICY_LOST]),
        ([trade(3, 5)], [trade(3, 9)], {}, [Kind.UNEXPLAINED]),
        # What was seen otherwise explains another answer of the same policy, not one that is on record.
        ([trade(6, 9)], [trade(6, 12)], {"seen": passes([*range(7), *range(8, 40)])}, [Kind.LEFT_OUT]),
        ([trade(6, 12)], [trade(6, 9)], {"seen": passes([*range(3), *range(4, 40)])}, [Kind.LEFT_OUT]),
        ([trade(6, 9)], [trade(6, 12)], {"seen": passes(revised=(4,))}, [Kind.REVISED]),
        ([trade(6, 9)], [trade(6, 12)], {"seen": passes(revised=(9,))}, [Kind.UNEXPLAINED]),
        ([trade(36, 38)], [trade(36, 39)], {"seen": passes(revised=(8,))}, [Kind.UNEXPLAINED]),
        (
            [trade(6, 9)],
            [trade(6, 12)],
            {"seen": passes([*range(3), *range(5, 40)]), "starts": (0, 5.5)},
            [Kind.UNEXPLAINED],
        ),
        (
            [trade(6, 9)],
            [trade(6, 12)],
            {"seen": passes(revised=(4,)), "leaving": {(PAIR, at(6), "long"): {at(9)}}},
            [Kind.UNEXPLAINED],
        ),
        # Of a bot that was killed for good.
        ([], [trade(6, 8)], {"seen": passes(range(6))}, [Kind.NOT_NOTED]),
        ([trade(3, None)], [trade(3, 6)], {"seen": passes(range(6))}, [Kind.NOT_NOTED]),
        ([trade(3, None)], [trade(3, 5)], {"seen": passes(range(6))}, [Kind.UNEXPLAINED]),
        # What comes of an earlier one.
        ([trade(3, 5), trade(7, 8)], [trade(3, 9, "stop_loss")], {}, [Kind.PRICES, Kind.FOLLOWS]),
    ],
)
def test_each_difference_has_its_name(
    bots: list[BotTrade], theirs: list[BotTrade], more: dict[str, Any], expected: list[Kind]
) -> None:
    assert kinds(bots, theirs, **more) == expected


def test_of_several_passes_over_a_candle_the_one_counts_by_which_the_bot_traded(tmp_path: Path) -> None:
    late, undecided = passes(late=(2,))[4], passes()[4]._replace(columns={"do_predict": 0.0}, locks=("StoplossGuard",))
    decided = passes()[4]._replace(at_ms=undecided.at_ms + 5000)
    assert late.is_late(CANDLE_MS)
    others = [one for one in passes() if one.row_ms != at(2)]
    # Undecided before a restart within the candle, and decided after it; again after its end.
    seen = sorted([*others, undecided, decided, late], key=lambda one: one.at_ms)
    assert kinds([], [trade(3, 6)], seen=seen) == [Kind.UNEXPLAINED]
    assert kinds([], [trade(3, 6)], seen=[*others, undecided, late]) == [Kind.LOCKED]
    assert kinds([], [trade(3, 6)], seen=[*others, late]) == [Kind.LATE]
    # As a backtest of the bot's decisions is given them.
    lines = [json.dumps({"kind": "pass", **one._asdict()}) for one in seen]
    (tmp_path / "dry_run_2024-09-02.jsonl").write_text("\n".join(lines))
    replayed = BotRecord(tmp_path, "dry_run", CANDLE_MS).decided_passes(PAIR)
    assert [one for one in replayed if one.row_ms == at(2)] == [decided]
    assert [one.row_ms for one in replayed] == [at(row) for row in range(N_CANDLES)]


def test_the_documentation_lists_every_reason() -> None:
    text = (Path(__file__).parents[2] / "docs" / "bot-backtest.md").read_text()
    assert re.findall(r"^\| (.*?) \|", text.partition("| why |")[2].partition("\n\n")[0], re.M) == [*Kind]
