"""Where trainings run. Knows jobs, and nothing of what they are for."""
