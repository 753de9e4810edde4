"""Verification: cases, a graph in float64, the module as its reference, comparison,
golden cases, reports.
"""
