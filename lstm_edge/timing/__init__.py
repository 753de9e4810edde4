"""Timing files on this machine: bench measures them side by side, tune searches session options. No torch."""
