"""Benchmarks: networks against the two-step baseline, the limits of the machine, and published results.

Everything that is compared is timed alternately in one process, after a warm-up; medians come with the slowest and the
fastest step. `hcnn.bench.suite` makes the tables of `hcnn bench`, `hcnn.bench.two_step` is the baseline, and
`hcnn.bench.comparison` puts our results beside the published ones.
"""

from hcnn.bench.suite import run_suite

__all__ = ["run_suite"]
