"""Clocks, and the race that decides when one kernel is faster than another."""
