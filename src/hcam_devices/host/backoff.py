"""Pauses between attempts that fail."""


class Backoff:
    """Pauses of ``first`` seconds, then twice as long each time, up to ``longest``."""

    def __init__(self, first: float, longest: float) -> None:
        self.first, self.longest = first, longest
        self.reset()

    def reset(self) -> None:
        """Begin with the first pause again: an attempt has succeeded."""
        self._next = self.first

    def next(self) -> float:
        """Return the seconds to wait until the next attempt."""
        pause = self._next
        self._next = min(2 * pause, self.longest)
        return pause
