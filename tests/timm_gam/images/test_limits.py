"""Small files that ask for hours and gigabytes, made here; each is refused in one line, and nothing else is."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.timm_gam.images.test_decoding import chunk, encoded
from timm_gam.core import UnreadableImageError, silent_libraries
from timm_gam.images import DecodeLimits, load_image
from timm_gam.images.bombs import count_scans

GREY = Image.new("L", (2000, 2000), 77)


def scan_bomb(scans: int, side: int = 2000, progressive: bool = True) -> bytes:
    """A JPEG whose last scan is repeated: each is a dozen bytes and costs a pass over all pixels."""
    data = encoded(Image.new("L" if progressive else "RGB", (side, side), 77), "JPEG", progressive=progressive)
    if not progressive:
        data = one_component_scans(data)
    last = data.rindex(b"\xff\xda")
    while data[last - 2 - data[last - 1] :][:2] == b"\xff\xc4":
        last -= 2
    return data[:-2] + data[last:-2] * (scans - count_scans(data)) + b"\xff\xd9"


def one_component_scans(data: bytes) -> bytes:
    """A baseline JPEG whose only scan holds the first component alone, and nothing but a few bits of it."""
    place = data.index(b"\xff\xda")
    return data[:place] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + b"\x00\x00" + b"\xff\xd9"


def grey_16(side: int) -> bytes:
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(b"\0" + b"\x9c\x40" * side) for _ in range(side)) + rows.flush()
    header = side.to_bytes(4, "big") * 2 + bytes([16, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("progressive", [True, False], ids=["progressive", "one component a scan"])
def test_scan_bomb(progressive: bool) -> None:
    data = scan_bomb(500, progressive=progressive)
    assert len(data) < 50_000
    with pytest.raises(UnreadableImageError, match=r"'x': a JPEG of 500 scans, 100 are decoded; --max-scans allows"):
        load_image(data, "x")
    small = scan_bomb(101, side=64, progressive=progressive)
    assert load_image(small, "x", limits=DecodeLimits(scans=101))[0].size == (64, 64)


def test_scans_of_thumbnails_and_of_pictures_behind_do_not_count() -> None:
    thumbnail = encoded(GREY.resize((32, 32)), "JPEG", progressive=True)
    data = encoded(GREY, "JPEG", progressive=True)
    with_thumbnail = data[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + data[2:] + data
    assert with_thumbnail.count(b"\xff\xda") == 2 * count_scans(data) + count_scans(thumbnail)
    assert count_scans(with_thumbnail) == count_scans(data)
    load_image(with_thumbnail, "x", limits=DecodeLimits(scans=count_scans(data)))


def test_time() -> None:
    bomb = scan_bomb(1000, side=3000)
    with pytest.raises(UnreadableImageError, match="'x': more than 0.05 s to decode it; --max-decode-seconds allows"):
        load_image(bomb, "x", limits=DecodeLimits(scans=10_000, seconds=0.05))
    chunks = b"".join(chunk(b"tEXt", b"k\0v") for _ in range(80_000))  # in the header of a PNG, read one by one
    picture = encoded(GREY)
    with pytest.raises(UnreadableImageError, match="more than 0.02 s"):
        load_image(picture[:33] + chunks + picture[33:], "x", limits=DecodeLimits(seconds=0.02))


@pytest.mark.parametrize(
    ("data", "needed"),
    [
        (encoded(GREY, "PNG"), 19),  # grey and RGB: 5 bytes a pixel
        (grey_16(2000), 27),  # 2, 1 and 4
        (encoded(GREY, "JPEG", progressive=True), 19),  # 1, and 4 once its 2 of coefficients are gone
        (encoded(GREY.convert("CMYK"), "JPEG", progressive=True), 45),  # 4, and 8 of coefficients
        (encoded(GREY.convert("RGBA"), "TIFF"), 31 + 15),
    ],
    ids=["grey", "16-bit grey", "progressive", "progressive CMYK", "RGBA TIFF"],
)
def test_memory(data: bytes, needed: int) -> None:
    with pytest.raises(UnreadableImageError, match=r"'x': (\d+) MB to decode it, 3 MB are given; --max-decode-mb"):
        load_image(data, "x", limits=DecodeLimits(megabytes=3))
    with pytest.raises(UnreadableImageError) as error:
        load_image(data, "x", limits=DecodeLimits(megabytes=16))
    said = int(re.findall(r"(\d+) MB to", str(error.value))[0])
    assert said in (needed, needed + 1)
    assert load_image(data, "x", limits=DecodeLimits(megabytes=said + 1))[0].size == GREY.size


def test_a_tiff_tile_larger_than_its_image() -> None:
    tags = {256: 64, 257: 64, 258: 8, 259: 5, 262: 1, 277: 1, 322: 40_000, 323: 40_000, 324: 8, 325: 8}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    with pytest.raises(UnreadableImageError, match=r"'x': 1,526 MB to decode it"):
        load_image(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4), "x")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    with file.open("wb") as out:
        out.truncate(2**33)  # takes no room on the disk
    with pytest.raises(UnreadableImageError, match="'x': a file of 8,192 MB to decode it, 1,024 MB are given"):
        load_image(file, "x")


@pytest.mark.skipif(sys.platform == "win32", reason="has no such count of memory")
def test_memory_of_16_bit_grey_stays_near_the_decoded_size(tmp_path: Path) -> None:
    """25 megapixels: 175 MB decoded; an int64 copy would take 200 MB more, and numpy's own another 100."""
    (tmp_path / "x.png").write_bytes(grey_16(5000))
    program = """
import resource, sys
from pathlib import Path
from timm_gam.images.decoding import load_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image, _ = load_image(Path(sys.argv[1]), "x")
assert image.getpixel((4999, 4999)) == (156, 156, 156)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    # A shell between: a process counts the peak of whoever started it as its own.
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", program, str(tmp_path / "x.png")]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    kilobytes = int(out.stdout) // (1024 if sys.platform == "darwin" else 1)
    assert 25 * 6 * 1000 < kilobytes < 25 * 9 * 1000


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_bands_equal_the_whole(order: str) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (1300, 1111)).astype("<u2")
    data = io.BytesIO()
    image = Image.fromarray(values)
    (image if order == "<" else image.convert("I").convert("I;16B")).save(data, "TIFF")
    rgb, _ = load_image(data.getvalue(), "x")
    assert np.array_equal(np.asarray(rgb)[..., 1], values >> 8)


def test_a_jpeg_with_a_second_picture_behind_it() -> None:
    first, second = (Image.new("RGB", (32, 24), colour) for colour in ((250, 0, 0), (0, 250, 0)))
    rgb, _ = load_image(encoded(first, "MPO", save_all=True, append_images=[second]), "x")
    assert rgb.getpixel((9, 9))[0] > 240  # type: ignore[index]


def noisy_tiffs() -> list[bytes]:
    """Broken compressed TIFFs, about which libtiff prints."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (48, 64, 3)).astype(np.uint8))
    whole = encoded(noise, "TIFF", compression="tiff_lzw")
    broken = []
    for _ in range(40):
        data = np.frombuffer(whole, dtype=np.uint8).copy()
        data[rng.integers(8, 4000, 30)] ^= 0x5A
        broken.append(data.tobytes())
    return broken


def test_libraries_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    failed = 0
    for data in noisy_tiffs():
        try:
            load_image(data, "x")
        except UnreadableImageError:
            failed += 1
    assert failed
    assert capfd.readouterr().err == ""
    print("Python goes on", file=sys.stderr)
    os.write(2, b"and so do others\n")
    assert capfd.readouterr().err == "Python goes on\nand so do others\n"
    with Image.open(io.BytesIO(noisy_tiffs()[0])) as image, pytest.raises(OSError):
        image.load()
    assert capfd.readouterr().err, "the test's files are noisy"


def test_threads_and_forks_leave_descriptor_2_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    def many() -> None:
        for _ in range(200):
            with silent_libraries():
                os.write(2, b"noise")

    threads = [threading.Thread(target=many) for _ in range(4)]
    with silent_libraries():
        if hasattr(os, "fork") and (child := os.fork()) == 0:
            os.write(2, b"child\n")
            os._exit(0)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if hasattr(os, "fork"):
        os.waitpid(child, 0)
    os.write(2, b"end\n")
    assert capfd.readouterr().err == ("child\nend\n" if hasattr(os, "fork") else "end\n")
