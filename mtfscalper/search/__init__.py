"""Studies: hyper-parameters searched by real backtests, on candles that end before those that judge the winner."""
