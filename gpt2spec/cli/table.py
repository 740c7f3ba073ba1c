"""This module formats tables in plain text."""

from collections.abc import Sequence


def format_table(rows: Sequence[Sequence[str]], right: Sequence[int] = (), indent: str = "") -> str:
    """Format `rows` with columns two spaces apart; the columns in `right` are aligned to the right.

    The last column is not padded, so that no line ends in spaces.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return (indent + "  ".join(cells)).rstrip()

    return "\n".join(map(line, rows))
