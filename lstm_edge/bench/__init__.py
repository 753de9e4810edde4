"""Measure files on this machine: interleaved rounds, percentiles, and intervals on every ratio. No torch."""

__all__: list[str] = []
