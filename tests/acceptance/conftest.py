"""What several of the minutes-long tests need."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.homes import MARKET, PAIR
from faults.tally import Tally
from two_pairs import MARKET as TWO_PAIRS_MARKET
from two_pairs import PAIRS

from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.synthetic import write_market


@pytest.fixture(scope="module")
def tally() -> Iterator[Tally]:
    """What faults a file's tests have tried; printed when they are done."""
    made = Tally()
    yield made
    print(f"\n{made}")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the one pair that homes of faults trade."""
    datadir = tmp_path_factory.mktemp("market")
    write_market(datadir, start=MARKET[0], stop=MARKET[1], pairs=[PAIR])
    return datadir


@pytest.fixture(scope="module")
def two_pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A data directory with two pairs, and the address of the exchange that serves them."""
    data = tmp_path_factory.mktemp("two_pairs")
    write_market(data, start=TWO_PAIRS_MARKET[0], stop=TWO_PAIRS_MARKET[1], pairs=PAIRS)
    with ReplayExchange(data) as exchange:
        yield data, exchange.url
