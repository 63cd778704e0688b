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
"""Mini-AVSBench: a procedural AVSBench in the folder layout of AVSBench-semantic, made in seconds.

Each scene shows two to four drawn objects of different classes over a textured background, and some of them sound.
The mask of a second holds the objects that sound in it, and what sounds is drawn independently of everything that can
be seen: class, size, place, motion and drawing order of an object say nothing about it. At least one object of every
clip never sounds. Hence the task cannot be solved without listening; and since several classes share a shape or a
color, and pairs of sources sound together, naming them is harder than finding them.

With `statistics="avsbench"` the set is like AVSBench in this: what can be seen nearly always sounds, what sounds
usually shows it, classes are many and uneven, and many of them look and sound alike. Hence a network may do well
without listening.
"""

import csv
import json
import os
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from PIL import Image, ImageDraw
from scipy.fft import irfft, next_fast_len, rfft

from ..files import write_whole
from .labels import CLASS_NAMES, PALETTE


# Raised whenever the same arguments would give other files than before.
FORMAT_VERSION = 1
MANIFEST_NAME = "mini_avsbench.json"
SUBSETS = {"v1s": 5, "v1m": 5, "v2": 10}  # subset -> seconds, which is also the number of frames
SPLITS = ("train", "val", "test")
COLUMNS = ("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label")
# What a set with these statistics has more: all that can be seen, and what sounds without being seen.
RECORD_COLUMNS = ("visible", "off_screen")
DEFAULT_CLIPS = {"v1s": (600, 20, 48), "v1m": (100, 8, 24), "v2": (100, 8, 24)}

# The statistics of AVSBench. Which published figure each number comes from, says the page "Preparing AVSBench". They
# were fixed before anything was trained on the set, and no result is a reason to change them.
AVSBENCH_NUM_CLASSES = 24
AVSBENCH_CLIPS = {"v1s": (432, 48, 92), "v1m": (74, 16, 32), "v2": (120, 16, 48)}
CLASS_EXPONENT = 1.0  # the class of rank r occurs r ** -1 times as often as the first one
BYSTANDER_SHARE = 0.12  # clips with an object beside the sources that never sounds
ALL_SHARE = {"v1s": 1.0, "v1m": 0.6, "v2": 0.9}  # stretches in which all sources sound
SILENT_SHARE = {"v1s": 0.0, "v1m": 0.05, "v2": 0.05}  # stretches in which none does; in the others some do
SIGN_SHARE = {True: 0.85, False: 0.1}  # stretches in which an object that sounds, or does not, shows a sign of it
OFF_SCREEN_SHARE = {"v1s": 0.0, "v1m": 0.1, "v2": 0.1}  # clips in which something else is heard, half of the time
LARGEST_BLEND = 0.6  # a source's timbre lies up to so far on the way to that of another one of its family

SAMPLING_RATE = 16_000
# VGGish's own patches begin every 0.96 s, so that the tenth one begins 0.36 s before its second. A source that stops
# is quiet for this long before the second ends: the sound of a frame is then the same for patches every 0.96 s or 1 s.
REST_SECONDS = 0.37
SUPERSAMPLING = 3


# Looks -------------------------------------------------------------------------------------------------------------


def _ellipse(x, y, rx, ry):
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def _box(left, top, right, bottom):
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=float)


def _polygon(*points):
    return np.array(points, dtype=float)


# Tones of a part. The body carries the texture of the class, the others are plain.
BODY, ACCENT, DARK, LIGHT, SIGN = 1, 2, 3, 4, 5

