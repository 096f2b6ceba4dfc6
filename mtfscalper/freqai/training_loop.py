"""A bot's training loop: FreqAI's, which nothing that fails can end, and who looks after it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from freqtrade.configuration import TimeRange
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.freqai.freqai_interface import IFreqaiModel
from freqtrade.strategy import IStrategy

from mtfscalper.freqai.attempts import Attempts, kind_of, one_line
from mtfscalper.freqai.bookkeeping import Bookkeeper
from mtfscalper.freqai.expiry import Expiry
from mtfscalper.freqai.owner import Owner
from mtfscalper.freqai.training_progress import TrainingHungError, TrainingProgress
from mtfscalper.freqai.training_turn import TrainingTurn
from mtfscalper.machine import give_back_memory

logger = logging.getLogger(__name__)

# How often it is looked whether a training is due, by the bot's clock.
LOOK_SECONDS = 1.0
# A training hangs that shows no sign of life for so many times the longest pause in trainings that went well, and not
# before the floor: one update of a large network on a slow machine takes minutes. True time.
HANGS_AFTER_TIMES, HANGS_AFTER_SECONDS = 10.0, 1800.0
# For which one that is given up may take to end: its process, and all that this started, is ended within seconds. The
# bot looks again as soon as it passes over its next pair.
ENDS_WITHIN_SECONDS = 60.0
# How long a failure waits for the word that the bot stops: a signal ends a training's processes before it is heard of.
_STOP_SECONDS = 2.0
_NEVER_TRAINED = {"trained_timestamp": 0}


class _Duty(NamedTuple):
    """Something beside the trainings themselves that the loop does again and again.

    :ivar what: it is, in a sentence
    :ivar trouble: the owner's name for its failures
    """

    what: str
    trouble: str
    attempts: Attempts


class LastTraining(NamedTuple):
    """What became of a pair's last training.

    :ivar ended_at: by the bot's clock, seconds since 1970
    :ivar seconds: that it took, by the bot's clock
    :ivar error: what it failed by, "" where it went well
    """

    ended_at: float
    seconds: float
    error: str


class _Due(NamedTuple):
    """A training that is due.

    :ivar kitchen: FreqAI's, of the pair
    :ivar timerange: to train on
    :ivar load_timerange: of the candles that are read for it
    :ivar trained_at: of the training before, seconds since 1970
    """

    kitchen: FreqaiDataKitchen
    timerange: TimeRange
    load_timerange: TimeRange
    trained_at: int


class TrainingLoop:
    """Trains the pairs of a bot in a thread beside its trading, as FreqAI's loop does: one after the other, or several
    that are due side by side, each in a thread that waits for its training's process.

    FreqAI's own code never runs in two of these threads at once: a training hands its turn on while its process works.

    What fails is logged with its traceback once, told to the bot's owner once, and tried again after a pause that grows
    (:mod:`mtfscalper.freqai.attempts`). A pair that waits for its next attempt holds up no other one. Whatever else
    fails in the loop is tried again in the same way. The loop ends when the bot stops, and not before.

    :ivar last: what became of the last training of each pair
    """

    def __init__(
        self,
        model: IFreqaiModel,
        drawer: Bookkeeper,
        owner: Owner,
        at_look: Callable[[], None] = lambda: None,
        side_by_side: Callable[[], int] = lambda: 1,
        waits: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """
        :param model: whose hooks are called: FreqAI's own, in FreqAI's order
        :param drawer: the model's
        :param owner: is told of what fails, as ``"training PAIR"`` and ``"training thread"``
        :param at_look: is called at every look, and must not raise
        :param side_by_side: how many trainings may run at a time
        :param waits: whether a pair is not to be trained yet, though it may be due
        """
        self._model, self._drawer, self._owner, self._at_look = model, drawer, owner, at_look
        self._side_by_side, self._waits = side_by_side, waits
        self._stop = model._stop_event
        self._attempts: dict[str, Attempts] = {}
        self._looking = _Duty("The training loop", "training thread", Attempts())
        self._measuring = _Duty("FreqAI's measuring of trainings", "training times", Attempts())
        self._saving = _Duty("Writing what a bot predicted and measured", "training files", Attempts())
        self._is_unsaved = False
        # Pairs that have left the whitelist, and may come back.
        self._left: set[str] = set()
        # FreqAI's queue belongs to the loop. One that is given up may come back to life beside its successor.
        self._queue_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        # Of a thread's own training: one that was given up may come back to life beside its successor.
        self._own = threading.local()
        # By pair. A training that is no more among them has been left to itself.
        self._under_way: dict[str, TrainingProgress] = {}
        self._turn = TrainingTurn()
        self._usual_pause = 0.0
        self.last: dict[str, LastTraining] = {}

    # ------------------------------------------------------------------ what others ask

    @property
    def under_way(self) -> dict[str, TrainingProgress]:
        """The trainings that run now, by pair."""
        return dict(self._under_way)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs, or has not been started yet."""
        return self._thread is None or self._thread.is_alive()

    def attempts(self, pair: str) -> Attempts:
        """What failed of a pair's trainings since the last that went well."""
        return self._attempts.setdefault(pair, Attempts())

    def progress_of(self, pair: str) -> TrainingProgress:
        """The progress of the training that this thread runs; a new one where FreqAI's hooks are called by hand."""
        progress: TrainingProgress | None = getattr(self._own, "progress", None)
        return progress if progress is not None else TrainingProgress(pair, self._stop)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let the turn of other trainings come, while this thread's own runs in a process."""
        progress: TrainingProgress | None = getattr(self._own, "progress", None)
        if progress is None or not self._turn.leave(progress):
            yield
            return
        try:
            yield
        finally:
            self._turn.take(progress, progress.mark)

    # ------------------------------------------------------------------ the thread

    def start(self, strategy: IStrategy) -> threading.Thread:
        """Start the thread, or another one in the place of one that is gone."""
        # A daemon: one that hangs must not keep a bot from ending. FreqAI waits for it when the bot stops.
        thread = threading.Thread(
            target=self._model._start_scanning, args=(strategy,), name="FreqAI trainings", daemon=True
        )
        threads = self._model._threads
        if self._thread in threads:
            threads.remove(self._thread)
        self._thread = thread
        threads.insert(0, thread)
        thread.start()
        return thread

    def run(self, strategy: IStrategy) -> None:
        """The loop itself; returns once the bot stops, or another thread has taken over."""
        while not self._stop.wait(LOOK_SECONDS) and not self._has_successor():
            if self._looking.attempts.is_due(time.time()):
                with self._guarded(self._looking):
                    self.look(strategy)
            self._at_look()

    def look(self, strategy: IStrategy) -> None:
        """Train the first pair whose training is due, if there is one, or begin as many as may run at a time."""
        n = self._side_by_side()
        for pair in self._queue(strategy.dp.current_whitelist()):
            if len(self._under_way) >= n:
                break
            is_free = pair not in self._under_way and self.attempts(pair).is_due(time.time())
            if is_free and not self._waits(pair) and self._train_if_due(pair, strategy, beside=n > 1) and n == 1:
                break
        if self._is_unsaved and self._saving.attempts.is_due(time.time()) and self._turn.take_if_free(self._saving):
            try:
                with self._guarded(self._saving):
                    self._save()
            finally:
                self._turn.leave(self._saving)

    def look_after(self, strategy: IStrategy) -> None:
        """Restart the thread if it is gone, and give up a training that hangs; called by the bot's own thread."""
        if self._thread is None or self._stop.is_set():
            return
        if not self._thread.is_alive():
            self._owner.trouble(
                self._looking.trouble, "The training thread has ended, and is started again; the log says why."
            )
            self.start(strategy)
            return
        for progress in self.under_way.values():
            self._look_after(progress, strategy)

    def _look_after(self, progress: TrainingProgress, strategy: IStrategy) -> None:
        limit = max(HANGS_AFTER_SECONDS, HANGS_AFTER_TIMES * self._usual_pause)
        if progress.silent_seconds <= limit:
            return
        if not progress.is_given_up:
            progress.give_up(
                f"the training showed no sign of life for {progress.silent_seconds:.0f} s, and is given up; its "
                f"longest pause before was {self._usual_pause:.0f} s"
            )
            logger.warning("%s: the training hangs, and is ended.", progress.pair)
            return
        if progress.given_up_seconds < ENDS_WITHIN_SECONDS or self._is_left(progress):
            # It is being ended, or has ended while it was looked at.
            return
        # Nothing ends it: whatever it waits for, another thread takes over.
        self._owner.trouble(
            self._looking.trouble,
            f"{progress.pair}: a training hangs and cannot be ended; another thread trains on. Restart the bot when it "
            'suits you; with freqai.rl_config.live_training "process" such a training can be ended.',
        )
        self._under_way.pop(progress.pair, None)
        # If it is its turn at all: one that hangs elsewhere takes it from nobody.
        self._turn.leave(progress)
        self._note_failure(progress, TrainingHungError("it hangs, and cannot be ended"))
        self._to_the_end(progress.pair)
        if self._side_by_side() == 1:
            self.start(strategy)

    # ------------------------------------------------------------------ one look

    def _has_successor(self) -> bool:
        """Whether another thread has taken over from this one, or from the one that it trains for."""
        serves = getattr(self._own, "serves", threading.current_thread())
        return self._thread is not None and serves is not self._thread

    def _queue(self, whitelist: list[str]) -> list[str]:
        """FreqAI's queue, of pairs that are traded now: those due at once come first, then those trained longest ago.

        FreqAI drops a pair that leaves the whitelist, and would never train it again.
        """
        queue, entries = self._model.train_queue, self._drawer.pair_dict
        with self._queue_lock:
            for pair in [pair for pair in queue if pair not in whitelist]:
                queue.remove(pair)
                self._left.add(pair)
                logger.warning("%s is not in the whitelist now, and is not trained.", pair)
            known = entries.keys() | self._left
            queue.extend(pair for pair in whitelist if pair in known and pair not in queue)
            return sorted(queue, key=lambda pair: entries.get(pair, _NEVER_TRAINED)["trained_timestamp"] != 0)

    def _train_if_due(self, pair: str, strategy: IStrategy, *, beside: bool) -> bool:
        """
        :param beside: whether the training runs in a thread of its own
        :return: whether a training was tried, or begun
        """
        progress = TrainingProgress(pair, self._stop)
        try:
            due = self._due(pair)
        except Exception as error:
            if not self._has_successor() and not self._stop.wait(_STOP_SECONDS):
                self._note_failure(progress, error)
                self._to_the_end(pair)
            return True
        if due is None:
            return False
        self._under_way[pair] = progress
        if beside:
            loop = threading.current_thread()
            threading.Thread(
                target=self._train, args=(due, progress, strategy, loop), name=f"FreqAI training {pair}", daemon=True
            ).start()
        else:
            self._train(due, progress, strategy, threading.current_thread())
        return True

    def _due(self, pair: str) -> _Due | None:
        """A pair's training, if it is due."""
        _, trained_at = self._drawer.get_pair_dict_info(pair)
        kitchen = FreqaiDataKitchen(self._model.config, self._model.live, pair)
        is_due, timerange, load_timerange = kitchen.check_if_new_training_required(trained_at)
        return _Due(kitchen, timerange, load_timerange, trained_at) if is_due else None

    def _train(self, due: _Due, progress: TrainingProgress, strategy: IStrategy, loop: threading.Thread) -> None:
        """
        :param loop: the thread of the loop
        """
        self._own.progress, self._own.serves = progress, loop
        try:
            self._train_in_turn(due, progress, strategy)
        finally:
            self._turn.leave(progress)
            self._own.progress = None
            del self._own.serves
            if not self._is_left(progress):
                # Whoever looks after it may take it away at this moment too.
                self._under_way.pop(progress.pair, None)

    def _train_in_turn(self, due: _Due, progress: TrainingProgress, strategy: IStrategy) -> None:
        model, pair = self._model, progress.pair
        before, trained_at = self._drawer.model_dictionary.get(pair), due.trained_at
        try:
            # Who waits shows that it is alive, however long another one takes.
            self._turn.take(progress, progress.mark)
            _, trained_at = self._drawer.get_pair_dict_info(pair)
            self._at_look()
            model.train_timer("start")
            began = model.begin_time_train
            try:
                due.kitchen.set_paths(pair, due.timerange.stopts)
                model.extract_data_and_train_model(due.timerange, pair, strategy, due.kitchen, due.load_timerange)
            finally:
                with self._guarded(self._measuring):
                    if self._turn.is_of(progress) and not self._has_successor():
                        # Another training may have begun meanwhile.
                        model.begin_time_train = began
                        model.train_timer("stop", pair)
            progress.check()
        except Exception as error:
            if self._is_left(progress) or self._has_successor() or self._stop.wait(_STOP_SECONDS):
                logger.info("%s: a training was given up: %s", pair, one_line(error))
                return
            if self._drawer.model_dictionary.get(pair) is before and pair in self._drawer.pair_dict:
                # FreqAI notes the time of a training before it has saved it.
                self._drawer.pair_dict[pair]["trained_timestamp"] = trained_at
            self._note_failure(progress, error)
        else:
            self._note_success(progress)
        self._to_the_end(pair)
        self._is_unsaved = True

    def _is_left(self, progress: TrainingProgress) -> bool:
        """Whether a training has been left to itself."""
        return self._under_way.get(progress.pair) is not progress

    def _to_the_end(self, pair: str) -> None:
        queue = self._model.train_queue
        with self._queue_lock:
            # It may have left the whitelist, and another thread have taken over.
            if pair in queue:
                queue.remove(pair)
                queue.append(pair)

    def _save(self) -> None:
        """What FreqAI writes after a training."""
        if self._has_successor():
            return
        self._drawer.save_historic_predictions_to_disk()
        if self._model.freqai_info.get("write_metrics_to_disk", False):
            self._drawer.save_metric_tracker_to_disk()
        self._is_unsaved = False
        give_back_memory()

    # ------------------------------------------------------------------ what fails

    @contextmanager
    def _guarded(self, duty: _Duty) -> Iterator[None]:
        """Let the loop go on whatever fails."""
        try:
            yield
        except Exception as error:
            if not self._stop.is_set() and not self._has_successor():
                self._tell(duty.attempts, error, duty.what, duty.trouble)
        else:
            if not self._has_successor():
                duty.attempts.succeeded()
                self._owner.healed(duty.trouble, f"{duty.what} works again.")

    def _note_success(self, progress: TrainingProgress) -> None:
        attempts, now = self.attempts(progress.pair), time.time()
        progress.mark()
        self._usual_pause = max(self._usual_pause, progress.longest_pause)
        self.last[progress.pair] = LastTraining(now, now - progress.began_at, "")
        self._owner.healed(
            f"training {progress.pair}",
            f"{progress.pair}: trained again; failures since {moment(attempts.first_at)}: {attempts.n_failures}.",
        )
        attempts.succeeded()

    def _note_failure(self, progress: TrainingProgress, error: Exception) -> None:
        pair, now = progress.pair, time.time()
        self.last[pair] = LastTraining(now, now - progress.began_at, one_line(error))
        self._tell(self.attempts(pair), error, f"{pair}: training", f"training {pair}", pair)

    def _tell(self, attempts: Attempts, error: Exception, what: str, trouble: str, pair: str | None = None) -> None:
        """Count a failure and tell of it: a kind that fails elsewhere too has had its traceback."""
        duties = (self._looking, self._measuring, self._saving)
        known = [*self._attempts.values(), *(duty.attempts for duty in duties)]
        is_new = not any(kind_of(error) in each.kinds for each in known)
        attempts.failed(error, time.time())
        said = (
            f"{what} fails ({attempts.said}); failures since {moment(attempts.first_at)}: {attempts.n_failures}. Next "
            f"attempt: {moment(attempts.next_at)}, later every hour.{self._meanwhile(pair) if pair else ''}"
        )
        if is_new:
            logger.error("%s fails; this is told once for errors of its kind:", what, exc_info=error)
        if not self._owner.trouble(trouble, said, pair):
            logger.warning("%s", said)

    def _meanwhile(self, pair: str) -> str:
        """What decides about a pair while its training fails."""
        policy = self._drawer.policy_in_use(pair)
        if policy is None or not policy.trained_timestamp:
            return " Until then nothing is traded, for there is no policy yet."
        trained_at = policy.trained_timestamp
        expires_at = Expiry.from_freqai(self._model.freqai_info).expires_at(trained_at)
        until = "" if expires_at is None else f", and expires {moment(expires_at)}"
        return f" Until then the policy of {moment(trained_at)} decides{until}."


def moment(seconds: float) -> str:
    """A time as messages show it.

    :param seconds: since 1970
    """
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
