"""A CT of a head phantom, drawn slice by slice: ellipsoids in the manner of Shepp and Logan, and some noise."""

import array
import math
import random
import sys

from PIL import Image, ImageDraw

SIZE = 256
PIXEL_MM = 0.9
SLICE_MM = 14.0
SLICES = 6

RESCALE_INTERCEPT = -1024
_MAX_STORED = 4095
_FINE = 2  # drawn so many times larger, and shrunk: ImageDraw has no anti-aliasing
_SEED = 3

# Centre x, y, z and radii, in mm (y downwards, z upwards), the angle in degrees, and the value in HU. Later
# ones lie over earlier ones.
_ELLIPSOIDS: tuple[tuple[tuple[float, float, float], tuple[float, float, float], float, float], ...] = (
    ((0, 0, 0), (76, 96, 92), 0, 60),  # skin
    ((0, 0, 0), (72, 92, 88), 0, 1050),  # skull
    ((0, 1, 0), (65, 85, 81), 0, 34),  # brain
    ((0, 0, 0), (2.5, 76, 80), 0, 12),  # the fissure between the hemispheres
    ((-15, -6, 6), (9, 30, 22), 14, 4),  # ventricles
    ((15, -6, 6), (9, 30, 22), -14, 4),
    ((0, 34, -20), (34, 22, 20), 0, 40),  # cerebellum
    ((-36, -30, 12), (9, 9, 9), 0, 72),  # three test bodies
    ((34, 24, 0), (6, 6, 6), 0, 240),
    ((30, -36, -12), (7, 7, 7), 0, -80),
)


def positions() -> list[float]:
    """Give the z of each slice in mm, from below."""
    return [SLICE_MM * (number - (SLICES - 1) / 2) for number in range(SLICES)]


def draw(z: float) -> bytes:
    """Draw the slice at `z` mm: SIZE x SIZE unsigned 16-bit values, little endian, HU minus RESCALE_INTERCEPT."""
    chance = random.Random(_SEED + z)
    picture = Image.new("F", (SIZE * _FINE, SIZE * _FINE), -1000)
    pen = ImageDraw.Draw(picture)
    for centre, radii, angle, hounsfield in _ELLIPSOIDS:
        inside = 1 - ((z - centre[2]) / radii[2]) ** 2
        if inside > 0:
            outline = _ellipse(centre, radii, math.sqrt(inside), math.radians(angle))
            pen.polygon(outline, fill=hounsfield)
    shrunk = array.array("f", picture.resize((SIZE, SIZE), Image.Resampling.BOX).tobytes())
    noise = chance.randbytes(2 * SIZE * SIZE)
    values = array.array("H")
    for value, one, other in zip(shrunk, noise[::2], noise[1::2], strict=True):
        values.append(min(max(int(value + (one - other) / 16) - RESCALE_INTERCEPT, 0), _MAX_STORED))
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def _ellipse(
    centre: tuple[float, float, float], radii: tuple[float, float, float], scale: float, angle: float
) -> list[tuple[float, float]]:
    """The outline of an ellipsoid's cut, in pixels of the enlarged picture."""
    points = []
    for number in range(120):
        along = math.tau * number / 120
        x, y = radii[0] * scale * math.cos(along), radii[1] * scale * math.sin(along)
        across = centre[0] + x * math.cos(angle) - y * math.sin(angle)
        down = centre[1] + x * math.sin(angle) + y * math.cos(angle)
        points.append(((SIZE / 2 + across / PIXEL_MM) * _FINE, (SIZE / 2 + down / PIXEL_MM) * _FINE))
    return points
