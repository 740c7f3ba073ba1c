"""This module finds stop strings, which may begin in one token and end in another."""

from collections.abc import Sequence


class StopStrings:
    """Looks for stop strings in a text that arrives in pieces.

    Text that could be the beginning of a stop string is held back until that is decided. All results of `feed` and
    `finish`, joined, are the text before the stop string that is complete first, however the text was divided.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """The text that is now known to precede any stop string; `found` is set when there was one."""
        if self.found:
            return ""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.found, self._held = True, ""
            return text[: min(found)[1]]
        final = len(text) - self._longest_beginning(text)
        self._held = text[final:]
        return text[:final]

    def finish(self) -> str:
        """The text that was held back, now that no more text comes."""
        rest, self._held = self._held, ""
        return rest

    def _longest_beginning(self, text: str) -> int:
        """The length of the longest end of `text` that is the beginning of a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        lengths = range(min(longest, len(text)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in self._stops)), 0)
