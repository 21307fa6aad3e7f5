"""Labels that follow from pixels, masks or the garment's word, and how often they are right.

A labelling function says a value or nothing. Its precision is measured against our annotations of photos that it was
not fitted on; below the precision that configs/weak.yaml declares it is not used.

Source: data programming (Ratner et al., 2016, arXiv 1605.07723), without its generative model: each function stands
for itself.
"""

# N garments, F features, K colours

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tasks.base import ObjectLabel, Record
from tasks.ontology import NOT_VISIBLE, default_ontology
from vlm.synthetic.masked_photo import MaskedPhoto
from vlm.synthetic.recolour import to_oklab

__all__ = [
    "LabelFunction",
    "Photo",
    "PlainPhoto",
    "Precision",
    "annotated",
    "colour_functions",
    "implied_function",
    "label_functions",
    "precision",
    "sleeve_function",
    "usual_functions",
]

Floats = NDArray[np.float64]
FITTED = 0.93
"""Precision that limits are fitted to, above the declared one: what is fitted loses some on other photos."""
_NO_RULE = ("colour", "closure")
_SAYS_NOTHING = (NOT_VISIBLE, "not clear", "none")


@dataclass(frozen=True, kw_only=True)
class PlainPhoto:
    """A photo without a mask: only what goes by the garment's word can label it."""

    record: Record


Photo = MaskedPhoto | PlainPhoto


def annotated(item: ObjectLabel) -> dict[str, tuple[str, ...]]:
    """Its attributes without those that a labelling function gave."""
    return {name: values for name, values in item.attributes.items() if name not in item.attribute_provenance}


@dataclass(frozen=True, kw_only=True)
class LabelFunction:
    """Says a garment's attribute.

    Attributes:
        name: for tables.
        attribute: of the ontology.
        label: (photo, index of the object) -> value, or None where it cannot tell.
        needs_mask: whether it tells nothing of a PlainPhoto.
    """

    name: str
    attribute: str
    label: Callable[[Photo, int], str | None]
    needs_mask: bool = False


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How often a function was right.

    Attributes:
        right: labels that are the annotation's (its first value).
        given: labels given to garments whose attribute is annotated.
        possible: garments whose attribute is annotated.
    """

    right: int
    given: int
    possible: int

    @property
    def value(self) -> float:
        """Share of the given labels that are right; nan where none was given."""
        return self.right / self.given if self.given else math.nan

    @property
    def lower(self) -> float:
        """Lower end of the 95 % interval (Wilson, 1927); 0 where none was given."""
        if not self.given:
            return 0.0
        z, share = 1.96, self.value
        middle = share + z * z / (2 * self.given)
        half = z * math.sqrt(share * (1 - share) / self.given + z * z / (4 * self.given**2))
        return max(0.0, (middle - half) / (1 + z * z / self.given))

    def reaches(self, least: float, min_given: int) -> bool:
        """Whether the function may be used."""
        return self.given >= min_given and self.value >= least


def precision(function: LabelFunction, photos: Iterable[Photo]) -> Precision:
    """Of a function, against the annotations of the photos."""
    right = given = possible = 0
    for photo in photos:
        for index, item in enumerate(photo.record.objects):
            wanted = annotated(item).get(function.attribute)
            if not wanted:
                continue
            possible += 1
            found = function.label(photo, index)
            if found is not None:
                given += 1
                right += found == wanted[0]
    return Precision(right=right, given=given, possible=possible)


# -- colour --------------------------------------------------------------------------------------------------

_LEAST_PIXELS = 60
_LEAST_GARMENTS = 5
_FOLDS = 5
_SHRINK = 0.25
"""Share of the common covariance in each colour's own: rare colours have few garments to tell theirs from."""


def _cloth_features(photo: MaskedPhoto, index: int) -> Floats | None:
    """Median L, a, b of the garment, the spread of its L and how bright the photo is; None for what is too small."""
    source = photo.sources[index]
    if source is None or photo.sources.count(source) > 1:
        return None
    mask = photo.region(index)
    inner = ndimage.binary_erosion(mask)
    mask = inner if inner.sum() >= _LEAST_PIXELS else mask
    if mask.sum() < _LEAST_PIXELS:
        return None
    lab = to_oklab(photo.pixels[mask])
    light = to_oklab(photo.pixels[::4, ::4]).reshape(-1, 3)[:, 0]
    low, high = np.percentile(lab[:, 0], (15, 85))
    return np.array([*np.median(lab, axis=0), high - low, np.median(light)], dtype=np.float64)


