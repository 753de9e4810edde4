"""The four sizes that the streaming benchmark measures."""

__all__ = ["CLASSES", "SIZES"]

SIZES = {"S": (8, 32, 1), "M": (16, 128, 1), "L": (64, 256, 2), "XL": (128, 512, 2)}
"""Features, hidden width, layers."""
CLASSES = 6
