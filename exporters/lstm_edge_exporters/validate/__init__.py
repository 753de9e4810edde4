"""Validation: a file beside its reference, in every way it will be used, as a report for people and CI."""

from .config import ValidateConfig
from .engine import validate
from .reference import ReferenceModel, open_file
from .report import Report

__all__ = ["ReferenceModel", "Report", "ValidateConfig", "open_file", "validate"]
