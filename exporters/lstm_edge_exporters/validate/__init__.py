"""Validation: proof that a file computes what its reference does, as a report for people and for CI."""

from .file import open_file
from .subject import Against
from .config import ValidateConfig
from .engine import validate
from .report import Report

__all__ = ["Against", "Report", "ValidateConfig", "open_file", "validate"]