# Shape -> parts in drawing order, about within the unit circle, y pointing down.
SHAPES = {
    "strings": [
        (DARK, _box(-0.11, -0.95, 0.11, -0.2)),
        (ACCENT, _box(-0.19, -1.05, 0.19, -0.8)),
        (BODY, _ellipse(0, -0.02, 0.44, 0.38)),
        (BODY, _ellipse(0, 0.5, 0.6, 0.47)),
        (DARK, _ellipse(0, 0.3, 0.16, 0.16)),
        (DARK, _box(-0.22, 0.66, 0.22, 0.75)),
    ],
    "cat": [
        (BODY, _polygon((-0.8, -0.2), (-0.7, -0.95), (-0.12, -0.6))),
        (BODY, _polygon((0.8, -0.2), (0.7, -0.95), (0.12, -0.6))),
        (BODY, _ellipse(0, 0, 0.82, 0.74)),
        (DARK, _ellipse(-0.32, -0.12, 0.1, 0.14)),
        (DARK, _ellipse(0.32, -0.12, 0.1, 0.14)),
        (LIGHT, _ellipse(0, 0.36, 0.33, 0.24)),
        (DARK, _polygon((-0.12, 0.22), (0.12, 0.22), (0, 0.38))),
    ],
    "car": [
        (ACCENT, _box(-0.16, -0.78, 0.2, -0.55)),
        (
            BODY,
            _polygon(
                (-1, 0.4), (-1, -0.1), (-0.6, -0.18), (-0.38, -0.6), (0.42, -0.6), (0.66, -0.18), (1, -0.06), (1, 0.4)
            ),
        ),
        (LIGHT, _polygon((-0.42, -0.2), (-0.28, -0.48), (-0.02, -0.48), (-0.02, -0.2))),
        (LIGHT, _polygon((0.08, -0.2), (0.08, -0.48), (0.36, -0.48), (0.5, -0.2))),
        (ACCENT, _box(-0.98, 0.02, 0.98, 0.16)),
        (DARK, _ellipse(-0.55, 0.42, 0.26, 0.26)),
        (DARK, _ellipse(0.55, 0.42, 0.26, 0.26)),
    ],
    "bird": [
        (ACCENT, _polygon((-0.4, 0.0), (-1.05, -0.3), (-0.95, 0.25), (-0.4, 0.4))),
        (BODY, _ellipse(-0.05, 0.15, 0.64, 0.48)),
        (BODY, _ellipse(0.48, -0.38, 0.36, 0.34)),
        (DARK, _polygon((0.78, -0.55), (1.15, -0.3), (0.78, -0.18))),
        (ACCENT, _ellipse(-0.18, 0.12, 0.34, 0.2)),
        (DARK, _ellipse(0.55, -0.45, 0.08, 0.08)),
    ],
    "dog": [
        (BODY, _ellipse(0, 0, 0.64, 0.8)),
        (ACCENT, _ellipse(-0.68, -0.08, 0.24, 0.56)),
        (ACCENT, _ellipse(0.68, -0.08, 0.24, 0.56)),
        (LIGHT, _ellipse(0, 0.42, 0.36, 0.3)),
        (DARK, _ellipse(0, 0.3, 0.16, 0.11)),
        (DARK, _ellipse(-0.27, -0.18, 0.1, 0.12)),
        (DARK, _ellipse(0.27, -0.18, 0.1, 0.12)),
    ],
    "drum": [
        (ACCENT, _ellipse(0, 0.55, 0.78, 0.28)),
        (BODY, _box(-0.78, -0.5, 0.78, 0.55)),
        (LIGHT, _ellipse(0, -0.5, 0.78, 0.28)),
    ],
    "disc": [
        (ACCENT, _ellipse(0, 0, 0.9, 0.9)),
        (BODY, _ellipse(0, 0, 0.7, 0.7)),
        (DARK, _box(-0.07, -0.55, 0.07, 0.07)),
        (DARK, _box(-0.07, -0.07, 0.42, 0.07)),
    ],
    "keys": [
        (BODY, _box(-0.95, -0.75, 0.95, 0.75)),
        (LIGHT, _box(-0.95, 0.05, 0.95, 0.5)),
        *((DARK, _box(x - 0.07, 0.05, x + 0.07, 0.32)) for x in (-0.75, -0.45, -0.15, 0.15, 0.45, 0.75)),
    ],
    "horn": [
        (BODY, _ellipse(-0.25, 0.2, 0.52, 0.36)),
        (DARK, _ellipse(-0.25, 0.2, 0.22, 0.12)),
        (BODY, _box(-1.05, -0.16, 0.4, 0.12)),
        (BODY, _polygon((0.2, -0.16), (1, -0.65), (1, 0.6), (0.2, 0.12))),
        (ACCENT, _ellipse(1, -0.02, 0.14, 0.6)),
        *((ACCENT, _box(x, -0.5, x + 0.14, 0.0)) for x in (-0.55, -0.3, -0.05)),
    ],
    "bell": [
        (DARK, _ellipse(0, 0.72, 0.2, 0.2)),
        (ACCENT, _ellipse(0, -0.8, 0.17, 0.17)),
        (
            BODY,
            _polygon((-0.85, 0.65), (-0.55, 0.2), (-0.46, -0.4), (0, -0.8), (0.46, -0.4), (0.55, 0.2), (0.85, 0.65)),
        ),
        (ACCENT, _box(-0.9, 0.5, 0.9, 0.68)),
    ],
    "helicopter": [
        (BODY, _polygon((0.1, -0.15), (1.1, -0.35), (1.1, 0.05), (0.1, 0.4))),
        (BODY, _ellipse(-0.25, 0.1, 0.62, 0.5)),
        (LIGHT, _ellipse(-0.5, 0.02, 0.26, 0.26)),
        (ACCENT, _box(-1.05, -0.62, 0.65, -0.46)),
        (DARK, _box(-0.3, -0.5, -0.14, -0.3)),
        (DARK, _box(-0.8, 0.65, 0.4, 0.78)),
    ],
    "dryer": [
        (ACCENT, _polygon((-0.5, 0.0), (-0.02, 0.0), (0.12, 0.95), (-0.32, 0.95))),
        (BODY, _ellipse(-0.25, -0.3, 0.66, 0.48)),
        (DARK, _polygon((0.2, -0.66), (0.98, -0.55), (0.98, -0.05), (0.2, 0.06))),
    ],
    "pan": [
        (DARK, _box(0.3, -0.14, 1.2, 0.14)),
        (BODY, _ellipse(-0.25, 0, 0.74, 0.68)),
        (ACCENT, _ellipse(-0.25, 0, 0.5, 0.46)),
    ],
}


# What an object shows that seems to sound: a star in a color of its own, whatever the class.
SIGN_PART = (
    SIGN,
    np.array([(np.cos(turn), np.sin(turn)) for turn in np.linspace(0, 2 * np.pi, 16, endpoint=False)])
    * np.where(np.arange(16) % 2, 0.16, 0.36)[:, None],
)
SIGN_COLOR = (150, 255, 20)


@dataclass(frozen=True)
class Look:
    shape: str
    texture: str
    body: tuple[int, int, int]
    accent: tuple[int, int, int]


LOOKS = {
    "guitar": Look("strings", "grain", (196, 112, 40), (140, 66, 20)),
    "ukulele": Look("strings", "plain", (240, 206, 96), (140, 66, 20)),
    "tiger": Look("cat", "stripes", (232, 132, 36), (44, 26, 20)),
    "leopard": Look("cat", "spots", (236, 190, 90), (70, 40, 20)),
    "car": Look("car", "plain", (196, 40, 40), (110, 16, 24)),
    "emergency-car": Look("car", "plain", (226, 226, 226), (36, 72, 220)),
    "bird": Look("bird", "plain", (60, 130, 214), (24, 60, 140)),
    "parrot": Look("bird", "plain", (54, 168, 74), (210, 50, 40)),
    "drum": Look("drum", "plain", (196, 40, 40), (226, 190, 90)),
    "piano": Look("keys", "plain", (52, 48, 56), (30, 28, 34)),
    "hair-dryer": Look("dryer", "plain", (206, 74, 150), (120, 34, 90)),
    "bell": Look("bell", "plain", (222, 184, 60), (150, 110, 24)),
    "trumpet": Look("horn", "plain", (222, 184, 60), (150, 110, 24)),
    "dog": Look("dog", "plain", (150, 96, 56), (90, 52, 30)),
    "clock": Look("disc", "plain", (236, 232, 214), (150, 96, 56)),
    "helicopter": Look("helicopter", "plain", (104, 122, 62), (60, 66, 60)),
    "violin": Look("strings", "plain", (136, 44, 24), (60, 24, 14)),
    "sheep": Look("dog", "wool", (238, 234, 222), (180, 174, 160)),
    "accordion": Look("keys", "stripes", (176, 30, 44), (60, 10, 20)),
    "handpan": Look("disc", "spots", (120, 130, 146), (70, 78, 92)),
    "saxophone": Look("horn", "checks", (206, 128, 44), (120, 62, 18)),
    "frying-food": Look("pan", "plain", (52, 48, 56), (222, 150, 60)),
    "duck": Look("bird", "spots", (228, 200, 70), (150, 96, 40)),
    "lion": Look("cat", "wool", (214, 150, 76), (150, 84, 34)),
}


