"""Environments: the trading rules as Gymnasium and stable-baselines3 know environments. Knows no freqtrade."""
