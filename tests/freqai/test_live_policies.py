"""A bot's policies on disk: damaged, foreign, made with other settings, or old."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from damage import empty, truncate
from freqai_runs import PAIR, FreqtradeBacktest, Watch
from live_bot import FIRST_START, LiveBot

from mtfscalper import artefacts
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.columns import ACTION_COLUMN, LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN
from mtfscalper.freqai.own_reward import UsersReward
from mtfscalper.freqai.own_reward_keys import for_own_reward
from mtfscalper.freqai.policy_folders import PolicyFolders
from mtfscalper.freqai.policy_places import PolicyName
from mtfscalper.freqai.strategy_rules import UserParts
from mtfscalper.freqai.trained_with import changes_since, trained_with
from mtfscalper.seals import Seals
from mtfscalper.settings import Settings
from mtfscalper.trading.actions import Action
from mtfscalper.trading.trading_rules import TradingRules
from mtfscalper.user_code import UserCode

OTHER_PAIR = "BTC/USDC:USDC"
ENTERS = [LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN]


@pytest.fixture
def make_bot(tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LiveBot]:
    def make(
        overlay: dict[str, Any] | None = None,
        rl: dict[str, Any] | None = None,
        now: datetime = FIRST_START,
        **freqai: Any,
    ) -> LiveBot:
        Watch(monkeypatch)
        settings = {"entry_mode": "agent", "decision_mode": "exact", **(rl or {})}
        return LiveBot(tmp_path, market, monkeypatch, now, **(overlay or {}), freqai=freqai | {"rl_config": settings})

    return make


def trained(bot: LiveBot, n_trainings: int = 1) -> list[Path]:
    """The folders of a bot's policies, the last one first, once it has decided with each."""
    bot.analyse()
    for _ in range(n_trainings):
        bot.train()
        bot.next_candle()
        bot.analyse()
    return sorted(Path(bot.model.full_path).glob("sub-train-*"), reverse=True)


def damage(folder: Path, role: str, harm: Callable[[Path], None]) -> None:
    """Damage a file and leave its other name alone, as a program does that writes the file anew."""
    path = artefacts.sealed_path(folder, role)
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    harm(copy)
    os.replace(copy, path)


def lose_kept_names(bot: LiveBot) -> None:
    shutil.rmtree(Archive.from_config(bot.config).bot)


def troubles(bot: LiveBot) -> list[str]:
    return [message for name, message in bot.model._owner.troubles.items() if name == f"policy {PAIR}"]


def asked(bot: LiveBot, trade: Any) -> Any:
    assert bot.strategy.trade_decisions is not None
    return bot.strategy.trade_decisions.decide(trade, bot.now, 1.0)


# ---------------------------------------------------------------------- damaged and foreign


@pytest.mark.parametrize(("role", "harm"), [("model", truncate), ("metadata", truncate), (artefacts.TERMS_NAME, empty)])
def test_in_place_of_a_damaged_policy_the_last_sound_one_decides_until_a_new_one_is_trained(
    make_bot: Any, caplog: pytest.LogCaptureFixture, role: str, harm: Callable[[Path], None]
) -> None:
    bot = make_bot(purge_old_models=4)
    newest, sound = trained(bot, n_trainings=2)
    before = bot.now
    damage(newest, role, harm)
    lose_kept_names(bot)
    again = make_bot(purge_old_models=4, now=before)
    trade = again.open_trade(candles_ago=1)
    again.analyse()
    [told] = troubles(again)
    assert f"{PAIR}: {newest.name} is not used: " in told
    assert "is damaged" in told
    assert f"the last sound one decides, {sound.name}" in told
    assert caplog.text.count(told) == 1
    # The open trade is decided on, and a training is due at once.
    assert asked(again, trade) is not None
    assert again.model.dd.pair_dict[PAIR]["trained_timestamp"] == 0
    assert again.model.dd.pair_dict[PAIR]["model_filename"].endswith(sound.name.rsplit("_", 1)[1])
    for _ in range(2):
        again.next_candle()
        assert again.analyse()["do_predict"].iloc[-1] == 1
        assert asked(again, trade) is not None
    again.train()
    again.next_candle()
    again.analyse()
    assert troubles(again) == []
    assert again.model.dd.pair_dict[PAIR]["trained_timestamp"] > 0
    assert asked(again, trade) is not None