class _Prototypes:
    """A colour's mean and covariance over solid garments of one colour: a Gaussian classifier.

    Raises:
        ValueError: fewer than two colours to fit.
    """

    def __init__(self, garments: Sequence[tuple[Floats, str]]) -> None:
        found: defaultdict[str, list[Floats]] = defaultdict(list)
        for features, colour in garments:
            found[colour].append(features)
        groups = {name: np.stack(found[name]) for name in sorted(found) if len(found[name]) >= _LEAST_GARMENTS}
        if len(groups) < 2:
            raise ValueError(
                f"{len(groups)} colours with {_LEAST_GARMENTS} solid garments or more; "
                "expected photos that show at least two such colours"
            )
        num = sum(len(rows) for rows in groups.values())
        common = sum((np.cov(rows.T) * len(rows) for rows in groups.values()), np.zeros((5, 5))) / num
        self.names = tuple(groups)
        self._means = np.stack([rows.mean(axis=0) for rows in groups.values()])
        covariances = []
        for rows in groups.values():
            own = (1 - _SHRINK) * len(rows) / (len(rows) + 20)
            covariances.append(own * np.cov(rows.T) + (1 - own) * common)
        self._precisions = np.stack([np.linalg.inv(covariance) for covariance in covariances])
        self._constants = np.array(
            [
                math.log(len(rows) / num) - 0.5 * np.linalg.slogdet(covariance)[1]
                for rows, covariance in zip(groups.values(), covariances, strict=True)
            ]
        )

    def nearest(self, features: Floats) -> tuple[str, float]:
        """The likeliest colour and its share of the probability."""
        off = features - self._means
        scores = self._constants - 0.5 * np.einsum("kf,kfg,kg->k", off, self._precisions, off)
        shares = np.exp(scores - scores.max())
        best = int(shares.argmax())
        return self.names[best], float(shares[best] / shares.sum())


def colour_functions(photos: Sequence[MaskedPhoto], *, least: float = FITTED) -> list[LabelFunction]:
    """For each colour one function that says it where its prototype in OKLab is by far the nearest.

    How near is near enough is fitted for each colour, by cross-validation on the photos, so that at least a share of
    `least` is right there, prints included. Colours that cannot reach it have no function.

    Raises:
        ValueError: fewer than two colours to fit.
    """
    garments: list[tuple[Floats, tuple[str, ...], bool]] = []
    for photo in photos:
        for index, item in enumerate(photo.record.objects):
            colours = annotated(item).get("colour", ())
            features = _cloth_features(photo, index) if colours else None
            if features is not None:
                plain = len(colours) == 1 and item.attributes.get("pattern", ("",))[0] == "solid"
                garments.append((features, colours, plain))

    def fit(rows: Iterable[tuple[Floats, tuple[str, ...], bool]]) -> _Prototypes:
        return _Prototypes([(features, colours[0]) for features, colours, plain in rows if plain])

    prototypes = fit(garments)
    told: defaultdict[str, list[tuple[float, bool]]] = defaultdict(list)
    for fold in range(_FOLDS):
        part = fit(row for number, row in enumerate(garments) if number % _FOLDS != fold)
        for features, colours, _ in garments[fold::_FOLDS]:
            name, share = part.nearest(features)
            told[name].append((-share, name == colours[0]))
    limits = {name: _limit(sorted(told[name]), least) for name in prototypes.names}

    def function(colour: str, limit: float) -> LabelFunction:
        def label(photo: Photo, index: int) -> str | None:
            features = _cloth_features(photo, index) if isinstance(photo, MaskedPhoto) else None
            if features is None:
                return None
            name, share = prototypes.nearest(features)
            return colour if name == colour and -share <= limit else None

        return LabelFunction(name=f"pixels: {colour}", attribute="colour", label=label, needs_mask=True)

    return [function(name, limit) for name, limit in limits.items() if limit is not None]


# -- sleeves -------------------------------------------------------------------------------------------------

_SLEEVED = ("upper", "whole")
_LEAST_MEASURED = 10


