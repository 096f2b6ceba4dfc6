"""A bot's training loop lives on whatever fails in it, and tells of it once."""

from __future__ import annotations

import itertools
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from freqai_runs import OTHER_PAIR, PAIR
from live_bot import LiveBot

from mtfscalper.freqai import training_loop, training_turn
from mtfscalper.freqai.owner import Owner
from mtfscalper.freqai.training_progress import TrainingHungError, TrainingProgress
from mtfscalper.freqai.training_turn import TrainingTurn
from mtfscalper.training.job import TrainingStoppedError

HOUR = timedelta(hours=1)


class Trainings:
    """Takes the place of a bot's trainings.

    :ivar tried: the pairs whose training was tried
    :ivar fails: by pair: makes the error that its training fails with
    """

    def __init__(self, bot: LiveBot, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bot, self.tried = bot, []
        self.fails: dict[str, Callable[[], Exception]] = {}
        monkeypatch.setattr(bot.model, "extract_data_and_train_model", self._train)

    def _train(self, timerange: Any, pair: str, strategy: Any, dk: Any, load_timerange: Any) -> None:
        self.tried.append(pair)
        drawer = self.bot.model.dd
        drawer.pair_dict[pair]["trained_timestamp"] = timerange.stopts
        if pair in self.fails:
            raise self.fails[pair]()
        drawer.model_dictionary[pair] = object()
        folder = f"sub-train-{pair.split('/')[0]}_{timerange.stopts}"
        drawer.pair_dict[pair] |= {"model_filename": f"cb_{timerange.stopts}", "data_path": folder}

    def look(self, *, after: timedelta = timedelta()) -> list[str]:
        """Let the loop look once.

        :return: the pairs that were tried
        """
        self.bot.now += after
        before = len(self.tried)
        with self.bot.clock(), self.loop._guarded(self.loop._looking):
            self.loop.look(self.bot.strategy)
        return self.tried[before:]

    @property
    def loop(self) -> training_loop.TrainingLoop:
        return self.bot.model._trainings

    @property
    def owner(self) -> Owner:
        return self.bot.model._owner


@pytest.fixture
def trainings(tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> Trainings:
    pairs = {"pair_whitelist": [PAIR, OTHER_PAIR]}
    bot = LiveBot(tmp_path, market, monkeypatch, exchange=pairs, freqai={"live_retrain_hours": 1})
    monkeypatch.setattr(training_loop, "_STOP_SECONDS", 0.0)
    return Trainings(bot, monkeypatch)


@pytest.fixture
def messages(trainings: Trainings, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    sent: list[str] = []
    data = trainings.bot.strategy.dp
    monkeypatch.setattr(data, "send_msg", lambda message, *, always_send=False: sent.append(message))
    trainings.owner.reach_by(data)
    return sent


def test_the_pair_trained_longest_ago_is_trained_first_and_again_after_its_hours(trainings: Trainings) -> None:
    assert [trainings.look() for _ in range(3)] == [[PAIR], [OTHER_PAIR], []]
    assert trainings.look(after=HOUR / 2) == []
    assert trainings.look(after=HOUR / 2 - timedelta(seconds=10)) == []
    trainings.bot.now += timedelta(seconds=20)
    assert [trainings.look() for _ in range(3)] == [[PAIR], [OTHER_PAIR], []]
    assert trainings.owner.troubles == {}
    assert {pair: last.error for pair, last in trainings.loop.last.items()} == {PAIR: "", OTHER_PAIR: ""}


def test_a_training_that_fails_for_two_hours_is_told_once_with_one_traceback_and_a_dozen_lines(
    trainings: Trainings, messages: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    errors = iter(range(10**6))
    trainings.fails[PAIR] = lambda: ValueError(f"candle {next(errors)}\nis wrong")
    tried_at = []
    with caplog.at_level(logging.INFO):
        for second in range(0, 7200, 5):
            if PAIR in trainings.look(after=timedelta(seconds=5)):
                tried_at.append(second)
    pauses = [later - earlier for earlier, later in itertools.pairwise(tried_at)]
    # Looked at every five seconds; a training moves the clock a little.
    assert pauses[:4] == pytest.approx([5, 10, 20, 40], abs=5)
    assert len(tried_at) == 11
    told = [record for record in caplog.records if record.levelno >= logging.WARNING and "seals" not in record.name]
    assert len([record for record in told if record.exc_info]) == 1
    assert len(told) == len(tried_at) + 1, [record.getMessage() for record in told]
    assert all("\n" not in record.getMessage() for record in told)
    assert "failures since 2024-09-08 12:00:08 UTC: 11." in told[-1].getMessage()
    assert "(ValueError: candle 10 is wrong)" in told[-1].getMessage()
    [message] = messages
    assert message.startswith(f"{PAIR}: training fails (ValueError: candle 0 is wrong); failures since")
    assert "Until then nothing is traded" in message
    # The other pair was trained all the while.
    assert trainings.tried.count(OTHER_PAIR) == 2
    assert OTHER_PAIR not in trainings.owner.troubles
    # Once an hour at last.
    second = timedelta(seconds=1)
    hours = [(trainings.look(after=HOUR + second) + trainings.look(after=second)).count(PAIR) for _ in range(3)]
    assert hours == [1, 1, 1]

    del trainings.fails[PAIR]
    trainings.look(after=2 * HOUR)
    trainings.look()
    assert len(messages) == 2
    assert messages[1].startswith(f"{PAIR}: trained again; failures since 2024-09-08 12:00:08 UTC: 14.")
    assert trainings.owner.troubles == {}
    assert trainings.loop.last[PAIR].error == ""
    # What fails then is new.
    trainings.fails[PAIR] = lambda: ValueError("again")
    trainings.look(after=2 * HOUR)
    trainings.look()
    assert len(messages) == 3


def test_the_same_failure_of_another_pair_has_no_further_traceback_and_a_message_of_its_own(
    trainings: Trainings, messages: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    trainings.fails = dict.fromkeys((PAIR, OTHER_PAIR), lambda: MemoryError("none left"))
    for _ in range(2):
        trainings.look()
    assert [bool(record.exc_info) for record in caplog.records].count(True) == 1
    assert [message.split(":USDT: ")[0] for message in messages] == ["BTC/USDT", "ETH/USDT"]
    # Another kind of failure has its own.
    trainings.fails[PAIR] = lambda: OSError("no space")
    trainings.look(after=HOUR)
    assert [bool(record.exc_info) for record in caplog.records].count(True) == 2


def test_a_training_that_fails_counts_as_none_where_freqai_had_noted_it(trainings: Trainings) -> None:
    trainings.look()
    trained = trainings.bot.model.dd.pair_dict[PAIR]["trained_timestamp"]
    trainings.look()
    trainings.fails[PAIR] = lambda: ValueError("wrong")
    assert trainings.look(after=HOUR + timedelta(seconds=30)) == [PAIR]
    assert trainings.bot.model.dd.pair_dict[PAIR]["trained_timestamp"] == trained
    assert f"the policy of {training_loop.moment(trained)} decides" in trainings.owner.troubles[f"training {PAIR}"]


def test_a_clock_that_was_set_back_holds_no_training_up(trainings: Trainings) -> None:
    trainings.fails[PAIR] = lambda: ValueError("wrong")
    for _ in range(12):
        trainings.look(after=HOUR)
    assert trainings.look(after=-1000 * HOUR) == [PAIR]


def test_a_stopped_bot_is_no_failure(
    trainings: Trainings, messages: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def stopped() -> Exception:
        trainings.bot.model._stop_event.set()
        return TrainingStoppedError("the bot is stopping")

    trainings.fails[PAIR] = stopped
    trainings.look()
    assert messages == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert trainings.loop.last == {}


def breaking(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("where", "trouble"),
    [
        ("strategy.dp.current_whitelist", "training thread"),
        ("model.dd.get_pair_dict_info", f"training {PAIR}"),
        ("model.dd.save_historic_predictions_to_disk", "training files"),
        ("model.dd.save_metric_tracker_to_disk", "training files"),
        ("model.dd.collect_metrics", "training times"),
    ],
)
def test_whatever_fails_in_the_loop_is_told_and_tried_again(
    trainings: Trainings, messages: list[str], monkeypatch: pytest.MonkeyPatch, where: str, trouble: str
) -> None:
    trainings.bot.model.freqai_info["write_metrics_to_disk"] = True
    holder, _, name = where.rpartition(".")
    target: Any = trainings.bot
    for part in holder.split("."):
        target = getattr(target, part)
    with monkeypatch.context() as broken:
        broken.setattr(target, name, breaking(RuntimeError("dictionary changed size during iteration")))
        for _ in range(6):
            trainings.look(after=timedelta(seconds=30))
        assert trouble in trainings.owner.troubles
        assert "dictionary changed size" in trainings.owner.troubles[trouble]
        before = len(messages)
    told = set(trainings.owner.troubles)
    if trouble.startswith("training ") and trouble != "training thread" and PAIR not in trouble:
        # Nothing but the writing waits for it.
        assert trainings.tried == [PAIR, OTHER_PAIR]
    for _ in range(4):
        trainings.look(after=HOUR + timedelta(seconds=30))
    assert trainings.owner.troubles == {}
    assert len(messages) == before + len(told)


def test_a_pair_that_left_the_whitelist_is_trained_once_it_is_back(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = trainings.bot.strategy.dp
    with monkeypatch.context() as without:
        without.setattr(data, "current_whitelist", lambda: [OTHER_PAIR])
        assert [trainings.look() for _ in range(2)] == [[OTHER_PAIR], []]
        assert trainings.bot.model.train_queue == deque([OTHER_PAIR])
    assert trainings.look() == [PAIR]


def test_a_pair_that_is_due_at_once_is_trained_before_those_trained_longer_ago(trainings: Trainings) -> None:
    drawer, queue = trainings.bot.model.dd, trainings.bot.model.train_queue
    for _ in range(2):
        trainings.look()
    drawer.train_at_once(OTHER_PAIR)
    trainings.bot.now += 2 * HOUR
    assert [trainings.look() for _ in range(3)] == [[OTHER_PAIR], [PAIR], []]
    # FreqAI drops a pair, and never trains it again.
    queue.remove(PAIR)
    assert trainings.look(after=2 * HOUR) == [OTHER_PAIR]
    assert trainings.look() == [PAIR]
    # What the bot has not passed over yet has no candles to train on.
    assert trainings.loop._queue([PAIR, OTHER_PAIR, "SOL/USDT:USDT"]) == [OTHER_PAIR, PAIR]


def test_a_bots_passes_change_nothing_of_the_queue_that_its_training_thread_goes_through(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = trainings.bot

    class Untouched(deque[str]):
        def _refuse(self, *_: Any) -> Any:
            raise AssertionError("changed beside the training thread")

        append = appendleft = remove = pop = popleft = rotate = extend = _refuse

    monkeypatch.setattr(bot.model, "train_queue", Untouched([OTHER_PAIR]))
    bot.analyse()
    bot.model.dd.train_at_once(PAIR)
    bot.next_candle()
    bot.analyse()


def test_threads_that_put_pairs_to_the_end_lose_none(trainings: Trainings) -> None:
    loop, queue = trainings.loop, trainings.bot.model.train_queue
    pairs = [f"A{number}/USDT:USDT" for number in range(50)]
    queue.clear()
    queue.extend(pairs)

    def work() -> None:
        for _ in range(40):
            for pair in loop._queue(pairs):
                loop._to_the_end(pair)

    threads = [threading.Thread(target=work) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        assert all(map(joined, threads))
    finally:
        sys.setswitchinterval(interval)
    assert sorted(queue) == sorted(pairs)


# ---------------------------------------------------------------------- the thread


@pytest.fixture
def quick(trainings: Trainings, monkeypatch: pytest.MonkeyPatch) -> Trainings:
    """A loop that looks at once."""
    monkeypatch.setattr(training_loop, "LOOK_SECONDS", 0.001)
    return trainings


def joined(thread: threading.Thread) -> bool:
    thread.join(120)
    return not thread.is_alive()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_gone_is_started_again_and_told(quick: Trainings, messages: list[str]) -> None:
    bot, alive = quick.bot, threading.Event()
    quick.fails[PAIR] = lambda: SystemExit("a user's own code")  # type: ignore[return-value]
    first = quick.loop.start(bot.strategy)
    assert joined(first)
    assert not quick.loop.is_alive
    del quick.fails[PAIR]
    quick.loop._at_look = alive.set
    quick.loop.look_after(bot.strategy)
    assert alive.wait(120)
    bot.model._stop_event.set()
    [second] = bot.model._threads
    assert second is not first
    assert joined(second)
    assert messages[0] == "The training thread has ended, and is started again; the log says why."
    assert messages[-1] == "The training loop works again."


def test_a_training_that_hangs_is_given_up_and_then_left_to_itself(
    quick: Trainings, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bot, reached, released, other = quick.bot, threading.Event(), threading.Event(), threading.Event()
    ends: list[str] = []

    def hang(_: Any, pair: str, *__: Any) -> None:
        if pair == OTHER_PAIR:
            bot.model.dd.pair_dict[pair]["trained_timestamp"] = 10**11
            other.set()
            return
        progress = quick.loop.progress_of(pair)
        reached.set()
        released.wait(120)
        try:
            progress.mark()
        except TrainingHungError:
            ends.append("given up")
            raise

    monkeypatch.setattr(bot.model, "extract_data_and_train_model", hang)
    first = quick.loop.start(bot.strategy)
    assert reached.wait(120)
    for _ in range(2):
        # Slow is not hung.
        quick.loop.look_after(bot.strategy)
    progress = quick.loop.under_way[PAIR]
    assert not progress.is_given_up
    monkeypatch.setattr(training_loop, "HANGS_AFTER_SECONDS", 0.0)
    for _ in range(3):
        # The passes over the next pairs follow at once: it has time to end.
        quick.loop.look_after(bot.strategy)
        assert progress.is_given_up
        assert messages == []
    progress._given_up_at -= training_loop.ENDS_WITHIN_SECONDS
    quick.loop.look_after(bot.strategy)
    monkeypatch.setattr(training_loop, "HANGS_AFTER_SECONDS", 1800.0)
    # Another thread trains the other pair meanwhile.
    assert other.wait(120)
    assert f"{PAIR}: a training hangs and cannot be ended" in messages[0]
    assert f"training {PAIR}" in quick.owner.troubles
    released.set()
    assert joined(first)
    assert ends == ["given up"]
    bot.model._stop_event.set()
    [second] = bot.model._threads
    assert joined(second)


def test_what_counts_as_hanging_grows_with_the_pauses_of_trainings_that_went_well() -> None:
    progress = TrainingProgress(PAIR, threading.Event())
    progress._marked -= 600
    progress.mark()
    assert progress.longest_pause == pytest.approx(600, abs=250)
    progress._marked -= 10
    progress.mark()
    assert progress.longest_pause == pytest.approx(600, abs=250)
    assert progress.silent_seconds < 300


def test_pairs_that_are_due_train_side_by_side_and_freqais_code_runs_in_one_at_a_time(
    quick: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot, both_train = quick.bot, threading.Barrier(2, timeout=120)
    in_freqai: list[str] = []
    seen: list[list[str]] = []

    def train(timerange: Any, pair: str, *_: Any) -> None:
        in_freqai.append(pair)
        with quick.loop.aside():
            in_freqai.remove(pair)
            # Each waits for the other.
            both_train.wait()
        in_freqai.append(pair)
        seen.append(list(in_freqai))
        threading.Event().wait(0.05)
        seen.append(list(in_freqai))
        in_freqai.remove(pair)
        bot.model.dd.pair_dict[pair]["trained_timestamp"] = 10**11
        if pair == OTHER_PAIR:
            raise ValueError("it fails")

    monkeypatch.setattr(bot.model, "extract_data_and_train_model", train)
    monkeypatch.setattr(quick.loop, "_side_by_side", lambda: 2)
    with bot.clock():
        quick.loop.look(bot.strategy)
        assert set(quick.loop.under_way) == {PAIR, OTHER_PAIR}
        # A training that runs is not begun again.
        quick.loop.look(bot.strategy)
        for thread in threading.enumerate():
            if thread.name.startswith("FreqAI training "):
                assert joined(thread)
    assert quick.loop.under_way == {}
    assert len(seen) == 4
    assert all(len(pairs) == 1 for pairs in seen)
    assert {pair: last.error for pair, last in quick.loop.last.items()} == {
        PAIR: "",
        OTHER_PAIR: "ValueError: it fails",
    }


def hung(progress: TrainingProgress) -> TrainingProgress:
    """A training that shows no sign of life for longer than any does."""
    progress._marked -= 2 * training_loop.HANGS_AFTER_SECONDS
    return progress


def test_one_of_several_that_hangs_in_freqais_code_is_left_to_itself_and_the_others_lose_nothing(
    quick: Trainings, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bot, loop, hanging, released = quick.bot, quick.loop, threading.Event(), threading.Event()
    trains, goes_on, tried = threading.Event(), threading.Event(), list[str]()
    monkeypatch.setattr(training_turn, "LOOK_SECONDS", 0.001)

    def train(timerange: Any, pair: str, *_: Any) -> None:
        tried.append(pair)
        if tried == [PAIR]:
            # In FreqAI's own code: it does not hand its turn on.
            hanging.set()
            released.wait(120)
            loop.progress_of(pair).check()
        elif pair == OTHER_PAIR:
            trains.set()
            goes_on.wait(120)
        bot.model.dd.pair_dict[pair]["trained_timestamp"] = 10**11

    monkeypatch.setattr(bot.model, "extract_data_and_train_model", train)
    monkeypatch.setattr(loop, "_side_by_side", lambda: 2)
    # The loop's own looks are made by hand.
    loop._thread = threading.current_thread()
    with bot.clock():
        loop.look(bot.strategy)
        assert hanging.wait(120)
        progress, waiting = loop.under_way[PAIR], loop.under_way[OTHER_PAIR]
        # The other one waits for its turn behind it for as long, and lives.
        hung(progress)
        hung(waiting)
        assert alive(waiting)
        for _ in range(2):
            loop.look_after(bot.strategy)
        assert (progress.is_given_up, waiting.is_given_up) == (True, False)
        assert messages == []
        progress._given_up_at -= training_loop.ENDS_WITHIN_SECONDS
        loop.look_after(bot.strategy)
        assert PAIR not in loop.under_way
        assert f"{PAIR}: a training hangs and cannot be ended" in messages[0]
        assert trains.wait(120)
        # It comes back to life, and ends without taking the other one's turn away.
        [left] = [thread for thread in threading.enumerate() if thread.name == f"FreqAI training {PAIR}"]
        released.set()
        assert joined(left)
        assert loop._turn.is_of(waiting)
        # Its pair is tried again, once that is due, and waits for its turn.
        bot.model.dd.pair_dict[PAIR]["trained_timestamp"] = 0
        loop.attempts(PAIR).next_at = 0.0
        loop.look(bot.strategy)
        assert tried == [PAIR, OTHER_PAIR]
        goes_on.set()
        for thread in threading.enumerate():
            if thread.name.startswith("FreqAI training "):
                assert joined(thread)
    assert tried == [PAIR, OTHER_PAIR, PAIR]
    assert loop.under_way == {}
    assert {pair: last.error for pair, last in loop.last.items()} == {PAIR: "", OTHER_PAIR: ""}
    assert f"training {OTHER_PAIR}" not in " ".join(messages)


def test_one_of_several_that_hangs_in_its_process_is_ended_and_the_turn_stays_whose_it_is(
    quick: Trainings, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bot, loop, in_process, goes_on = quick.bot, quick.loop, threading.Event(), threading.Event()
    monkeypatch.setattr(training_turn, "LOOK_SECONDS", 0.001)

    def train(timerange: Any, pair: str, *_: Any) -> None:
        if pair == PAIR:
            with loop.aside():
                in_process.set()
                # As the executor of a process: it looks several times a second.
                while True:
                    loop.progress_of(pair).check()
                    threading.Event().wait(0.01)
        assert in_process.wait(120)
        goes_on.wait(120)
        bot.model.dd.pair_dict[pair]["trained_timestamp"] = 10**11

    monkeypatch.setattr(bot.model, "extract_data_and_train_model", train)
    monkeypatch.setattr(loop, "_side_by_side", lambda: 2)
    # The loop's own looks are made by hand.
    loop._thread = threading.current_thread()
    with bot.clock():
        loop.look(bot.strategy)
        assert in_process.wait(120)
        progress, other = loop.under_way[PAIR], loop.under_way[OTHER_PAIR]
        [thread] = [thread for thread in threading.enumerate() if thread.name == f"FreqAI training {PAIR}"]
        hung(progress)
        for _ in range(3):
            # At each pair's pass.
            loop.look_after(bot.strategy)
        # It has ended though it is the other one's turn, which nobody takes away.
        assert joined(thread)
        assert loop._turn.is_of(other)
        assert loop.last[PAIR].error.startswith("TrainingHungError: the training showed no sign of life")
        goes_on.set()
        for each in threading.enumerate():
            if each.name.startswith("FreqAI training "):
                assert joined(each)
    assert loop.last[OTHER_PAIR].error == ""
    assert loop.attempts(PAIR).n_failures == 1
    [message] = messages
    assert message.startswith(f"{PAIR}: training fails")


def alive(progress: TrainingProgress) -> bool:
    """Whether a training shows a sign of life within a moment."""
    for _ in range(3000):
        if progress.silent_seconds < 100:
            return True
        threading.Event().wait(0.01)
    return False


def test_a_turn_that_was_taken_away_is_not_given_back() -> None:
    turn, calls, stopped = TrainingTurn(), list[str](), threading.Event()
    stopped.set()
    turn.take("hung")
    assert not turn.take_if_free("saving")
    with pytest.raises(TrainingStoppedError):
        turn.take("waits", TrainingProgress(PAIR, stopped).mark)
    assert turn.leave("hung")
    turn.take("other", lambda: calls.append("waits"))
    assert not turn.leave("hung")
    assert turn.is_of("other")
    assert calls == []


def test_a_training_that_ends_while_it_is_looked_at_is_no_trouble(
    quick: Trainings, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, progress = quick.loop, TrainingProgress(PAIR, threading.Event())
    progress.give_up("it hangs")
    progress._given_up_at -= training_loop.ENDS_WITHIN_SECONDS
    hung(progress)
    # It is not under way any more, and was when the looking began.
    loop._look_after(progress, quick.bot.strategy)
    assert messages == []
    assert quick.owner.troubles == {}
    assert loop.last == {}
