"""The interval of a mean over a few seeds."""

import math
import statistics
from collections.abc import Sequence

_T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # Student's, by the number of seeds


def half_interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean of two to five values."""
    return _T[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
