"""Reinforcement learning for freqtrade: one trade, the same in training, backtest, dry-run and live."""

__version__ = "0.1.0"