def test_without_a_sound_policy_an_open_trade_is_held_and_the_line_says_so(make_bot: Any) -> None:
    bot = make_bot()
    [folder] = trained(bot)
    damage(folder, "metadata", truncate)
    lose_kept_names(bot)
    again = make_bot()
    again.next_candle()
    trade = again.open_trade(candles_ago=1)
    frame = again.analyse()
    assert not frame.iloc[-1][[ACTION_COLUMN, *ENTERS, "do_predict"]].any()
    [told] = troubles(again)
    assert "an open trade keeps its stop and its longest duration" in told
    assert str(folder.with_name(f"{folder.name}.before-sealing")) in told
    assert asked(again, trade) is None


def test_a_policy_is_put_back_from_its_other_names_and_nothing_is_trained(
    make_bot: Any, caplog: pytest.LogCaptureFixture
) -> None:
    [folder] = trained(make_bot())
    damage(folder, artefacts.TERMS_NAME, truncate)
    again = make_bot()
    again.analyse()
    assert troubles(again) == []
    assert again.model.dd.pair_dict[PAIR]["trained_timestamp"] > 0
    assert f"{folder}: {artefacts.TERMS_NAME} is damaged" in caplog.text


def test_a_dictionary_that_is_lost_leaves_the_last_sound_policy_in_use(make_bot: Any) -> None:
    bot = make_bot()
    [folder] = trained(bot)
    for path in (*folder.parent.glob("pair_dictionary*"), Archive.from_config(bot.config).bot / "pair_dictionary.json"):
        path.unlink()
    again = make_bot()
    again.next_candle(3)
    assert again.analyse()["do_predict"].iloc[-1] == 1
    [told] = troubles(again)
    assert "FreqAI's dictionary names none. A new one is trained at once" in told
    assert f"the last sound one decides, {folder.name}" in told


