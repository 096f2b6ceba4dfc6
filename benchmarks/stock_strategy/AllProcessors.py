"""freqtrade's ReinforcementLearner with a torch thread for each processor, where it takes half of them by itself."""

import torch
from freqtrade.freqai.prediction_models.ReinforcementLearner import ReinforcementLearner

from mtfscalper.machine import usable_processors


class AllProcessors(ReinforcementLearner):
    """freqtrade's learner at its best."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)
        torch.set_num_threads(usable_processors())
