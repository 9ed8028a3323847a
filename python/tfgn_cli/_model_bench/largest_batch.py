"""The largest batch whose training step fits into some memory, found by measuring."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

#: Sizes are told apart to this fraction of a batch: peaks of equal steps differ by about 1%.
RESOLUTION = 0.02
#: The largest factor between the largest size that was measured and the next.
GROWTH = 4
MOST_SIZES = 12


@dataclasses.dataclass
class Search:
    """The sizes that were tried.

    Attributes:
        limit: the bytes to fit into.
        peaks: the peak in bytes by batch size, of one size to begin with; None if the process ran
            out of memory.
        stopped: why the search ended early, as a sentence; else empty.
    """

    limit: int
    peaks: dict[int, int | None]
    stopped: str = ""

    @property
    def largest(self) -> int:
        """The largest size that fits, or 0."""
        fitting = [size for size, peak in self._known() if peak <= self.limit]
        return max(fitting, default=0)

    @property
    def too_large(self) -> int | None:
        """The smallest size above, which does not fit; None if none was measured."""
        return min((size for size in self.peaks if size > self.largest), default=None)

    def run(self, measure: Callable[[int], int | None], available: Callable[[], int]) -> None:
        """Measures sizes until one fits and the next does not.

        Each guess is where a line through two sizes reaches the limit.

        Args:
            measure: from a size to the peak in bytes, or None if the process ran out of memory.
            available: the bytes that the machine has left. A size that would need more by the line
                is not run.
        """
        while (size := self._next()) is not None:
            while self.predict(size) > available() and size > self.largest + 1:
                size = (size + self.largest) // 2
            needed = self.predict(size)
            if needed > available():
                self.stopped = (
                    f"batch {size} was not run: it would need about {needed / 2**30:.1f} GB, more "
                    "than this machine has left"
                )
                return
            self.peaks[size] = measure(size)
            if len(self.peaks) == MOST_SIZES:
                self.stopped = f"the search stopped after {MOST_SIZES} sizes"
                return

    def predict(self, size: int) -> float:
        """Returns the bytes of a size on the line; 0 if no size has a known peak."""
        known = self._known()
        if not known:
            return 0
        if len(known) == 1:
            # Proportional, which is too much for a larger size: the weights do not grow.
            return known[0][1] * max(1, size / known[0][0])
        start, peak, slope = self._line()
        return peak + slope * (size - start)

    def _next(self) -> int | None:
        fits, over = self.largest, self.too_large
        step = max(1, int(fits * RESOLUTION))
        if over is None:
            return min(max(self._guess(), fits + step), GROWTH * fits)
        if over - fits <= step:
            return None
        guess = min(max(self._guess(), fits + step), max(over - step, fits + 1))
        # Next to a size that is next to another: the line is off, as peaks vary.
        creeps = {guess - step, guess - 2 * step} <= self.peaks.keys()
        creeps |= {guess + step, guess + 2 * step} <= self.peaks.keys()
        return (fits + over) // 2 if creeps else guess

    def _guess(self) -> int:
        over = self.too_large
        if over is not None and self.peaks[over] is None:  # The line says nothing of this size.
            return (self.largest + over) // 2
        known = self._known()
        if len(known) == 1:
            ((size, peak),) = known
            # A size far enough away, even if the weights take most of the memory.
            return max(2 * size, int(size * self.limit / peak)) if self.largest else size // 2
        start, peak, slope = self._line()
        return int(start + (self.limit - peak) / slope) if slope > 0 else GROWTH * self.largest

    def _known(self) -> list[tuple[int, int]]:
        return sorted((size, peak) for size, peak in self.peaks.items() if peak is not None)

    def _line(self) -> tuple[int, int, float]:
        """Returns a size, its peak, and the bytes per further sample.

        The line goes through the sizes around the limit, or else through those farthest apart.
        """
        known = self._known()
        around = [(size, peak) for size, peak in known if size in (self.largest, self.too_large)]
        (a, low), (b, high) = around if len(around) == 2 else (known[0], known[-1])
        return a, low, (high - low) / (b - a)
