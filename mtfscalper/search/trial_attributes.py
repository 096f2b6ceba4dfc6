"""What a study keeps of each trial in Optuna, by name. Imports nothing, for those who only look."""

# User attributes of a trial: plain lists of instances and seeds; low, mean and high of the 90 % interval.
INSTANCES, SEEDS_DONE, INTERVAL, CONFIG_HASH = "instances", "seeds_done", "interval", "config_hash"
# Of its trainings: samples, and how many a second while they ran. Of the trial: seconds in all, and in its backtests.
TIMESTEPS, SAMPLES_PER_SECOND, SECONDS, RUN_SECONDS = "timesteps", "samples_per_second", "seconds", "run_seconds"
TRADES = "trades"
# Of its runs so far, for whoever judges, on whichever machine: their seeds, the first day, since 1970, and the
# paired difference of each day from then on.
DAILY = "daily"
# Steps from here on are no instances: what a trial that was given up had come to, by which the sampler learns from it.
PRUNED_STEP = 10**9

# User attribute of a study: how many trials the last ``mtfscalper study run`` was asked for.
ASKED = "mtfscalper:trials"
