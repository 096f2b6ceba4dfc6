"""Candles: the tape, its windows and the classic signals. Knows no trading."""
