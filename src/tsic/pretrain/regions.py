"""An image and the regions in it: what every source of pretraining images gives."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsic.data.classes import IGNORE


@dataclass(frozen=True)
class Regions:
    """An image cut into regions, some of which are of one kind.

    Attributes:
        image: RGB uint8 ``(H, W, 3)``.
        ids: Region of each pixel, int32 ``(H, W)`` from 1 to ``R``; 0 where it is not known.
        kinds: Kind of each region, int32 ``(R + 1,)``, from 1; 0 for regions of no kind. Regions of
            one kind make one more mask together, as the parts of a class do.
    """

    image: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.int32]
    kinds: npt.NDArray[np.int32]


def regions_of_classes(image: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> Regions:
    """Cut a labelled image into its classes' connected parts.

    Args:
        image: RGB uint8 ``(H, W, 3)``.
        labels: Class ids, uint8 ``(H, W)``; 255 belongs to no region.

    Returns:
        One region per 4-connected part; its kind is its class plus one.
    """
    from skimage.measure import label

    # Zero is what `label` takes for the background.
    classes = np.where(labels == IGNORE, 0, labels.astype(np.int32) + 1)
    ids, count = label(classes, background=0, return_num=True, connectivity=1)
    kinds = np.zeros(count + 1, np.int32)
    kinds[ids.ravel()] = classes.ravel()
    return Regions(image, ids.astype(np.int32), kinds)
