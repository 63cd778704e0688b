# Copyright 2026 The stepping_stones_hf authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
import io
import struct
import zlib

import numpy as np
import pytest
import soundfile
from PIL import ExifTags, Image, ImageFile, PngImagePlugin

from stepping_stones_hf.data.media import read_binary_mask, read_semantic_mask
from stepping_stones_hf.media import MAX_IMAGE_PIXELS, check_image, check_png, open_image, read_audio, read_image


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def encode_image(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=file_format, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG file that announces an RGB image of any size and has no pixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(10))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def encode_sound(samples: np.ndarray, rate: int = 16000, subtype: str = "PCM_16") -> bytes:
    """A wav file of samples `(samples,)` or `(samples, channels)`."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype=subtype, format="WAV")
    return file.getvalue()


def patch_header(sound: bytes, **values: int) -> bytes:
    """A wav file of 44 bytes and samples with another value in its header."""
    sound = bytearray(sound)
    for name, value in values.items():
        struct.pack_into("<I", sound, {"riff_size": 4, "rate": 24, "data_size": 40}[name], value)
    return bytes(sound)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 0.9, shape).astype(np.float32)


class TestImages:
    @pytest.mark.parametrize(
        "image, file_format",
        [
            (Image.fromarray(random_pixels(48, 64, 3)), "JPEG"),
            (Image.fromarray(random_pixels(48, 64, 4), mode="CMYK"), "JPEG"),
            (Image.fromarray(random_pixels(48, 64)), "JPEG"),
            (Image.fromarray(random_pixels(48, 64, 3)), "PNG"),
            (Image.fromarray(random_pixels(48, 64, 4)), "PNG"),
            (Image.fromarray(random_pixels(48, 64, 3)).convert("P"), "PNG"),
        ],
        ids=["jpg", "jpg-cmyk", "jpg-gray", "png", "png-alpha", "png-palette"],
    )
    def test_any_jpeg_or_png_becomes_rgb_and_is_checked_at_its_own_size(self, tmp_path, image, file_format):
        # Whatever its name says.
        path = tmp_path / "0.jpg"
        path.write_bytes(encode_image(image, file_format))
        expected = np.asarray(Image.open(path).convert("RGB"))
        for source in (path, str(path), path.read_bytes()):
            frame = read_image(source)
            assert frame.mode == "RGB" and np.array_equal(frame, expected)
            assert check_image(source) == (48, 64)

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
    @pytest.mark.parametrize("kept", [0.05, 0.5, 0.95])
    @pytest.mark.parametrize("read", [check_image, read_image, read_binary_mask])
    def test_truncated_image_is_refused_by_name(self, tmp_path, file_format, kept, read):
        content = encode_image(Image.fromarray(random_pixels(64, 64, 3)), file_format)
        path = tmp_path / "frame"
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(ValueError, match=f"{path} is (damaged|not a readable)"):
            read(path)

    @pytest.mark.parametrize(
        "content, message",
        [
            (b"", r"is empty \(0 bytes\)"),
            (b"<html>404</html>", "is not a readable JPEG or PNG"),
            (encode_image(Image.new("RGB", (8, 8)), "GIF"), "is not a readable JPEG or PNG"),
            (png_header(0, 5), "is not a readable JPEG or PNG"),
            (png_header(5, 5), "is damaged"),
        ],
        ids=["empty", "text", "gif", "no-width", "no-pixels"],
    )
    def test_what_is_no_image_is_refused_by_name(self, tmp_path, content, message):
        path = tmp_path / "0.png"
        path.write_bytes(content)
        for read in (check_image, read_image, read_binary_mask, read_semantic_mask):
            with pytest.raises(ValueError, match=f"{path} {message}"):
                read(path)

    @pytest.mark.parametrize("size", [(60000, 60000), (9000, 8000), (MAX_IMAGE_PIXELS + 1, 1)])
    def test_huge_header_is_refused_before_pixels_are_decoded(self, tmp_path, monkeypatch, size):
        path = tmp_path / "0.png"
        path.write_bytes(png_header(*size))
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("took memory for the pixels"))
        for read in (check_image, read_image, read_binary_mask, read_semantic_mask):
            with pytest.raises(ValueError, match=f"{path} .*pixels"):
                read(path)

    def test_largest_size_is_not_refused(self):
        assert open_image(png_header(8192, 8192)).size == (8192, 8192)

    def test_comment_that_swells_is_refused_by_name(self, tmp_path):
        comment = PngImagePlugin.PngInfo()
        comment.add_text("comment", "a" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
        path = tmp_path / "0.png"
        path.write_bytes(encode_image(Image.new("RGB", (8, 8)), pnginfo=comment))
        with pytest.raises(ValueError, match=f"{path} is not a readable JPEG or PNG"):
            check_image(path)

    @pytest.mark.parametrize("read", [check_image, read_image])
    def test_pixels_of_16_bits_are_refused_by_name(self, tmp_path, read):
        path = tmp_path / "0.png"
        Image.fromarray(np.full((8, 8), 300, np.uint16)).save(path)
        with pytest.raises(ValueError, match=rf"{path} has 16 bits a pixel or more \(mode I;16\)"):
            read(path)
        assert read_binary_mask(path).all()

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
    def test_image_that_is_to_be_turned_is_refused_by_name(self, tmp_path, file_format):
        path, exif = tmp_path / "0", Image.Exif()
        for orientation in range(10):
            exif[ExifTags.Base.Orientation] = orientation
            path.write_bytes(encode_image(Image.new("RGB", (9, 8)), file_format, exif=exif))
            for read in (check_image, read_image):
                if 2 <= orientation <= 8:
                    with pytest.raises(ValueError, match=rf"{path} .*EXIF orientation {orientation}.*Save it upright"):
                        read(path)
                else:
                    read(path)

    def test_wrong_byte_that_decoding_misses_is_found(self):
        image = Image.new("P", (40, 40), 3)
        content, missed = encode_image(image), 0
        start = content.index(b"IDAT") + 4
        for position in range(start, len(content) - 12, max(1, len(content) // 40)):
            damaged = bytearray(content)
            damaged[position] ^= 16
            with pytest.raises(ValueError, match="is (damaged|not a readable)"):
                check_image(bytes(damaged))
            try:
                read_binary_mask(bytes(damaged))
            except ValueError:
                continue
            missed += 1
            with pytest.raises(ValueError, match="is damaged"):
                check_png(bytes(damaged))
        assert missed > 0
        check_png(content)
        check_png(encode_image(image.convert("RGB"), "JPEG"))

    def test_missing_image_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nothing.png"):
            read_image(tmp_path / "nothing.png")


class TestSounds:
    @pytest.mark.parametrize("rate", [8000, 44100, 96000])
    @pytest.mark.parametrize("channels", [1, 2, 4])
    @pytest.mark.parametrize(
        "subtype, accuracy",
        [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-23), ("FLOAT", 0), ("DOUBLE", 0)],
    )
    def test_any_rate_width_and_number_of_channels(self, rate, channels, subtype, accuracy):
        samples = noise(1000, channels)
        waveform, sampling_rate = read_audio(encode_sound(samples, rate, subtype))
        assert waveform.dtype == np.float32 and waveform.shape == (channels, 1000) and sampling_rate == rate
        assert np.abs(waveform - samples.T).max() <= accuracy

    @pytest.mark.parametrize("subtype", ["ULAW", "IMA_ADPCM", "GSM610", "G721_32"])
    def test_compressed_wav(self, subtype):
        samples = 0.5 * np.sin(np.arange(8000) * 0.05)
        waveform, _ = read_audio(encode_sound(samples, 8000, subtype))
        assert waveform.shape[0] == 1 and waveform.shape[1] >= 8000
        assert np.abs(waveform[0, :8000] - samples).mean() < 0.03

    def test_path_and_bytes_give_the_same(self, tmp_path):
        path = tmp_path / "a sound, é.wav"
        path.write_bytes(encode_sound(noise(100)))
        for source in (str(path), path.read_bytes()):
            assert np.array_equal(read_audio(source)[0], read_audio(path)[0])

    def test_samples_over_full_scale_are_kept(self):
        waveform, _ = read_audio(encode_sound(3 * noise(100), subtype="FLOAT"))
        assert np.array_equal(waveform[0], 3 * noise(100))

    def test_header_written_to_a_pipe_is_understood(self):
        sound = encode_sound(noise(100))
        expected, _ = read_audio(sound)
        waveform, _ = read_audio(patch_header(sound, riff_size=2**32 - 1, data_size=2**32 - 1))
        assert np.array_equal(waveform, expected)

    @pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
    @pytest.mark.parametrize("lost", [1, 500, 1999])
    def test_truncated_sound_is_refused_by_name(self, tmp_path, subtype, lost):
        path = tmp_path / "audio.wav"
        path.write_bytes(encode_sound(noise(1000), subtype=subtype)[:-lost])
        with pytest.raises(ValueError, match=f"{path} is truncated: its header announces"):
            read_audio(path)

    @pytest.mark.parametrize(
        "content, message",
        [
            (b"", r"is empty \(0 bytes\)"),
            (b"Not Found\n" * 20, "is not a readable sound"),
            (encode_sound(noise(100))[:30], "is not a readable sound"),
            (encode_sound(noise(0)), "has no samples"),
            (patch_header(encode_sound(noise(100)), rate=0), "is not a readable sound: .*sampling rate of 0"),
            (encode_sound(noise(601), rate=1), "has 601 samples at 1 Hz, over 600 s"),
            (encode_sound(np.array([0, np.nan, np.nan]), subtype="FLOAT"), "has 2 samples that are NaN or infinite"),
            (encode_sound(np.array([0, np.inf, -np.inf]), subtype="FLOAT"), "has 2 samples that are NaN or infinite"),
        ],
        ids=["empty", "text", "half-a-header", "no-samples", "rate-0", "too-long", "nan", "infinite"],
    )
    def test_what_is_no_usable_sound_is_refused_by_name(self, tmp_path, content, message):
        path = tmp_path / "audio.wav"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} {message}"):
            read_audio(path)

    def test_missing_sound_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="audio.wav"):
            read_audio(tmp_path / "audio.wav")
