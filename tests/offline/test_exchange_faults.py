"""Faults come when and where they should, the same from the same seed, and ccxt meets them as it would on Binance."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ccxt
import pytest
from fastapi.testclient import TestClient

from mtfscalper.offline import ReplayError
from mtfscalper.offline.exchange import ReplayExchange, create_app
from mtfscalper.offline.faults import CANDLE_FAULTS, KINDS, REQUEST_FAULTS, Faults, Rule, random_rules, read_rules
from mtfscalper.offline.faulty_app import FaultyApp
from mtfscalper.offline.freqtrade_command import offline_config
from mtfscalper.offline.synthetic import DEFAULT_START, write_market

BTC = "BTC/USDT:USDT"
KLINES = "/fapi/v1/klines"
# 02:05:10 of the second day: the candle of 02:00 closed ten seconds ago.
NOW = DEFAULT_START + timedelta(days=1, hours=2, minutes=5, seconds=10)
NOW_MS = int(NOW.timestamp() * 1000)


@pytest.fixture(scope="module")
def datadir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market")
    write_market(folder, stop=DEFAULT_START + timedelta(days=2), pairs=[BTC])
    return folder


class Passed:
    """Keeps how many seconds were let pass, and waits for none of them."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> float:
        self.seconds.append(seconds)
        return 0.0


def client_of(datadir: Path, *rules: Rule, now: datetime = NOW, passed: Passed | None = None) -> TestClient:
    faults = Faults(rules)
    app = create_app(datadir, lambda: now, faults)
    return TestClient(FaultyApp(app, faults, lambda: now, passed or Passed()))


def klines(client: TestClient, limit: int = 3) -> list[list[Any]]:
    response = client.get(KLINES, params={"symbol": "BTCUSDT", "interval": "5m", "limit": limit})
    assert response.status_code == 200, response.text
    answer: list[list[Any]] = response.json()
    return answer


def opens(answer: list[list[Any]]) -> list[str]:
    return [f"{datetime.fromtimestamp(kline[0] / 1000, UTC):%H:%M}" for kline in answer]


# ---------------------------------------------------------------------- requests


@pytest.mark.parametrize(("kind", "status"), [("http_429", 429), ("http_418", 418), ("http_503", 503)])
def test_refusals_have_their_status_and_binances_format(datadir: Path, kind: str, status: int) -> None:
    response = client_of(datadir, Rule(kind)).get(KLINES, params={"symbol": "BTCUSDT", "interval": "5m"})
    assert response.status_code == status
    assert response.json()["code"] < 0
    assert "on purpose" in response.json()["msg"]


