"""This module finds the documents in plain text, JSON lines, CSV and Parquet.

A document is yielded in fragments, so that it may be larger than memory.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gpt2spec.data.sources import Pass
from gpt2spec.errors import ConfigError, DataError

Fragment = tuple[bool, str]
"""Whether a document begins with this fragment, and its text."""

LONGEST_ROW = 1 << 30
"""The most bytes of a row, because rows are held in memory whole."""
_PARQUET_ROWS = 256


@dataclass
class BadRows:
    """Counts the rows that are no documents, or raises `DataError` for the first unless they are to be skipped.

    Attributes:
        skip: whether such rows are skipped.
        count: how many rows were skipped.
        first: what was wrong with the first of them.
    """

    skip: bool
    count: int = field(default=0, init=False)
    first: str | None = field(default=None, init=False)

    def add(self, where: str, reason: str) -> None:
        """Count the row at `where`, which is bad for `reason`; or raise `DataError`."""
        if not self.skip:
            raise DataError(f"{where}: {reason}; correct it, or leave such rows out with --skip-bad")
        self.count += 1
        self.first = self.first or f"{where}: {reason}"


def fragments(reading: Pass, name: str, split_on: str | None, bad: BadRows) -> Iterator[Fragment]:
    """The documents of a source as fragments.

    Args:
        reading: the source.
        name: the field or column that holds the text, where there are several.
        split_on: what separates documents in plain text; None where each file is one.
        bad: counts or refuses the rows that are no documents.
    """
    match reading.source.format:
        case "jsonl":
            return _json_lines(reading, name, bad)
        case "csv":
            return _csv_rows(reading, name, bad)
        case "parquet":
            return _parquet_rows(reading, name, bad)
        case _:
            return separated(reading.text(), split_on) if split_on else _one_document(reading.text())


def _one_document(texts: Iterable[str]) -> Iterator[Fragment]:
    begins = True
    for text in texts:
        yield begins, text
        begins = False
    if begins:
        yield True, ""


def separated(texts: Iterable[str], separator: str) -> Iterator[Fragment]:
    """The documents between the separators of a text, which may arrive in pieces of any size."""
    begins, held = True, ""
    for text in texts:
        *whole, last = (held + text).split(separator)
        for end in whole:
            yield begins, end
            begins = True
        cut = max(0, len(last) - len(separator) + 1)  # a separator may begin after this
        if cut:
            yield begins, last[:cut]
            begins = False
        held = last[cut:]
    if held:
        yield begins, held


def _json_lines(reading: Pass, name: str, bad: BadRows) -> Iterator[Fragment]:
    lines = itertools.chain.from_iterable(map(io.BytesIO, _whole_lines(reading)))
    for number, line in enumerate(lines, start=1):
        if line.isspace():
            continue
        text, reason = _text_of_json(line, name)
        if reason:
            bad.add(f"{reading.source.label}, line {number}", reason)
        else:
            yield True, text


def _text_of_json(line: bytes, name: str) -> tuple[str, str]:
    """(the text of a line, ""), or ("", what is wrong with the line)."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return "", f"not UTF-8: the byte 0x{line[error.start]:02x} at offset {error.start} of the line is wrong"
    except RecursionError:
        return "", "not JSON that can be read: it is nested too deeply"
    except json.JSONDecodeError as error:
        return "", f"not JSON ({error.msg.removesuffix(' at')} at column {error.colno})"
    except ValueError as error:  # a number of too many digits
        return "", f"not JSON that can be read ({error})"
    if not isinstance(row, dict):
        return "", f"a JSON object was expected, not {_excerpt(row)}"
    if name not in row:
        return "", f"it has no field {name!r}; it has {_names(row)} (choose with --field)"
    return _text(row[name], name)


def _text(value: object, name: str) -> tuple[str, str]:
    """(the value as text, ""), or ("", what is wrong with it). A null is an empty document."""
    if value is None:
        return "", ""
    if not isinstance(value, str):
        return "", f"the field {name!r} is no text but {_excerpt(value)}"
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            return "", f"the text has the lone surrogate U+{ord(value[error.start]):04X}, which is no character"
    return value, ""


