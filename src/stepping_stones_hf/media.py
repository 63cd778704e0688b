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
"""
Pictures and sounds, from files, bytes or memory, with errors that name the file or the argument. Nothing is repaired.
"""

import io
import os
import re
from collections.abc import Sequence
from numbers import Real
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import ExifTags, Image, ImageOps


# A header costs nothing to write: larger images and longer sounds are refused before memory is taken for them.
MAX_IMAGE_PIXELS = 8192 * 8192
MAX_AUDIO_SECONDS = 600
# Floating point samples lie between -1 and 1. Mastering and resampling lead a little beyond, and nothing leads so far.
MAX_PEAK = 16
# Sampling rates that share a smaller factor are far apart for filters: torchaudio's would take gigabytes.
MIN_COMMON_FACTOR = 25
# What programs that write to a pipe leave in the header of a wav file.
UNKNOWN_LENGTH = 2**32 - 1

# A file, or its content.
Source = str | os.PathLike | bytes


def name_source(source: Source) -> str:
    """What errors call it."""
    return f"The file of {len(source)} bytes" if isinstance(source, bytes) else str(source)


def open_source(source: Source) -> io.BytesIO | Path:
    """
    What readers of files read.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ValueError`: it is empty.
    """
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise FileNotFoundError(f"{source} is no file.")
    if (len(source) if isinstance(source, bytes) else Path(source).stat().st_size) == 0:
        raise ValueError(f"{name_source(source)} is empty (0 bytes).")
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source)


# Pictures ------------------------------------------------------------------------------------------------------------


def open_image(source: Source) -> Image.Image:
    """
    Opens a JPEG or PNG file; its pixels are not decoded yet. Content in memory may be TIFF, too: `datasets` keeps so
    what a function that is mapped over clips returns as an image with a palette.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ValueError`: it is empty, neither JPEG nor PNG, or has more than 8192 x 8192 pixels.
    """
    file = open_source(source)
    try:
        image = Image.open(file, formats=("JPEG", "PNG", "TIFF") if isinstance(source, bytes) else ("JPEG", "PNG"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name_source(source)} is not a readable JPEG or PNG image: {error}.") from error
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise ValueError(
            f"{name_source(source)} has {image.width}x{image.height} pixels, more than {MAX_IMAGE_PIXELS}: a damaged"
            " header? Resize it if it is right."
        )
    return image


def load_image(image: Image.Image, source: Source) -> Image.Image:
    """Decodes the pixels of an image that `open_image` opened."""
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name_source(source)} is damaged: {error}.") from error
    return image


def get_orientation(image: Image.Image, name: str) -> int:
    """The EXIF orientation of an image: 1 is upright."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name} has EXIF data that cannot be read: {error}. Save it without them.") from error


def check_pixels(image: Image.Image, name: str) -> None:
    """Refuses a decoded image that would look otherwise in RGB, or after `datasets` has decoded it."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{name} has 16 bits a pixel or more (mode {image.mode}), which RGB would clip to white. Save it with 8"
            " bits a channel."
        )
    # `datasets` turns and mirrors images by these values, but not the masks that belong to them.
    orientation = get_orientation(image, name)
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


def to_frame(image: Image.Image | np.ndarray, name: str) -> Image.Image:
    """
    What somebody gives as a frame, in RGB. Photos that are to be turned for display, as phones take them, are turned.

    Args:
        image (`PIL.Image.Image`, or `np.ndarray` of shape `(height, width, 3)`, RGB, uint8):
            The frame.
        name (`str`):
            What errors call it.

    Raises:
        `ValueError`: it is an array of another shape or type, or an image of 16 bits a pixel.
    """
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image), name)
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"{name} should be a PIL image or an array (height, width, 3) of uint8, got {image.shape}, {image.dtype}."
        )
    return Image.fromarray(image)


def check_frames(images: Sequence[Image.Image | np.ndarray | torch.Tensor], rescaled: bool) -> None:
    """
    Refuses frames that an image processor would take for something else than they are.

    Args:
        images (`Sequence`):
            PIL images, arrays or tensors.
        rescaled (`bool`):
            Whether they will be divided by 255.

    Raises:
        `ValueError`: there are none; a frame has 16 bits a pixel, or is to be turned for display; or they will be
        divided by 255, and lie between 0 and 1 already, are boolean or have values below 0 or NaN.
    """
    if len(images) == 0:
        raise ValueError("images is empty: give a frame for each second of the clip.")
    highest = []
    for index, image in enumerate(images):
        name = f"images[{index}]"
        if isinstance(image, Image.Image):
            check_pixels(image, name)
            continue
        is_float = image.is_floating_point() if isinstance(image, torch.Tensor) else image.dtype.kind == "f"
        low, peak = float(image.min()), float(image.max())
        if peak > 255:
            raise ValueError(f"{name} has values up to {peak:.0f}, more than 8 bits hold: divide them by 257 first.")
        if rescaled and (image.dtype in (bool, torch.bool) or not low >= 0):  # also refuses NaN
            raise ValueError(
                f"{name} has the type {image.dtype} and values from {low:g} to {peak:g}, which are to be divided by"
                " 255: pass images from 0 to 255, or do_rescale=False (and do_normalize=False) for prepared ones."
            )
        if is_float:
            highest.append(peak)
    if rescaled and highest and 0 < max(highest) <= 1 and len(highest) == len(images):
        raise ValueError(
            "The images are floating point numbers between 0 and 1, which would be scaled once more: pass"
            " do_rescale=False, or images from 0 to 255."
        )