def _texture_weight(texture, u, v, phase):
    """How much of the accent color the body shows at the object's own coordinates, in [0, 1]."""
    match texture:
        case "grain":
            return 0.35 + 0.35 * np.sin(13 * u + 2 * np.sin(3 * v + phase))
        case "stripes":
            return np.clip(3 * np.sin(10 * v + 2 * np.abs(u) + phase) + 0.3, 0, 1)
        case "spots":
            return np.clip(5 * np.sin(9 * u + phase) * np.sin(9 * v - phase) - 1, 0, 1)
        case "checks":
            return np.clip(4 * np.sin(8 * u + phase) * np.sin(8 * v - phase) + 0.5, 0, 1)
        case "wool":
            return 0.5 + 0.5 * np.sin(17 * u + 3 * np.sin(5 * v + phase)) * np.sin(17 * v + 3 * np.sin(5 * u))
        case "plain":
            return np.zeros_like(u)


# Timbres -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timbre:
    """A train of notes: a stack of partials with a pitch contour, plus a band of noise, under an envelope."""

    pitch: tuple[float, float]  # Hz, a clip takes one pitch from this range and moves a few semitones about it
    rate: tuple[float, float]  # notes a second
    partials: int = 1  # harmonics k = 1.. with level k ** -rolloff
    rolloff: float = 1.0
    chord: tuple[float, ...] = (1.0,)  # each member carries all partials; irregular ratios make metal
    resonance: float | None = None  # Hz, center of a formant one octave wide
    decay: float | None = None  # seconds; None: the note is held
    hold: float = 0.9  # part of a held note's time during which it sounds
    glide: float = 0.0  # semitones over a note
    vibrato: tuple[float, float] = (0.0, 0.0)  # Hz, semitones
    tremolo: tuple[float, float] = (0.0, 0.0)  # Hz, depth in [0, 1]
    noise: tuple[float, float, float] = (0.0, 0.0, 0.0)  # Hz, Hz, share in [0, 1]


# A set of n classes has the first n of these tables.
TIMBRES = {
    "guitar": Timbre((110, 200), (2.5, 4), partials=10, rolloff=1.1, decay=0.35),
    "ukulele": Timbre((380, 620), (4, 6), partials=4, rolloff=1.3, decay=0.12),
    "tiger": Timbre((70, 110), (1, 1.5), 24, 0.5, resonance=450, glide=-5, tremolo=(27, 0.6), noise=(150, 900, 0.3)),
    "leopard": Timbre((50, 60), (4.5, 6.5), hold=0.5, noise=(700, 3000, 0.95)),
    "car": Timbre((55, 90), (0.4, 0.8), 30, 0.7, hold=1, resonance=200, vibrato=(0.7, 1.5), noise=(60, 500, 0.3)),
    "emergency-car": Timbre((760, 1000), (0.3, 0.5), 4, 1.2, hold=1, vibrato=(1.6, 4.5)),
    "bird": Timbre((2800, 4200), (5, 8), decay=0.06, glide=8),
    "parrot": Timbre((1100, 1700), (2, 3), 4, 0.6, hold=0.6, glide=6, tremolo=(45, 0.8)),
    "drum": Timbre((90, 150), (3, 5), decay=0.09, glide=-16, noise=(80, 5000, 0.25)),
    "piano": Timbre((240, 420), (1.6, 2.4), 5, 1.4, chord=(1.0, 1.26, 1.5, 2.0), decay=0.5),
    "hair-dryer": Timbre((380, 520), (0.4, 0.8), 2, hold=1, noise=(500, 7000, 0.85)),
    "bell": Timbre((420, 700), (1, 1.5), chord=(1.0, 2.0, 2.4, 3.0, 4.5, 5.3), decay=0.8),
    "trumpet": Timbre((300, 500), (1.6, 2.6), 14, 0.3, resonance=1600, vibrato=(5.5, 0.3)),
    "dog": Timbre((330, 520), (2, 3), 10, 0.6, resonance=1000, decay=0.09, glide=-9, noise=(600, 2500, 0.2)),
    "clock": Timbre((2200, 2600), (3.5, 5), decay=0.02, chord=(1.0, 1.7), noise=(3500, 7500, 0.6)),
    "helicopter": Timbre((60, 80), (0.4, 0.8), 4, 0.5, hold=1, tremolo=(13, 1.0), noise=(60, 1200, 0.8)),
    "violin": Timbre((440, 800), (1.5, 2.5), 10, 0.8, vibrato=(6, 0.6)),
    "sheep": Timbre((280, 400), (1.0, 1.4), 12, 0.5, resonance=900, hold=0.8, tremolo=(8, 0.8)),
    "accordion": Timbre((210, 320), (1.2, 2), 8, 0.8, chord=(1.0, 1.007, 1.25, 1.5), hold=1, tremolo=(5, 0.4)),
    "handpan": Timbre((150, 260), (2, 3), chord=(1.0, 2.0, 3.0), decay=0.3),
    "saxophone": Timbre((130, 220), (1.5, 2.5), 16, 0.4, resonance=700, vibrato=(4.5, 0.4), noise=(1500, 5000, 0.12)),
    "frying-food": Timbre((60, 80), (18, 28), decay=0.015, noise=(2500, 7800, 0.97)),
    "duck": Timbre((190, 260), (3, 4), 24, 0.2, resonance=2000, hold=0.55, glide=-3),
    "lion": Timbre((110, 150), (0.8, 1.2), 20, 0.3, resonance=900, hold=0.85, glide=4, noise=(400, 2000, 0.3)),
}