def _bare_arms(photo: MaskedPhoto, index: int) -> float | None:
    """Skin beside the outermost upper garment, in hundredths of the person's squared height.

    None where the garment is not the outermost (the largest), or its shoulders or arms are not in the photo.
    """
    ontology = default_ontology()
    worn = [number for number, item in enumerate(photo.record.objects) if ontology.kind_of(item.label) in _SLEEVED]
    areas = {number: int(photo.region(number).sum()) for number in worn}
    source = photo.sources[index]
    # Arms under a cape are hidden, sleeves or not.
    if photo.record.objects[index].label == "cape" or index not in areas or source is None:
        return None
    if photo.sources.count(source) > 1:
        return None
    if areas[index] < max(areas.values()) or areas[index] < 0.01 * photo.label_map.size:
        return None
    if "skin" not in photo.labels:
        return None
    mask, skin = photo.region(index), photo.label_map == photo.labels.index("skin")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    person = np.flatnonzero(photo.person.any(axis=1))
    tall = int(person[-1] - person[0] + 1)
    top = int(rows[0])
    if top - person[0] < 0.06 * tall or int(columns[-1] - columns[0]) < 8:
        return None
    # From below the neck to where hands hang; legs under a short dress are lower than that.
    first, last = top + round(0.05 * tall), min(top + round(0.36 * tall), photo.label_map.shape[0])
    area = skin[first:last].copy()
    # A low neckline is skin too: what has cloth of this garment on both sides is not an arm.
    left = np.maximum.accumulate(mask[first:last], axis=1)
    right = np.maximum.accumulate(mask[first:last, ::-1], axis=1)[:, ::-1]
    area &= ~(left & right)
    return float(area.sum()) / (0.01 * tall * tall)


def sleeve_function(photos: Sequence[MaskedPhoto], *, least: float = FITTED) -> LabelFunction:
    """Long or sleeveless by how much skin there is where arms are; limits fitted so that on `photos` each of the two
    is right with a share of at least `least`. Between the limits it says nothing."""
    measured: list[tuple[float, str]] = []
    for photo in photos:
        for index, item in enumerate(photo.record.objects):
            value = annotated(item).get("sleeve", (NOT_VISIBLE,))[0]
            bare = _bare_arms(photo, index)
            if bare is not None:
                measured.append((bare, value))
    measured.sort()
    long_below = _limit([(bare, value == "long") for bare, value in measured], least)
    bare_above = _limit([(-bare, value == "sleeveless") for bare, value in reversed(measured)], least)

    def label(photo: Photo, index: int) -> str | None:
        bare = _bare_arms(photo, index) if isinstance(photo, MaskedPhoto) else None
        if bare is None:
            return None
        if long_below is not None and bare <= long_below:
            return "long"
        return "sleeveless" if bare_above is not None and -bare <= bare_above else None

    return LabelFunction(name="sleeve from skin", attribute="sleeve", label=label, needs_mask=True)


def _limit(measured: Sequence[tuple[float, bool]], least: float) -> float | None:
    """The largest value up to which, ties included, the share of right ones is at least `least`; None where there is
    none. Few measurements set no limit.

    Args:
        measured: (value, whether it was right), in ascending order of the values.
    """
    right, found = 0, None
    for number, (value, is_right) in enumerate(measured, start=1):
        right += is_right
        last = number == len(measured) or measured[number][0] > value
        if last and number >= _LEAST_MEASURED and right / number >= least:
            found = value
    return found


# -- what the word says --------------------------------------------------------------------------------------


def implied_function(garment: str, attribute: str, value: str) -> LabelFunction:
    """The word alone says it: jeans are of denim."""

    def label(photo: Photo, index: int) -> str | None:
        return value if photo.record.objects[index].label == garment else None

    return LabelFunction(name=f"{garment}: {value}", attribute=attribute, label=label)


def usual_functions(photos: Iterable[Photo], *, least: float = FITTED) -> list[LabelFunction]:
    """For each garment and attribute whose commonest value has a share of at least `least`, a function that says it.

    Colours are left out: what most of them are is no rule. So are closures: an annotation passes them over where
    there is nothing to close, so that the commonest of those it names says nothing of the rest.
    """
    told: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for photo in photos:
        for item in photo.record.objects:
            for name, values in annotated(item).items():
                if name not in _NO_RULE:
                    told[item.label, name][values[0]] += 1
    found = []
    for (garment, name), counts in sorted(told.items()):
        value, number = counts.most_common(1)[0]
        if number >= max(_LEAST_MEASURED, least * counts.total()) and value not in _SAYS_NOTHING:
            found.append(implied_function(garment, name, value))
    return found


def label_functions(photos: Sequence[Photo]) -> list[LabelFunction]:
    """All there are, fitted on these photos."""
    masked = [photo for photo in photos if isinstance(photo, MaskedPhoto)]
    return [*colour_functions(masked), sleeve_function(masked), *usual_functions(photos)]