def read_image(source: Source) -> Image.Image:
    """
    Reads a frame.

    Returns:
        `PIL.Image.Image`: in RGB.

    Raises:
        `FileNotFoundError`, `ValueError`: as `open_image` and `to_rgb`; also if the file is truncated or damaged.
    """
    return to_rgb(load_image(open_image(source), source), name_source(source))


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
    check_pixels(image, name_source(source))
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
            raise ValueError(f"{name_source(source)} is damaged: {error}.") from error


# Sounds --------------------------------------------------------------------------------------------------------------


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
    name = name_source(source)
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
    check_peak(waveform, name)
    return waveform, sampling_rate


def check_sampling_rate(sampling_rate: int | None) -> None:
    """Raises a `ValueError` unless it is a positive whole number of hertz."""
    if sampling_rate is None:
        raise ValueError(
            "`sampling_rate` is missing: pass the rate of the waveforms in hertz, as the audio file names it."
        )
    if not isinstance(sampling_rate, Real) or sampling_rate <= 0 or not float(sampling_rate).is_integer():
        raise ValueError(f"`sampling_rate` is {sampling_rate!r}, but must be a positive whole number of hertz.")


def to_mono(waveform: np.ndarray | torch.Tensor | Sequence, name: str) -> np.ndarray:
    """The mean over the channels, of shape (num_samples,), in double precision, with integers scaled to [-1, 1]."""
    if isinstance(waveform, torch.Tensor):
        waveform = waveform.detach().cpu()
        # NumPy has no bfloat16.
        waveform = waveform.double().numpy() if waveform.is_floating_point() else waveform.numpy()
    waveform = np.asarray(waveform)

    is_integer = waveform.dtype.kind in "iu" and waveform.dtype.itemsize <= 4
    if waveform.dtype.kind != "f" and not is_integer:
        raise ValueError(
            f"`{name}` has dtype {waveform.dtype}, but waveforms are floating point numbers between -1 and 1 or "
            "integers of 8, 16 or 32 bits, which are divided by their range. Decode files first, e.g. with "
            "`soundfile.read`."
        )
    if waveform.ndim not in (1, 2):
        raise ValueError(
            f"`{name}` has shape {waveform.shape}, but a waveform has shape (num_samples,) or (num_channels, "
            "num_samples). Pass several waveforms as a list."
        )
    if waveform.size == 0:
        raise ValueError(f"`{name}` is empty (shape {waveform.shape}).")
    if waveform.ndim == 2 and waveform.shape[0] > waveform.shape[1]:
        raise ValueError(
            f"`{name}` has shape {waveform.shape}, i.e. more channels than samples, but the channels come first: pass "
            f"`{name}.T` (soundfile, for one, gives the samples first)."
        )

    samples = waveform.astype(np.float64)
    if is_integer:
        # The range of int16 is -32768 ... 32767, around 0, that of uint8 0 ... 255, around 128.
        half_range = 2.0 ** (8 * waveform.dtype.itemsize - 1)
        samples = (samples - (np.iinfo(waveform.dtype).min + half_range)) / half_range
    if not np.isfinite(samples).all():
        index = tuple(np.argwhere(~np.isfinite(samples))[0].tolist())
        raise ValueError(
            f"`{name}` has samples that are NaN or infinite, the first at index {index} of shape {samples.shape}: "
            f"{samples[index]}. Fix the recording or leave it out."
        )
    check_peak(samples, f"`{name}`")
    return samples.mean(axis=0) if samples.ndim == 2 else samples


def check_peak(samples: np.ndarray, name: str) -> None:
    """Refuses floating point samples that have the values of integers."""
    peak = np.abs(samples).max(initial=0)
    if peak > MAX_PEAK:
        raise ValueError(
            f"{name} has floating point samples up to {peak:.0f}, where they lie between -1 and 1. Those of 16-bit"
            " integers are to be divided by 32768, or passed as integers."
        )


__all__ = [
    "Source",
    "check_frames",
    "check_image",
    "check_peak",
    "check_png",
    "check_sampling_rate",
    "load_image",
    "name_source",
    "open_image",
    "open_source",
    "read_audio",
    "read_image",
    "to_mono",
    "to_frame",
    "to_rgb",
]
