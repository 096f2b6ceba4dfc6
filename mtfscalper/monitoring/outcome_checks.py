"""Whether what a run should leave is there: TensorBoard's tags, sealed manifests, predictions in the strategy."""

from __future__ import annotations

from mtfscalper.monitoring.facts import RunFacts
from mtfscalper.monitoring.verdicts import Check, Verdict, counted, distinct, judge

TRAINING_TAGS = (
    "actions/",
    "reward/",
    "rollout/ep_rew_mean",
    "rollout/reward",
    "time/rollout_share",
    "train/approx_kl",
    "train/clip_fraction",
    "train/entropy_loss",
    "train/explained_variance",
    "train/policy_gradient_loss",
    "train/value_loss",
)
EVALUATION_TAGS = ("eval/log_return", "eval/trades")


def check_tensorboard(facts: RunFacts) -> Check:
    """Each training left a run for TensorBoard, with the tags that its curves are looked up by."""
    wanted = (*TRAINING_TAGS, *(EVALUATION_TAGS if facts.asked.evaluates else ()))
    runs, trainings = facts.left.tags, len(facts.periods)
    if not facts.asked.tensorboard:
        return Check("left behind", "TensorBoard", f"{len(runs)} runs", "none: activate_tensorboard off", Verdict.NOTE)
    missing = [
        f"{folder} lacks {', '.join(lacking)}"
        for folder, tags in runs.items()
        # A name that ends with a slash is that of a group.
        if (lacking := [want for want in wanted if not any(_is(tag, want) for tag in tags)])
    ]
    seen = distinct(missing) or f"{counted(len(runs), 'run')}, {distinct(len(tags) for tags in runs.values())} tags"
    return judge(
        "left behind",
        "TensorBoard",
        seen,
        f"a run for each of {counted(trainings, 'training')}, {len(wanted)} tags each",
        not missing and len(runs) >= trainings,
        "look into the log for what kept stable-baselines3 from writing; is the disk full?",
    )


def check_manifests(facts: RunFacts) -> Check:
    """Each training's manifest is sealed by this installation, and names whole files."""
    left = facts.left
    return judge(
        "left behind",
        "manifests",
        distinct(left.bad_manifests) or f"{left.manifests} sealed, every file as its manifest says",
        "one a training, sealed, whole",
        not left.bad_manifests and left.manifests > 0,
        "what was trained would not be reused: look for a full disk or another program that writes there",
    )


def check_predictions(facts: RunFacts) -> Check:
    """The strategy had the predictions in its frame, and the policies answered what it asked about its trades."""
    left, exact = facts.left, facts.asked.decision_mode == "exact"
    asks = exact and facts.trades.total > 0
    seen = f"{left.frame_equal:,} of {left.frame_rows:,} rows before a trade hold theirs"
    if exact:
        seen += f"; {left.answered:,} of {left.questions:,} questions answered"
    check = judge(
        "left behind",
        "predictions reached",
        seen,
        "all rows" + (", all questions, at least one" if asks else ""),
        left.frame_equal == left.frame_rows and left.answered == left.questions and (left.questions > 0 or not asks),
        "the strategy must call self.freqai.start and keep its columns; with 'exact' decisions custom_exit must ask",
    )
    if check.verdict is Verdict.OK and not left.frame_rows and not left.questions:
        return check._replace(verdict=Verdict.NOTE, remedy="no trade to tell by: lengthen --timerange")
    return check


def _is(tag: str, wanted: str) -> bool:
    return tag.startswith(wanted) if wanted.endswith("/") else tag == wanted
