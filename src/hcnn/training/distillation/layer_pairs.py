"""Which layers of a student learn from which of a teacher: modules by name, what they return, how they match."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hcnn.layers import AttributeLayer
from hcnn.models.network import Network
from hcnn.text import suggest_name
from hcnn.training.distillation.config import DistillationConfig


def as_maps(array: Tensor, spatial: int) -> Tensor:
    """An attribute array (b, *v, *u) as maps (b, c, *u); maps stay as they are."""
    return array.flatten(1, array.ndim - 1 - spatial)


def layer_names(model: nn.Module) -> tuple[str, ...]:
    """Modules of a network between which hints and attention make sense, first to last."""
    return model.stages if isinstance(model, Network) else ()


class OutputRecorder:
    """Keeps what some modules of a network return."""

    def __init__(self, model: nn.Module, names: Sequence[str], who: str) -> None:
        self.spatial = int(getattr(getattr(model, "config", None), "spatial_axes", 2))
        self.kept: dict[str, Tensor] = {}
        modules = dict(model.named_modules())
        for name in names:
            if name not in modules or not name:
                known = layer_names(model) or [one for one in modules if one]
                raise ValueError(f"pairs: the {who} has no layer {name!r}; {suggest_name(name, known)}")
        self.handles = [self._record(name, modules[name]) for name in dict.fromkeys(names)]

    def _record(self, name: str, module: nn.Module) -> RemovableHandle:
        def keep(output: object) -> None:
            if isinstance(output, Tensor) and output.ndim >= 2 + self.spatial:
                self.kept[name] = as_maps(output, self.spatial)

        if isinstance(module, AttributeLayer):  # x_j, whole; the layer returns its average
            return module.register_array_hook(keep)
        return module.register_forward_hook(lambda *given: keep(given[-1]))

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
        ValueError: if there is no module of a name (near ones are suggested), or it returns no maps.
    """
    recorder, training = OutputRecorder(model, names, who), model.training
    try:
        model.eval()(image)
        # Some modules only hold parameters, and are never called.
        if missing := [name for name in names if name not in recorder.kept]:
            known = layer_names(model)
            expected = f"expected one of {', '.join(known)}" if known else "expected a layer that does"
            raise ValueError(f"pairs: the {who}'s {missing[0]!r} returns no maps (b, c, *u); {expected}")
        return {name: tuple(maps.shape[1:]) for name, maps in recorder.kept.items()}
    finally:
        model.train(training)
        recorder.close()


def find_pairs(
    student: nn.Module, teacher: nn.Module, image: Tensor, config: DistillationConfig
) -> list[tuple[str, str, tuple[int, ...], tuple[int, ...]]]:
    """The layers that learn from layers, with the shapes (c, *u) of their maps.

    Args:
        student: the network that learns.
        teacher: the one it learns from.
        image: one image (1, c, *u).
        config: names the pairs, or leaves them to be found.

    Returns:
        Student's layer, teacher's layer, and the shapes of both; in order of the student's layers if found.

    Raises:
        ValueError: if a layer is not there, or the maps of a pair cannot be matched.
    """
    known_s, known_t = (
        layer_shapes(model, layer_names(model), image, who)
        for model, who in ((student, "student"), (teacher, "teacher"))
    )
    if not config.pairs:
        last_s, last_t = ({shape[1:]: name for name, shape in known.items()} for known in (known_s, known_t))
        common = [size for size in last_s if size in last_t]
        if not common:
            raise ValueError(
                f"no layers of one resolution: the student's maps are {_sizes(known_s)}, the teacher's "
                f"{_sizes(known_t)}; give --pairs STUDENT_LAYER=TEACHER_LAYER, and --match pool or convolve"
            )
        return [(last_s[u], last_t[u], known_s[last_s[u]], known_t[last_t[u]]) for u in common]
    names = [pair.split("=") for pair in config.pairs]
    shapes_s = layer_shapes(student, [s for s, _ in names], image, "student")
    shapes_t = layer_shapes(teacher, [t for _, t in names], image, "teacher")
    found = [(s, t, shapes_s[s], shapes_t[t]) for s, t in names]
    for s, t, (_, *size_s), (_, *size_t) in found:
        smaller = any(a < b for a, b in zip(size_s, size_t, strict=True))
        if size_s == size_t or config.match == "pool" or (config.match == "convolve" and not smaller):
            continue
        alike = [name for name, (_, *size) in known_s.items() if size == size_t]
        ways = ["--match pool averages the larger down to the smaller"]
        if not smaller and not config.attention:
            ways.append("--match convolve (hints) lets an unpadded convolution take up the difference")
        raise ValueError(
            f"pair {s}={t}: the student's maps are {_times(size_s)}, the teacher's {_times(size_t)}, and match is "
            f"{config.match!r}; the student's layers of {_times(size_t)} are {', '.join(alike) or 'none'}; or "
            + "; ".join(ways)
        )
    return found


def _sizes(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(dict.fromkeys(_times(shape[1:]) for shape in shapes.values())) or "not known"


def _times(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
