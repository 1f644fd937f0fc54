"""Bytes -> a checked RGB picture: what is converted, what is refused and how it is said."""

import errno
import io
import os
import re
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, TiffImagePlugin

from o2n.errors import PictureError
from o2n.images import FORMATS, MAX_BYTES, MIN_SIDE, decode, digest, encode_png, find, fit, read, resize

LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}
# Small files of every kind that is read, to damage.
KINDS = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_deflate"}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("GIF", {}),
]


def noise(height: int = 24, width: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(picture: np.ndarray | Image.Image, format: str, **options) -> bytes:  # noqa: A002
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def refusal(data: bytes) -> str:
    with pytest.raises(PictureError) as raised:
        decode(data, "part 7.png")
    message = str(raised.value)
    assert message.startswith("part 7.png: ")
    assert len(message.splitlines()) == 1
    return message


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def one_bit_png(width: int, height: int, pixels: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def zeros_deflated(count: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range((count >> 20) + 1)) + packer.flush()


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_keep_every_pixel(kind):
    np.testing.assert_array_equal(decode(encoded(noise(), kind, **LOSSLESS[kind])), noise())


def test_every_promised_format_is_read():
    flat = np.full((18, 22, 3), (200, 100, 50), np.uint8)
    for kind in FORMATS:
        picture = decode(encoded(flat, kind))
        assert (picture.shape, picture.dtype) == (flat.shape, np.uint8)
        assert np.abs(picture.astype(int) - flat).max() <= 4, kind


def test_a_decoded_picture_is_its_own_writable_memory():
    data = encoded(noise(), "BMP")
    decode(data)[:] = 0
    np.testing.assert_array_equal(decode(data), noise())


def test_of_a_phones_multi_picture_jpeg_the_first_counts():
    first, second = (Image.new("RGB", (20, 24), colour) for colour in ("red", "blue"))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert b"MPF\0" in data
    np.testing.assert_array_equal(decode(data), decode(encoded(first, "JPEG")))


@pytest.mark.parametrize("data", [b"no picture at all", bytes(1000), b"%PDF-1.7\n", b"\x89PNG\r\n\x1a\n", b"<svg/>"])
def test_what_is_no_picture_is_refused(data):
    assert "send" in refusal(data)


def test_formats_beyond_the_promised_ones_are_refused():
    for kind in ("PPM", "ICO", "PCX", "TGA"):
        assert "no picture of a format that is read" in refusal(encoded(noise(), kind))


def test_nothing_at_all_is_refused():
    assert "is empty" in refusal(b"")


def test_a_name_of_several_lines_still_gives_one_line():
    with pytest.raises(PictureError) as raised:
        decode(b"", "a\nb\r\n.png")
    assert str(raised.value).startswith("a b .png: ")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_file_cut_short_is_refused_unless_no_pixel_is_missing(kind, options):
    whole = encoded(noise(), kind, **options)
    picture = decode(whole)
    for length in range(1, len(whole), 13):
        try:
            found = decode(whole[:length])
        except PictureError:
            continue
        np.testing.assert_array_equal(found, picture)
    for percent in (1, 10, 50, 90):
        refusal(whole[: len(whole) * percent // 100])


def picture_or_refusal(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture, message = decode(data, "part 7.png"), ""
        except PictureError as error:
            picture, message = None, str(error)
    if picture is None:
        assert message.startswith("part 7.png: ")
        assert len(message.splitlines()) == 1
    else:
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        assert min(picture.shape[:2]) >= MIN_SIDE


MAGICS = [encoded(noise(), kind, **options)[:12] for kind, options in KINDS]
SMALL = [encoded(noise(), kind, **options) for kind, options in KINDS]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([b"", *MAGICS]), st.binary(max_size=400))
def test_random_bytes_give_a_picture_or_a_refusal(magic, rest):
    picture_or_refusal(magic + rest)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(SMALL), st.data())
def test_damage_gives_a_picture_or_a_refusal(whole, data):
    damaged = bytearray(whole)
    # Half of the damage goes to the first bytes, because that is where headers are.
    place = st.integers(0, 63) | st.integers(0, len(whole) - 1)
    for where, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=4)):
        damaged[where] = value
    cut = data.draw(st.none() | st.integers(0, len(whole)))
    picture_or_refusal(bytes(damaged[:cut]))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_and_several_pages_are_refused(kind):
    frames = [Image.fromarray(noise(seed=seed)) for seed in range(3)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3
    assert "animation or has several pages" in refusal(data)


def test_pages_are_not_counted(monkeypatch):
    """A few megabytes can hold a hundred thousand, and keep a decoder busy for an hour."""
    page = Image.fromarray(noise())
    data, read = encoded(page, "TIFF", save_all=True, append_images=[page] * 20), []
    load = TiffImagePlugin.ImageFileDirectory_v2.load
    monkeypatch.setattr(
        TiffImagePlugin.ImageFileDirectory_v2, "load", lambda self, file: (read.append(1), load(self, file))
    )
    assert "several pages" in refusal(data)
    assert len(read) < 5


def test_a_gif_of_one_picture_is_accepted():
    levels = np.repeat((np.arange(24 * 20) % 7 * 40).reshape(24, 20, 1).astype(np.uint8), 3, axis=2)
    np.testing.assert_array_equal(decode(encoded(levels, "GIF")), levels)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight_in_proportion(kind):
    values = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    picture = decode(encoded(values, kind))
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[-1, -1].tolist() == [255, 255, 255]
    assert np.abs(picture - (values / 65535 * 255)[..., None]).max() <= 1


def test_big_endian_sixteen_bits_are_the_same():
    values = np.arange(1 << 16, dtype=">u2").reshape(256, 256)
    image = Image.frombytes("I;16B", (256, 256), values.tobytes())
    np.testing.assert_array_equal(decode(encoded(image, "TIFF")), decode(encoded(values.astype("<u2"), "TIFF")))


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(0, 1, 20 * 24).reshape(24, 20).astype(np.float32),
        np.full((24, 20), 65536, np.int32),
        np.full((24, 20), -1, np.int32),
    ],
    ids=["float", "too large", "negative"],
)
def test_pixels_that_are_not_eight_or_sixteen_bits_are_refused(values):
    assert "not 8 or 16 bits" in refusal(encoded(values, "TIFF"))


