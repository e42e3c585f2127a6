"""How good a classifier is: accuracy with intervals, classes, confusions, calibration, worst mistakes, robustness."""

from hcnn.evaluation.measures import Evaluation, evaluate
from hcnn.evaluation.report import write_evaluation, write_shifts
from hcnn.evaluation.shifts import SHIFTS, measure_shifts, shift_images

__all__ = ["SHIFTS", "Evaluation", "evaluate", "measure_shifts", "shift_images", "write_evaluation", "write_shifts"]
