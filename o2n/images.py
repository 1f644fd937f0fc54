"""Bytes -> a checked RGB picture. The only place that decodes anything untrusted.

What is converted, so that a picture is scored as people see it: EXIF orientation is applied; grey, palette, 1-bit and
CMYK become RGB; transparency is laid over white; 16 bits become 8; of a phone's multi-picture JPEG the first counts.
Colour profiles are not applied. What is refused: animations and multi-page files, floating-point pixels, anything
under 16 pixels a side, over 50 million pixels or over 32 MiB, JPEGs of over 100 scans, and whatever does not decode to
its end.
"""

import hashlib
import io
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from o2n.errors import PictureError, cause_of

Picture = NDArray[np.uint8]  # (H, W, 3), RGB

MAX_BYTES = 32 << 20
MAX_PIXELS = 50_000_000
MIN_SIDE = 16
# Each scan of a progressive JPEG, however short, is a pass over all its pixels; encoders make some ten.
MAX_SCANS = 100
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
# Of files that are taken for pictures. Those of formats that are not read are among them: who has such pictures is to
# hear of it, not to miss them. A camera's raw files are not: they lie beside pictures, and decode to a thumbnail.
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".ppm", ".pgm"),
)
# The markers that a length follows. Among compressed data 0xFF is followed by 0, or by one that has none.
_JPEG_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")


def decode(data: bytes, name: str = "picture") -> Picture:
    """Decode and check a picture; safe to call from several threads.

    Args: data: the bytes of a file in one of `FORMATS`; name: how errors call it.
    Returns: uint8 (H, W, 3), RGB.

    Raises:
        PictureError: it does not decode, or is refused (see the top of this file).
    """
    if not data:
        raise PictureError(f"{name}: is empty: send the bytes of a picture")
    if len(data) > MAX_BYTES:
        raise PictureError(f"{name}: is over {MAX_BYTES >> 20} MiB: send a smaller file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_header(image, data, name)
            return _to_rgb(image, name)
    except PictureError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(name) from None
    except UnidentifiedImageError:
        raise PictureError(f"{name}: is no picture of a format that is read: send {', '.join(FORMATS)}") from None
    except Exception as error:  # on malformed bytes Pillow's decoders raise half of Python's exceptions
        raise PictureError(
            f"{name}: cannot be decoded ({cause_of(error)}): it is damaged or incomplete, send it anew"
        ) from None


def read(path: Path) -> Picture:
    """Decode and check the picture in a file; see `decode` and `read_bytes`."""
    return decode(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of a picture's file; of one that is too large only as many as show it.

    Raises:
        PictureError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        cause = getattr(error, "strerror", None) or error
        raise PictureError(f"{path}: cannot be read ({cause}): check the path and its permissions") from None


def find(folder: Path) -> list[Path]:
    """The files directly in `folder` with the suffix of a picture, hidden ones left out, sorted by name.

    Raises:
        PictureError: the folder cannot be listed.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise PictureError(f"folder {folder}: cannot be listed ({error.strerror}): check the path") from None
    pictures = (path for path in entries if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return [path for path in pictures if not path.is_dir()]


def check_size(width: int, height: int, name: str) -> None:
    """Refuse a picture that is too large or too small.

    Raises:
        PictureError: over `MAX_PIXELS`, or under `MIN_SIDE` a side.
    """
    if width * height > MAX_PIXELS:
        raise _too_large(name, f" ({width}×{height})")
    if min(width, height) < MIN_SIDE:
        raise PictureError(f"{name}: is {width}×{height} pixels: at least {MIN_SIDE} a side are needed")


def resize(picture: Picture, side: int) -> Picture:
    """Bring a picture to (side, side), bicubic, its proportions given up; the same array if it is that size."""
    if picture.shape[:2] == (side, side):
        return picture
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))


def fit(picture: Picture, longest: int) -> Picture:
    """Scale a picture down, its proportions kept, until no side is over `longest`; the same array if none is."""
    if max(picture.shape[:2]) <= longest:
        return picture
    image = Image.fromarray(picture)
    image.thumbnail((longest, longest))
    return np.array(image)


def digest(picture: Picture) -> str:
    """SHA-256 of a picture's size and pixels, in hex: equal for equal pictures, whatever file they came from."""
    return hashlib.sha256(repr(picture.shape).encode() + np.ascontiguousarray(picture).tobytes()).hexdigest()


def encode_png(picture: Picture) -> bytes:
    """A picture as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def _check_header(image: Image.Image, data: bytes, name: str) -> None:
    """Refuse by what the header says, before any pixel is decoded."""
    check_size(*image.size, name)
    # A phone's MPO holds the same view again, for depth or a preview. Not `n_frames`: of a TIFF that reads all pages,
    # in a time that grows with their square.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise PictureError(f"{name}: is an animation or has several pages: send one still picture")
    if image.format in ("JPEG", "MPO") and _scans(data) > MAX_SCANS:
        raise PictureError(f"{name}: is a JPEG of over {MAX_SCANS} scans: save it anew")


def _scans(data: bytes) -> int:
    """How many scans a JPEG has until its end, at most one over `MAX_SCANS`; what its segments hold is skipped, such as
    a thumbnail with scans of its own, and so is what follows it, such as a film."""
    scans = at = 0
    while scans <= MAX_SCANS and (marker := _JPEG_MARKER.search(data, at)) and marker[1] != b"\xd9":
        scans += marker[1] == b"\xda"
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return scans


def _too_large(name: str, size: str = "") -> PictureError:
    return PictureError(f"{name}: has over {MAX_PIXELS // 1_000_000} million pixels{size}: scale it down")


def _to_rgb(image: Image.Image, name: str) -> Picture:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        upright = _to_8_bits(upright, name)
    elif upright.has_transparency_data:
        seen_through = upright.convert("RGBA")
        upright = Image.new("RGBA", upright.size, "white")
        upright.alpha_composite(seen_through)
    return np.array(upright.convert("RGB"))


def _to_8_bits(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise PictureError(f"{name}: has pixels of mode {image.mode}, not 8 or 16 bits: convert it to 8 bits")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
