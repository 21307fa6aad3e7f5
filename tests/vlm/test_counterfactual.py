"""Counterfactual photos: on drawn people whose masks are exact, and on a real photo where there is one."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tasks.base import QA, ObjectLabel, Record, TextLabel
from tasks.ontology import NOT_VISIBLE, default_ontology
from tasks.readers.jsonl import read
from tasks.readers.raw import data_root
from vlm.synthetic import counterfactual as counterfactual_module
from vlm.synthetic.cloth_edits import Work, may_print, may_recolour, print_garment, recolour_garment
from vlm.synthetic.counterfactual import counterfactual, write_counterfactuals
from vlm.synthetic.cutout import empty_scene, matte
from vlm.synthetic.masked_photo import MaskedPhoto, boxed, masked_photos, open_masked, photo_labels
from vlm.synthetic.overprint import PRINTS, draw_print
from vlm.synthetic.recolour import PAINTS, draw_paint, from_oklab, repaint, shading_of, to_oklab
from vlm.synthetic.scene_edits import change_background, crop_body, occlude

LABELS = ("null", "coat", "pants", "shoes", "hair", "skin", "bag")
HEIGHT, WIDTH = 160, 100


def drawn(name: str = "0001", *, light: float = 1.0, ground: tuple[int, int, int] = (150, 160, 150)) -> MaskedPhoto:
    """A person in a dark coat, blue trousers and brown shoes before a wall with a gradient."""
    label_map = Image.new("L", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(label_map)
    draw.ellipse((42, 8, 58, 22), fill=4)
    draw.ellipse((44, 12, 56, 28), fill=5)
    draw.rectangle((34, 28, 66, 85), fill=1)
    draw.rectangle((38, 86, 62, 135), fill=2)
    draw.rectangle((38, 136, 48, 146), fill=3)
    draw.rectangle((52, 136, 62, 146), fill=3)
    labels = np.asarray(label_map)
    colours = np.array([ground, (40, 38, 42), (60, 80, 140), (110, 70, 40), (60, 40, 30), (220, 180, 150), (0, 0, 0)])
    x = np.linspace(0.8, 1.2, WIDTH)[None, :, None]
    noise = np.random.default_rng(0).normal(0, 2, (HEIGHT, WIDTH, 1))
    pixels = np.clip(colours[labels] * x * light + noise, 0, 255).astype(np.uint8)
    objects = (
        ObjectLabel(
            label="coat",
            attributes={"colour": ("black",), "pattern": ("solid",), "sleeve": ("long",), "neckline": ("lapel",)},
        ),
        ObjectLabel(label="trousers", attributes={"colour": ("blue",), "pattern": ("solid",), "length": ("full",)}),
        ObjectLabel(label="lace-up shoes", attributes={"colour": ("brown",), "pattern": ("solid",)}),
    )
    sources = ("coat", "pants", "shoes")
    record = Record(
        id=name,
        image=f"/photos/{name}.jpg",
        image_size=(HEIGHT, WIDTH),
        captions=(TextLabel(text="A black coat."),),
        qa=(QA(question="what colour is the coat?", answer="black"),),
        objects=tuple(boxed(objects, sources, labels, LABELS)),
        objects_complete=True,
        boxes_complete=True,
    )
    return MaskedPhoto(record=record, pixels=pixels, label_map=labels, sources=sources, labels=LABELS)


def median(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.median(to_oklab(pixels[mask]), axis=0)
    return found


# -- colours -----------------------------------------------------------------------------------------------


def test_oklab_there_and_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    back = from_oklab(to_oklab(pixels))
    assert np.abs(back.astype(int) - pixels).max() <= 1
    assert to_oklab(np.array([[255, 255, 255]], dtype=np.uint8))[0] == pytest.approx((1, 0, 0), abs=1e-3)


def test_paints_are_colours_of_the_ontology_that_a_screen_can_show() -> None:
    assert set(PAINTS) == set(default_ontology().values["colour"]) - {"gold", "silver", "transparent", "multicolour"}
    rng = random.Random(0)
    for colour in PAINTS:
        for _ in range(20):
            paint = draw_paint(colour, rng)
            shown = to_oklab(from_oklab(paint[None]))[0]
            assert np.abs(shown - paint).max() < 0.035, colour
    with pytest.raises(ValueError, match="no paint 'gold'; known: black"):
        draw_paint("gold", rng)


@pytest.mark.parametrize("colour", ["white", "red", "navy", "yellow"])
def test_repainted_cloth_has_the_paint_and_keeps_its_folds(colour: str) -> None:
    folds = 0.26 + 0.08 * np.sin(np.linspace(0, 20, 60))[None, :].repeat(60, axis=0)
    lab = np.stack([folds, np.zeros_like(folds), np.zeros_like(folds)], axis=-1).astype(np.float32)
    shading = shading_of(lab, np.ones((60, 60), dtype=bool))
    paint = draw_paint(colour, random.Random(1))
    new = repaint(shading, paint, np.random.default_rng(0))
    assert np.median(new, axis=(0, 1)) == pytest.approx(paint, abs=0.04)
    assert np.corrcoef(new[..., 0].ravel(), folds.ravel())[0, 1] > 0.9
    assert 0.08 < np.ptp(new[..., 0]) < 0.6


def test_a_button_of_another_colour_is_not_the_cloth() -> None:
    lab = np.full((40, 40, 3), (0.3, 0, 0), dtype=np.float32)
    lab[18:22, 18:22] = (0.6, 0.15, 0.08)
    own = shading_of(lab, np.ones((40, 40), dtype=bool)).own
    assert own[19, 19] == 0
    assert own[5, 5] == 1
    with pytest.raises(ValueError, match="the mask is empty"):
        shading_of(lab, np.zeros((40, 40), dtype=bool))


def test_recolouring_changes_one_garment_and_its_label() -> None:
    photo = drawn()
    work = Work.of(photo)
    assert may_recolour(work, 0)
    recolour_garment(work, 0, random.Random(3), np.random.default_rng(0))
    [colour] = work.objects[0].attributes["colour"]
    assert colour != "black"
    paint, found = PAINTS[colour], median(work.pixels, photo.region(0))
    assert paint.light[0] - 0.06 < found[0] < paint.light[1] + 0.06
    assert paint.chroma[0] - 0.03 < np.hypot(found[1], found[2]) < paint.chroma[1] + 0.03
    assert work.objects[0].attributes["sleeve"] == ("long",)
    assert work.objects[0].provenance is not None
    assert work.objects[0].provenance.annotator == f"counterfactual: recolour coat {colour}"
    assert work.objects[1:] == list(photo.record.objects[1:])
    far = np.ones((HEIGHT, WIDTH), dtype=bool)
    far[25:90, 30:70] = False
    assert (work.pixels[far] == photo.pixels[far]).all()
    assert not work.texts_hold


def test_what_has_several_colours_or_no_region_of_its_own_is_left_alone() -> None:
    photo = drawn()
    work = Work.of(photo)
    coat = work.objects[0]
    for attributes in ({"colour": ("black", "white")}, {"pattern": ("floral",)}, {"colour": ("multicolour",)}):
        work.objects[0] = replace(coat, attributes={**coat.attributes, **attributes})
        assert not may_recolour(work, 0)
    work.objects[0] = replace(coat, attributes={**coat.attributes, "material": ("fur",)})
    assert may_recolour(work, 0)
    assert not may_print(work, 0)
    work.sources[1] = "coat"
    assert not may_recolour(work, 0)


# -- prints ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PRINTS)
def test_prints_are_shares_of_inks(kind: str) -> None:
    assert kind in default_ontology().values["pattern"]
    for seed in range(4):
        shares = draw_print(kind, np.zeros((70, 50), dtype=np.float32), 50.0, random.Random(seed))
        assert shares.shape[:2] == (70, 50)
        assert shares.shape[2] in (2, 3)
        assert np.allclose(shares.sum(axis=-1), 1, atol=1e-5)
        assert shares.min() >= 0
        covered = shares.mean(axis=(0, 1))
        assert 0.02 < covered[1:].sum() < 0.9
        assert shares[..., 0].std() > 0.08
        again = draw_print(kind, np.zeros((70, 50), dtype=np.float32), 50.0, random.Random(seed))
        assert (again == shares).all()


def test_printing_changes_pattern_and_colours() -> None:
    kinds = set()
    for seed in range(12):
        photo = drawn()
        work = Work.of(photo)
        print_garment(work, 0, random.Random(seed), np.random.default_rng(seed))
        [pattern] = work.objects[0].attributes["pattern"]
        colours = work.objects[0].attributes["colour"]
        kinds.add(pattern)
        assert 1 <= len(colours) <= 2
        assert colours[0] in PAINTS
        # The two inks are told apart: the cloth's lightness or colour varies more than its shading did.
        before, after = (to_oklab(p[photo.region(0)]).std(axis=0).max() for p in (photo.pixels, work.pixels))
        assert after > before
    assert len(kinds) > 4


# -- edges and scenes --------------------------------------------------------------------------------------


def test_the_edge_of_a_careless_mask_is_mended() -> None:
    """One column of the coat is missing from the mask; its pixels are the coat's all the same."""
    lab = np.full((40, 40, 3), (0.8, 0, 0), dtype=np.float32)
    lab[:, 10:30] = (0.25, 0, 0)
    mask = np.zeros((40, 40), dtype=bool)
    mask[:, 11:30] = True
    alpha, pure = matte(lab, mask)
    assert (alpha[:, 10] > 0.55).all()
    assert (alpha[:, 7] < 0.1).all()
    assert (alpha[:, 15] == 1).all()
    assert np.abs(pure[20, 9:31, 0] - 0.25).max() < 0.12


