"""Studies: search, gates, deployment."""
