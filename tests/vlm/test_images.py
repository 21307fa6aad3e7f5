"""Every kind of source opens the same pixels; every kind of damage is an error that names the file."""

from __future__ import annotations

import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm import images
from vlm.images import open_image


def photo(width: int = 20, height: int = 30) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "photo.png").write_bytes(encoded(photo()))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, directory=str(tmp_path / "served"), **kwargs)  # type: ignore[arg-type, misc]

        def do_GET(self) -> None:
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", "file:///etc/hostname")
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *args: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()


def test_all_sources_give_the_same_pixels(tmp_path: Path, server: str) -> None:
    image = photo()
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(image))
    sources = [path, str(path), path.read_bytes(), image, np.asarray(image), f"{server}/photo.png"]
    for source in sources:
        opened = open_image(source)
        assert opened.mode == "RGB"
        assert np.array_equal(np.asarray(opened), np.asarray(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), exif=exif)
    with Image.open(io.BytesIO(data)) as raw:
        expected = ImageOps.exif_transpose(raw)
    assert np.array_equal(np.asarray(open_image(data)), np.asarray(expected))
    assert open_image(data).size == ((20, 30) if orientation <= 4 else (30, 20))


def test_transparency_lies_on_white_and_the_source_is_untouched() -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert open_image(image).getpixel((0, 0)) == (255, 255, 255)
    assert image.mode == "RGBA"
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert open_image(encoded(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.full((4, 4), 32896, dtype=np.uint16))
    assert open_image(encoded(grey)).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    image = photo().convert("RGB").convert("L").convert("LA") if mode == "LA" else None
    image = image or (photo() if mode == "LAB" else photo().convert(mode))
    assert open_image(image).mode == "RGB"


def test_a_phone_still_with_extra_pictures_opens_as_its_first_frame() -> None:
    data = encoded(photo(), "MPO", save_all=True, append_images=[photo(8, 8)])
    assert open_image(data).size == (20, 30)


def broken_files(folder: Path) -> dict[str, str]:
    """file name -> words its error must hold."""
    good = encoded(photo(200, 200))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    (folder / "cut.png").write_bytes(good[: len(good) // 2])
    (folder / "cut.jpg").write_bytes(encoded(photo(200, 200), "JPEG")[:2000])
    (folder / "head.png").write_bytes(good[:20])
    (folder / "moving.gif").write_bytes(
        encoded(photo(), "GIF", save_all=True, append_images=[photo(20, 30).rotate(90)])
    )
    (folder / "drawing.eps").write_bytes(encoded(photo(), "EPS"))
    (folder / "folder.jpg").mkdir()
    return {
        "empty.jpg": "empty",
        "text.jpg": "not an image",
        "cut.png": "damaged",
        "cut.jpg": "damaged",
        "head.png": "damaged",
        "moving.gif": "2 frames",
        "drawing.eps": "not an image",
        "folder.jpg": "folder",
        "missing.jpg": "no such file",
    }


def test_bad_files_are_named(tmp_path: Path) -> None:
    for name, words in broken_files(tmp_path).items():
        with pytest.raises(ValueError, match=words) as error:
            open_image(tmp_path / name)
        assert name in str(error.value)


def test_decompression_bomb_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    for pillow_limit in (Image.MAX_IMAGE_PIXELS, None):  # callers do switch Pillow's own check off
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
        with pytest.raises(ValueError, match=r"bomb\.png: is too large"):
            open_image(path)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 5), np.uint8), "channels last"),
        (np.zeros((3, 4, 5), np.uint8), "channels last"),
        (np.zeros((4, 5, 4), np.uint8), "channels last"),
        (np.zeros((4, 5, 3), np.float32), "float32"),
        (np.zeros((0, 5, 3), np.uint8), "zero size"),
    ],
)
def test_bad_arrays(array: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        open_image(array)


@pytest.mark.parametrize("source", [None, 5, [1, 2]])
def test_other_objects_are_refused(source: object) -> None:
    with pytest.raises(ValueError, match="give a path, URL, bytes"):
        open_image(source)  # type: ignore[arg-type]


def test_zero_size_and_float_pil_images() -> None:
    with pytest.raises(ValueError, match="zero size"):
        open_image(Image.new("RGB", (0, 5)))
    with pytest.raises(ValueError, match="pixel mode F"):
        open_image(Image.new("F", (5, 5)))


def test_urls(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="404"):
        open_image(f"{server}/missing.png")
    with pytest.raises(ValueError, match=r"/away: "):  # a redirect to a local file is not followed
        open_image(f"{server}/away")
    with pytest.raises(ValueError, match="only http"):
        open_image("file:///etc/hostname")
    with pytest.raises(ValueError, match="cannot be fetched"):
        open_image("http://127.0.0.1:1/photo.png")
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="larger than"):
        open_image(f"{server}/photo.png")


@pytest.mark.parametrize(
    "options",
    [{}, {"subsampling": 0}, {"subsampling": 1, "quality": 30}, {"progressive": True}, {"icc_profile": b"none"}],
    ids=str,
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_faster_decoder_gives_the_same_pixels(
    options: dict[str, object], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("simplejpeg")
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth = photo(40, 60).resize((123, 87)).convert(mode)
    data = encoded(smooth, "JPEG", exif=exif, **options)
    found = open_image(data)
    with monkeypatch.context() as patch:
        patch.setattr(images, "simplejpeg", None)
        expected = open_image(data)
    assert found.size == (87, 123)
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_the_faster_decoder_leaves_damage_to_pillow() -> None:
    pytest.importorskip("simplejpeg")
    data = encoded(photo(64, 64), "JPEG")[:-200]
    with pytest.raises(ValueError, match="is damaged or truncated"):
        open_image(data)
