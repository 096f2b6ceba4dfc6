"""The trade itself: actions, rules, reward and observation. Knows no RL library and no freqtrade."""
