"""What `hcnn bench` measures: networks against the two-step baseline and against the limits of the machine.

Everything that is compared is timed in one process, in turns, with warm-up; medians are given with the slowest and
the fastest step. See `hcnn.bench.suite` for the tables and `hcnn.bench.two_step` for the baseline.
"""

from hcnn.bench.suite import run_suite

__all__ = ["run_suite"]
