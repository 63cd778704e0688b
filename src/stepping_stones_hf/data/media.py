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
"""Frames, masks and sounds read from files or bytes, with errors that name the file. Nothing is repaired."""

import io
import os
import re
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from PIL import ExifTags, Image

from .labels import color_to_index


# A header costs nothing to write: larger images and longer sounds are refused before memory is taken for them.
MAX_IMAGE_PIXELS = 8192 * 8192
MAX_AUDIO_SECONDS = 600
# What programs that write to a pipe leave in the header of a wav file.
UNKNOWN_LENGTH = 2**32 - 1

Source = str | os.PathLike | bytes


def get_source(media: dict) -> str | bytes:
    """What to read an image or a sound of a row from, which has it as `bytes` or as the `path` of a file."""
    return media["path"] if media["bytes"] is None else media["bytes"]


def source_name(source: Source) -> str:
    return "image or sound in memory" if isinstance(source, bytes) else str(source)


def open_source(source: Source) -> io.BytesIO | Path:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if os.path.getsize(source) == 0:
        raise ValueError(f"{source} is empty (0 bytes).")
    return Path(source)


def open_image(source: Source) -> Image.Image:
    """
    Opens a JPEG or PNG file; its pixels are not decoded yet.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ValueError`: it is empty, neither JPEG nor PNG, or has more than 8192 x 8192 pixels.
    """
    file = open_source(source)
    try:
        image = Image.open(file, formats=("JPEG", "PNG"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{source_name(source)} is not a readable JPEG or PNG image: {error}.") from error
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise ValueError(
            f"{source_name(source)} has {image.width}x{image.height} pixels, more than {MAX_IMAGE_PIXELS}: a damaged"
            " header? Resize it if it is right."
        )
    return image


def load_image(image: Image.Image, source: Source) -> Image.Image:
    """Decodes the pixels of an image that `open_image` opened."""
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{source_name(source)} is damaged: {error}.") from error
    return image


def check_pixels(image: Image.Image, name: str) -> None:
    """Refuses a decoded image that would look otherwise in RGB, or after `datasets` has decoded it."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{name} has 16 bits a pixel or more (mode {image.mode}), which RGB would clip to white. Save it with 8"
            " bits a channel."
        )
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    # `datasets` turns and mirrors images by these values, but not the masks that belong to them.
    if orientation in range(2, 9):
        raise ValueError(
            f"{name} is to be turned or mirrored for display (EXIF orientation {orientation}). Save it upright,"
            " without that entry."
        )


def to_rgb(image: Image.Image, name: str = "image in memory") -> Image.Image:
    """
    A decoded image in RGB.

    Raises:
        `ValueError`: it has 16 bits a pixel and one channel, or its EXIF orientation is not upright.
    """
    check_pixels(image, name)
    return image.convert("RGB")


def read_image(source: Source) -> Image.Image:
    """
    Reads a frame.

    Returns:
        `PIL.Image.Image`: in RGB.

    Raises:
        `FileNotFoundError`, `ValueError`: as `open_image` and `to_rgb`; also if the file is truncated or damaged.
    """
    return to_rgb(load_image(open_image(source), source), source_name(source))


def check_image(source: Source) -> tuple[int, int]:
    """
    Decodes an image as cheaply as shows that it is whole.

    Returns:
        `tuple[int, int]`: its height and width.

    Raises:
        `FileNotFoundError`, `ValueError`: as `read_image` and `check_png`.
    """
    image = open_image(source)
    height, width = image.height, image.width
    image.draft("RGB", (1, 1))  # reads all of a JPEG file, but decodes an eighth of the size
    load_image(image, source)
    check_pixels(image, source_name(source))
    if image.format == "PNG":
        check_png(source)
    return height, width


def check_png(source: Source) -> None:
    """
    Compares the checksums of a PNG file that can be decoded; decoding, which does not, may miss single wrong bytes.

    Raises:
        `ValueError`: one is wrong. Other formats have none.
    """
    with open_image(source) as image:
        try:
            if image.format == "PNG":
                image.verify()
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{source_name(source)} is damaged: {error}.") from error


def read_color_map(source: Source) -> np.ndarray:
    """A mask of AVSBench-semantic, `(height, width, 3)` uint8. Errors as `read_image`."""
    return np.asarray(read_image(source))


def read_semantic_mask(source: Source, unknown_color: Literal["error", "background"] = "error") -> np.ndarray:
    """Class indices `(height, width)`, uint8, of a mask of AVSBench-semantic. Errors as `read_image` and
    [`color_to_index`]."""
    return color_to_index(read_color_map(source), unknown_color, path=source_name(source))


def read_binary_mask(source: Source) -> np.ndarray:
    """0 and 1 `(height, width)`, uint8, of a mask of AVSBench-object: 1 wherever its pixel is not 0, in 1-bit, gray,
    palette or RGB images. Errors as `read_image`."""
    image = load_image(open_image(source), source)
    pixels = np.asarray(image.convert("RGB") if image.mode in ("RGBA", "LA", "CMYK") else image)
    return ((pixels != 0).any(axis=-1) if pixels.ndim == 3 else pixels != 0).astype(np.uint8)


def read_audio(source: Source) -> tuple[np.ndarray, int]:
    """
    Reads a sound of any rate, width and number of channels.

    Returns:
        `tuple[np.ndarray, int]`: samples `(channels, samples)`, float32 between -1 and 1, and their rate in hertz.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ValueError`: the file is empty, truncated or not a sound, has no samples, more than 600 seconds, or samples
        that are NaN or infinite. Only RIFF (wav) and FLAC files tell that they are truncated.
    """
    name = source_name(source)
    try:
        with soundfile.SoundFile(open_source(source)) as file:
            sampling_rate, log = file.samplerate, file.extra_info
            if file.frames > MAX_AUDIO_SECONDS * sampling_rate:
                raise ValueError(
                    f"{name} has {file.frames} samples at {sampling_rate} Hz, over {MAX_AUDIO_SECONDS} s."
                )
            # With their number, samples are also read in the few encodings that cannot be sought in.
            waveform = file.read(file.frames, dtype="float32", always_2d=True).T
    except soundfile.LibsndfileError as error:
        reason = error.error_string
        if "SF_INFO" in reason:  # libsndfile does not say more
            reason = "its header has a sampling rate of 0 or another value that cannot be."
        raise ValueError(f"{name} is not a readable sound: {reason}") from error
    # A truncated wav file is read up to its end without a word; only libsndfile's log tells.
    chunk = re.search(r"^data : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if chunk is not None and int(chunk[1]) != UNKNOWN_LENGTH:
        raise ValueError(f"{name} is truncated: its header announces {chunk[1]} bytes of samples, it has {chunk[2]}.")
    if waveform.size == 0:
        raise ValueError(f"{name} has no samples.")
    if not np.isfinite(waveform).all():
        raise ValueError(f"{name} has {np.count_nonzero(~np.isfinite(waveform))} samples that are NaN or infinite.")
    return waveform, sampling_rate


__all__ = [
    "check_image",
    "check_png",
    "get_source",
    "read_audio",
    "read_binary_mask",
    "read_color_map",
    "read_image",
    "read_semantic_mask",
    "to_rgb",
]