# Classes that are taken for one another, by ear; those of most families share a shape, too.
SOUND_FAMILIES = (
    ("guitar", "ukulele", "piano"),
    ("violin", "accordion"),
    ("trumpet", "saxophone"),
    ("bell", "handpan"),
    ("drum", "clock"),
    ("tiger", "leopard", "lion"),
    ("bird", "parrot", "duck"),
    ("dog", "sheep"),
    ("car", "emergency-car"),
    ("hair-dryer", "helicopter", "frying-food"),
)


def _blend(own: Timbre, other: Timbre, weight: float) -> Timbre:
    """
    A timbre between two: numbers lie between theirs, by the weight of the other one, and what only one has, or cannot
    be halved, is as in the nearer one.
    """
    values = {}
    for name in (field.name for field in fields(Timbre)):
        first, second = getattr(own, name), getattr(other, name)
        if name in ("vibrato", "tremolo", "noise"):  # of which the last number is the depth: at 0 there is none
            first, second = (
                (*there[:-1], 0.0) if here[-1] == 0 else here for here, there in ((first, second), (second, first))
            )
        if name == "chord" or first is None or second is None:
            values[name] = first if weight < 0.5 else second
        elif name in ("pitch", "rate", "resonance", "decay"):  # heard by their ratios
            values[name] = np.exp((1 - weight) * np.log(first) + weight * np.log(second)).tolist()
        else:
            values[name] = ((1 - weight) * np.array(first) + weight * np.array(second)).tolist()
    return Timbre(**values | {"partials": round(values["partials"])})


# Drawing -----------------------------------------------------------------------------------------------------------


@dataclass
class Source:
    """What sounds in a clip, or could."""

    name: str
    timbre: Timbre
    active: np.ndarray  # (frames,) bool, whether it sounds in that second


@dataclass
class Actor(Source):
    """One object of a clip: what it is and how it looks, moves and sounds in this clip."""

    texture_phase: float
    tint: np.ndarray  # (3,) gains of red, green, blue
    flip: int
    area: float  # share of the frame
    rotation: float  # radians
    center: np.ndarray  # (2,) x, y in pixels, halfway through the clip
    drift: np.ndarray  # (2,) pixels over the whole clip
    spin: float  # radians over the whole clip
    signs: np.ndarray  # (frames,) bool, whether it shows a sign of sounding in that second


@cache
def _shape_extent(shape: str) -> tuple[float, float]:
    """Area covered by a shape and distance of its farthest point, at scale 1."""
    image = Image.new("1", (300, 300))
    for _, polygon in SHAPES[shape]:
        ImageDraw.Draw(image).polygon([(150 + 100 * x, 150 + 100 * y) for x, y in polygon], fill=1)
    radius = max(np.hypot(*polygon.T).max() for _, polygon in SHAPES[shape])
    return float(np.asarray(image).mean() * 9), float(radius)


def _scale(name: str, area: float, width: int, height: int) -> float:
    shape_area, radius = _shape_extent(LOOKS[name].shape)
    return min((area * width * height / shape_area) ** 0.5, 0.48 * min(width, height) / radius)


def _draw_actor(
    frame: np.ndarray, owner: np.ndarray, actor: Actor, index: int, progress: float, sign: bool = False
) -> None:
    """Draws an object over `frame` (height, width, 3) and writes its `index` into `owner` (height, width).

    `progress` runs from -0.5 to 0.5 over the clip. The `sign` of sounding is a part of the object.
    """
    look = LOOKS[actor.name]
    drawn = [*SHAPES[look.shape], SIGN_PART] if sign else SHAPES[look.shape]
    height, width = owner.shape
    scale = _scale(actor.name, actor.area, width, height)
    angle = actor.rotation + actor.spin * progress
    to_frame = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    to_frame[:, 0] *= actor.flip
    center = actor.center + actor.drift * progress
    polygons = [polygon @ to_frame.T + center for _, polygon in drawn]
    corners = np.concatenate(polygons)
    left, top = np.maximum(corners.min(axis=0) - 1, 0).astype(int).tolist()
    right, bottom = np.minimum(corners.max(axis=0) + 2, (width, height)).astype(int).tolist()

    # Plain parts are drawn in color, the textured body in black; `shares` holds how much of a pixel the body covers
    # and how much the whole object.
    size = ((right - left) * SUPERSAMPLING, (bottom - top) * SUPERSAMPLING)
    parts, shares = Image.new("RGB", size), Image.new("RGB", size)
    pens = ImageDraw.Draw(parts), ImageDraw.Draw(shares)
    colors = {BODY: (0, 0, 0), ACCENT: look.accent, DARK: (28, 24, 28), LIGHT: (228, 228, 220), SIGN: SIGN_COLOR}
    for (tone, _), polygon in zip(drawn, polygons):
        points = ((polygon - (left, top)) * SUPERSAMPLING).ravel().tolist()
        pens[0].polygon(points, fill=colors[tone], outline=colors[DARK])
        pens[1].polygon(points, fill=(255 * (tone == BODY), 255, 0), outline=(0, 255, 0))
    parts, shares = (np.asarray(image.reduce(SUPERSAMPLING), dtype=np.float32) for image in (parts, shares))
    body, whole = shares[..., :1] / 255, shares[..., 1:2] / 255

    x = np.arange(left, right, dtype=np.float32)[None] + np.float32(0.5 - center[0])
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - center[1])
    from_frame = np.linalg.inv(to_frame).tolist()
    u, v = (row[0] * x + row[1] * y for row in from_frame)
    accent = _texture_weight(look.texture, u, v, actor.texture_phase)[..., None]
    body_color, accent_color = np.array([look.body, look.accent], dtype=np.float32)
    color = parts + body * (body_color + accent * (accent_color - body_color))
    color *= (1.05 - 0.18 * (x + y)[..., None] / scale) * actor.tint
    window = (slice(top, bottom), slice(left, right))
    frame[window] = frame[window] * (1 - whole) + color
    owner[window][whole[..., 0] >= 0.5] = index


