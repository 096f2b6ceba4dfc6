"""Whether it is any good: what a backtest earned beside its rivals on the same candles, and how sure that is."""
