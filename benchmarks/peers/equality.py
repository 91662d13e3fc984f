"""Whether two peers gave the same answers, which must hold before either is timed."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-4
ITEMS, SCORES = "items", "scores"


def largest_difference(own: Mapping[str, NDArray], reference: Mapping[str, NDArray]) -> float:
    """Returns the largest |own - reference| / max(1, |reference|) of all answers that are no item numbers.

    Raises:
      ValueError: other answers, or of other shapes.
    """
    if own.keys() != reference.keys():
        raise ValueError(f"it answers {', '.join(sorted(own))} and recjax {', '.join(sorted(reference))}")
    differences = [0.0]
    for name, expected in reference.items():
        if own[name].shape != expected.shape:
            raise ValueError(f"its {name} are {own[name].shape} and recjax's {expected.shape}")
        if name != ITEMS:
            scale = np.maximum(1.0, np.abs(expected.astype(np.float64)))
            differences.append(np.max(np.abs(own[name].astype(np.float64) - expected) / scale))
    return float(np.max(differences))  # a NaN stays one


def difference_in_words(
    own: Mapping[str, NDArray], reference: Mapping[str, NDArray], tolerance: float = TOLERANCE
) -> tuple[float | None, str | None]:
    """Returns the largest difference, and why the answers are not equal, None if they are.

    Items may change places, or the last ones be others, only where their scores are as close as the tolerance lets
    scores of that size be.
    """
    try:
        largest = largest_difference(own, reference)
    except ValueError as error:
        return None, f"its answers are not recjax's: {error}"
    if not largest <= tolerance:  # a NaN is not
        known = largest if np.isfinite(largest) else None
        return known, f"its answers differ from recjax's by {largest:.2g}; allowed: {tolerance:g}"
    if ITEMS in reference and not _same_but_for_ties(own[ITEMS], reference, tolerance):
        return largest, "it returns other items than recjax, and not for equal scores"
    return largest, None


def _same_but_for_ties(items_BK: NDArray, reference: Mapping[str, NDArray], tolerance: float) -> bool:
    scores_BK = reference[SCORES].astype(np.float64)
    near_BK = np.zeros(scores_BK.shape, bool)
    largest_BK = np.maximum(1.0, np.abs(scores_BK))
    near_BK[:, :-1] = np.abs(np.diff(scores_BK, axis=1)) <= 2 * tolerance * largest_BK[:, :-1]
    near_BK[:, 1:] |= near_BK[:, :-1]
    near_BK[:, -1] = True  # its rival may stand just behind it, where nobody looks
    return bool(np.all((items_BK == reference[ITEMS]) | near_BK))
