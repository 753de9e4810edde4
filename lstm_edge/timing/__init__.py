"""Timing files on this machine: bench measures them side by side. No torch."""
