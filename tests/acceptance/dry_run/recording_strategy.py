"""The project's strategy, writing down what it sees and decides: a line of JSON for each."""

import json
import os
from datetime import UTC, datetime

from freqtrade.persistence import LocalTrade
from MtfScalper_RL_Hybrid import MtfScalper_RL_Hybrid
from pandas import DataFrame

from mtfscalper.strategy import LONG_SIGNAL, PREDICTION_COLUMNS, SHORT_SIGNAL, ExitDecision, TradeDecisions

# Names of environment variables: where a bot's lines and a backtest's frame go.
LINES = "RECORDED_LINES"
FRAME = "RECORDED_FRAME"
SEEN = ("date", "open", LONG_SIGNAL, SHORT_SIGNAL, *PREDICTION_COLUMNS, "do_predict", "enter_long", "enter_short")


class RecordingDecisions(TradeDecisions):
    """Writes every answer down."""

    def decide(self, trade: LocalTrade, current_time: datetime, current_rate: float) -> ExitDecision | None:
        decision = super().decide(trade, current_time, current_rate)
        if LINES in os.environ:
            answer = decision._asdict() if decision else None
            write({"asked": str(current_time), "trade": str(trade.open_date_utc), "answer": answer})
        return decision


class RecordingStrategy(MtfScalper_RL_Hybrid):
    """Decides as the strategy does."""

    def __init__(self, config: dict) -> None:
        super().__init__(config)
        self.trade_decisions = RecordingDecisions(config, self, self.policy_leaves)

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        """The last step of an analysis: all columns are there."""
        dataframe = super().populate_exit_trend(dataframe, metadata)
        seen = dataframe.reindex(columns=SEEN).fillna({"enter_long": 0, "enter_short": 0})
        if FRAME in os.environ:
            seen.to_feather(os.environ[FRAME])
        if LINES in os.environ:
            policy = self.freqai.exit_policy(metadata["pair"], 0)
            row = seen.iloc[-1].to_dict() | {"date": str(seen["date"].iloc[-1])}
            # Without a model yet, nothing was decided.
            features = policy.period.decider._features[-1].tolist() if policy else None
            write({"row": row, "features": features, "at": str(datetime.now(UTC))})
        return dataframe


def write(line: dict) -> None:
    with open(os.environ[LINES], "a") as file:
        file.write(json.dumps(line) + "\n")
