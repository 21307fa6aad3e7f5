"""Images in: path, URL, bytes, PIL.Image or numpy, always out as an upright RGB PIL.Image.

Whatever is wrong with a source is a `ValueError` that names it, so that a batch over a folder can
report the one bad photo and go on.
"""

from __future__ import annotations

import io
import os
import struct
import time
import urllib.error
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

__all__ = ["MAX_BYTES", "MAX_PIXELS", "URL_TIMEOUT", "ImageSource", "is_url", "open_image", "source_name"]

ImageSource = str | os.PathLike[str] | bytes | Image.Image | np.ndarray
"""What a caller may give as an image."""

MAX_PIXELS = 178_956_970  # where Pillow itself refuses; checked here too because callers switch Pillow's check off
MAX_BYTES = 64 * 2**20
URL_TIMEOUT = 20.0

# Closed list: Pillow would also open EPS, which starts Ghostscript, and formats nobody takes photos in.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's decoders raise on damaged files.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, struct.error, zlib.error)


def is_url(source: object) -> bool:
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def source_name(source: object) -> str:
    """How errors call a source: its path or URL, or its kind where it has no name."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, bytes):
        return f"image bytes ({len(source)} bytes)"
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or "PIL image"
    if isinstance(source, np.ndarray):
        return f"numpy image {source.shape}"
    return f"object of type {type(source).__name__}"


def open_image(source: ImageSource) -> Image.Image:
    """Open any image source as RGB, upright by its EXIF orientation, transparency laid on white.

    A path may use `~`. URLs are fetched over http(s) only, at most `MAX_BYTES` within `URL_TIMEOUT` seconds.

    Raises:
        ValueError: naming the source: missing, a folder, not an image, truncated, zero-size, animated,
            over `MAX_PIXELS`, a URL that cannot be fetched, or an array that is not HxWx3 uint8.
    """
    name = source_name(source)
    if isinstance(source, Image.Image):
        return _to_rgb(source, name)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(source), name)
    if is_url(source):
        return _from_bytes(_fetch(str(source)), name)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(source, name)
    raise ValueError(f"{name}: cannot be read as an image; give a path, URL, bytes, PIL.Image or numpy HxWx3 uint8")


def _from_path(source: str | os.PathLike[str], name: str) -> Image.Image:
    if "://" in name:
        raise ValueError(f"{name}: only http:// and https:// URLs are fetched; for a local file give its path")
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            raise ValueError(f"{name}: is a folder; give one image file")
        if not path.exists():
            raise ValueError(f"{name}: no such file")
        if not path.is_file():
            raise ValueError(f"{name}: is not a regular file; give an image file")
        with path.open("rb") as file:
            return _decode(file, name)
    except OSError as error:
        raise ValueError(f"{name}: cannot be read: {error.strerror or error}") from error


def _from_bytes(data: bytes, name: str) -> Image.Image:
    if not data:
        raise ValueError(f"{name}: is empty (0 bytes); expected an encoded image")
    return _decode(io.BytesIO(data), name)


def _from_array(array: np.ndarray) -> Image.Image:
    name = source_name(array)
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"{name}: expected shape (height, width, 3), channels last, RGB")
    if array.dtype != np.uint8:
        raise ValueError(
            f"{name}: has dtype {array.dtype}; expected uint8 in 0..255 (from 0..1: (x * 255).round().astype('uint8'))"
        )
    if 0 in array.shape:
        raise ValueError(f"{name}: has zero size")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), name)


def _decode(file: Any, name: str) -> Image.Image:
    Image.init()  # registers the plug-ins, so that a closed list can name the optional ones
    file.seek(0, os.SEEK_END)
    if file.tell() == 0:
        raise ValueError(f"{name}: is empty (0 bytes); expected an encoded image")
    file.seek(0)
    try:
        image = Image.open(file, formats=[kind for kind in _FORMATS if kind in Image.OPEN])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{name}: is not an image of a known format ({', '.join(_FORMATS)}), or is damaged") from error
    except _DAMAGE as error:
        raise ValueError(f"{name}: is damaged: {error}") from error
    return _to_rgb(_decoded_faster(image, file), name)


def _decoded_faster(image: Image.Image, file: Any) -> Image.Image:
    """A JPEG in colour with its pixels, by simplejpeg where it is installed: those that Pillow gives, in half the time
    (benchmarks/scaling.py). All else, and what is damaged, is left to Pillow, which says what is wrong."""
    if simplejpeg is None or image.format != "JPEG" or image.mode != "RGB":
        return image
    if image.width * image.height > MAX_PIXELS:
        return image
    file.seek(0)
    try:
        decoded = Image.fromarray(simplejpeg.decode_jpeg(file.read(), colorspace="RGB"))
    except ValueError:
        return image
    if "exif" in image.info:  # with the orientation
        decoded.info["exif"] = image.info["exif"]
    return decoded


def _too_large(name: str, detail: str) -> ValueError:
    return ValueError(f"{name}: is too large ({detail}); at most {MAX_PIXELS} pixels, so scale it down first")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width == 0 or height == 0:
        raise ValueError(f"{name}: has zero size ({width} x {height})")
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width} x {height} pixels")
    try:
        # MPO is a still with extra pictures (depth, preview) that phones write; its first frame is the photo.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames == 1:
            image.load()
            orientation = _orientation(image)
            rgb = _flatten(image, name)
    except _DAMAGE as error:
        if str(error).startswith(name):
            raise
        raise ValueError(f"{name}: is damaged or truncated: {error}") from error
    if frames > 1:
        raise ValueError(f"{name}: has {frames} frames (animated or several pages); give one still image")
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION_TAG)
    except _DAMAGE:  # a broken EXIF block says nothing about the pixels, so the photo stays as stored
        return None


def _flatten(image: Image.Image, name: str) -> Image.Image:
    """RGB without transparency. A fresh image: the caller's is never changed, and no file stays open."""
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        # convert("RGB") would clip 16-bit grey to white instead of scaling it
        grey = np.asarray(image)
        if image.mode == "F" or grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"{name}: has pixel mode {image.mode}; expected 8- or 16-bit grey or colour")
        return Image.fromarray((grey.astype(np.uint32) // 257).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        backdrop = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(backdrop, layer).convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _fetch(url: str) -> bytes:
    # Built by hand: the default opener also follows redirects to ftp:, file: and data:.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    deadline = time.monotonic() + URL_TIMEOUT  # the socket's own timeout restarts with every packet
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "vlm"})
        with opener.open(request, timeout=URL_TIMEOUT) as response:
            data = bytearray()
            while chunk := response.read(1 << 16):
                data += chunk
                if len(data) > MAX_BYTES:
                    raise ValueError(f"{url}: is larger than {MAX_BYTES // 2**20} MiB; download and shrink it first")
                if time.monotonic() > deadline:
                    raise ValueError(f"{url}: took longer than {URL_TIMEOUT:g} s; download it first and give the path")
            return bytes(data)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{url}: the server answered {error.code} {error.reason}") from error
    except (HTTPException, UnicodeError, OSError) as error:  # URLError and timeouts are OSErrors
        raise ValueError(f"{url}: cannot be fetched: {getattr(error, 'reason', None) or error}") from error