def test_an_empty_scene_is_the_wall_without_the_person() -> None:
    photo = drawn()
    empty = empty_scene(photo.pixels, photo.person)
    assert empty is not None
    wall = np.clip(np.array((150, 160, 150)) * np.linspace(0.8, 1.2, WIDTH)[None, :, None], 0, 255)
    assert np.abs(empty - wall).mean() < 12
    assert np.abs(photo.pixels - wall)[photo.person].mean() > 40
    assert empty_scene(photo.pixels, np.ones((HEIGHT, WIDTH), dtype=bool)) is None


def test_a_background_changes_all_but_the_person() -> None:
    photo, other = drawn(), drawn("0002", ground=(60, 120, 60))
    for seed in range(4):
        work = Work.of(photo)
        change_background(work, [other], random.Random(seed), np.random.default_rng(seed))
        objects = boxed(work.objects, work.sources, work.label_map, LABELS)
        coat, before = objects[0].box, photo.record.objects[0].box
        assert coat is not None and before is not None
        assert (coat.width, coat.height, coat.y1) == (before.width, before.height, before.y1)
        inside = np.s_[int(coat.y1) + 4 : int(coat.y2) - 4, int(coat.x1) + 4 : int(coat.x2) - 4]
        was = np.s_[int(before.y1) + 4 : int(before.y2) - 4, int(before.x1) + 4 : int(before.x2) - 4]
        assert np.abs(work.pixels[inside].astype(int) - photo.pixels[was]).mean() < 12
        corner = np.abs(work.pixels[:20, :20].astype(int) - photo.pixels[:20, :20]).mean()
        assert corner > 5
        assert work.groups["background"] in ("street", "blurred", "studio")


