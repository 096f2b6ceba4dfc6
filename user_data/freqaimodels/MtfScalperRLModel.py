"""The FreqAI model that ``--freqaimodel MtfScalperRLModel`` finds. Everything lives in the package ``mtfscalper``."""

from mtfscalper.freqai.model import MtfScalperFreqaiModel


class MtfScalperRLModel(MtfScalperFreqaiModel):
    """PPO on parallel trading environments that trade by freqtrade's own rules.

    Override any hook of FreqAI here, or of :class:`mtfscalper.freqai.model.MtfScalperFreqaiModel`, to make a model
    of your own: ``fit`` (training on tapes), ``predict`` (decisions), ``define_data_pipeline`` (scaling).
    """
