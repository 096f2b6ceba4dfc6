"""What this user directory did not seal is not unpickled: in a backtest, by a bot, and before either begins."""

import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from damage import truncate
from freqai_runs import IDENTIFIER, PAIR, PERIODS, FreqtradeBacktest, Watch, configuration, predictions
from freqtrade.exceptions import OperationalException
from freqtrade.optimize.backtesting import Backtesting
from live_bot import LiveBot

from mtfscalper import artefacts
from mtfscalper.cli import main
from mtfscalper.freqai.columns import ACTION_COLUMN, PREDICTION_COLUMNS
from mtfscalper.freqai.run_plan import DecisionsError
from mtfscalper.seals import KEY_NAME


class Payload:
    """Leaves a file where it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return leave, (str(self.ran),)


def leave(path: str) -> None:
    Path(path).write_text("the payload ran")


@pytest.fixture
def payload(tmp_path: Path) -> bytes:
    return pickle.dumps(Payload(tmp_path / "ran"))


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    return tmp_path / "ran"


def test_the_payload_runs_where_it_is_unpickled(payload: bytes, ran: Path) -> None:
    """The control."""
    pickle.loads(payload)
    assert ran.read_text() == "the payload ran"


def forge(folder: Path, manifest: dict[str, Any], role: str, payload: bytes) -> None:
    """What someone writes who has no key: a file, and its hash in the manifest."""
    sealed = manifest["files"][role]
    (folder / sealed["path"]).write_bytes(payload)
    sealed["sha256"] = artefacts.file_hash(folder / sealed["path"])
    artefacts.write_json(folder / artefacts.MANIFEST_NAME, manifest)


PICKLES = ("model", "feature_pipeline", "label_pipeline")


@pytest.mark.parametrize("role", PICKLES)
def test_a_backtest_runs_no_forged_file_and_trains_that_period_anew(
    tmp_path: Path,
    market: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    payload: bytes,
    ran: Path,
    role: str,
) -> None:
    watch = Watch(monkeypatch, policy="decisive")
    run = FreqtradeBacktest(tmp_path / "home", market)
    columns = predictions(run.run())
    folder = run.folder(PERIODS[1])
    forge(folder, artefacts.read_manifest(folder) or {}, role, payload)
    truncate(run.feather(PERIODS[1]))
    watch.forget()
    again = predictions(FreqtradeBacktest(tmp_path / "home", market).run())
    assert not ran.exists()
    assert watch.trained == [PAIR]
    pd.testing.assert_frame_equal(again, columns)
    assert "this user directory did not seal it" in caplog.text
    # Nothing of it is lost.
    aside = folder.with_name(f"{folder.name}.before-sealing")
    assert (aside / f"cb_btc_{PERIODS[1]}_{role}").with_suffix(
        ".zip" if role == "model" else ".pkl"
    ).read_bytes() == payload


def test_with_another_key_everything_is_made_anew_and_with_the_digest_nothing(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch, policy="decisive")
    home = tmp_path / "home"
    columns = predictions(FreqtradeBacktest(home, market).run())
    (home / KEY_NAME).unlink()
    digests = [artefacts.pickles_digest(folder) for folder in sorted((home / "models" / IDENTIFIER).glob("sub-*"))]
    assert len(set(digests)) == 3
    watch.forget()
    admitted = FreqtradeBacktest(home, market, freqai={"rl_config": {"trust_models": digests}}).run()
    assert watch.trained == []
    pd.testing.assert_frame_equal(predictions(admitted), columns)
    rows = FreqtradeBacktest(home, market).run()
    assert watch.trained == [PAIR] * 3
    pd.testing.assert_frame_equal(predictions(rows), columns)
    watch.forget()
    FreqtradeBacktest(home, market).run()
    assert watch.trained == []


def test_the_policy_of_an_open_trade_is_not_unpickled_from_a_forged_file(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, payload: bytes, ran: Path
) -> None:
    Watch(monkeypatch)
    run = FreqtradeBacktest(tmp_path / "home", market, freqai={"rl_config": {"decision_mode": "exact"}})
    row_ms = int(run.run()["date"].iloc[400].timestamp() * 1000)
    assert run.store.exit_policy(PAIR, row_ms) is not None
    folder = run.version(PERIODS[1])
    written = artefacts.sealed_path(folder, "model").stat()
    forge(folder, artefacts.read_manifest(folder) or {}, "model", payload)
    # As if it had lain there all along.
    os.utime(artefacts.sealed_path(folder, "model"), ns=(written.st_atime_ns, written.st_mtime_ns))
    with pytest.raises(DecisionsError, match="did not seal it"):
        pickle.loads(pickle.dumps(run.store)).exit_policy(PAIR, row_ms)
    assert not ran.exists()


# ---------------------------------------------------------------------- a bot


@pytest.fixture
def make_bot(tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(home: str = "home", **freqai: Any) -> LiveBot:
        Watch(monkeypatch)
        return LiveBot(tmp_path / home, market, monkeypatch, freqai=freqai)

    return make


def trained(bot: LiveBot) -> tuple[LiveBot, Path]:
    """A bot that has predicted and was stopped, and the folder of its policy."""
    bot.analyse()
    bot.train()
    bot.analyse()
    bot.model.shutdown()
    [folder] = Path(bot.model.full_path).glob("sub-train-*")
    return bot, folder


@pytest.mark.parametrize("role", PICKLES)
@pytest.mark.parametrize("has_manifest", [True, False])
def test_a_restarted_bot_runs_no_planted_file_and_trains_anew(
    make_bot: Any, caplog: pytest.LogCaptureFixture, payload: bytes, ran: Path, role: str, has_manifest: bool
) -> None:
    _, folder = trained(make_bot())
    forge(folder, artefacts.read_manifest(folder) or {}, role, payload)
    if not has_manifest:
        (folder / artefacts.MANIFEST_NAME).unlink()
    bot = make_bot()
    assert not bot.analyse()[[*PREDICTION_COLUMNS, "do_predict"]].any(axis=None)
    assert not ran.exists()
    assert folder.with_name(f"{folder.name}.before-sealing").is_dir()
    [told] = [record.getMessage() for record in caplog.records if "did not seal it" in record.getMessage()]
    assert PAIR in told
    assert artefacts.pickles_digest(folder.with_name(f"{folder.name}.before-sealing")) in told
    bot.train()
    bot.analyse()
    bot.next_candle()
    assert bot.analyse()["do_predict"].iloc[-1] == 1


@pytest.mark.parametrize("file", ["historic_predictions.pkl", "historic_predictions.backup.pkl"])
def test_a_restarted_bot_runs_no_planted_history(
    make_bot: Any, caplog: pytest.LogCaptureFixture, payload: bytes, ran: Path, file: str
) -> None:
    _, folder = trained(make_bot())
    for name in {"historic_predictions.pkl", file}:
        (folder.parent / name).write_bytes(payload)
    again = make_bot()
    assert not ran.exists()
    assert list(again.model.dd.historic_predictions) == [PAIR]
    # Of its three names the first one that is whole.
    sound = "historic_predictions.backup.pkl" if file == "historic_predictions.pkl" else ".sealed/test/bot"
    assert re.search(f"restored from .*{re.escape(sound)}", caplog.text)
    assert (again.analyse()[ACTION_COLUMN] != 0).any()
    again.model.shutdown()
    assert (folder.parent / "historic_predictions.pkl.before-sealing").read_bytes() == payload
    assert list(make_bot().model.dd.historic_predictions) == [PAIR]
    assert not ran.exists()


def test_a_bot_that_lost_its_key_starts_and_loses_no_file(make_bot: Any) -> None:
    bot, folder = trained(make_bot())
    (Path(bot.config["user_data_dir"]) / KEY_NAME).unlink()
    again = make_bot()
    again.analyse()
    again.train()
    again.next_candle()
    assert not again.analyse().empty
    assert folder.with_name(f"{folder.name}.before-sealing").is_dir()
    assert folder.is_dir()


def test_a_policy_brought_from_another_machine_is_refused_until_it_is_admitted_or_sealed(
    make_bot: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = trained(make_bot("there"))
    models = tmp_path / "here" / "models" / IDENTIFIER

    def bring() -> None:
        shutil.rmtree(models, ignore_errors=True)
        shutil.copytree(folder.parent, models)

    bring()
    refused = make_bot("here").analyse()
    assert not refused[ACTION_COLUMN].any()
    bring()
    admitted = make_bot("here", rl_config={"trust_models": [artefacts.pickles_digest(folder)]})
    assert (admitted.analyse()[ACTION_COLUMN] != 0).any()
    bring()
    assert main(["seal", str(models)]) == 0
    assert f"Sealed {models / folder.name}" in capsys.readouterr().out
    sealed = make_bot("here")
    assert list(sealed.model.dd.historic_predictions) == [PAIR]
    assert (sealed.analyse()[ACTION_COLUMN] != 0).any()


# ---------------------------------------------------------------------- a backtest of what a bot predicted


def backtest_of_predictions(home: Path, market: Path, mode: str = "replay") -> Backtesting:
    """``freqtrade backtesting --freqai-backtest-live-models``, which reads the history before it makes the model."""
    config, exchange = configuration(home, market, freqai={"rl_config": {"decision_mode": mode}})
    return Backtesting(config | {"freqai_backtest_live_models": True, "timerange": None}, exchange)


def forget_journal(home: Path) -> None:
    """Leave what a bot of an earlier version left."""
    for path in (home / "decisions").rglob("*.jsonl"):
        path.unlink()


@pytest.mark.parametrize("has_journal", [True, False])
def test_a_backtest_of_a_bots_predictions_shows_them(
    make_bot: Any, tmp_path: Path, market: Path, has_journal: bool
) -> None:
    bot = make_bot()
    bot.analyse()
    bot.train()
    bot.analyse()
    for _ in range(12):
        bot.next_candle()
        bot.analyse()
    bot.model.shutdown()
    if not has_journal:
        forget_journal(tmp_path / "home")
    predicted = bot.model.dd.historic_predictions[PAIR].set_index("date_pred")
    backtesting = backtest_of_predictions(tmp_path / "home", market)
    [strategy] = backtesting.strategylist
    backtesting._set_strategy(strategy)
    candles, _ = backtesting.load_bt_data()
    shown = strategy.advise_all_indicators(candles)[PAIR].set_index("date")
    known = predicted[(predicted["do_predict"] == 1) & predicted.index.isin(shown.index)]
    assert len(known) >= 11
    assert (known[ACTION_COLUMN] != 0).any()
    pd.testing.assert_series_equal(
        shown.loc[known.index, ACTION_COLUMN], known[ACTION_COLUMN], check_names=False, check_dtype=False
    )
    # What stands in the history of candles before the bot began is no decision.
    assert (predicted.loc[predicted["do_predict"] == 0, ACTION_COLUMN] != 0).any()
    others = shown[~shown.index.isin(known.index)]
    assert not others["do_predict"].any()
    # The journal has the bot's first pass too, whose row FreqAI marks as one not to be traded on.
    assert (others[ACTION_COLUMN] != 0).sum() <= int(has_journal)


def test_a_backtest_of_predictions_that_were_not_sealed_here_runs_none_of_them(
    make_bot: Any, tmp_path: Path, market: Path, payload: bytes, ran: Path
) -> None:
    _, folder = trained(make_bot())
    (folder.parent / "historic_predictions.pkl").write_bytes(payload)
    # By the bot's journal it can do without.
    backtest_of_predictions(tmp_path / "home", market)
    forget_journal(tmp_path / "home")
    with pytest.raises(
        OperationalException, match=r"historic_predictions.pkl was not sealed by this user directory.*rem"
    ):
        backtest_of_predictions(tmp_path / "home", market)
    assert not ran.exists()


# ---------------------------------------------------------------------- sealing by hand


def test_what_cannot_be_sealed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["seal", str(tmp_path)]) == 2
    assert "lies in no user directory" in capsys.readouterr().err
    assert main(["seal", str(tmp_path), "--userdir", str(tmp_path)]) == 2
    assert "holds nothing to seal" in capsys.readouterr().err