def _background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(height, width, 3) float: two muted colors in soft patches, slanting waves and grain."""
    first, second = rng.uniform(80, 190, (2, 1)) + rng.uniform(-25, 25, (2, 3))
    patches = Image.fromarray(rng.random((4, 5), dtype=np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    x, y = np.arange(width)[None] / height, np.arange(height)[:, None] / height
    angle, frequency = rng.uniform(0, np.pi), rng.uniform(10, 45)
    waves = np.sin(frequency * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
    mix = np.asarray(patches)[..., None] + rng.uniform(0, 0.2) * waves[..., None]
    grain = rng.normal(0, rng.uniform(1, 6), (height, width, 1))
    return (first * mix + second * (1 - mix) + grain).astype(np.float32)


# Sound -------------------------------------------------------------------------------------------------------------


def _synthesize(timbre: Timbre, pitch: float, brightness: float, num_samples: int, rng: np.random.Generator):
    """(num_samples,) one run of a source. The first note begins with the run."""
    time = np.arange(num_samples, dtype=np.float32) / SAMPLING_RATE
    lengths = rng.uniform(0.85, 1.15, int(2 * timbre.rate[1] * time[-1]) + 4) / rng.uniform(*timbre.rate)
    lengths = lengths.astype(np.float32)
    ends = np.cumsum(lengths)
    note = np.searchsorted(ends, time, side="right")
    age = time - (ends - lengths)[note]
    share = age / lengths[note]

    semitones = rng.uniform(-3, 3, len(lengths)).astype(np.float32)[note] + timbre.glide * (share - 0.5)
    semitones += timbre.vibrato[1] * np.sin(2 * np.pi * timbre.vibrato[0] * time + rng.uniform(0, 6))
    frequency = pitch * 2 ** (semitones / 12)
    cycles = np.cumsum(frequency, dtype=np.float64) / SAMPLING_RATE
    stack = np.zeros(num_samples, dtype=np.complex64)
    for member in timbre.chord:
        # Partial k is the k-th power of the fundamental on the unit circle.
        angle = cycles * member
        angle = (2 * np.pi * (angle - np.floor(angle))).astype(np.float32)
        fundamental = np.cos(angle) + 1j * np.sin(angle)
        partial = np.ones_like(stack)
        for k in range(1, timbre.partials + 1):
            ratio = member * k
            if ratio * frequency.max() > 0.48 * SAMPLING_RATE:
                break
            level = k ** -(timbre.rolloff + brightness)
            if timbre.resonance:
                level *= 0.05 + np.exp(-2 * np.log2(ratio * pitch / timbre.resonance) ** 2)
            partial *= fundamental
            stack += partial * np.complex64(level * np.exp(2j * np.pi * rng.random()))

    low, high, noise_share = timbre.noise
    sound = stack.imag * ((1 - noise_share) / stack.imag.std())
    if noise_share:
        size = next_fast_len(num_samples, real=True)
        spectrum = rfft(rng.standard_normal(size, dtype=np.float32))
        spectrum[: int(low / SAMPLING_RATE * size)] = 0
        spectrum[int(high / SAMPLING_RATE * size) :] = 0
        noise = irfft(spectrum)[:num_samples]
        sound = sound + noise * (noise_share / noise.std())

    if timbre.decay:
        envelope = np.minimum(age / 0.004, 1) * np.exp(-age / (timbre.decay * rng.uniform(0.8, 1.25)))
    else:
        envelope = np.clip(np.minimum(share / 0.08, (timbre.hold - share) / 0.08 + 0.5), 0, 1)
        envelope = np.maximum(envelope, float(timbre.hold == 1))
    envelope *= rng.uniform(0.6, 1, len(lengths)).astype(np.float32)[note]
    rate, depth = timbre.tremolo
    envelope *= 1 - depth * (0.5 + 0.5 * np.sin(2 * np.pi * rate * rng.uniform(0.85, 1.15) * time))
    return sound * envelope


def _runs(active: np.ndarray) -> list[tuple[int, int]]:
    """The (first, past the last) seconds of each stretch in which a source sounds."""
    edges = np.flatnonzero(np.diff(np.pad(active.astype(int), 1)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def _soundtrack(sources: list[Source], seconds: int, rng: np.random.Generator) -> np.ndarray:
    """(samples,) float in [-1, 1]: all sources over a faint noise floor."""
    noise_floor = np.exp(rng.uniform(np.log(3e-4), np.log(5e-3)))
    mixture = noise_floor * rng.standard_normal(seconds * SAMPLING_RATE, dtype=np.float32)
    for source in sources:
        timbre = source.timbre
        pitch = np.exp(rng.uniform(*np.log(timbre.pitch)))
        brightness = rng.uniform(-0.15, 0.15)
        peak = np.exp(rng.uniform(np.log(0.3), np.log(0.8)))
        for first, end in _runs(source.active):
            begin = int((first + rng.uniform(0, 0.06)) * SAMPLING_RATE)
            stop = int((end - REST_SECONDS) * SAMPLING_RATE)
            run = _synthesize(timbre, pitch, brightness, stop - begin, rng)
            run[-800:] *= np.linspace(1, 0, 800)
            mixture[begin:stop] += run * (peak / np.abs(run).max())
    return mixture / max(1, np.abs(mixture).max() / 0.95)


# Scenes ------------------------------------------------------------------------------------------------------------


def _generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(key))


def _cast(clip_key: tuple[int, int, int, int], size: int, num_classes: int) -> list[str]:
    """`size` different classes for a clip, sources first.

    Clips come in blocks of `num_classes`. In a block each class takes each place once, so that all classes sound, and
    stay silent, equally often.
    """
    *key, index = clip_key
    block, shift = divmod(index, num_classes)
    order = _generator(*key, block, 1).permutation(num_classes)
    names = list(LOOKS)
    return [names[order[(shift + place) % num_classes]] for place in range(size)]


def _schedule(subset: str, num_sources: int, rng: np.random.Generator) -> np.ndarray:
    """(seconds, sources) bool: who sounds when. Each source sounds in at least one second.

    A source of v1s sounds all the time; elsewhere silence, single sources and pairs follow one another.
    """
    active = np.ones((SUBSETS[subset], num_sources), dtype=bool)
    if subset == "v1s":
        return active
    while active.all() or not active.any(axis=0).all():
        active[:] = False
        second = 0
        while second < len(active):
            duration = rng.integers(1, 3 if subset == "v1m" else 4)
            at_once = min(rng.choice(3, p=(0.2, 0.5, 0.3)), num_sources)
            active[second : second + duration, rng.permutation(num_sources)[:at_once]] = True
            second += duration
    return active


def _place(radii: np.ndarray, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """(objects, 2) centers, one after another at the place that overlaps least with the others among some tries."""
    centers = np.empty((len(radii), 2))
    for i, radius in enumerate(radii):
        margin = 0.65 * radius
        tries = rng.uniform((margin, margin), (width - margin, height - margin), (40, 2))
        distances = np.linalg.norm(tries[:, None] - centers[None, :i], axis=-1) / (radius + radii[:i])
        # Apart is good enough: the farthest place would push everything into the corners.
        centers[i] = tries[np.argmax(np.minimum(distances.min(axis=1, initial=1), 0.95))]
    return centers


def _sample_actors(subset, clip_key, num_classes, width, height, rng) -> list[Actor]:
    """The objects of a clip in drawing order, which is random as all else that is seen."""
    num_sources = {"v1s": 1, "v1m": rng.integers(2, 4), "v2": rng.integers(1, 4)}[subset]
    num_silent = 1 if num_sources == 3 or subset == "v1m" else rng.integers(1, 3)
    names = _cast(clip_key, num_sources + num_silent, num_classes)
    active = np.zeros((SUBSETS[subset], len(names)), dtype=bool)
    active[:, :num_sources] = _schedule(subset, num_sources, rng)
    timbres = [TIMBRES[name] for name in names]
    return _make_actors(names, timbres, active, np.zeros_like(active), width, height, rng)


def _make_actors(names, timbres, active, signs, width, height, rng) -> list[Actor]:
    """Objects of these classes in a random drawing order; `active` and `signs` are (frames, objects)."""
    order = rng.permutation(len(names))
    areas = rng.uniform(0.09, min(0.2, 0.48 / len(names)), len(names))
    scales = [_scale(names[i], area, width, height) for i, area in zip(order, areas)]
    radii = np.array([s * _shape_extent(LOOKS[names[i]].shape)[1] for i, s in zip(order, scales)])
    return [
        Actor(
            name=names[i],
            timbre=timbres[i],
            active=active[:, i],
            texture_phase=rng.uniform(0, 6),
            tint=rng.uniform(0.75, 1.15) * rng.uniform(0.92, 1.08, 3).astype(np.float32),
            flip=rng.choice((-1, 1)),
            area=area,
            rotation=np.deg2rad(rng.uniform(-30, 30)),
            center=center,
            drift=rng.uniform(-0.12, 0.12, 2) * height,
            spin=np.deg2rad(rng.uniform(-25, 25)),
            signs=signs[:, i],
        )
        for i, area, center in zip(order, areas, _place(radii, width, height, rng))
    ]


# Scenes with the statistics of AVSBench ----------------------------------------------------------------------------


def _draw_classes(size: int, num_classes: int, rng: np.random.Generator) -> list[str]:
    """`size` different classes, the first of `LOOKS` most often."""
    weights = np.arange(1, num_classes + 1) ** -CLASS_EXPONENT
    return [list(LOOKS)[i] for i in rng.choice(num_classes, size, replace=False, p=weights / weights.sum())]


def _draw_timbre(name: str, rng: np.random.Generator) -> Timbre:
    """A timbre of the class, somewhere on the way to that of another class of its family."""
    (family,) = (family for family in SOUND_FAMILIES if name in family)
    other = rng.choice([member for member in family if member != name])
    return _blend(TIMBRES[name], TIMBRES[other], rng.uniform(0, LARGEST_BLEND))


def _draw_stretches(subset: str, rng: np.random.Generator) -> np.ndarray:
    """(seconds,) the number of the stretch that each second belongs to; within one nothing begins or stops."""
    if subset == "v1s":
        return np.zeros(SUBSETS[subset], dtype=int)
    durations = rng.integers(1, 3 if subset == "v1m" else 4, SUBSETS[subset])
    return np.repeat(np.arange(len(durations)), durations)[: SUBSETS[subset]]


def _draw_sounding(subset: str, num_sources: int, rng: np.random.Generator) -> np.ndarray:
    """(sources,) bool: all of them, some or none, for a stretch."""
    share = rng.random()
    if share < SILENT_SHARE[subset]:
        return np.zeros(num_sources, dtype=bool)
    sounding = np.ones(num_sources, dtype=bool)
    if share >= SILENT_SHARE[subset] + ALL_SHARE[subset] and num_sources > 1:
        sounding[rng.permutation(num_sources)[: rng.integers(1, num_sources)]] = False
    return sounding


def _sample_avsbench_scene(subset, num_classes, width, height, rng) -> tuple[list[Actor], list[Source]]:
    """The objects of a clip in drawing order, and what sounds without being seen."""
    num_sources = {"v1s": 1, "v1m": rng.integers(2, 4), "v2": rng.integers(1, 4)}[subset]
    num_objects = num_sources + (rng.random() < BYSTANDER_SHARE)
    *names, other = _draw_classes(num_objects + 1, num_classes, rng)

    stretches = _draw_stretches(subset, rng)
    active = np.zeros((stretches[-1] + 1, num_objects), dtype=bool)
    while not active.any():
        for sounding in active:
            sounding[:num_sources] = _draw_sounding(subset, num_sources, rng)
    signs = rng.random(active.shape) < np.where(active, SIGN_SHARE[True], SIGN_SHARE[False])
    timbres = [_draw_timbre(name, rng) for name in names]
    actors = _make_actors(names, timbres, active[stretches], signs[stretches], width, height, rng)
    if rng.random() >= OFF_SCREEN_SHARE[subset]:
        return actors, []
    heard = rng.random(len(active)) < 0.5
    heard[rng.integers(len(active))] = True
    return actors, [Source(other, _draw_timbre(other, rng), heard[stretches])]


# What is known of pictures and of sounds apart ---------------------------------------------------------------------


def draw_scene(seed: int, index: int, image_size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """
    A picture, and what is to be seen in it: what a set of annotated pictures such as ADE20K has, and nothing of sound.
    It has one to four objects of different classes, all classes alike, and half of them show the sign of sounding.

    Args:
        seed (`int`), index (`int`):
            What the picture follows from.
        image_size (`int`, *optional*, defaults to 96):
            Its height in pixels. Half of the pictures are square, the others a third wider.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: the picture, uint8 `(height, width, 3)`, and the class of each pixel, uint8
        `(height, width)`, an index of [`~data.labels.CLASS_NAMES`].
    """
    rng = _generator(seed, index, 3)
    width, height = (image_size, image_size) if rng.random() < 0.5 else (image_size * 4 // 3, image_size)
    names = [list(LOOKS)[i] for i in rng.permutation(len(LOOKS))[: rng.integers(1, 5)]]
    silent, signs = np.zeros((1, len(names)), dtype=bool), rng.random((1, len(names))) < 0.5
    actors = _make_actors(names, [TIMBRES[name] for name in names], silent, signs, width, height, rng)
    frame, owner = _background(rng, width, height), np.zeros((height, width), dtype=np.uint8)
    for number, actor in enumerate(actors, start=1):
        _draw_actor(frame, owner, actor, number, rng.uniform(-0.5, 0.5), actor.signs[0])
    frame = np.clip(frame * rng.uniform(0.93, 1.07), 0, 255).astype(np.uint8)
    return frame, np.array([0, *(CLASS_NAMES.index(actor.name) for actor in actors)], dtype=np.uint8)[owner]


def draw_sound(seed: int, index: int, seconds: int = 5) -> tuple[np.ndarray, int]:
    """
    The sound of one source, and its class: what a set of annotated sounds such as AudioSet has, and nothing of looks.
    All classes are alike, their timbres as with the statistics of AVSBench.

    Args:
        seed (`int`), index (`int`):
            What the sound follows from.
        seconds (`int`, *optional*, defaults to 5):
            Its length.

    Returns:
        `tuple[np.ndarray, int]`: the sound, float `(samples,)` at 16 kHz, and its class, an index of
        [`~data.labels.CLASS_NAMES`].
    """
    rng = _generator(seed, index, 4)
    name = list(LOOKS)[rng.integers(len(LOOKS))]
    source = Source(name, _draw_timbre(name, rng), np.ones(seconds, dtype=bool))
    return _soundtrack([source], seconds, rng), CLASS_NAMES.index(name)


# Files -------------------------------------------------------------------------------------------------------------


def _write_clip(
    root: Path, subset: str, split: str, index: int, seed: int, image_size: int, num_classes: int, statistics: str
) -> dict:
    """Writes one clip and returns its row of metadata.csv."""
    clip_key = (seed, list(SUBSETS).index(subset), SPLITS.index(split), index)
    rng = _generator(*clip_key, 0 if statistics == "independent" else 2)
    seconds = SUBSETS[subset]
    # As in the real set, v1 is square and v2 keeps the shape of its videos.
    width, height = (image_size * 4 // 3 if subset == "v2" else image_size), image_size

    alphabet = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    vid, start = "".join(rng.choice(alphabet, 11)), int(rng.integers(0, 300))
    if subset == "v1m":
        start, vid = 0, f"{vid}_{rng.integers(0, 9)}"
    uid = vid if subset == "v1m" else f"{vid}_{start * 1000}_{(start + seconds) * 1000}"
    folder = root / subset / uid
    for name in ("frames", "labels_rgb", "labels_semantic"):
        (folder / name).mkdir(parents=True)

    if statistics == "independent":
        actors, off_screen = _sample_actors(subset, clip_key, num_classes, width, height, rng), []
    else:
        actors, off_screen = _sample_avsbench_scene(subset, num_classes, width, height, rng)
    soundtrack = _soundtrack([*actors, *off_screen], seconds, rng)
    soundfile.write(folder / "audio.wav", soundtrack, SAMPLING_RATE, subtype="PCM_16")

    background = _background(rng, width, height)
    class_ids = np.array([0, *(CLASS_NAMES.index(actor.name) for actor in actors)], dtype=np.uint8)
    for second in range(seconds):
        frame, owner = background.copy(), np.zeros((height, width), dtype=np.uint8)
        for number, actor in enumerate(actors, start=1):
            _draw_actor(frame, owner, actor, number, second / (seconds - 1) - 0.5, actor.signs[second])
        frame = np.clip(frame * rng.uniform(0.93, 1.07), 0, 255).astype(np.uint8)
        Image.fromarray(frame).save(folder / "frames" / f"{second}.jpg", quality=90)
        if (subset, split) == ("v1s", "train") and second > 0:
            continue
        labels = (class_ids * np.array([False, *(actor.active[second] for actor in actors)]))[owner]
        Image.fromarray(PALETTE[labels]).save(folder / "labels_rgb" / f"{second}.png")
        Image.fromarray(labels).save(folder / "labels_semantic" / f"{second}.png")

    sounding = sorted(actor.name for actor in actors if actor.active.any())
    minutes, remainder = divmod(start, 60)
    row = dict(zip(COLUMNS, (vid, uid, minutes, remainder, "_".join(sounding), split, subset)))
    for column, found in zip(RECORD_COLUMNS, (actors, off_screen)):
        row[column] = "_".join(sorted(source.name for source in found))
    return row


def _write_set(root: Path, manifest: dict) -> None:
    statistics = manifest.get("statistics", "independent")
    columns = COLUMNS if statistics == "independent" else COLUMNS + RECORD_COLUMNS
    arguments = {name: manifest[name] for name in ("seed", "image_size", "num_classes")} | {"statistics": statistics}
    rows = [
        _write_clip(root, subset, split, index, **arguments)
        for subset, counts in manifest["clips"].items()
        for split, count in zip(SPLITS, counts)
        for index in range(count)
    ]
    with open(root / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    label2idx = {name: index + 1 for index, name in enumerate(CLASS_NAMES)}
    (root / "label2idx.json").write_text(json.dumps(label2idx, indent=4) + "\n", encoding="utf-8")
    (root / MANIFEST_NAME).write_text(json.dumps(manifest, indent=4) + "\n", encoding="utf-8")


def make_mini_avsbench(
    root: str | os.PathLike,
    seed: int = 0,
    image_size: int = 96,
    num_classes: int | None = None,
    clips: dict[str, tuple[int, int, int]] | None = None,
    statistics: Literal["independent", "avsbench"] = "independent",
) -> Path:
    """
    Makes a mini-AVSBench in the folder layout of AVSBench-semantic.

    The set is built in a hidden folder beside `root` and renamed when it is complete. A `root` that already holds the
    set made with the same arguments is left as it is. A clip depends on nothing but the seed, the subset, the split,
    its own place in the split, the frame size, the number of classes and the statistics: a larger set begins with the
    clips of a smaller one, and the same arguments give the same files.

    Frames of v1s and v1m are square and those of v2 a third wider, sounds have one channel of 16 kHz. What sounds in
    second t sounds within it, and has died away 0.37 s before the second after which it stops: patches that begin
    every 0.96 s, as in VGGish, and patches that begin every second hear the same sources.

    Args:
        root (`str` or `PathLike`):
            Folder of the new set. It must not exist, or be empty, or hold the very same set.
        seed (`int`, *optional*, defaults to 0):
            Any non-negative integer.
        image_size (`int`, *optional*, defaults to 96):
            Height of the frames in pixels.
        num_classes (`int`, *optional*):
            How many of the 71 classes occur, at least 4: the first ones of `LOOKS`. Defaults to 8, with the
            statistics of AVSBench to 24.
        clips (`dict[str, tuple[int, int, int]]`, *optional*):
            Number of clips in train, val and test for each of the subsets `v1s`, `v1m`, `v2`; a subset that is not
            named gets none. Defaults to `DEFAULT_CLIPS`, with the statistics of AVSBench to `AVSBENCH_CLIPS`.
        statistics (`str`, *optional*, defaults to `"independent"`):
            `"independent"`: what sounds is independent of all that can be seen, every clip shows something silent, and
            classes are even. `"avsbench"`: as in AVSBench, what can be seen nearly always sounds and usually shows it
            (a star on the object), classes are uneven, and their timbres overlap; some seconds are silent, and in some
            something sounds that is not in the picture, nor in the masks. `metadata.csv` then has two more columns,
            `visible`, the classes that are drawn, whether they sound or not, and `off_screen`, those that are heard
            alone. "Preparing AVSBench" has the numbers, and where each of them comes from.

    Returns:
        `Path`: `root`, absolute.

    Raises:
        `ValueError`: an argument is out of range.
        `FileExistsError`: `root` holds anything else than this set.
    """
    root = Path(root).resolve()
    if statistics not in ("independent", "avsbench"):
        raise ValueError(f'`statistics` must be "independent" or "avsbench", but is {statistics!r}.')
    defaults = (8, DEFAULT_CLIPS) if statistics == "independent" else (AVSBENCH_NUM_CLASSES, AVSBENCH_CLIPS)
    num_classes = defaults[0] if num_classes is None else num_classes
    clips = defaults[1] if clips is None else clips
    if not 4 <= num_classes <= len(LOOKS):
        raise ValueError(f"`num_classes` must be between 4 and {len(LOOKS)}, but is {num_classes}.")
    if image_size < 32:
        raise ValueError(f"`image_size` must be at least 32 pixels for objects to be seen, but is {image_size}.")
    if not set(clips) <= set(SUBSETS) or any(len(counts) != 3 or min(counts) < 0 for counts in clips.values()):
        raise ValueError(f"`clips` must map {', '.join(SUBSETS)} to three counts (train, val, test), but is {clips}.")
    counts = {subset: list(clips.get(subset, (0, 0, 0))) for subset in SUBSETS}
    arguments = {"seed": seed, "image_size": image_size, "num_classes": num_classes, "clips": counts}
    manifest = {"version": FORMAT_VERSION, **arguments}
    if statistics != "independent":
        manifest["statistics"] = statistics

    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        path = root / MANIFEST_NAME
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) == manifest:
            return root
        raise FileExistsError(
            f"{root} exists and is not the mini-AVSBench of these arguments ({manifest}). Choose another folder or "
            "remove this one."
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(root) as (partial,):
        partial.mkdir()
        _write_set(partial, manifest)
    return root


def find_mini_avsbench(folder: str | os.PathLike, statistics: Literal["independent", "avsbench"]) -> Path:
    """The mini-AVSBench of a run in the run's folder, which is made there unless it is there already."""
    root = Path(folder, "mini-avsbench" if statistics == "independent" else "mini-avsbench-like-avsbench")
    if not root.exists():
        make_mini_avsbench(root, statistics=statistics)
    return root


__all__ = [
    "AVSBENCH_CLIPS",
    "DEFAULT_CLIPS",
    "LOOKS",
    "TIMBRES",
    "draw_scene",
    "draw_sound",
    "find_mini_avsbench",
    "make_mini_avsbench",
]
