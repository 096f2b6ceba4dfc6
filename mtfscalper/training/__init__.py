"""From tape and settings to a trained policy. Knows no strategy."""