def test_what_is_hidden_is_not_visible() -> None:
    photo = drawn()
    seen = set()
    for seed in range(30):
        work = Work.of(photo)
        occlude(work, random.Random(seed), np.random.default_rng(seed))
        objects = boxed(work.objects, work.sources, work.label_map, LABELS)
        for item, source in zip(objects, work.sources, strict=True):
            assert item.box is not None and source is not None
            whole = (photo.label_map == LABELS.index(source)).sum()
            assert (work.label_map == LABELS.index(source)).sum() >= 0.3 * whole
            if item.label == "coat" and item.attributes["neckline"] == (NOT_VISIBLE,):
                top = photo.region(0)[28:38] & (work.label_map[28:38] != 1)
                assert top.sum() > 0.4 * photo.region(0)[28:38].sum()
            seen.add((item.label, item.attributes.get("neckline"), item.attributes.get("length")))
    assert ("coat", (NOT_VISIBLE,), None) in seen
    assert ("coat", ("lapel",), None) in seen


def test_a_crop_drops_what_is_gone() -> None:
    parts = set()
    for seed in range(20):
        photo = drawn()
        work = Work.of(photo)
        crop_body(work, random.Random(seed))
        labels = [item.label for item in boxed(work.objects, work.sources, work.label_map, LABELS)]
        part = work.groups["crop"]
        parts.add(part)
        assert work.pixels.shape[:2] == work.label_map.shape
        if part == "upper":
            assert "coat" in labels and "lace-up shoes" not in labels
        else:
            assert "lace-up shoes" in labels
            for item in work.objects:
                assert item.label != "coat" or item.attributes["neckline"] == (NOT_VISIBLE,)
    assert parts == {"upper", "lower"}


