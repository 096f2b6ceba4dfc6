"""A bot's policies, asked in a backtest with other settings than theirs: they decide as they were trained."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from freqai_runs import PAIR, Watch
from live_bot import LiveBot, watched

from mtfscalper import artefacts
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.exit_policy import ExitPolicy
from mtfscalper.freqai.kept_policies import KeptPolicies, PairRows
from mtfscalper.freqai.policy_folders import PolicyFolders
from mtfscalper.freqai.policy_places import PolicyName
from mtfscalper.market.signals import LONG_SIGNAL
from mtfscalper.policy.recurrent import RecurrentPolicyError
from mtfscalper.reporting.audit.bot import trained_rules
from mtfscalper.seals import Seals

USDC = "BTC/USDC:USDC"


class Kept:
    """A policy that a bot has left, and the rows of a backtest.

    :ivar rows: with the settings that the policy was trained with
    :ivar name: of its folder
    """

    def __init__(self, home: Path, archive: Archive, rows: PairRows, name: str) -> None:
        self.home, self.archive, self.rows, self.name = home, archive, rows, name
        self.models = home / "models" / archive.identifier

    @property
    def folders(self) -> list[Path]:
        return [self.models / self.name, self.archive.bot / self.name]

    def at(self, home: Path) -> Kept:
        """A copy elsewhere."""
        shutil.copytree(self.home, home, dirs_exist_ok=True)
        archive = self.archive._replace(root=home / self.archive.root.relative_to(self.home))
        return Kept(home, archive, self.rows, self.name)

    def policies(self) -> KeptPolicies:
        return KeptPolicies(self.models, self.archive, Seals(self.home))

    def load(self, rows: PairRows | None = None) -> ExitPolicy | None:
        return self.policies().load(self.name, 0, 2**62, rows or self.rows)

    def of_other_pair(self, hours: int) -> str:
        """A later policy of a pair of the same base currency; its folder's name."""
        trained = int(self.name.rpartition("_")[2])
        later = trained + 3600 * hours
        folder = self.models / f"sub-train-BTC_{later}"
        folder.mkdir()
        for path in (self.models / self.name).iterdir():
            shutil.copy(path, folder / path.name.replace(str(trained), str(later)))
        terms = json.loads((folder / artefacts.TERMS_NAME).read_text())
        terms["rules"]["stoploss_ratio"] = 0.123
        (folder / artefacts.TERMS_NAME).write_text(json.dumps(terms))
        folders = PolicyFolders(self.models, self.archive, Seals(self.home))
        folders.seal(PolicyName(folder, f"cb_btc_{later}"), USDC, self.rows.trained_with)
        return folder.name

    def seal(self, trained_with: dict[str, Any] | None = None, **rl: Any) -> None:
        """Let the policy have been trained with other settings."""
        stem = f"cb_btc_{self.name.rpartition('_')[2]}"
        folders = PolicyFolders(self.models, self.archive, Seals(self.home))
        folders.seal(
            PolicyName(self.models / self.name, stem),
            PAIR,
            self.with_rl(**rl).trained_with if trained_with is None else trained_with,
        )

    def with_rl(self, **rl: Any) -> PairRows:
        """The rows of a backtest with other settings."""
        rows = self.rows
        settings = rows.settings.model_copy(update={"rl": rows.settings.rl.model_copy(update=rl)})
        environment = replace(rows.environment, entry_mode=settings.rl.entry_mode)
        now = {**rows.trained_with, **{f"freqai.rl_config.{name}": value for name, value in rl.items()}}
        return rows._replace(settings=settings, environment=environment, trained_with=now)


def features_of(policy: ExitPolicy) -> Any:
    return policy.period.decider._features  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def bots(tmp_path_factory: pytest.TempPathFactory, market: Path) -> Kept:
    home = tmp_path_factory.mktemp("bot")
    with pytest.MonkeyPatch.context() as patch:
        Watch(patch)
        bot = LiveBot(home, market, patch, freqai={"rl_config": {"entry_mode": "agent", "decision_mode": "exact"}})
        bot.analyse()
        bot.train()
        frame, kitchen = bot.whole_frame()
        traded = bot.model.traded
        rows = PairRows(
            kitchen,
            frame.reset_index(drop=True),
            traded.candles_to_decide(PAIR, frame),
            traded.terms.environment(PAIR),
            traded.settings,
            traded.trained_with(PAIR),
        )
    [folder] = Path(bot.model.full_path).glob("sub-train-*")
    return Kept(home, Archive.from_config(bot.config), rows, folder.name)


@pytest.fixture
def kept(bots: Kept, tmp_path: Path) -> Kept:
    return bots.at(tmp_path)


