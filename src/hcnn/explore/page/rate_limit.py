"""A limit on how often one address may send requests."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable


class RateLimit:
    """A bucket of requests per client, which refills at a constant rate.

    Args:
        rate: requests per second.
        burst: requests that may come at once.
        clients: number of addresses to remember; the one that was silent longest is forgotten first.
        clock: gives monotonic seconds.

    Example:
        >>> now = 0.0
        >>> limit = RateLimit(1, 2, clock=lambda: now)
        >>> limit.allows("a"), limit.allows("a"), limit.allows("a"), limit.allows("b")
        (True, True, False, True)
        >>> now = 1.0
        >>> limit.allows("a")
        True
    """

    def __init__(
        self, rate: float, burst: float, *, clients: int = 1000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate, self.burst, self.clients, self.clock = rate, burst, clients, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def allows(self, client: str) -> bool:
        """Count a request, and return whether it is allowed."""
        with self._lock:
            now = self.clock()
            left, at = self._left.pop(client, (self.burst, now))
            left = min(self.burst, left + (now - at) * self.rate)
            self._left[client] = (left - 1 if left >= 1 else left, now)
            if len(self._left) > self.clients:
                self._left.popitem(last=False)
            return left >= 1
