"""What publications print about the systems of the comparison: parameters and accuracy, with the source."""

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """A network of the comparison with the figures of its publication.

    Attributes:
        title: its name in tables.
        model: its name before ``_cifar10`` or ``_cifar100``.
        distilled: whether the figures are those of a student that also learned from a teacher.
        parameters: as printed, for CIFAR-10 and CIFAR-100 where they differ.
        cifar10: accuracy in %, or None.
        cifar100: accuracy in %, or None.
        source: the publication that prints the figures.
        suffix: what follows the data set in the name of the network.
    """

    title: str
    model: str
    distilled: bool
    parameters: str
    cifar10: float | None
    cifar100: float | None
    source: str
    suffix: str = ""

    def network(self, data: str) -> str:
        """The name of its network for a data set.

        Example:
            >>> SYSTEMS[1].network("cifar100")
            'hcnn_cifar100_circular'
        """
        return f"{self.model}_{data}{self.suffix}"


_PAPER = "Jacobsen et al. 2017, tables 1 and 2"
SYSTEMS: tuple[System, ...] = (
    System("HCNN", "hcnn", False, "0.098M / 0.25M", 91.23, 62.01, _PAPER),
    System("Periodic HCNN", "hcnn", False, "", None, None, "the network of the paper's section 5.3", "_circular"),
    System("HCNN(+)", "hcnn_plus", False, "0.34M / 0.89M", 92.30, 63.19, _PAPER),
    System("HCNN small (K = 8)", "hcnn_small", False, "", None, None, "not in the paper"),
    System("Periodic HCNN small (K = 8)", "hcnn_small", False, "", None, None, "not in the paper", "_circular"),
    System("All-CNN-C", "allcnn", False, "1.3M", 92.75, 66.29, "Springenberg et al. 2014, tables 4 and 5"),
    System("ResNet-20", "resnet20", False, "0.27M", 91.25, None, "He et al. 2016, table 6"),
    System("Network in Network", "nin", False, "0.98M", 91.20, 64.32, "Lin et al. 2013; parameters: " + _PAPER),
    System("WRN-16-1, alone", "wrn16_1", False, "0.2M", 91.23, None, "Zagoruyko, Komodakis 2017, table 1"),
    System(
        "WRN-16-1, attention from WRN-40-1", "wrn16_1", True, "0.2M", 91.75, None, "Zagoruyko, Komodakis 2017, table 1"
    ),
    System("WRN-40-1, its teacher", "wrn40_1", False, "0.6M", 93.42, None, "Zagoruyko, Komodakis 2017, table 1"),
    System("WRN-16-2", "wrn16_2", False, "0.7M", 93.69, None, "Zagoruyko, Komodakis 2017, table 1"),
    System("FitNet 4, hints from maxout", "fitnet4", True, "2.5M", 91.61, 64.96, "Romero et al. 2014, tables 1 and 2"),
    System("FitNet 4, alone", "fitnet4", False, "2.5M", None, None, "Romero et al. 2014, table 5"),
    System("Maxout, FitNet's teacher", "maxout", False, "9M", 90.18, 63.54, "Romero et al. 2014, tables 1 and 2"),
    System("HyperNetwork, WRN-40-1", "hypernetwork", False, "0.097M", 91.98, None, "Ha et al. 2016, table 2"),
    System("DenseNet-BC-40, k = 12", "densenet_bc40", False, "0.18M", 93.6, 71.6, "as later comparisons report it"),
    System("ResNet-8", "resnet8", False, "78,666", 85.0, None, "MLPerf Tiny, Banbury et al. 2021: the target"),
    System("Tiniest", "tiniest", False, "97,530", 94.4, None, "github.com/xvel/cifar10-tiniest, no paper"),
    System("Compact (ours)", "compact", False, "", None, None, "not of a publication"),
)
