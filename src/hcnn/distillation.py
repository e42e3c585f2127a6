"""Losses by which a student learns from a teacher: soft targets, attention transfer, hints; any of them together.

The teacher is a finished run of any network of this package, the student any other; neither needs to know.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hcnn.comparators import Comparator
from hcnn.networks import AttributeNetwork
from hcnn.training import Preprocessing

Match = Literal["exact", "pool", "convolve"]


@dataclass(frozen=True)
class Teaching:
    """What a student learns from its teacher, as weights of a sum.

    ``loss = labels · L + soft_targets · T² KL(p_T || p_S) + attention / 2 · Σ A + hints · Σ H``, L the loss against
    the labels, the sums over pairs of layers.

    Attributes:
        labels: weight of the loss against the labels.
        soft_targets: weight of the teacher's softened probabilities (Hinton, Vinyals, Dean 2015); see `soft_loss`.
        soft_targets_end: the weight at the end of training, reached linearly; the same if None.
        temperature: T.
        attention: β of attention transfer (Zagoruyko, Komodakis 2017); see `attention_loss`.
        hints: weight of hints (Romero et al. 2014); see `Distillation`.
        pairs: layers that learn from layers, as "student=teacher", each a module's name; if empty, the last layer of
            each resolution that both networks have.
        match: what to do where the maps of a pair differ in resolution: "exact" refuses; "pool" averages the larger
            down to the smaller; "convolve" (hints only) lets the regressor's unpadded support take up the difference.
        hint_epochs: that many epochs at first learn from the hints alone, and later ones from everything else: the
            two stages of FitNets. With 0 all losses are taken together.
    """

    labels: float = 1.0
    soft_targets: float = 0.0
    soft_targets_end: float | None = None
    temperature: float = 4.0
    attention: float = 0.0
    hints: float = 0.0
    pairs: tuple[str, ...] = ()
    match: Match = "exact"
    hint_epochs: int = 0

    def __post_init__(self) -> None:
        for name in ("labels", "soft_targets", "attention", "hints", "hint_epochs"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected 0 or more; got {getattr(self, name)}")
        if self.soft_targets_end is not None and not self.soft_targets_end >= 0:
            raise ValueError(f"soft_targets_end: expected 0 or more; got {self.soft_targets_end}")
        if not self.temperature > 0:
            raise ValueError(f"temperature: expected a positive number; got {self.temperature}")
        if self.match not in ("exact", "pool", "convolve"):
            raise ValueError(f"match: expected 'exact', 'pool' or 'convolve'; got {self.match!r}")
        if self.match == "convolve" and self.attention:
            raise ValueError("match: 'convolve' is for hints; attention maps of unlike resolution need 'pool'")
        if self.hint_epochs and not self.hints:
            raise ValueError(f"hint_epochs: {self.hint_epochs} epochs of hints need a positive weight of hints; got 0")
        for pair in self.pairs:
            if pair.count("=") != 1 or not all(pair.split("=")):
                raise ValueError(f"pairs: expected STUDENT_LAYER=TEACHER_LAYER; got {pair!r}")


TEACHINGS: dict[str, Teaching] = {
    "none": Teaching(),
    # Zagoruyko and Komodakis 2017, section 4.1: T = 4, α = 0.9 of soft targets, β = 1000.
    "soft_targets": Teaching(labels=0.1, soft_targets=0.9),
    "attention": Teaching(attention=1000.0),
    "attention_soft": Teaching(labels=0.1, soft_targets=0.9, attention=1000.0),
    # Romero et al. 2014, table 7 and section A.1: τ = 3, λ from 4 to 1 and counted without τ².
    "fitnet": Teaching(
        soft_targets=4 / 9,
        soft_targets_end=1 / 9,
        temperature=3.0,
        hints=1.0,
        pairs=("layers.10=layers.1",),
        match="convolve",
        hint_epochs=40,
    ),
}


def get_teaching(name: str, **overrides: Any) -> Teaching:
    """A named way of teaching with some of its fields replaced.

    Raises:
        ValueError: for an unknown name or a value out of range.

    Example:
        >>> get_teaching("attention", match="pool").attention
        1000.0
    """
    if name not in TEACHINGS:
        near = difflib.get_close_matches(name, TEACHINGS, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(TEACHINGS)}"
        raise ValueError(f"unknown teaching {name!r}; {hint}")
    return replace(TEACHINGS[name], **overrides)


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


def as_maps(array: Tensor, spatial: int) -> Tensor:
    """An attribute array (b, *v, *u) as maps (b, c, *u); maps stay as they are."""
    return array.flatten(1, array.ndim - 1 - spatial)


def layer_names(model: nn.Module) -> tuple[str, ...]:
    """Modules of a network between which hints and attention make sense, first to last."""
    if isinstance(model, AttributeNetwork):
        return tuple(f"layers.{index}" for index in range(len(model.layers)))
    return model.stages if isinstance(model, Comparator) else ()


class _Recorder:
    """Keeps what some modules of a network return."""

    def __init__(self, model: nn.Module, names: Sequence[str], who: str) -> None:
        self.spatial = int(getattr(getattr(model, "config", None), "spatial_axes", 2))
        self.kept: dict[str, Tensor] = {}
        modules = dict(model.named_modules())
        for name in names:
            if name not in modules or not name:
                near = difflib.get_close_matches(name, modules, n=3)
                raise ValueError(
                    f"pairs: the {who} has no layer {name!r}; did you mean {' or '.join(near or layer_names(model))}?"
                )
        self.handles = [modules[name].register_forward_hook(self._hook(name)) for name in dict.fromkeys(names)]

    def _hook(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.kept[name] = as_maps(output, self.spatial)

        return keep

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.kept.clear()


@torch.no_grad()
def layer_shapes(model: nn.Module, names: Sequence[str], image: Tensor, who: str) -> dict[str, tuple[int, ...]]:
    """Channels and spatial sizes of some modules' outputs, found by one pass in eval mode.

    Args:
        model: left in the mode it was in.
        names: of modules.
        image: one image (1, c, *u); its values do not matter.
        who: "student" or "teacher", for the error.

    Returns:
        (c, *u) by name.

    Raises:
        ValueError: if there is no module of a name; near ones are suggested.
    """
    recorder, training = _Recorder(model, names, who), model.training
    model.eval()(image)
    shapes = {name: tuple(maps.shape[1:]) for name, maps in recorder.kept.items()}
    model.train(training)
    recorder.close()
    return shapes


class Distillation:
    """A teacher, and the loss of a student that learns from it; the hook of `Trainer`.

    A hint is ``H = 1/2 mean((r(x_S) - x_T)²)``, r a convolution that is learned too and brings the student's maps to
    the teacher's number of channels (Romero et al. 2014, eq. 3, with a mean in place of the sum over all entries).

    Args:
        teacher: any network, already on the student's device; it is frozen and put in eval mode.
        student: any network.
        teacher_preprocessing: how the teacher's input is made.
        preprocessing: how the student's input is made.
        teaching: which losses.
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
        teaching: Teaching,
        *,
        precision: str = "float32",
    ) -> None:
        check_teacher(teacher_preprocessing, preprocessing)
        if not (teaching.soft_targets or teaching.attention or teaching.hints):
            raise ValueError("a teacher without soft targets, attention or hints teaches nothing: give one a weight")
        self.teaching, self.precision = teaching, precision
        self.teacher = teacher.requires_grad_(False).eval()
        parameter = next(student.parameters())
        image = torch.zeros(1, len(preprocessing.mean), *preprocessing.size, device=parameter.device)
        layered = bool(teaching.attention or teaching.hints)
        self.pairs = find_pairs(student, teacher, image, teaching) if layered else []
        self.regressors = nn.ModuleList()
        if teaching.hints:
            self.regressors.extend(_regressor(s, t, teaching.match) for _, _, s, t in self.pairs)
        self.regressors.to(parameter.device)
        self._student = _Recorder(student, [name for name, *_ in self.pairs], "student")
        self._teacher = _Recorder(teacher, [name for _, name, *_ in self.pairs], "teacher")
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
        t = self.teaching
        inputs = x if self._same else x * self._factor + self._offset
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            expected = self.teacher(inputs).float()
        pairs = [
            _matched(self._student.kept[s], self._teacher.kept[name].detach(), t.match) for s, name, *_ in self.pairs
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


def find_pairs(
    student: nn.Module, teacher: nn.Module, image: Tensor, teaching: Teaching
) -> list[tuple[str, str, tuple[int, ...], tuple[int, ...]]]:
    """The layers that learn from layers, with the shapes (c, *u) of their maps.

    Args:
        student: the network that learns.
        teacher: the one it learns from.
        image: one image (1, c, *u).
        teaching: names the pairs, or leaves them to be found.

    Returns:
        Student's layer, teacher's layer, and the shapes of both; in order of the student's layers if found.

    Raises:
        ValueError: if a layer is not there, or the maps of a pair cannot be matched.
    """
    known_s, known_t = (
        layer_shapes(model, layer_names(model), image, who)
        for model, who in ((student, "student"), (teacher, "teacher"))
    )
    if not teaching.pairs:
        last_s, last_t = ({shape[1:]: name for name, shape in known.items()} for known in (known_s, known_t))
        common = [size for size in last_s if size in last_t]
        if not common:
            raise ValueError(
                f"no layers of one resolution: the student's maps are {_sizes(known_s)}, the teacher's "
                f"{_sizes(known_t)}; give --pairs STUDENT_LAYER=TEACHER_LAYER, and --match pool or convolve"
            )
        return [(last_s[u], last_t[u], known_s[last_s[u]], known_t[last_t[u]]) for u in common]
    names = [pair.split("=") for pair in teaching.pairs]
    shapes_s = layer_shapes(student, [s for s, _ in names], image, "student")
    shapes_t = layer_shapes(teacher, [t for _, t in names], image, "teacher")
    found = [(s, t, shapes_s[s], shapes_t[t]) for s, t in names]
    for s, t, (_, *size_s), (_, *size_t) in found:
        smaller = any(a < b for a, b in zip(size_s, size_t, strict=True))
        if size_s == size_t or teaching.match == "pool" or (teaching.match == "convolve" and not smaller):
            continue
        alike = [name for name, (_, *size) in known_s.items() if size == size_t]
        ways = ["--match pool averages the larger down to the smaller"]
        if not smaller and not teaching.attention:
            ways.append("--match convolve (hints) lets an unpadded convolution take up the difference")
        raise ValueError(
            f"pair {s}={t}: the student's maps are {_times(size_s)}, the teacher's {_times(size_t)}, and match is "
            f"{teaching.match!r}; the student's layers of {_times(size_t)} are {', '.join(alike) or 'none'}; or "
            + "; ".join(ways)
        )
    return found


def _sizes(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(dict.fromkeys(_times(shape[1:]) for shape in shapes.values())) or "not known"


def _times(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _matched(student: Tensor, teacher: Tensor, match: Match) -> tuple[Tensor, Tensor]:
    """The two maps in float32, at one resolution if `match` says so."""
    student, teacher = student.float(), teacher.float()
    if match == "pool" and student.shape[2:] != teacher.shape[2:]:
        size = [min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True)]
        pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(size) - 1]
        student, teacher = pool(student, size), pool(teacher, size)
    return student, teacher


def _regressor(student: tuple[int, ...], teacher: tuple[int, ...], match: Match) -> nn.Module:
    """A convolution from the student's maps (c, *u) to the teacher's."""
    axes = len(student) - 1
    support = [1] * axes
    if match == "convolve":
        support = [a - b + 1 for a, b in zip(student[1:], teacher[1:], strict=True)]
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    return conv(student[0], teacher[0], tuple(support))  # pyright: ignore[reportArgumentType]
