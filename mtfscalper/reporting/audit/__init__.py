"""The audit: each trade beside what training assumed of it."""