def _csv_rows(reading: Pass, name: str, bad: BadRows) -> Iterator[Fragment]:
    csv.field_size_limit(LONGEST_ROW)
    # A wrong byte becomes a surrogate, so that it is noticed in its row and rows keep their quotes.
    texts = (lines.decode("utf-8", "surrogateescape") for lines in _whole_lines(reading))
    lines = itertools.chain.from_iterable(io.StringIO(text, newline="\n") for text in texts)
    rows = csv.reader(lines, strict=True)
    label, header = reading.source.label, None
    while True:
        first = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise DataError(f"{label}, line {first}: not CSV ({error})") from None
            bad.add(f"{label}, line {first}", f"not CSV ({error})")
            continue
        if header is None:
            header = row
            column = _column(header, name, label)
        elif row and len(row) != len(header):
            bad.add(f"{label}, line {first}", f"it has {len(row)} columns, the header {len(header)}")
        elif row:
            text, reason = _text(row[column], name)
            if reason:
                bad.add(f"{label}, line {first}", reason.replace("the lone surrogate U+DC", "the wrong byte 0x"))
            else:
                yield True, text


def _parquet_rows(reading: Pass, name: str, bad: BadRows) -> Iterator[Fragment]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(
            "reading .parquet files needs the package pyarrow: pip install 'gpt2spec[parquet]', or convert the files "
            "to .jsonl"
        ) from None
    assert reading.source.path is not None
    label, number = reading.source.label, 0
    for _ in reading.stored():
        pass  # hashes it; Parquet is not read from front to back
    try:
        with parquet.ParquetFile(reading.source.path, page_checksum_verification=True) as file:
            _column([each.name for each in file.schema_arrow], name, label)
            kind = file.schema_arrow.field(name).type
            values = kind.value_type if arrow.types.is_dictionary(kind) else kind
            if values not in (arrow.string(), arrow.large_string(), arrow.string_view(), arrow.null()):
                raise DataError(f"the column {name!r} of {label} is no text but {kind} (choose with --field)")
            for batch in file.iter_batches(_PARQUET_ROWS, columns=[name], use_threads=False):
                batch.validate(full=True)
                number += len(batch)
                reading.offset = reading.bytes * number // file.metadata.num_rows
                texts = batch.column(0).to_numpy(zero_copy_only=False).tolist()  # faster than `to_pylist`
                yield from ((True, text or "") for text in texts)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {label} as Parquet: {error}") from None


def _column(header: list[str], name: str, label: str) -> int:
    """The index of a column. Raises `DataError` with the columns there are where it is missing or ambiguous."""
    if name not in header:
        raise DataError(f"{label} has no column {name!r}; it has {_names(header)} (choose with --field)")
    if header.count(name) > 1:
        raise DataError(f"{label} has {header.count(name)} columns {name!r}; give each a name of its own")
    return header.index(name)


def _whole_lines(reading: Pass) -> Iterator[bytes]:
    """The bytes of a source in blocks of whole lines; only the last line may lack its line feed.

    A byte order mark at the beginning is left out.
    """
    held: list[bytes] = []
    size = 0
    for chunk in _after_mark(reading.chunks()):
        cut = chunk.rfind(b"\n") + 1
        if cut:
            yield b"".join([*held, chunk[:cut]])
            held.clear()
            size = 0
        held.append(chunk[cut:])
        size += len(chunk) - cut
        if size > LONGEST_ROW:
            raise DataError(
                f"{reading.source.label} has a line of more than {LONGEST_ROW} bytes; rows are held in memory, so give "
                "such a text as a .txt file"
            )
    if size:
        yield b"".join(held)


def _after_mark(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The bytes without the byte order mark that some programs write at the beginning of UTF-8."""
    beginning = b""
    for chunk in chunks:
        beginning += chunk
        if len(beginning) >= len(codecs.BOM_UTF8):
            break
    yield beginning.removeprefix(codecs.BOM_UTF8)
    yield from chunks


def _names(names: Iterable[str]) -> str:
    shown = ", ".join(name if name.isprintable() else ascii(name) for name in names) or "none"
    return shown if len(shown) <= 400 else f"{shown[:400]}…"


def _excerpt(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 40 else f"{text[:40]}…"