@pytest.mark.parametrize(("cmyk", "rgb"), [((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 0), (255, 255, 255))])
def test_cmyk_becomes_rgb(cmyk, rgb):
    data = encoded(Image.new("CMYK", (20, 24), cmyk), "JPEG", quality=100)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "CMYK"
    assert np.abs(decode(data).astype(int) - rgb).max() <= 4


def test_grey_and_one_bit_become_rgb():
    grey = noise()[..., 0]
    np.testing.assert_array_equal(decode(encoded(grey, "PNG")), np.stack([grey] * 3, axis=2))
    bits = grey > 127
    expected = np.stack([bits * np.uint8(255)] * 3, axis=2)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(bits), "PNG")), expected)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_rgba_is_laid_over_white(kind):
    alpha = np.tile(np.linspace(0, 255, 20).round().astype(np.uint8), (24, 1))
    data = encoded(
        Image.fromarray(np.dstack([noise(), alpha])),
        kind,
        **LOSSLESS[kind],
        **({"exact": True} if kind == "WEBP" else {}),
    )
    share = alpha[..., None] / 255
    picture = decode(data)
    assert np.abs(picture - (noise() * share + 255 * (1 - share))).max() <= 1
    assert (picture[:, 0] == 255).all()
    np.testing.assert_array_equal(picture[:, -1], noise()[:, -1])


def test_grey_with_alpha_is_laid_over_white():
    grey, alpha = noise()[..., 0], noise()[..., 1]
    picture = decode(encoded(Image.fromarray(np.dstack([grey, alpha])), "PNG"))
    share = alpha / 255
    assert np.abs(picture - (grey * share + 255 * (1 - share))[..., None]).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_laid_over_white(kind):
    image = Image.new("P", (20, 24), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.paste(0, (0, 0, 10, 24))
    picture = decode(encoded(image, kind, transparency=0))
    assert (picture[:, :10] == 255).all()
    assert (picture[:, 10:] == (10, 20, 30)).all()


@pytest.mark.parametrize(("mode", "clear", "solid"), [("RGB", (1, 2, 3), (9, 8, 7)), ("L", 5, 77)])
def test_a_transparent_colour_is_laid_over_white(mode, clear, solid):
    image = Image.new(mode, (20, 24), solid)
    image.paste(clear, (0, 0, 10, 24))
    picture = decode(encoded(image, "PNG", transparency=clear))
    assert (picture[:, :10] == 255).all()
    assert (picture[:, 10:] == solid).all()


# What undoes each orientation of the EXIF standard, as numpy says it.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = LOSSLESS.get(kind, {})
    upright = UPRIGHT[orientation](decode(encoded(noise(), kind, **options)))
    np.testing.assert_array_equal(decode(encoded(noise(), kind, exif=exif, **options)), upright)


@pytest.mark.parametrize("size", [(1, 1), (15, 16), (16, 15), (1, 4000)])
def test_a_picture_too_small_to_score_is_refused(size):
    assert f"is {size[0]}×{size[1]} pixels" in refusal(encoded(Image.new("RGB", size), "PNG"))


def test_the_smallest_picture_is_accepted():
    assert decode(encoded(Image.new("RGB", (MIN_SIDE, MIN_SIDE)), "PNG")).shape == (MIN_SIDE, MIN_SIDE, 3)


@pytest.fixture
def loads(monkeypatch):
    """Counts how often Pillow went on from a header to the pixels."""
    counted = []
    load = ImageFile.ImageFile.load

    def counting(self):
        counted.append(self)
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counting)
    return counted


