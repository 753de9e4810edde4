"""Read a number from text, in the same way in files and on standard input."""


def parse_number(cell: str) -> float | None:
    """Return the number in a cell, with a decimal point and ASCII digits; None for any
    other text.
    """
    text = cell.strip()
    if not text.isascii() or "_" in text:  # which Python's literals may contain
        return None
    try:
        return float(text)
    except ValueError:
        return None


def has_decimal_comma(cell: str) -> bool:
    """Return True for a number with a decimal comma, such as ``1,5``."""
    return "," in cell and parse_number(cell.replace(",", ".", 1)) is not None