# -- whole pictures ----------------------------------------------------------------------------------------


def test_a_counterfactual_is_a_function_of_its_generator() -> None:
    photo, others = drawn(), [drawn("0002", light=0.7), drawn("0003", ground=(90, 90, 120))]
    done = set()
    for seed in range(24):
        image, record = counterfactual(photo, random.Random(seed), others)
        assert record.image_size == (image.height, image.width)
        assert record.groups["original"] == "0001"
        done |= set(record.groups["counterfactual"].split("+"))
        for item in record.objects:
            assert item.box is not None and item.box.clip(record.image_size) == item.box
        assert "A black coat." not in {caption.text for caption in record.captions}
        if seed < 3:
            again, same = counterfactual(photo, random.Random(seed), others)
            assert same == record
            assert again.tobytes() == image.tobytes()
    assert {"recolour", "pattern", "background", "crop", "occlusion"} <= done


def test_validation_photos_are_refused() -> None:
    photo = drawn()
    held_back = replace(photo, record=replace(photo.record, split="validation"))
    with pytest.raises(ValueError, match="photo 0001 is of the split 'validation'; use training photos only"):
        counterfactual(held_back, random.Random(0), [])
    with pytest.raises(ValueError, match="use training photos only"):
        counterfactual(photo, random.Random(0), [held_back])


def test_a_photo_must_fit_together() -> None:
    photo = drawn()
    with pytest.raises(ValueError, match="2 sources for 3 objects"):
        replace(photo, sources=("coat", "pants"))
    with pytest.raises(ValueError, match="unknown mask label 'cote'"):
        replace(photo, sources=("cote", "pants", None))
    with pytest.raises(ValueError, match="expected the same height and width"):
        replace(photo, pixels=photo.pixels[:-1])


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three drawn photos instead of ccp's."""
    photos = {str(number): drawn(f"000{number}", light=0.7 + 0.2 * number) for number in range(3)}
    listed = [(photo.record, photo.sources, Path(name)) for name, photo in photos.items()]
    monkeypatch.setattr(counterfactual_module, "masked_photos", lambda root: listed)
    monkeypatch.setattr(counterfactual_module, "photo_labels", lambda: LABELS)
    monkeypatch.setattr(counterfactual_module, "open_masked", lambda record, sources, mask, *_: photos[str(mask)])


@pytest.mark.usefixtures("three")
def test_written_folders_are_resumed_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counterfactual_module, "SHARD", 4)
    assert write_counterfactuals(tmp_path / "a", seed=1, num=6) == 6
    assert write_counterfactuals(tmp_path / "a", seed=1, num=6) == 0
    rows = [json.loads(line) for file in sorted((tmp_path / "a").glob("*.jsonl")) for line in file.open()]
    assert [row["id"] for row in rows] == [f"counterfactual-1-{number:06d}" for number in range(6)]
    for record in read(tmp_path / "a"):
        with Image.open(record.image) as image:
            assert (image.height, image.width) == record.image_size
        assert record.split == "train"
    # Number 4 does not depend on what was made before it.
    assert write_counterfactuals(tmp_path / "b", seed=1, num=4) == 4
    assert write_counterfactuals(tmp_path / "b", seed=1, num=5) == 1
    name = "images/counterfactual-1-000004.jpg"
    assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    assert not list((tmp_path / "a").rglob("*.tmp"))


@pytest.mark.usefixtures("three")
def test_a_folder_holds_one_seed_and_size(tmp_path: Path) -> None:
    write_counterfactuals(tmp_path, seed=1, num=1)
    with pytest.raises(ValueError, match="choose another folder"):
        write_counterfactuals(tmp_path, seed=2, num=1)
    with pytest.raises(ValueError, match="num=0"):
        write_counterfactuals(tmp_path, seed=1, num=0)


def test_real_photos_are_of_the_training_split() -> None:
    try:
        listed = masked_photos(data_root())
    except FileNotFoundError:
        pytest.skip("the photos are not on this machine")
    assert len(listed) == 556
    assert {record.split for record, _, _ in listed} == {"train"}
    record, sources, mask = listed[1]
    photo = open_masked(record, sources, mask, photo_labels(), 128)
    assert max(photo.label_map.shape) == 128
    image, made = counterfactual(photo, random.Random(0), [photo])
    assert made.objects
    assert image.size == made.image_size[::-1]
