"""A bot's database, read without touching it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pandas as pd


def read_table(database: Path, table: str, columns: Sequence[str]) -> pd.DataFrame:
    """Some columns of a table; no rows where a bot was ended before it had made the table.

    :raises pandas.errors.DatabaseError: if the table is there and cannot be read
    """
    if database.exists():
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            made = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            if (table,) in made:
                return pd.read_sql(f"SELECT {', '.join(columns)} FROM {table}", connection)
    return pd.DataFrame(columns=list(columns))
