"""freqtrade's and FreqAI's hooks, tied to training and decisions. Nothing else in the package knows them."""