def test_half_an_answer_is_no_json_and_has_status_200(datadir: Path) -> None:
    response = client_of(datadir, Rule("half_json")).get(KLINES, params={"symbol": "BTCUSDT", "interval": "5m"})
    whole = client_of(datadir).get(KLINES, params={"symbol": "BTCUSDT", "interval": "5m"})
    assert response.status_code == 200
    assert response.content == whole.content[: len(whole.content) // 2]
    with pytest.raises(json.JSONDecodeError):
        response.json()


@pytest.mark.parametrize(("path", "empty"), [(KLINES, []), ("/fapi/v1/exchangeInfo", {})])
def test_an_empty_answer_is_of_its_kind(datadir: Path, path: str, empty: object) -> None:
    response = client_of(datadir, Rule("empty")).get(path, params={"symbol": "BTCUSDT", "interval": "5m"})
    assert (response.status_code, response.json()) == (200, empty)


def test_a_late_answer_takes_its_seconds_of_the_exchanges_clock(datadir: Path) -> None:
    passed = Passed()
    assert len(klines(client_of(datadir, Rule("latency", seconds=4), passed=passed))) == 3
    assert passed.seconds == [4]


def test_a_skewed_clock_answers_as_of_another_moment(datadir: Path) -> None:
    late = client_of(datadir, Rule("clock_skew", seconds=-30))
    assert late.get("/fapi/v1/time").json()["serverTime"] == NOW_MS - 30_000
    assert opens(klines(late)) == ["01:50", "01:55", "02:00"]
    assert opens(klines(client_of(datadir))) == ["01:55", "02:00", "02:05"]


# ---------------------------------------------------------------------- candles


def test_candles_that_have_just_closed_are_altered_for_a_while_and_then_are_what_they_were(datadir: Path) -> None:
    later = NOW + timedelta(seconds=40)
    true = klines(client_of(datadir))
    before, closed, forming = true
    for kind in CANDLE_FAULTS:
        served = klines(client_of(datadir, Rule(kind)))
        if kind == "missing":
            assert served == [forming]
            continue
        assert served[0] == before, "closed long ago"
        assert served[-1] == forming, "not closed yet"
        assert served != true
        # The one that forms is another one by then.
        assert klines(client_of(datadir, Rule(kind), now=later))[:2] == [before, closed]
    [_, early, _] = klines(client_of(datadir, Rule("in_1970")))
    assert early[0] == 0
    [_, reversed_, _] = klines(client_of(datadir, Rule("high_below_low")))
    assert float(reversed_[2]) < float(reversed_[3])
    [_, spike, _] = klines(client_of(datadir, Rule("spike")))
    assert float(spike[2]) == pytest.approx(1e6 * float(closed[1]))
    [_, first, second, _] = klines(client_of(datadir, Rule("duplicate")))
    assert first[0] == second[0]
    assert first[4] != second[4]
    assert opens(klines(client_of(datadir, Rule("late")))) == ["01:55", "02:05"]
    [_, revised, _] = klines(client_of(datadir, Rule("revised")))
    assert revised[:4] == closed[:4]
    assert revised[4] != closed[4]


def test_a_candle_is_counted_once_however_often_it_is_asked_for(datadir: Path, tmp_path: Path) -> None:
    faults = Faults((Rule("late"),), journal=tmp_path / "faults.jsonl")
    client = TestClient(create_app(datadir, lambda: NOW, faults))
    assert klines(client) == klines(client)
    assert faults.served == {"late": 1}
    [line] = (tmp_path / "faults.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "time": NOW.isoformat(),
        "kind": "late",
        "target": f"{KLINES} BTCUSDT 5m {NOW - timedelta(seconds=310)}",
    }


# ---------------------------------------------------------------------- when, where, how often


def served(rules: tuple[Rule, ...], seed: int, requests: list[tuple[str, dict[str, str]]]) -> list[str | None]:
    faults = Faults(rules, seed)
    found = [faults.of_request(path, query, NOW_MS) for path, query in requests]
    return [fault and fault.kind for fault in found]


def test_the_same_seed_gives_the_same_faults_in_whatever_order_requests_come() -> None:
    requests = [(KLINES, {"symbol": symbol, "n": str(n)}) for n in range(300) for symbol in ("BTCUSDT", "ETHUSDT")]
    rules = random_rules(0.3)
    first = served(rules, 1, requests)
    assert served(rules, 1, requests) == first
    assert served(rules, 1, requests[::-1]) == first[::-1]
    assert served(rules, 2, requests) != first
    # Candles are no orders.
    assert set(first) == {None, *REQUEST_FAULTS} - {"order_unknown"}
    share = sum(kind is not None for kind in first) / len(first)
    # 8 of 11 kinds are of requests.
    assert 0.15 <= share <= 0.29


def test_a_request_made_again_is_drawn_again() -> None:
    answers = served((Rule("dropped", rate=0.5),), 1, [(KLINES, {"symbol": "BTCUSDT"})] * 40)
    assert {"dropped", None} == set(answers)


def test_a_rule_says_when_where_and_how_often() -> None:
    rule = Rule("http_503", path="klines", symbol="BTCUSDT", since_ms=1_000, until_ms=2_000, times=2)
    faults = Faults((rule,))
    wanted = (KLINES, {"symbol": "BTCUSDT"})
    for path, query, now_ms in (
        ("/fapi/v1/depth", {"symbol": "BTCUSDT"}, 1_500),
        (KLINES, {"symbol": "ETHUSDT"}, 1_500),
        (*wanted, 999),
        (*wanted, 2_000),
    ):
        assert faults.of_request(path, query, now_ms) is None
    assert [faults.of_request(*wanted, 1_500) is not None for _ in range(4)] == [True, True, False, False]
    assert faults.served == {"http_503": 2}


ORDER = "/fapi/v1/order"


def fates(rule: Rule, seed: int, n_orders: int = 60) -> list[tuple[bool, bool] | None]:
    """Whether the answer to each order is lost, and then whether it was carried out, and how the answer was lost."""
    faults = Faults((rule,), seed)
    found = []
    for number in range(n_orders):
        # What is another each time says nothing.
        asked = {
            "symbol": "BTCUSDT",
            "timestamp": str(number),
            "signature": f"{seed}",
            "newClientOrderId": f"x{number}",
        }
        fault = faults.of_request(ORDER, asked, NOW_MS, "POST")
        found.append(fault and (fault.carried_out, fault.is_dropped))
    assert faults.served["order_unknown"] == len(found) - found.count(None)
    return found


def test_the_fate_of_an_order_is_drawn_from_the_seed() -> None:
    drawn = fates(Rule("order_unknown", rate=0.5), 1)
    assert set(drawn) == {None, *((carried, dropped) for carried in (True, False) for dropped in (True, False))}
    assert fates(Rule("order_unknown", rate=0.5), 1) == drawn
    assert fates(Rule("order_unknown", rate=0.5), 2) != drawn
    assert {fate and fate[0] for fate in fates(Rule("order_unknown", carried_out=False), 1)} == {False}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ORDER), ("DELETE", ORDER), ("POST", "/fapi/v1/leverage"), ("GET", KLINES)]
)
def test_only_an_order_has_a_fate(method: str, path: str) -> None:
    assert Faults((Rule("order_unknown"),)).of_request(path, {"symbol": "BTCUSDT"}, NOW_MS, method) is None