@pytest.mark.parametrize("moment", ["before the manifest", "before the dictionary"])
def test_killed_while_a_policy_is_saved_the_one_before_it_is_still_the_pairs(
    make_bot: Any, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    bot = make_bot(purge_old_models=4)
    [first] = trained(bot)

    class Killed(BaseException):
        pass

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    # No other thing of this process is written after that.
    with monkeypatch.context() as patch:
        if moment == "before the manifest":
            patch.setattr(artefacts, "write_manifest", kill)
        else:
            patch.setattr(bot.model.dd, "_write", kill)
        with pytest.raises(Killed):
            bot.train()
    again = make_bot(purge_old_models=4, now=bot.now)
    again.next_candle()
    assert again.analyse()["do_predict"].iloc[-1] == 1
    assert again.model.dd.pair_dict[PAIR]["data_path"] == str(first)
    assert troubles(again) == []


# ---------------------------------------------------------------------- other settings

OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "conv_width": ({"conv_width": 3}, "freqai.conv_width is 3 and was 1"),
    "algorithm": (
        {"rl": {"model_type": "DQN"}, "model_training_parameters": {"buffer_size": 200}},
        "freqai.rl_config.model_type is DQN and was PPO",
    ),
    "stop": ({"overlay": {"stoploss": -0.04}}, "the trade's stoploss_ratio is 0.04 and was 0.02"),
    "features": (
        {"feature_parameters": {"indicator_periods_candles": [21]}},
        "freqai.feature_parameters.indicator_periods_candles is [21] and was",
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_started_again_with_other_settings_the_old_policy_decides_about_its_trades_alone(
    make_bot: Any, caplog: pytest.LogCaptureFixture, other: str
) -> None:
    bot = make_bot()
    trained(bot)
    changed, words = OTHERS[other]
    bot.next_candle()
    trade = bot.open_trade(candles_ago=1)
    bot.analyse()
    undisturbed = asked(bot, trade)
    again = make_bot(now=bot.now, **changed)
    trade = again.open_trade(candles_ago=1)
    # Not the answer on record: the policy itself.
    again.strategy.trade_decisions._record = None
    frame = again.analyse()
    assert not frame.iloc[-1][ENTERS].any()
    [told] = troubles(again)
    assert words in told
    assert "othing is entered, and a new one is trained at once" in told
    assert ("an open trade keeps its stop" in told) == (other == "features")
    assert again.model.dd.pair_dict[PAIR]["trained_timestamp"] == 0
    decision = asked(again, trade)
    if other == "features":
        # Which the strategy no longer makes: the trade keeps its stop.
        assert decision is None
    else:
        assert decision is not None
        assert decision == undisturbed
    for _ in range(2):
        again.next_candle()
        last = again.analyse().iloc[-1]
        assert last["do_predict"] == 0
        assert last[ACTION_COLUMN] == Action.NEUTRAL
        assert not last[ENTERS].any()
        assert (asked(again, trade) is None) == (other == "features")
    assert sum(told in record.getMessage() for record in caplog.records) == 1
    again.train()
    again.next_candle()
    assert again.analyse()["do_predict"].iloc[-1] == 1
    assert troubles(again) == []
    assert asked(again, trade) is not None


@pytest.mark.parametrize("gamma", [0.99, 0.9])
def test_what_a_backtest_left_is_compared_as_a_bots_own_policy_is(
    make_bot: Any, tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, gamma: float
) -> None:
    Watch(monkeypatch)
    rl = {"entry_mode": "agent", "decision_mode": "exact", "gamma": 0.99}
    FreqtradeBacktest(tmp_path, market, freqai={"rl_config": rl}).run()
    bot = make_bot(rl={"gamma": gamma})
    trained_at = bot.model.dd.pair_dict[PAIR]["trained_timestamp"]
    assert trained_at
    bot.analyse()
    if gamma == rl["gamma"]:
        assert troubles(bot) == []
        assert bot.model.dd.pair_dict[PAIR]["trained_timestamp"] == trained_at
    else:
        [told] = troubles(bot)
        assert "freqai.rl_config.gamma is 0.9 and was 0.99" in told
        assert bot.model.dd.pair_dict[PAIR]["trained_timestamp"] == 0


def test_that_the_last_sound_policy_was_trained_with_something_else_is_said_too(
    make_bot: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bot = make_bot(purge_old_models=4)
    newest, _ = trained(bot, n_trainings=2)
    damage(newest, "metadata", truncate)
    lose_kept_names(bot)
    again = make_bot(purge_old_models=4, now=bot.now, **OTHERS["stop"][0])
    again.analyse()
    assert "the last sound one decides" in caplog.text
    again.next_candle()
    again.analyse()
    assert caplog.text.count("was trained with something else: the trade's stoploss_ratio is 0.04 and was 0.02") == 1


def test_started_again_with_the_same_settings_nothing_is_said_and_entries_go_on(make_bot: Any) -> None:
    trained(make_bot())
    # How and where it runs is not what a policy is made of.
    again = make_bot(rl={"cpu_count": 2, "vec_env": "batched", "progress_bar": True})
    again.next_candle(3)
    assert again.analyse()["do_predict"].iloc[-1] == 1
    assert again.model._owner.troubles == {}
    assert again.model.dd.pair_dict[PAIR]["trained_timestamp"] > 0


def test_a_library_that_cannot_read_a_policy_any_more_stops_no_pair(
    make_bot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    [folder] = trained(make_bot())

    def fail(*_: Any, **__: Any) -> Any:
        raise TypeError("another version")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", fail)
        again = make_bot()
        again.next_candle(2)
        again.analyse()
        [told] = troubles(again)
        assert f"{folder.name} is not used: it cannot be loaded (TypeError: another version)" in told
    assert folder.is_dir()
    again.train()
    again.next_candle()
    assert again.analyse()["do_predict"].iloc[-1] == 1
    assert troubles(again) == []


def test_a_policy_that_fails_at_every_candle_is_told_of_once_and_replaced(
    make_bot: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trained(make_bot())
    again = make_bot()
    real = again.model.predict

    def predict(*arguments: Any, **keywords: Any) -> Any:
        if again.model.dd.pair_dict[PAIR]["trained_timestamp"] == 0 or not failed:
            failed.append(1)
            raise ValueError("a pipeline of long ago")
        return real(*arguments, **keywords)

    failed: list[int] = []
    monkeypatch.setattr(again.model, "predict", predict)
    for _ in range(3):
        again.next_candle()
        assert again.analyse()["do_predict"].iloc[-1] == 0
    assert len(failed) == 3
    assert caplog.text.count("its policy cannot decide (ValueError: a pipeline of long ago)") == 1
    again.train()
    again.next_candle()
    assert again.analyse()["do_predict"].iloc[-1] == 1
    assert troubles(again) == []


CONFIG: dict[str, Any] = {"freqai": {"train_period_days": 2, "rl_config": {}, "feature_parameters": {}}}
RULES = TradingRules(0.0005, 0.02, 96, 5)


def with_rl(**rl: Any) -> dict[str, Any]:
    return {"freqai": CONFIG["freqai"] | {"rl_config": rl}}


@pytest.mark.parametrize(
    ("config", "rules", "words"),
    [
        (with_rl(net_arch=[8]), RULES, ["freqai.rl_config.net_arch is [8] and was [512, 512, 256]"]),
        (with_rl(learning_rate=0.01), RULES, ["freqai.rl_config.learning_rate is 0.01 and was 0.0003"]),
        (
            with_rl(model_reward_parameters={"drawdown_weight": 0.5}),
            RULES,
            ["freqai.rl_config.model_reward_parameters.drawdown_weight is 0.5 and was 0.0"],
        ),
        (
            CONFIG,
            replace(RULES, minimal_roi=((0, 0.1),), stoploss_ratio=0.03),
            ["the trade's minimal_roi is [[0, 0.1]] and was []", "the trade's stoploss_ratio is 0.03 and was 0.02"],
        ),
        (with_rl(cpu_count=1, device="cpu", vec_env="dummy", decision_mode="exact", kept_runs=9), RULES, []),
        (with_rl(live_training="thread"), RULES, []),
        (with_rl(executor="processes", workers=2, threads_per_job=1), RULES, []),
    ],
    ids=["network", "learning", "reward", "rules", "machine", "live", "executor"],
)
def test_whatever_a_policy_is_made_of_counts(config: dict[str, Any], rules: TradingRules, words: list[str]) -> None:
    def made(config: dict[str, Any], rules: TradingRules) -> dict[str, Any]:
        made = trained_with(
            Settings.from_config(config), UserParts((), None), rules, {"indicator_periods_candles": [14]}
        )
        # As it stands in a manifest.
        return dict(json.loads(json.dumps(made)))

    assert changes_since(made(CONFIG, RULES), made(config, rules)) == words


def test_a_reward_of_the_users_that_comes_or_goes_counts_though_its_config_stays() -> None:
    """As the shipped config has it: the weight of its reward stays there, and pays nothing beside the user's own."""
    settings = Settings.from_config(with_rl(model_reward_parameters={"equity_weight": 100.0}))
    reward = UsersReward(
        UserCode("Mine:Mine.MyRLEnv", "ab", None), {"model_reward_parameters": {"equity_weight": 100.0}}
    )
    without = trained_with(settings, UserParts((), None), RULES, {})
    paid = trained_with(for_own_reward(settings), UserParts((), None, reward), RULES, {})
    assert changes_since(without, paid) == ["your code Mine:Mine.MyRLEnv is ab and was not set"]
    assert changes_since(paid, without) == ["your code Mine:Mine.MyRLEnv is not set and was ab"]
    assert changes_since(paid, dict(paid)) == []


def test_what_differs_is_named_and_what_another_version_did_not_know_is_not() -> None:
    then = {"freqai.conv_width": 1, "gone": 2, "freqai.feature_parameters.DI_threshold": 1}
    now = {"freqai.conv_width": 3, "new": 2}
    assert changes_since(then, now) == [
        "freqai.conv_width is 3 and was 1",
        "freqai.feature_parameters.DI_threshold is not set and was 1",
    ]
    assert changes_since({}, now) == []


# ---------------------------------------------------------------------- old ones


@pytest.fixture
def folders(tmp_path: Path) -> tuple[PolicyFolders, Callable[[int, str], PolicyName]]:
    """Policies of two pairs of one base currency, and what makes one."""
    archive = Archive("test", tmp_path / ".sealed" / "test", tmp_path / "locks")
    made = PolicyFolders(tmp_path / "test", archive, Seals(tmp_path))

    def make(number: int, pair: str) -> PolicyName:
        name = PolicyName(
            tmp_path / "test" / f"sub-train-BTC_{1_700_000_000 + number}", f"cb_btc_{1_700_000_000 + number}"
        )
        name.folder.mkdir(parents=True)
        for path in artefacts.policy_files(*name).values():
            path.write_bytes(str(number).encode())
        made.seal(name, pair, {})
        return name

    return made, make


def numbers(path: Path) -> list[int]:
    return sorted(int(folder.name.rsplit("_", 1)[1]) - 1_700_000_000 for folder in path.glob("sub-train-*"))


def entry(name: PolicyName) -> dict[str, Any]:
    return {"model_filename": name.stem, "data_path": str(name.folder), "trained_timestamp": 1}


def test_neither_what_decides_nor_the_last_sound_one_of_a_pair_is_purged(tmp_path: Path, folders: Any) -> None:
    purge, make = folders
    other = [make(number, OTHER_PAIR) for number in (1, 2, 3)]
    policies = [make(number, PAIR) for number in range(4, 10)]
    # The other pair shares the base currency, and was trained long ago; of this one the last two cannot be used.
    in_use = {OTHER_PAIR: entry(other[2]), PAIR: entry(policies[3])}
    purge.purge(2, in_use)
    # Of the base currency the newest two; what decides; beside it the last one that the pair may fall back on.
    assert numbers(tmp_path / "test") == [2, 3, 7, 8, 9]
    assert numbers(tmp_path / ".sealed" / "test" / "bot") == [2, 3, 7, 8, 9]
    purge.purge(2, in_use)
    assert numbers(tmp_path / "test") == [2, 3, 7, 8, 9]


@pytest.mark.parametrize(("keep", "left"), [(True, [4, 5]), (1, [4, 5]), (3, [3, 4, 5]), (False, [1, 2, 3, 4, 5])])
def test_as_many_stay_as_freqais_setting_says(tmp_path: Path, folders: Any, keep: bool | int, left: list[int]) -> None:
    purge, make = folders
    policies = [make(number, PAIR) for number in range(1, 6)]
    (tmp_path / "test" / "sub-train-BTC_1700000001.before-sealing").mkdir()
    (tmp_path / "test" / "tensorboard").mkdir()
    purge.purge(keep, {PAIR: entry(policies[-1])})
    assert numbers(tmp_path / ".sealed" / "test" / "bot") == left
    # What is not a policy of FreqAI's is left alone.
    assert (tmp_path / "test" / "sub-train-BTC_1700000001.before-sealing").is_dir()
    assert (tmp_path / "test" / "tensorboard").is_dir()


def test_a_bot_never_purges_the_policy_that_decides_about_its_trade(make_bot: Any) -> None:
    bot = make_bot(purge_old_models=1)
    trained(bot)
    bot.next_candle()
    # A clock that was wrong once has left a policy of next year.
    in_use = bot.model.dd.policy_in_use(PAIR)
    assert in_use is not None
    shutil.copytree(in_use.folder, in_use.folder.with_name("sub-train-BTC_1799999999"))
    bot.model.dd.purge_old_models()
    assert in_use.folder.is_dir()
    again = make_bot(purge_old_models=1, now=bot.now)
    trade = again.open_trade(candles_ago=1)
    again.analyse()
    assert asked(again, trade) is not None
    assert json.loads((in_use.folder / artefacts.TERMS_NAME).read_text())["lookback"] == 1
    assert isinstance(again.analyse(), pd.DataFrame)
