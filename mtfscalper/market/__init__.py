"""Candles: the tape, what is looked back on, and the classic signals. Knows no trading."""
