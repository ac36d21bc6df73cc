"""Every kind of file an image folder holds in practice, and those that are no images at all."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from timm_gam.core import UnreadableImageError
from timm_gam.images import content_digest, load_image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


RED = Image.new("RGB", (8, 6), (200, 10, 20))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((6, 8), 40_000, dtype=np.uint16))
    else:
        image = RED.convert(mode)
    rgb, _ = load_image(encoded(image, "TIFF" if mode == "CMYK" else "PNG"), "x")
    assert rgb.mode == "RGB"
    assert rgb.size == (8, 6)
    if mode == "I;16":
        assert rgb.getpixel((0, 0)) == (40_000 >> 8,) * 3, "scaled to 8 bits, not clipped at 255"
    if mode in ("P", "RGB", "RGBA", "CMYK"):
        assert np.abs(np.array(rgb.getpixel((0, 0))) - (200, 10, 20)).max() < 30


def test_floating_point_pixels_are_refused() -> None:
    """Those in [0, 1] were all black."""
    image = Image.fromarray(np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8))
    with pytest.raises(UnreadableImageError, match="floating point pixels"):
        load_image(encoded(image, "TIFF"), "x")


def test_cmyk_jpeg() -> None:
    rgb, _ = load_image(encoded(RED.convert("CMYK"), "JPEG", quality=95), "x")
    assert np.abs(np.array(rgb.getpixel((4, 3))) - (200, 10, 20)).max() < 10


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (8, 4), (0, 0, 0))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to look at it
    rgb, _ = load_image(encoded(image, "PNG", exif=exif), "x")
    assert rgb.size == (4, 8)
    assert rgb.getpixel((3, 0)) == (255, 255, 255)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), (c, c, c)) for c in (0, 250)]
    rgb, _ = load_image(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True), "x")
    assert rgb.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("side", [9_460, 14_000, 40_000])
def test_decompression_bomb_is_refused_from_its_header(side: int) -> None:
    with pytest.raises(UnreadableImageError, match="'bomb': .*pixels are refused"):
        load_image(png_header(side, side), "bomb")


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000), (5_010, 10)])
def test_sliver_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UnreadableImageError, match="'sliver': .* more than 500 times as long as wide"):
        load_image(encoded(Image.new("RGB", size)), "sliver")
    assert load_image(encoded(Image.new("RGB", (5_000, 10))), "x")[0].size == (5_000, 10)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"not an image at all", "not an image"),
        (encoded(Image.effect_noise((200, 200), 90), "JPEG")[:2000], "truncated"),
        (encoded(RED)[:40], ""),
    ],
    ids=["empty", "text", "truncated jpeg", "truncated png"],
)
def test_what_is_no_image_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=f"cannot read image 'a/b.jpg': .*{reason}") as caught:
        load_image(data, "a/b.jpg")
    assert "\n" not in str(caught.value)
    assert "BytesIO" not in str(caught.value)


def test_vanished_file(tmp_path: Path) -> None:
    for read in (load_image, content_digest):
        with pytest.raises(UnreadableImageError, match="No such file"):
            read(tmp_path / "gone.jpg", "gone")


def test_digest_is_of_the_encoded_bytes(tmp_path: Path) -> None:
    data = encoded(RED)
    (tmp_path / "red.png").write_bytes(data)
    expected = hashlib.sha256(data).digest()
    assert load_image(data, "x")[1] == load_image(tmp_path / "red.png", "x")[1] == content_digest(data, "x") == expected
    assert content_digest(RED, "x") != content_digest(RED.transpose(Image.Transpose.ROTATE_90), "x")


def smooth(width: int = 400, height: int = 200) -> Image.Image:
    """No pixel differs much from its neighbours, so that every good reduction is nearly the same."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, 0 * x + 90], -1).astype(np.uint8))


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("mode", "options"),
    [("RGB", {}), ("RGB", {"progressive": True}), ("RGB", {"subsampling": 2}), ("RGB", {"exif": turned()}),
     ("L", {}), ("CMYK", {})],
    ids=["rgb", "progressive", "4:2:0", "turned", "grey", "cmyk"],
)  # fmt: skip
def test_jpeg_shrunk_on_load_is_the_photo_made_smaller(mode: str, options: dict, factor: int) -> None:
    data = encoded(smooth().convert(mode), "JPEG", quality=95, **options)
    whole, digest = load_image(data, "x")
    asked: list[tuple[int, int]] = []
    shrunk, same_digest = load_image(data, "x", lambda width, height: asked.append((width, height)) or factor)
    assert asked == [whole.size], "the upright size"
    assert shrunk.mode == "RGB"
    assert shrunk.size == (whole.width // factor, whole.height // factor)
    assert digest == same_digest
    expected = np.asarray(whole.resize(shrunk.size, Image.Resampling.BOX), dtype=int)
    assert np.abs(np.asarray(shrunk, dtype=int) - expected).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_only_jpeg_is_shrunk_on_load(kind: str) -> None:
    data = encoded(smooth(), kind)
    np.testing.assert_array_equal(load_image(data, "x", lambda *size: 8)[0], load_image(data, "x")[0])


def test_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for read in (load_image, content_digest):
        with pytest.raises(UnreadableImageError, match="not a regular file"):
            read(tmp_path / "pipe.jpg", "pipe")


def test_real_photos_all_decode(coreldb: Path) -> None:
    files = sorted(coreldb.rglob("*.jpg"))
    assert len(files) == 10_800
    assert {load_image(file, file.name)[0].size for file in files[::40]} == {(120, 80), (80, 120)}


def test_a_lack_of_memory_says_nothing_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", no_memory)
    with pytest.raises(MemoryError):
        load_image(encoded(RED), "photo")


@pytest.mark.parametrize("kind", ["EPS", "PPM", "PDF", "ICO"])
def test_formats_off_the_list_are_no_images(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(encoded(RED, kind))  # the first would start the system's Ghostscript
    with pytest.raises(UnreadableImageError, match="not an image"):
        load_image(tmp_path / "x.jpg", "x")


def test_a_path_that_no_file_can_have() -> None:
    with pytest.raises(UnreadableImageError, match="NUL"):
        load_image(Path("a\0b.jpg"), "x")
