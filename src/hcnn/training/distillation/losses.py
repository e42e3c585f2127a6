"""Losses by which a student learns from a teacher: soft targets, attention transfer, hints; any of them together.

The teacher is a finished run of any network of this package, the student any other; neither needs to know.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hcnn.data.preprocessing import Preprocessing
from hcnn.training.distillation.config import DistillationConfig, Match
from hcnn.training.distillation.layer_pairs import OutputRecorder, find_pairs


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T² KL(softmax(t / T) || softmax(s / T))``, the mean over the batch (Hinton et al. 2015, section 2).

    Args:
        student: logits (b, classes).
        teacher: logits (b, classes).
        temperature: T.

    Returns:
        A scalar.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(float(soft_loss(logits, logits, 4.0)), 6)
        0.0
    """
    log_student, log_teacher = ((logits / temperature).log_softmax(1) for logits in (student, teacher))
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def attention_map(maps: Tensor) -> Tensor:
    """``vec(Σ_c a_c²)`` of each image, with norm 1 (Zagoruyko and Komodakis 2017, section 3.1, F_sum² and eq. 2).

    Args:
        maps: (b, c, *u).

    Returns:
        (b, pixels).

    Example:
        >>> attention_map(torch.tensor([[[[3.0, 0.0]], [[0.0, 0.0]]]]))
        tensor([[1., 0.]])
    """
    return F.normalize(maps.float().square().sum(1).flatten(1), dim=1)


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean((q_S - q_T)²)`` over images and pixels, q the attention maps.

    The mean, where eq. 2 has a norm: the authors divide β by the pixels and the batch (section 4.1), which is this.

    Example:
        >>> maps = torch.rand(2, 3, 4, 4)
        >>> float(attention_loss(maps, 5 * maps).round(decimals=6))  # any common factor goes
        0.0
    """
    return (attention_map(student) - attention_map(teacher)).square().mean()


class Distillation:
    """A teacher, and the loss of a student that learns from it; the hook of `Trainer`.

    A hint is ``H = 1/2 mean((r(x_S) - x_T)²)``, r a convolution that is learned too and brings the student's maps to
    the teacher's number of channels (Romero et al. 2014, eq. 3, with a mean in place of the sum over all entries).

    Args:
        teacher: any network, already on the student's device; it is frozen and put in eval mode.
        student: any network.
        teacher_preprocessing: how the teacher's input is made.
        preprocessing: how the student's input is made.
        config: which losses.
        precision: of the teacher's pass, as in `Recipe`.

    Raises:
        ValueError: if the teacher knows other classes or images of another size, or the layers do not fit.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        teacher_preprocessing: Preprocessing,
        preprocessing: Preprocessing,
        config: DistillationConfig,
        *,
        precision: str = "float32",
    ) -> None:
        check_teacher(teacher_preprocessing, preprocessing)
        if not (config.soft_targets or config.attention or config.hints):
            raise ValueError(
                "a teacher without soft targets, attention or hints teaches nothing: expected a weight above 0 for one "
                "of them"
            )
        self.config, self.precision = config, precision
        self.teacher = teacher.requires_grad_(False).eval()
        parameter = next(student.parameters())
        image = torch.zeros(1, len(preprocessing.mean), *preprocessing.size, device=parameter.device)
        layered = bool(config.attention or config.hints)
        self.pairs = find_pairs(student, teacher, image, config) if layered else []
        self.regressors = nn.ModuleList()
        if config.hints:
            self.regressors.extend(_regressor(s, t, config.match) for _, _, s, t in self.pairs)
        self.regressors.to(parameter.device)
        self._student = OutputRecorder(student, [name for name, *_ in self.pairs], "student")
        self._teacher = OutputRecorder(teacher, [name for _, name, *_ in self.pairs], "teacher")
        # The teacher's standardization from the student's: x_T = a x_S + b, per channel.
        mean_s, std_s, mean_t, std_t = (
            torch.tensor(values, device=parameter.device).view(-1, *[1] * len(preprocessing.size))
            for p in (preprocessing, teacher_preprocessing)
            for values in (p.mean, p.std)
        )
        self._same = (preprocessing.mean, preprocessing.std) == (teacher_preprocessing.mean, teacher_preprocessing.std)
        self._factor, self._offset = std_s / std_t, (mean_s - mean_t) / std_t

    def loss(self, x: Tensor, logits: Tensor, label_loss: Tensor, *, epoch: int, progress: float) -> Tensor:
        """The student's loss on a batch that it has just seen.

        Args:
            x: the batch, standardized for the student, (b, c, *u).
            logits: the student's, (b, classes), float32.
            label_loss: the loss against the labels.
            epoch: from 0.
            progress: fraction of all steps done.

        Returns:
            A scalar.
        """
        t = self.config
        inputs = x if self._same else x * self._factor + self._offset
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            expected = self.teacher(inputs).float()
        pairs = [  # some layers of the student may have seen more images, of which these are the first
            _matched(self._student.kept[s][: len(x)], self._teacher.kept[name].detach(), t.match)
            for s, name, *_ in self.pairs
        ]
        hint_stage = epoch < t.hint_epochs
        total = logits.new_zeros(())
        if t.hints and (hint_stage or not t.hint_epochs):
            for regressor, (student, teacher) in zip(self.regressors, pairs, strict=True):
                total = total + t.hints / 2 * F.mse_loss(regressor(student), teacher)
        if hint_stage:
            return total
        total = total + t.labels * label_loss
        end = t.soft_targets if t.soft_targets_end is None else t.soft_targets_end
        weight = t.soft_targets + (end - t.soft_targets) * progress
        if weight:
            total = total + weight * soft_loss(logits, expected, t.temperature)
        if t.attention:
            total = total + t.attention / 2 * torch.stack([attention_loss(*pair) for pair in pairs]).sum()
        return total


def check_teacher(teacher: Preprocessing, student: Preprocessing) -> None:
    """Refuse a teacher of other classes or images.

    Raises:
        ValueError: says which.
    """
    if teacher.classes != student.classes:
        unlike = [pair for pair in zip(teacher.classes, student.classes, strict=False) if pair[0] != pair[1]]
        detail = f"the first that differ are {unlike[0][0]!r} and {unlike[0][1]!r}" if unlike else "the rest agree"
        raise ValueError(
            f"the teacher knows {len(teacher.classes)} classes, the student learns {len(student.classes)}: expected "
            f"the same, in the same order; {detail}"
        )
    for what, one, other in (
        ("images of size", teacher.size, student.size),
        ("channels", len(teacher.mean), len(student.mean)),
    ):
        if one != other:
            raise ValueError(f"the teacher expects {what} {one}, the student's data have {other}")


def _matched(student: Tensor, teacher: Tensor, match: Match) -> tuple[Tensor, Tensor]:
    """The two maps in float32, at one resolution if `match` says so."""
    student, teacher = student.float(), teacher.float()
    if match == "pool" and student.shape[2:] != teacher.shape[2:]:
        size = tuple(min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True))
        pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[len(size) - 1](size)
        student, teacher = pool(student), pool(teacher)
    return student, teacher


def _regressor(student: tuple[int, ...], teacher: tuple[int, ...], match: Match) -> nn.Module:
    """A convolution from the student's maps (c, *u) to the teacher's."""
    axes = len(student) - 1
    support = [1] * axes
    if match == "convolve":
        support = [a - b + 1 for a, b in zip(student[1:], teacher[1:], strict=True)]
    conv = getattr(nn, f"Conv{axes}d")
    return conv(student[0], teacher[0], tuple(support))
