"""How often one address may ask."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable


class RateLimit:
    """A bucket of requests per client, which fills again at a constant rate.

    Args:
        rate: requests per second.
        burst: requests at once.
        clients: addresses remembered; the one that has been silent longest is forgotten first.
        clock: seconds that never go back.

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
        """Whether a client may ask now; counts the request."""
        with self._lock:
            now = self.clock()
            left, at = self._left.pop(client, (self.burst, now))
            left = min(self.burst, left + (now - at) * self.rate)
            self._left[client] = (left - 1 if left >= 1 else left, now)
            if len(self._left) > self.clients:
                self._left.popitem(last=False)
            return left >= 1