# The second is under Pillow's own limit, the third is a bomb that decodes.
@pytest.mark.parametrize(
    "data",
    [
        one_bit_png(20_000, 20_000, zlib.compress(bytes(9))),
        one_bit_png(10_000, 5_001, zlib.compress(bytes(9))),
        one_bit_png(20_000, 20_000, zeros_deflated(20_000 * 2_501)),
        one_bit_png(2**31 - 1, 2**31 - 1, zlib.compress(bytes(9))),
    ],
    ids=["no pixels", "just over the limit", "bomb", "largest header"],
)
def test_too_many_pixels_are_refused_from_the_header(data, loads):
    assert len(data) < 1 << 20
    assert "over 50 million pixels" in refusal(data)
    assert not loads


def test_a_jpeg_whose_header_claims_too_much_is_refused_from_it(loads):
    data = bytearray(encoded(noise(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    assert "over 50 million pixels" in refusal(bytes(data))
    assert not loads


def progressive(scans: int, thumbnail: bytes = b"") -> bytes:
    """A progressive JPEG whose first scan is there so often that it has that many."""
    data = encoded(noise(), "JPEG", progressive=True, exif=b"Exif\0\0" + thumbnail)
    start = data.index(b"\xff\xda", data.index(b"\xff\xc2"))
    end = start + re.search(rb"\xff[\xc0-\xfe]", data[start + 2 :]).start() + 2
    own = data[start:].count(b"\xff\xda")
    return data[:start] + data[start:end] * (scans - own) + data[start:]


def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded(loads):
    """Each is a pass over all pixels: some kilobytes could take minutes."""
    np.testing.assert_array_equal(decode(progressive(100)), decode(progressive(10)))
    loads.clear()
    data = progressive(101)
    assert "is a JPEG of over 100 scans: save it anew" in refusal(data)
    # What a decoder that looks for a restart passes over without its length hides none.
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    assert "over 100 scans" in refusal(data[:second] + b"\xff\x02\xff\xff" + data[second:])
    assert not loads


def test_scans_are_counted_in_the_picture_alone():
    scans = b"\xff\xda" * 200
    picture = progressive(50)
    np.testing.assert_array_equal(decode(progressive(50, scans)), decode(picture))
    np.testing.assert_array_equal(decode(picture + scans), decode(picture))  # as phones append a film


def test_a_file_of_the_most_bytes_is_accepted_and_one_more_is_refused():
    picture = encoded(noise(), "PNG")
    longest = picture + bytes(MAX_BYTES - len(picture))
    np.testing.assert_array_equal(decode(longest), noise())
    assert "over 32 MiB" in refusal(longest + b"\0")


def test_read_gives_what_decode_gives(tmp_path):
    path = tmp_path / "part.png"
    path.write_bytes(encoded(noise(), "PNG"))
    np.testing.assert_array_equal(read(path), noise())


def unreadable(path: Path) -> str:
    with pytest.raises(PictureError) as raised:
        read(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    return message


def test_files_that_cannot_be_read_are_told_by_path_and_cause(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    assert os.strerror(errno.ENOENT) in unreadable(tmp_path / "missing.png")
    assert os.strerror(errno.EISDIR) in unreadable(tmp_path)
    assert os.strerror(errno.ENOTDIR) in unreadable(tmp_path / "text.png" / "part.png")
    assert "no picture" in unreadable(tmp_path / "text.png")


def test_read_refuses_a_file_of_too_many_bytes(tmp_path):
    path = tmp_path / "huge.bmp"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert "over 32 MiB" in unreadable(path)


def test_find_gives_visible_pictures_by_name_and_nothing_else(tmp_path):
    wanted = ["A.PNG", "a.jpg", "b.JpEg", "c.bmp", "d.tif", "e.tiff", "f.webp", "g.gif", "z.png"]
    for name in [*reversed(wanted), ".hidden.png", "._a.jpg", "notes.txt", "png", "a.png.part", "h.svg"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "x.png").touch()
    assert find(tmp_path) == [tmp_path / name for name in wanted]


def test_find_in_an_empty_folder_gives_nothing(tmp_path):
    assert find(tmp_path) == []


def test_find_tells_a_folder_that_cannot_be_listed(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(PictureError) as raised:
            find(folder)
        assert str(folder) in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1


def test_eight_threads_decode_what_one_does():
    files = [encoded(noise(200, 150, seed), kind, **options) for seed, (kind, options) in enumerate(KINDS)]
    alone = [digest(decode(file)) for file in files]
    start = threading.Barrier(8)

    def decode_all(_):
        start.wait()
        return [digest(decode(file)) for file in files]

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(decode_all, range(8))) == [alone] * 8


FIRST_EVER = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from o2n.images import decode
files = [Path(name).read_bytes() for name in sys.argv[1:]]
start = threading.Barrier(len(files))
def first(data):
    start.wait()
    return decode(data).shape
with ThreadPoolExecutor(len(files)) as threads:
    print(set(threads.map(first, files)))
"""


def test_the_first_pictures_of_a_process_may_come_all_at_once(tmp_path):
    # Pillow loads its decoders when it is first used.
    paths = []
    for number in range(8):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(encoded(noise(), FORMATS[number % len(FORMATS)]))
    done = subprocess.run([sys.executable, "-c", FIRST_EVER, *paths], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("{(24, 20, 3)}", "")


@pytest.mark.parametrize(("shape", "fitted"), [((300, 100, 3), (60, 20, 3)), ((40, 60, 3), (40, 60, 3))])
def test_fit_keeps_proportions_and_never_enlarges(shape, fitted):
    assert fit(np.zeros(shape, np.uint8), 60).shape == fitted


def test_resize_leaves_a_picture_of_that_size_alone():
    picture = noise(32, 32)
    assert resize(picture, 32) is picture


@pytest.mark.parametrize("size", [(24, 20), (20, 64), (64, 20), (32, 33), (400, 16)])
def test_resize_gives_a_square_of_the_same_colours(size):
    flat = np.full((*size, 3), (1, 128, 254), np.uint8)
    resized = resize(flat, 32)
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized, flat[:1, :1].repeat(32, 0).repeat(32, 1))


def test_digest_goes_by_pixels_not_by_file():
    whole = digest(noise())
    assert {digest(decode(encoded(noise(), kind, **options))) for kind, options in LOSSLESS.items()} == {whole}
    assert digest(np.asfortranarray(noise())) == whole
    assert digest(noise()[::-1][::-1]) == whole


def test_digest_tells_shapes_and_single_values_apart():
    blank = np.zeros((16, 32, 3), np.uint8)
    dotted = blank.copy()
    dotted[-1, -1, -1] = 1
    assert len({digest(blank), digest(blank.transpose(1, 0, 2)), digest(blank.reshape(8, 64, 3)), digest(dotted)}) == 4


@given(st.integers(16, 40), st.integers(16, 40), st.integers(0, 9))
@example(16, 16, 0)
@settings(max_examples=25, deadline=None)
def test_a_picture_survives_png(height, width, seed):
    np.testing.assert_array_equal(decode(encode_png(noise(height, width, seed))), noise(height, width, seed))


@pytest.mark.filterwarnings("ignore")  # Pillow's, at damaged TIFF files
def test_ten_thousand_damaged_files_are_pictures_or_refused():
    rng = np.random.default_rng(3)
    whole = [encoded(noise(), kind, **options) for kind, options in KINDS]
    refused = 0
    for index in range(10_000):
        data = bytearray(whole[index % len(whole)])
        damage = index % 4
        if damage == 0:  # bytes changed
            for place in rng.integers(len(data), size=rng.integers(1, 16)):
                data[place] = rng.integers(256)
        elif damage == 1:  # the end missing
            del data[rng.integers(len(data)) :]
        elif damage == 2:  # a part of another file, or of another kind, put in
            start, other = rng.integers(len(data)), whole[rng.integers(len(whole))]
            data[start : start + rng.integers(64)] = other[: rng.integers(64)]
        else:  # only the beginning is what it says
            data[rng.integers(4, 24) :] = rng.bytes(rng.integers(200))
        try:
            picture = decode(bytes(data))
        except PictureError:
            refused += 1
        else:
            assert picture.dtype == np.uint8
            assert picture.ndim == 3
    assert refused > 5_000
