"""A colour fundus photograph of a healthy retina, drawn: no patient, and the same picture every time.

A field of 45 degrees centred between macula and optic disc, as a fundus camera sees it. Lengths are pixels of a
768 x 768 picture, y downwards; at this field one millimetre of retina is 55 of them. The right eye is drawn, with
its optic disc on the right; the left eye is its mirror image.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

SIZE = 768
_CENTRE = SIZE / 2
_FIELD_RADIUS = 368
_FINE = 3  # vessels are drawn so many times larger, and shrunk: ImageDraw has no anti-aliasing
_SEED = 7

_Point = tuple[float, float]
_Colour = tuple[int, int, int]

_DISC: _Point = (588, 372)
_DISC_RADII = (48, 54)
_FOVEA: _Point = (334, 396)
_AVASCULAR_RADIUS = 26
_MACULA_RADIUS = 150

_FUNDUS: _Colour = (230, 114, 56)
_RIM: _Colour = (243, 163, 100)
_CUP: _Colour = (255, 228, 172)
_VEIN: _Colour = (150, 92, 88)
_ARTERY: _Colour = (196, 128, 112)
_REFLEX: _Colour = (255, 176, 124)

# The trunks as points relative to the optic disc, each with the width at its start. They leave the disc upwards
# and downwards; those on the temporal side (here the left) arch round the macula.
_VEINS: tuple[tuple[float, Sequence[_Point]], ...] = (
    (8.6, ((5, 3), (2, -40), (-30, -104), (-104, -176), (-206, -214), (-316, -212), (-420, -170), (-590, -20))),
    (8.8, ((5, -2), (6, 44), (-22, 112), (-92, 186), (-190, 232), (-300, 238), (-410, 206), (-510, 142), (-590, 50))),
    (6.0, ((5, 2), (26, -38), (62, -92), (104, -170), (128, -262), (132, -340))),
    (6.2, ((5, 0), (28, 40), (60, 100), (92, 184), (104, 280), (96, 360))),
    (3.0, ((8, 2), (44, 12), (96, 20), (170, 40))),
)
_ARTERIES: tuple[tuple[float, Sequence[_Point]], ...] = (
    (6.6, ((6, 0), (-10, -40), (-52, -98), (-122, -146), (-214, -182), (-318, -182), (-424, -134), (-590, 14))),
    (6.6, ((5, 0), (-10, 42), (-44, 104), (-116, 164), (-204, 200), (-310, 206), (-420, 166), (-510, 98), (-580, 10))),
    (4.8, ((8, -2), (38, -32), (84, -84), (134, -150), (164, -230), (176, -320))),
    (4.8, ((8, 5), (40, 34), (84, 88), (124, 170), (142, 260), (140, 350))),
    (2.4, ((8, 0), (42, -10), (92, -24), (168, -34))),
    (2.0, ((-2, 2), (-44, 2), (-96, -10), (-150, -4))),  # a cilioretinal artery: one eye in five has one
)


def draw(*, left: bool = False) -> Image.Image:
    """Draw the photograph.

    Args:
        left: the left eye instead of the right one.

    Returns:
        An RGB image of SIZE x SIZE.
    """
    chance = random.Random(_SEED)
    picture = _background(chance)
    picture = _macula(picture)
    picture = _optic_disc(picture)
    picture = _vessels(picture, chance)
    picture = _camera(picture, chance)
    return ImageOps.mirror(picture) if left else picture


def _background(chance: random.Random) -> Image.Image:
    """Pigment epithelium and choroid: orange, mottled, with the sheen of the nerve fibres near the disc."""
    picture = Image.new("RGB", (SIZE, SIZE), _FUNDUS)
    mottling = Image.blend(_clouds(chance, 9), _clouds(chance, 22), 0.45)
    grain = Image.blend(_clouds(chance, 70), _clouds(chance, 190), 0.4)
    texture = Image.blend(mottling, grain, 0.4)
    red, green, blue = (texture.point(_between(low, 255)) for low in (226, 196, 176))
    picture = ImageChops.multiply(picture, Image.merge("RGB", (red, green, blue)))
    picture = _tinted(picture, _choroid(chance), (232, 190, 180), ImageChops.multiply)
    sheen = ImageChops.multiply(_spot((_DISC[0] - 40, _DISC[1]), (250, 300), 1.4), _clouds(chance, 40))
    return _tinted(picture, sheen, (44, 40, 22), ImageChops.screen)


def _choroid(chance: random.Random) -> Image.Image:
    """The large vessels of the choroid, shining through as faint blurred bands."""
    mask = Image.new("L", (SIZE, SIZE))
    pen = ImageDraw.Draw(mask)
    for _ in range(60):
        angle = chance.uniform(0, math.tau)
        x, y = (_CENTRE + radius * 400 for radius in (math.cos(angle), math.sin(angle)))
        heading = angle + math.pi + chance.uniform(-0.6, 0.6)
        points = [(x, y)]
        for _ in range(chance.randint(8, 20)):
            heading += chance.uniform(-0.35, 0.35)
            x, y = x + 18 * math.cos(heading), y + 18 * math.sin(heading)
            points.append((x, y))
        pen.line(points, fill=chance.randint(60, 130), width=chance.randint(4, 10), joint="curve")
    faded = ImageChops.multiply(mask, ImageChops.invert(_spot(_FOVEA, (220, 220), 1)))
    return faded.filter(ImageFilter.GaussianBlur(5))


def _macula(picture: Image.Image) -> Image.Image:
    """Darker by its pigment, darkest in the fovea, with the pinpoint reflex of a young eye."""
    picture = _tinted(
        picture, _spot(_FOVEA, (_MACULA_RADIUS, _MACULA_RADIUS), 1.3), (184, 154, 146), ImageChops.multiply
    )
    picture = _tinted(picture, _spot(_FOVEA, (58, 54), 1.2), (206, 180, 176), ImageChops.multiply)
    return _tinted(picture, _spot((_FOVEA[0] + 1, _FOVEA[1] - 2), (4, 4), 1), (84, 66, 42), ImageChops.screen)


def _optic_disc(picture: Image.Image) -> Image.Image:
    """The pale disc with its paler cup, and a narrow rim of pigment on the temporal side."""
    x, y = _DISC
    wide, high = _DISC_RADII
    picture = _tinted(picture, _spot((x - 8, y), (wide + 20, high + 20), 0.7), (206, 176, 170), ImageChops.multiply)
    disc = _ellipse(_DISC, _DISC_RADII, blur=3)
    picture = Image.composite(Image.new("RGB", picture.size, _RIM), picture, disc)
    nasal = ImageChops.multiply(disc, _spot((x + 46, y), (62, 80), 1))
    picture = _tinted(picture, nasal, (246, 222, 208), ImageChops.multiply)
    return Image.composite(Image.new("RGB", picture.size, _CUP), picture, _ellipse((x - 6, y + 1), (20, 23), blur=6))


@dataclass(frozen=True)
class _Segment:
    """A short straight piece of a vessel, with its width there."""

    start: _Point
    end: _Point
    width: float


def _vessels(picture: Image.Image, chance: random.Random) -> Image.Image:
    """Veins, and over them the arteries: narrower, brighter, with a streak of reflected light."""
    veins = [segment for trunk in _VEINS for segment in _tree(chance, *trunk)]
    arteries = [segment for trunk in _ARTERIES for segment in _tree(chance, *trunk)]
    picture = _tinted(picture, _drawn(veins), _VEIN, ImageChops.multiply)
    picture = _tinted(picture, _drawn(arteries), _ARTERY, ImageChops.multiply)
    for segments, thinnest, strength in ((arteries, 2.6, 0.34), (veins, 4.4, 0.16)):
        bright = [s for s in segments if s.width > thinnest and math.dist(s.start, _DISC) > 16]
        streak = _drawn(bright, scale=0.22).point(_between(0, int(255 * strength)))
        picture = Image.composite(Image.new("RGB", picture.size, _REFLEX), picture, streak)
    return picture


def _tree(chance: random.Random, width: float, points: Sequence[_Point]) -> Iterator[_Segment]:
    """A trunk along its points, and its branches to both sides."""
    path = [(_DISC[0] + x, _DISC[1] + y) for x, y in _curve(points)]
    side = chance.choice((-1, 1))
    next_branch = chance.uniform(50, 80)
    gone = 0.0
    for number, (start, end) in enumerate(itertools.pairwise(path)):
        now = width * (1 - 0.78 * number / len(path))
        yield _Segment(start, end, now)
        gone += math.dist(start, end)
        if gone > next_branch:
            next_branch = gone + chance.uniform(30, 62)
            side = -side
            heading = math.atan2(end[1] - start[1], end[0] - start[0]) + side * chance.uniform(0.5, 1.0)
            yield from _branch(chance, end, heading, now * chance.uniform(0.36, 0.6), side)


def _branch(chance: random.Random, at: _Point, heading: float, width: float, side: int) -> Iterator[_Segment]:
    """A branch that winds, tapers and forks until it is too thin to be seen, or comes to the fovea."""
    bend = -side * chance.uniform(0.0, 0.004)
    length = width * chance.uniform(40, 64)
    gone = 0.0
    fork = chance.uniform(24, 60)
    while width > 0.55 and gone < length:
        bend = 0.94 * bend + chance.uniform(-0.006, 0.006)
        heading += (bend + 0.02 * math.sin(gone / 8 + width)) * 4
        end = (at[0] + 4 * math.cos(heading), at[1] + 4 * math.sin(heading))
        if math.dist(end, _FOVEA) < _AVASCULAR_RADIUS or math.dist(end, (_CENTRE, _CENTRE)) > _FIELD_RADIUS + 8:
            return
        width *= 0.992
        yield _Segment(at, end, width)
        at = end
        gone += 4
        if gone > fork:
            fork = gone + chance.uniform(36, 80)
            turn = chance.choice((-1, 1))
            yield from _branch(chance, at, heading + turn * chance.uniform(0.4, 0.8), width * 0.6, turn)
            heading -= turn * 0.16


def _curve(points: Sequence[_Point]) -> list[_Point]:
    """A Catmull-Rom curve through the points, with the slight winding of a vessel."""
    padded = [points[0], *points, points[-1]]
    curve: list[_Point] = []
    for before, start, end, after in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        steps = max(int(math.dist(start, end) / 4), 1)
        for step in range(steps):
            t = step / steps
            x, y = (
                b + t * (c - a) / 2 + t * t * (a - 2.5 * b + 2 * c - d / 2) + t**3 * (1.5 * (b - c) + (d - a) / 2)
                for a, b, c, d in zip(before, start, end, after, strict=True)
            )
            curve.append((x + 1.6 * math.sin((x + 2 * y) / 19), y + 1.6 * math.sin((y - 2 * x) / 23)))
    return curve


def _drawn(segments: Sequence[_Segment], scale: float = 1) -> Image.Image:
    """The segments as a mask; thin vessels are faint, for they are seen through."""
    mask = Image.new("L", (SIZE * _FINE, SIZE * _FINE))
    pen = ImageDraw.Draw(mask)
    for segment in sorted(segments, key=lambda segment: segment.width):
        width = segment.width * scale * _FINE
        fill = min(255, int(70 + 40 * segment.width))
        start, end = ([value * _FINE for value in point] for point in (segment.start, segment.end))
        pen.line((*start, *end), fill=fill, width=max(round(width), 1))
        radius = width / 2
        if radius > 1:
            pen.ellipse((end[0] - radius, end[1] - radius, end[0] + radius, end[1] + radius), fill=fill)
    return mask.resize((SIZE, SIZE), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(0.7))


def _camera(picture: Image.Image, chance: random.Random) -> Image.Image:
    """What the camera adds: light that falls off, a little blur and noise, and the round field on black."""
    light = _spot((_CENTRE + 10, _CENTRE), (560, 560), 0.9).point(_between(70, 255))
    picture = ImageChops.multiply(picture, Image.merge("RGB", (light.point(_between(40, 255)), light, light)))
    picture = picture.filter(ImageFilter.GaussianBlur(0.5))
    noise = Image.frombytes("RGB", picture.size, chance.randbytes(SIZE * SIZE * 3)).filter(
        ImageFilter.GaussianBlur(0.6)
    )
    picture = ImageChops.add(picture, noise.point(lambda value: value * 14 // 255), offset=-7)
    field = _ellipse((_CENTRE, _CENTRE), (_FIELD_RADIUS, _FIELD_RADIUS), blur=1.2)
    notch = math.radians(-45)
    edge = (_CENTRE + _FIELD_RADIUS * math.cos(notch), _CENTRE + _FIELD_RADIUS * math.sin(notch))
    field = ImageChops.lighter(field, _ellipse(edge, (9, 9), blur=1.2))
    return Image.composite(picture, Image.new("RGB", picture.size, (3, 2, 2)), field)


# Masks: grey images of SIZE x SIZE


def _clouds(chance: random.Random, cells: int) -> Image.Image:
    """Smooth random values, `cells` to a side. Image.effect_noise would be different every time."""
    return Image.frombytes("L", (cells, cells), chance.randbytes(cells * cells)).resize(
        (SIZE, SIZE), Image.Resampling.BICUBIC
    )


def _spot(centre: _Point, radii: _Point, power: float) -> Image.Image:
    """White in the centre, fading to black at the radii; a larger power fades sooner."""

    def fade(distance: int) -> float:
        inside = max(1 - distance / 179, 0)  # Image.radial_gradient has 255 in its corners, 179 at its edges
        return 255 * math.pow(inside * inside * (3 - 2 * inside), power)

    spot = Image.radial_gradient("L").point(fade)
    mask = Image.new("L", (SIZE, SIZE))
    size = (int(2 * radii[0]), int(2 * radii[1]))
    mask.paste(spot.resize(size, Image.Resampling.BICUBIC), (int(centre[0] - radii[0]), int(centre[1] - radii[1])))
    return mask


def _ellipse(centre: _Point, radii: _Point, blur: float) -> Image.Image:
    """White inside, black outside, with a blurred edge."""
    mask = Image.new("L", (SIZE, SIZE))
    (x, y), (wide, high) = centre, radii
    ImageDraw.Draw(mask).ellipse((x - wide, y - high, x + wide, y + high), fill=255)
    return mask.filter(ImageFilter.GaussianBlur(blur))


def _tinted(
    picture: Image.Image,
    mask: Image.Image,
    colour: _Colour,
    blend: Callable[[Image.Image, Image.Image], Image.Image],
) -> Image.Image:
    """The picture blended with a colour where the mask is white."""
    return Image.composite(blend(picture, Image.new("RGB", picture.size, colour)), picture, mask)


def _between(low: int, high: int) -> Callable[[int], float]:
    """A mapping of 0..255 to low..high, for Image.point."""
    return lambda value: low + (high - low) * value / 255
