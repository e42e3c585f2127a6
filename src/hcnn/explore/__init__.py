"""Find out what the attributes of a network mean: translate its arrays, search for images there, and measure.

Start with `open_explorer`. It computes the invariant arrays (eq. 9) of the run's training images once, into a folder
that later calls use again::

    explorer = open_explorer("runs/demo")             # also: data=, data_dir=, folder=, position="mean"
    explorer.depths                                   # (3, 4, 5, 6)
    explorer.attributes(5)                            # {"v4": 4, "v5": 8}: what x̄_5 can be translated along
    found = explorer.neighbours(17, 5, [{"v4": t} for t in range(4)], k=6)    # of image 17, or of a uint8 image (c, *u)
    found.indices, found.distances, found.near        # (4, 6) each; nearest first, image 17 itself is left out
    found.rarity                                      # share of unshifted images whose nearest is at least as far
    explorer.neighbours(17, 5, [{"v4": 1, "v5": 0.5}])         # two attributes at once, fractional amounts
    explorer.scores(17, 5, [{"v4": 1}, {"v4": 2}])    # class probabilities (2, classes) by forward_from
    explorer.array(17, 5, {"v4": 1})                  # x̄_5, translated, (v4, v5): what to draw beneath an image
    explorer.thumbnail(17), explorer.label(17), explorer.base.classes         # PNG bytes, class, class names
    explorer.arrays.logits[17], explorer.periodic     # class scores; whether whole translations are exact

The first request for a depth and attribute calibrates "near" on 1,000 images, which takes a second or less and is
stored on disk; ``explorer.space(5, ["v4"]).nearest_distances()`` does this ahead of time.

Each of these modules can be used alone:

- `sources`: `AttributeSource`; `controls`: `untrained_like`, and for unordered channels of any CNN `ChannelSource` and
  `channels_like`.
- `arrays`: `invariant_arrays` in memory; `build_arrays` and `open_arrays` on disk, resumable, tied to their origin.
- `shifts`: `smooth`, `shift` (whole: rolls; fractional: Fourier), `shuffled_orders` (the control for order).
- `neighbours`: `Space`, exact search at one depth, and what "near enough" means there.
- `explorer`: `open_explorer` (arrays on disk), `explore_images` (in memory), `png`; `images`: the images of a run.
- `statistics`, `meaning`: what is measured; `orders`: whether an attribute's order is special; `study`: all of it, with
  controls, into JSON and CSV.
- `figures`: figures 3 and 4 of the paper, and those of the study. Needs matplotlib.

Whole translations are exact in a periodic network (`boundary="circular"`); under zeros they are an approximation.

"""

from hcnn.explore.arrays import Arrays, build_arrays, invariant_arrays, open_arrays
from hcnn.explore.controls import ChannelSource, channels_like, untrained_like
from hcnn.explore.explorer import Explorer, explore_images, open_explorer, png
from hcnn.explore.neighbours import Neighbours, Space
from hcnn.explore.shifts import shift, shuffled_orders, smooth
from hcnn.explore.sources import AttributeSource, Source

__all__ = [
    "Arrays",
    "AttributeSource",
    "ChannelSource",
    "Explorer",
    "Neighbours",
    "Source",
    "Space",
    "build_arrays",
    "channels_like",
    "explore_images",
    "invariant_arrays",
    "open_arrays",
    "open_explorer",
    "png",
    "shift",
    "shuffled_orders",
    "smooth",
    "untrained_like",
]
