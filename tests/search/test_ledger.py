"""Records that are added and never changed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mtfscalper.search.ledger import UNREADABLE, Ledger


def test_what_is_added_is_read_in_its_order_and_reading_writes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "sub" / "log.jsonl")
    assert ledger.records() == []
    assert list(tmp_path.iterdir()) == []
    for number in range(3):
        ledger.add({"number": number, "name": "é"})
    assert [record["number"] for record in ledger.records()] == [0, 1, 2]


def test_a_line_that_is_cut_off_stays_known_and_the_next_record_is_whole(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "log.jsonl")
    ledger.add({"number": 1})
    ledger.path.write_bytes(ledger.path.read_bytes() + b'{"number": 2, "na')
    assert ledger.records() == [{"number": 1}, {UNREADABLE: '{"number": 2, "na'}]
    ledger.add({"number": 3})
    assert ledger.records() == [{"number": 1}, {UNREADABLE: '{"number": 2, "na'}, {"number": 3}]


def test_several_may_add_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: Ledger(tmp_path / "log.jsonl").add({"number": number}), range(40)))
    assert sorted(record["number"] for record in Ledger(tmp_path / "log.jsonl").records()) == list(range(40))


def test_a_number_that_json_has_none_for_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Ledger(tmp_path / "log.jsonl").add({"number": float("nan")})
    assert Ledger(tmp_path / "log.jsonl").records() == []
