"""A report of a real backtest: by freqtrade's own machinery, with trained policies, read back from its export."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from freqai.freqai_runs import PAIR, PERIODS, FreqtradeBacktest, Watch
from freqtrade.optimize.backtesting import Backtesting
from rich.console import Console

from mtfscalper import cli
from mtfscalper.offline.synthetic import write_market
from mtfscalper.reporting import rivals
from mtfscalper.reporting.report import Report, report_of
from mtfscalper.reporting.run_result import Asked, ReportError
from mtfscalper.reporting.tables import print_report

ENDED_BY_RULES = {"stop_loss", "roi", "max_duration"}


class Made(NamedTuple):
    """A run, its report, and what lay in its folders before that.

    :ivar files: of the user directory and of the candles, with the times of their last change
    """

    home: Path
    market: Path
    report: Report
    files: dict[Path, int]
    trained: int


def files_of(*folders: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    home, market = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("market")
    write_market(market, start=datetime(2024, 9, 1, tzinfo=UTC), stop=datetime(2024, 9, 10, tzinfo=UTC), pairs=(PAIR,))
    (home / "backtest_results").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        watch = Watch(patch, "random", leaves=0.005)
        # Enough to show that they are made.
        patch.setattr(rivals, "RANDOM_DRAWS", 10)
        overlay = {"freqai": {"rl_config": {"decision_mode": "exact", "max_trade_duration_candles": 24}}}
        run = FreqtradeBacktest(home, market, **overlay)
        run.backtesting.config |= {"export": "trades", "exportdirectory": home / "backtest_results"}
        try:
            run.backtesting.start()
        finally:
            Backtesting.cleanup()
        trained, files = len(watch.trained), files_of(home, market)
        report = report_of(Asked(result=home / "backtest_results", datadir=market))
        assert len(watch.trained) == trained
        yield Made(home, market, report, files, trained)


def test_what_the_rules_ended_in_the_run_they_end_when_it_lives_again(made: Made) -> None:
    trades = pd.DataFrame(made.report.trades)
    ended = trades[trades["exit_reason"].isin(ENDED_BY_RULES)]
    assert len(ended) > 5
    assert (ended["classic_close_ms"] == ended["close_ms"]).all()
    assert (ended["classic_exit_reason"] == ended["exit_reason"]).all()
    assert (ended["classic_profit_ratio"] - ended["profit_ratio"]).abs().max() < 1e-9
    left = trades[trades["exit_reason"] == "rl_exit"]
    assert len(left) > 3
    assert (left["classic_close_ms"] > left["close_ms"]).any()


def test_a_report_trains_nothing_and_writes_nothing(made: Made) -> None:
    assert made.trained == len(PERIODS)
    assert files_of(made.home, made.market) == made.files


def test_every_trade_belongs_to_a_period_of_its_policy(made: Made) -> None:
    periods = made.report.periods
    assert [period.first_ms for period in periods] == [1000 * first for first in PERIODS]
    assert sum(period.traded.trades for period in periods) == len(made.report.trades)
    for period in periods:
        assert period.evaluation is not None
        # 1.8 of 2 days: a tenth is held out.
        assert period.training is not None
        assert period.training.trades > 0
        assert period.training.days > period.evaluation.days
        assert (period.guarded, period.falls_back) == (None, False)
        assert len(period.evaluations) >= 1
        assert period.gap_a_day == pytest.approx(period.evaluation.a_day - period.traded.a_day)


def test_the_record_of_decisions_is_the_runs(made: Made) -> None:
    decisions, trades = made.report.decisions, pd.DataFrame(made.report.trades)
    assert decisions is not None
    assert decisions.ended == (trades["exit_reason"] == "rl_exit").sum() == decisions.leaves
    assert sum(map(sum, decisions.grid.questions)) == decisions.questions > decisions.leaves


def test_the_policies_answer_as_they_did_when_they_are_asked_again(made: Made) -> None:
    looks, decisions = made.report.importance, made.report.decisions
    assert looks is not None
    assert decisions is not None
    # Answers other than the record's would leave a policy out.
    assert (looks.questions, looks.policies) == (min(decisions.questions, 2000), len(PERIODS))
    names = {group.name: group for group in looks.groups}
    assert {"rsi", "all of 5m", "all of 1h", "profit of the trade", "time held"} <= names.keys()
    assert names["all of 1h"].inputs > names["rsi"].inputs == 3
    assert all(group.change > 0 for group in looks.groups if group.kind == "timeframe")


def test_shares_of_actions_add_up(made: Made) -> None:
    shares = made.report.actions
    assert list(shares) == [f"{PAIR}, flat", f"{PAIR}, in a trade"]
    assert all(sum(of.values()) == pytest.approx(1) for of in shares.values())
    decisions = made.report.decisions
    assert decisions is not None
    left = decisions.leaves / decisions.questions
    assert shares[f"{PAIR}, in a trade"]["hold"] == pytest.approx(1 - left)


def test_the_candles_that_are_drawn_hold_whole_trades_and_their_questions(made: Made) -> None:
    [chosen] = made.report.candles
    assert len(chosen.dates_ms) == len(chosen.rates) == 576 < chosen.of
    assert len(chosen.trades) > 5
    for position in chosen.trades:
        trade = made.report.trades[position]
        assert chosen.dates_ms[0] <= trade["open_ms"] <= trade["close_ms"] <= chosen.dates_ms[-1]
    left = sum(made.report.trades[position]["exit_reason"] == "rl_exit" for position in chosen.trades)
    assert sum(sum(asked.leaves) for asked in chosen.asked) == left > 0


def test_figures_agree_with_freqtrades(made: Made) -> None:
    stats = json.loads(_export(made))["strategy"]["MtfScalper_RL_Hybrid"]
    figures = made.report.run.statistics
    assert figures is not None
    assert figures.trades == stats["total_trades"]
    assert figures.net == pytest.approx(stats["profit_total_abs"], abs=1e-6)
    assert figures.per_trade == pytest.approx(stats["profit_mean"])
    assert figures.profit_factor == pytest.approx(stats["profit_factor"])
    assert figures.gross - figures.fees + figures.funding == pytest.approx(figures.net)
    assert made.report.run.equity[-1] == pytest.approx(stats["final_balance"])


def _export(made: Made) -> bytes:
    path = Path(made.report.result)
    with zipfile.ZipFile(path) as archive:
        return archive.read(f"{path.stem}.json")


def changed_export(made: Made, folder: Path, **changes: Any) -> Path:
    """The run's export with other figures.

    :param changes: of the strategy's
    """
    path = folder / Path(made.report.result).name
    stats = json.loads(_export(made))
    stats["strategy"]["MtfScalper_RL_Hybrid"] |= changes
    name = changes.get("strategy_name", "MtfScalper_RL_Hybrid")
    stats["strategy"] = {name: stats["strategy"]["MtfScalper_RL_Hybrid"]}
    with zipfile.ZipFile(made.report.result) as old, zipfile.ZipFile(path, "w") as new:
        new.writestr(f"{path.stem}.json", json.dumps(stats))
        new.writestr(f"{path.stem}_config.json", old.read(f"{path.stem}_config.json"))
    return path


def test_a_run_without_trades_has_a_report(made: Made, tmp_path: Path) -> None:
    path = changed_export(made, tmp_path, trades=[])
    report = report_of(Asked(result=path, user_data_dir=made.home, datadir=made.market))
    assert report.verdict.finding == "no_trades"
    assert report.run.statistics is not None
    assert (report.run.statistics.trades, report.run.statistics.net) == (0, 0.0)
    json.dumps(report.as_json(), allow_nan=False)
    print_report(report, Console(width=120, quiet=True))


def test_another_strategys_run_without_our_model_has_what_can_be_said(made: Made, tmp_path: Path) -> None:
    trades = json.loads(_export(made))["strategy"]["MtfScalper_RL_Hybrid"]["trades"]
    path = changed_export(made, tmp_path, trades=trades, freqaimodel=None, strategy_name="Gone")
    report = report_of(Asked(result=path, datadir=made.market))
    assert not report.policy
    assert "the run's exits" in report.verdict.sentence
    assert (report.periods, report.decisions) == ((), None)
    by_key = {rival.key: rival for rival in report.rivals}
    assert by_key["classic_run"].statistics is None
    assert "Gone cannot be loaded" in by_key["classic_run"].note
    assert by_key["classic_exits"].statistics is not None
    said = " ".join(report.missing)
    assert "nothing is sealed of this run" in said
    assert "no longest duration is known" in said


def test_every_rival_is_there(made: Made) -> None:
    keys = [rival.key for rival in made.report.rivals]
    assert keys == [
        *("classic_exits", "own_exits", "classic_run", "strategy_run", "random_exits"),
        *("flat", "buy_and_hold", "equal_weight"),
    ]
    assert all(rival.statistics is not None for rival in made.report.rivals)
    by_key = {rival.key: rival for rival in made.report.rivals}
    flat = by_key["flat"].statistics
    assert flat is not None
    assert (flat.net, flat.trades, flat.max_drawdown_ratio) == (0.0, 0, 0.0)


def test_paired_differences_add_up_to_the_verdicts_mean(made: Made) -> None:
    report = made.report
    assert report.policy
    assert report.verdict.days == len(report.paired_days) == len(report.paired_differences)
    trades = pd.DataFrame(report.trades)
    over = (trades["profit_ratio"] - trades["classic_profit_ratio"]).mean()
    assert report.verdict.a_trade.mean == pytest.approx(over)
    assert sum(report.paired_differences) / len(trades) == pytest.approx(over)
    # Three days are too few, and it says so.
    assert report.verdict.finding == "too_few"


def test_a_report_is_json_and_fits_a_terminal(made: Made) -> None:
    values = json.loads(json.dumps(made.report.as_json(), allow_nan=False))
    assert values["verdict"]["sentence"] == made.report.verdict.sentence
    assert len(values["trades"]) == len(made.report.trades)
    console = Console(width=170, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(made.report, console)
    text = console.export_text()
    assert "verdict" in text.splitlines()[0]
    for word in ("same entries, classic exits", "buy and hold", "MAE", "Period by period", "again", "rl_exit"):
        assert word in text


def test_the_command_writes_page_and_json_where_it_is_told(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    page = tmp_path / "pages" / "report.html"
    places = ["--json", str(file), "--html", str(page)]
    assert cli.main(["report", made.report.result, "--datadir", str(made.market), *places]) == 0
    said = capsys.readouterr().out
    assert "Over " in said
    assert f"The report as a page: {page}" in said
    assert made.report.verdict.sentence.split("'")[0] in page.read_text(encoding="utf-8")
    assert json.loads(file.read_text())["verdict"]["trades"] == len(made.report.trades)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Asked(result=Path("nowhere.zip")), ("nowhere.zip does not exist", "remedy")),
        (Asked(result=Path(__file__)), (Path(__file__).name, "accepted: an export of freqtrade")),
    ],
)
def test_what_is_no_result_is_refused_in_one_line(asked: Asked, words: tuple[str, ...]) -> None:
    with pytest.raises(ReportError) as refused:
        report_of(asked)
    assert all(word in str(refused.value) for word in words)
    assert "\n" not in str(refused.value)


def test_another_strategy_or_no_candles_are_refused(made: Made, tmp_path: Path) -> None:
    result = Path(made.report.result)
    with pytest.raises(ReportError, match="MtfScalper_RL_Hybrid; received: Other"):
        report_of(Asked(result=result, strategy="Other", datadir=made.market))
    with pytest.raises(ReportError, match="name it with --datadir"):
        report_of(Asked(result=result, datadir=tmp_path))


def test_candles_of_another_market_are_refused(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.market, tmp_path / "other")
    for path in (tmp_path / "other").rglob("*-5m-futures.feather"):
        frame = pd.read_feather(path)
        prices = ["open", "high", "low", "close"]
        frame.assign(**{name: frame[name] * 1.5 for name in prices}).to_feather(path)
    with pytest.raises(ReportError, match="their candles do not reach"):
        report_of(Asked(result=Path(made.report.result), datadir=tmp_path / "other"))
