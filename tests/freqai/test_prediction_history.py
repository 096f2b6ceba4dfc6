"""What a bot decided: joined by dates alone, and whole whatever is cut off."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import time_machine

from mtfscalper import artefacts
from mtfscalper.freqai.prediction_history import DATE, PredictionHistory, PredictionJournal, joined, tidied, with_row
from mtfscalper.seals import Seals

PAIR, OTHER_PAIR = "BTC/USDT:USDT", "ETH/USDT:USDT"
START = pd.Timestamp("2024-09-08 12:00", tz="UTC")
ACTION = "&-action"


def at(*numbers: int) -> pd.DatetimeIndex:
    """Dates of five-minute candles."""
    return pd.DatetimeIndex([START + number * pd.Timedelta(minutes=5) for number in numbers]).as_unit("ms")


def history(*numbers: int, actions: Any = None, do_predict: Any = 1) -> pd.DataFrame:
    actions = [float(number) for number in numbers] if actions is None else actions
    return pd.DataFrame({ACTION: actions, "do_predict": do_predict, DATE: at(*numbers)})


def row(number: int, **values: float) -> dict[str, Any]:
    return {ACTION: float(number), "do_predict": 1.0, **values, DATE: at(number)[0]}


# ---------------------------------------------------------------------- frames


@pytest.mark.parametrize(
    "dates",
    [
        at(0, 1, 2),
        at(0, 1, 2).as_unit("ns"),
        at(0, 1, 2).tz_localize(None),
        at(0, 1, 2).tz_convert("Asia/Tokyo"),
        pd.Index(list(at(0, 1, 2)), dtype=object),
        pd.Index([str(date) for date in at(0, 1, 2)]),
        at(1, 0, 2)[[1, 0, 2]],
    ],
    ids=["utc", "ns", "naive", "tokyo", "object", "text", "sorted"],
)
def test_whatever_its_dates_are_a_history_becomes_one_row_a_candle_in_utc(dates: pd.Index) -> None:
    tidy = tidied(PAIR, history(0, 1, 2).assign(**{DATE: dates}))
    pd.testing.assert_frame_equal(tidy, history(0, 1, 2))


def test_what_cannot_be_is_left_out_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    # A candle twice: once decided, once filled; one without a date.
    rows = history(2, 0, 1, 1, 3, actions=[2.0, 0.0, 1.0, 0.0, 3.0], do_predict=[1, 1, 1, 0, 1])
    rows.loc[4, DATE] = pd.NaT
    pd.testing.assert_frame_equal(tidied(PAIR, rows), history(0, 1, 2))
    [record] = caplog.records
    assert "1 have no date, 1 repeat a candle" in record.getMessage()
    assert PAIR in record.getMessage()


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_a_frame_is_joined_by_its_dates_and_a_missed_candle_is_no_decision(unit: str) -> None:
    frame = pd.DataFrame({"date": at(1, 2, 3, 5).as_unit(unit), "close": 1.0, ACTION: 0.0}, index=[7, 7, 3, 1])
    found = joined(frame, history(0, 1, 2, 5, 6))
    assert found.index.tolist() == [7, 7, 3, 1]
    np.testing.assert_array_equal(found[ACTION], [1, 2, np.nan, 5])
    assert found["do_predict"].tolist() == [1, 1, 0, 1]
    assert found["close"].tolist() == [1.0] * 4
    assert found.columns.is_unique


def test_a_history_and_a_decision_may_have_other_columns() -> None:
    grown = with_row(history(0), row(1, mine=4.0) | {})
    assert grown["mine"].isna().tolist() == [True, False]
    del grown[ACTION]
    assert with_row(grown, row(2))[ACTION].isna().tolist() == [True, True, False]


# ---------------------------------------------------------------------- the journal and the file


@pytest.fixture
def kept(tmp_path: Path) -> PredictionHistory:
    return again(tmp_path)


def again(folder: Path) -> PredictionHistory:
    return PredictionHistory(folder, folder / "kept" / "historic_predictions.pkl", Seals(folder))


def test_what_was_noted_since_the_file_is_read_after_it(tmp_path: Path, kept: PredictionHistory) -> None:
    kept.write({PAIR: history(0, 1)})
    for number in (2, 3):
        kept.journal.append(PAIR, row(number))
    kept.journal.append(OTHER_PAIR, row(3, mine=float("nan")))
    read = again(tmp_path).read()
    pd.testing.assert_frame_equal(read[PAIR], history(0, 1, 2, 3), check_dtype=False)
    assert read[OTHER_PAIR][ACTION].tolist() == [3.0]
    assert read[OTHER_PAIR]["mine"].isna().all()


def test_writing_forgets_what_the_file_has_and_nothing_later(
    tmp_path: Path, kept: PredictionHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.journal.append(PAIR, row(0))
    real = artefacts.write_bytes

    def write(path: Path, content: bytes) -> None:
        if path == kept.path:
            # The bot decides while its history is written.
            kept.journal.append(PAIR, row(1))
        real(path, content)

    monkeypatch.setattr(artefacts, "write_bytes", write)
    kept.write({PAIR: history(0)})
    assert [said[DATE] for _, said in kept.journal.rows()] == [at(1)[0]]
    pd.testing.assert_frame_equal(again(tmp_path).read()[PAIR], history(0, 1), check_dtype=False)
    monkeypatch.undo()
    kept.write({PAIR: history(0, 1)})
    assert kept.journal.size() == 0


def test_killed_before_the_journal_is_cut_nothing_counts_twice(tmp_path: Path, kept: PredictionHistory) -> None:
    kept.journal.append(PAIR, row(1, mine=1.0))
    kept.write({PAIR: history(0, 1)})
    kept.journal.append(PAIR, row(1, mine=1.0))
    pd.testing.assert_frame_equal(again(tmp_path).read()[PAIR], history(0, 1), check_dtype=False)


def test_a_clock_that_is_behind_loses_nothing_however_often_is_written(tmp_path: Path, kept: PredictionHistory) -> None:
    kept.write({PAIR: history(0, 1, 2, 3), OTHER_PAIR: history(3)})
    kept.journal.append(PAIR, row(4))
    with time_machine.travel(at(1)[0].to_pydatetime(), tick=False):
        behind = again(tmp_path)
        read = behind.read()
        pd.testing.assert_frame_equal(read[PAIR], history(0, 1), check_dtype=False)
        assert OTHER_PAIR not in read
        assert {pair: len(dates) for pair, dates in behind.later.items()} == {PAIR: 3, OTHER_PAIR: 1}
        for _ in range(2):
            behind.write(read)
        # What fills a place, as a history that is begun anew does, takes none of a decision.
        behind.write({**read, OTHER_PAIR: history(2, 3, actions=[0.0, 0.0], do_predict=0)})
    whole = again(tmp_path).read()
    pd.testing.assert_frame_equal(whole[PAIR], history(0, 1, 2, 3, 4), check_dtype=False)
    assert whole[OTHER_PAIR][ACTION].tolist() == [0.0, 3.0]


def test_what_is_yet_to_come_waits_and_comes_back_with_the_clock(kept: PredictionHistory) -> None:
    frames = {PAIR: history(0, 1, 2, 3)}
    kept.settle(frames, at(1)[0])
    pd.testing.assert_frame_equal(frames[PAIR], history(0, 1))
    # Once more it is set back, and what was decided meanwhile waits too.
    frames[PAIR] = with_row(frames[PAIR], row(2))
    kept.settle(frames, at(0)[0])
    assert [len(frames[PAIR]), len(kept.later[PAIR])] == [1, 3]
    kept.settle(frames, at(2)[0])
    pd.testing.assert_frame_equal(frames[PAIR], history(0, 1, 2), check_dtype=False)
    kept.settle(frames, at(9)[0])
    pd.testing.assert_frame_equal(frames[PAIR], history(0, 1, 2, 3), check_dtype=False)
    assert kept.later == {}


def test_a_line_that_was_cut_off_anywhere_is_left_out_and_later_ones_are_read(
    tmp_path: Path, kept: PredictionHistory, caplog: pytest.LogCaptureFixture
) -> None:
    kept.journal.append(PAIR, row(0))
    first = kept.journal.size()
    kept.journal.append(PAIR, row(1))
    whole = kept.journal.path.read_bytes()
    for size in range(first, len(whole)):
        kept.journal.path.write_bytes(whole[:size])
        caplog.clear()
        journal = PredictionJournal(kept.journal.path, Seals(tmp_path))
        # But for its end, the line is whole without its newline.
        n_read = 2 if size == len(whole) - 1 else 1
        assert len(list(journal.rows())) == n_read
        assert len(caplog.records) == (size > first and n_read == 1)
        journal.append(PAIR, row(2))
        assert [said[ACTION] for _, said in journal.rows()] == [*range(n_read), 2.0]


def test_a_line_of_somebody_else_is_not_read(tmp_path: Path, kept: PredictionHistory) -> None:
    (tmp_path / "other").mkdir()
    other = PredictionJournal(tmp_path / "other" / "journal", Seals(tmp_path / "other"))
    other.append(PAIR, row(0))
    kept.journal.append(PAIR, row(1))
    with kept.journal.path.open("ab") as file:
        file.write(other.path.read_bytes())
    assert [said[ACTION] for _, said in kept.journal.rows()] == [1.0]
