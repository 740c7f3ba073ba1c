"""This module formats amounts in readable units."""

from collections.abc import Sequence

BINARY = ("bytes", "KiB", "MiB", "GiB", "TiB")
DECIMAL = ("", "k", "M", "G", "T", "P", "E")


def format_size(number_of_bytes: float) -> str:
    """A number of bytes, as `1.5 GiB`; `-` for none."""
    return _scaled(number_of_bytes, 1024, BINARY)


def format_count(number: float) -> str:
    """A number of operations or tokens, as `1.5 G`; `-` for none."""
    return _scaled(number, 1000, DECIMAL)


def _scaled(amount: float, base: int, units: Sequence[str]) -> str:
    """`amount` in the unit that leaves up to four digits before the point; `-` for none."""
    power = 0
    while amount >= base and power < len(units) - 1:
        amount, power = amount / base, power + 1
    return f"{amount:,.4g} {units[power]}" if amount else "-"


def format_duration(seconds: float) -> str:
    """A duration in seconds, as `3.5 h`."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.4g} {unit}"
    return f"{seconds * 1000:,.4g} ms"
