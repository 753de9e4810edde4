"""A model repository for NVIDIA Triton: one state for each sequence, by correlation id."""

from .repository import BACKENDS, Repository, to_triton

__all__ = ["BACKENDS", "Repository", "to_triton"]