def test_a_rate_is_also_the_rate_of_orders_of_unknown_fate() -> None:
    assert [rule.rate for rule in random_rules(0.2) if rule.kind == "order_unknown"] == [0.2]


def test_the_journal_says_of_an_order_whether_it_was_carried_out(tmp_path: Path) -> None:
    faults = Faults((Rule("order_unknown", carried_out=True),), journal=tmp_path / "faults.jsonl")
    faults.of_request(ORDER, {"symbol": "BTCUSDT", "side": "BUY", "signature": "0f", "timestamp": "1"}, NOW_MS, "POST")
    [line] = (tmp_path / "faults.jsonl").read_text().splitlines()
    assert json.loads(line)["target"] == (
        "POST /fapi/v1/order?[('side', 'BUY'), ('symbol', 'BTCUSDT')] carried out: True"
    )


def test_a_script_is_read_from_json_and_toml(tmp_path: Path) -> None:
    (tmp_path / "script.json").write_text(
        '{"faults": [{"kind": "latency", "path": "depth", "from": "2024-10-01T06:00", "seconds": 20, "times": 3}]}'
    )
    (tmp_path / "script.toml").write_text(
        '[[faults]]\nkind = "latency"\npath = "depth"\nfrom = 2024-10-01T06:00:00\nseconds = 20\ntimes = 3\n'
    )
    expected = Rule("latency", path="depth", since_ms=1_727_762_400_000, seconds=20, times=3)
    assert read_rules(str(tmp_path / "script.json")) == read_rules(str(tmp_path / "script.toml")) == (expected,)
    assert read_rules("0.1") == random_rules(0.1)
    (tmp_path / "order.toml").write_text('[[faults]]\nkind = "order_unknown"\ncarried_out = false\n')
    assert read_rules(str(tmp_path / "order.toml")) == (Rule("order_unknown", carried_out=False),)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "has no list `faults`"),
        ('{"faults": [{"kind": "flood"}]}', "'flood'; accepted: latency"),
        ('{"faults": [{"kind": "late", "often": 3}]}', "accepted: a table of kind, rate"),
        ('{"faults": [{"kind": "late", "from": "soon"}]}', "fault 1 is"),
        ('{"faults": [{"kind": "order_unknown", "carried_out": "no"}]}', "accepted: true or false"),
    ],
)
def test_a_script_that_cannot_be_served_is_refused_by_name(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "script.json").write_text(content)
    with pytest.raises(ReplayError) as refusal:
        read_rules(str(tmp_path / "script.json"))
    assert said in str(refusal.value)


@pytest.mark.parametrize("text", ["1.5", "-1", "nowhere.json"])
def test_a_rate_or_a_file_is_accepted_and_nothing_else(text: str) -> None:
    with pytest.raises(ReplayError, match=r"accepted: .*JSON or TOML file"):
        read_rules(text)


# ---------------------------------------------------------------------- as a client meets them


@pytest.fixture
def exchange(datadir: Path, request: pytest.FixtureRequest) -> Iterator[tuple[ccxt.binance, Faults]]:
    faults = Faults((Rule(request.param, path="klines"),))
    with ReplayExchange(datadir, clock=lambda: NOW, faults=faults, let_pass=Passed()) as running:
        settings = offline_config(running.url)["exchange"]["ccxt_config"]
        binance = ccxt.binance({**settings, "enableRateLimit": False, "maxRetriesOnFailure": 0})
        binance.load_markets()
        yield binance, faults


@pytest.mark.parametrize(
    ("exchange", "error"),
    [
        ("dropped", ccxt.NetworkError),
        ("http_429", ccxt.DDoSProtection),
        ("http_418", ccxt.DDoSProtection),
        ("http_503", ccxt.OperationFailed),
    ],
    indirect=["exchange"],
)
def test_ccxt_raises_what_freqtrade_knows_how_to_take(
    exchange: tuple[ccxt.binance, Faults], error: type[Exception]
) -> None:
    binance, faults = exchange
    with pytest.raises(error):
        binance.fetch_ohlcv(BTC, "5m", limit=3)
    assert sum(faults.served.values()) == 1


def test_every_kind_is_of_a_request_or_of_a_candle_and_described() -> None:
    assert sorted(KINDS) == sorted({**REQUEST_FAULTS, **CANDLE_FAULTS})
    assert all({**REQUEST_FAULTS, **CANDLE_FAULTS}.values())