def test_a_policy_is_shown_what_it_was_trained_on_whatever_the_backtest_is_set_to(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    before = kept.load()
    assert before is not None
    assert all(before.period.long_permitted)
    assert "was trained with something else" not in caplog.text
    # Permitted where there is a signal alone; without the raw prices.
    after = kept.load(kept.with_rl(entry_mode="gated", drop_ohlc_from_features=True, fallback="classic"))
    assert after is not None
    assert after.period.long_permitted == before.period.long_permitted
    assert np.array_equal(features_of(after), features_of(before))
    assert not after.falls_back
    assert "was trained with something else: freqai.rl_config.drop_ohlc_from_features is True and was False" in (
        caplog.text
    )
    assert "It decides as it was trained." in caplog.text


@pytest.mark.parametrize("what", ["feature", "terms"])
def test_what_a_policy_was_trained_with_and_is_gone_is_named_and_its_trades_are_held(
    kept: Kept, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    rows = kept.rows
    if what == "feature":
        gone = next(name for name in rows.rows.columns if name.startswith("%"))
        rows = rows._replace(rows=rows.rows.drop(columns=gone))
        words = f"it was trained on {gone}, which the strategy no longer makes"
    else:
        for folder in kept.folders:
            (folder / artefacts.TERMS_NAME).unlink()
        words = "its folder does not say which trades it was trained for"
    assert kept.load(rows) is None
    assert kept.name in caplog.text
    assert words in caplog.text
    assert "are held until their stop, ROI or longest duration" in caplog.text


def test_without_the_signals_that_permitted_its_entries_a_policy_is_not_asked(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    kept.seal(entry_mode="gated")
    policy = kept.load()
    assert policy is not None
    assert not all(policy.period.long_permitted)
    assert any(policy.period.long_permitted)
    assert kept.load(kept.rows._replace(rows=kept.rows.rows.drop(columns=LONG_SIGNAL))) is None
    assert f"it was trained on {LONG_SIGNAL}, which the strategy no longer makes" in caplog.text


def test_a_policy_of_which_nobody_knows_what_it_was_trained_with_is_named(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    kept.seal({})
    policies = kept.policies()
    for first_ms in (0, 1):
        assert policies.load(kept.name, first_ms, 2**62, kept.rows) is not None
    assert caplog.text.count(f"{kept.name} does not say what it was trained with") == 1


def test_a_policy_that_is_no_longer_kept_is_named_once(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    for folder in kept.folders:
        shutil.rmtree(folder)
    policies = kept.policies()
    for _ in range(2):
        assert policies.load(kept.name, 0, 2**62, kept.rows) is None
    assert caplog.text.count(f"{kept.name} would decide about them: it is no longer kept") == 1


# ---------------------------------------------------------------------- two pairs of one base currency


def test_a_policy_that_remembers_is_named_and_its_trades_are_held(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise RecurrentPolicyError

    monkeypatch.setattr("mtfscalper.freqai.kept_policies.trade_decider_from_zip", refuse)
    assert kept.load() is None
    [message] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message.startswith("Trades that the bot did not have are held until their stop")
    assert "a recurrent policy decides by what it remembers of the candles before" in message


def test_a_policy_is_found_by_its_pair_and_not_by_the_base_currency_that_its_folder_is_named_by(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = kept.of_other_pair(1)
    policies, trained_ms = kept.policies(), 1000 * int(kept.name.rpartition("_")[2])
    looks = watched(monkeypatch, Path, "glob")
    for hours in range(5):
        # Not until the other pair's training.
        assert policies.trained_before(PAIR, trained_ms + 3_600_000 * hours) == (kept.name, trained_ms, 2**62)
    assert policies.trained_before(USDC, trained_ms) is None
    assert policies.trained_before(USDC, trained_ms + 3_600_000) == (other, trained_ms + 3_600_000, 2**62)
    # The folders are not looked through for each trade.
    assert len(looks) <= 2
    assert policies.load(other, 0, 2**62, kept.rows) is None
    assert f"it is the policy of {USDC}" in caplog.text


def test_an_audit_takes_the_rules_of_the_pairs_own_policies(kept: Kept) -> None:
    kept.of_other_pair(1)
    run: Any = SimpleNamespace(
        archive=kept.archive, user_data_dir=kept.home, seals=Seals(kept.home), pairs=[PAIR, "ETH/USDT:USDT"]
    )
    rules = trained_rules(run)
    assert {pair: found.stoploss_ratio for pair, found in rules.items()} == {PAIR: 0.02}
    run.pairs.append(USDC)
    assert trained_rules(run)[USDC].stoploss_ratio == 0.123


def test_a_bot_does_not_load_the_policy_of_another_pair_that_its_dictionary_names(kept: Kept) -> None:
    name = PolicyName(kept.models / kept.name, f"cb_btc_{kept.name.rpartition('_')[2]}")
    folders = PolicyFolders(kept.models, kept.archive, Seals(kept.home))
    assert folders.why_refused(name, PAIR) is None
    assert folders.why_refused(name, USDC) == f"it is the policy of {PAIR}"
    assert not folders.must_not_be_loaded(name)
