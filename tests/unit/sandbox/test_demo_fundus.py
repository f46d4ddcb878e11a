import time
from collections.abc import Iterable

import pytest
from PIL import Image, ImageOps

from sandbox.demo import fundus

DISC, FOVEA, CORNER = (588, 372), (334, 396), (5, 5)


@pytest.fixture(scope="module")
def right() -> Image.Image:
    return fundus.draw()


def brightness(picture: Image.Image, at: Iterable[int]) -> float:
    x, y = at
    around = picture.convert("L").crop((x - 12, y - 12, x + 12, y + 12))
    return sum(around.tobytes()) / len(around.tobytes())


def test_the_same_photograph_comes_every_time_and_soon() -> None:
    """Two drawings are equal to the last pixel, and one takes well under three seconds."""
    began = time.perf_counter()
    first = fundus.draw()
    assert time.perf_counter() - began < 3
    assert first.size == (768, 768)
    assert first.mode == "RGB"
    assert first.tobytes() == fundus.draw().tobytes()


def test_it_has_the_landmarks_of_a_retina(right: Image.Image) -> None:
    """The optic disc is the brightest part, the fovea is darker than what is around, outside it is black."""
    around = brightness(right, (430, 330))
    assert brightness(right, (DISC[0] - 15, DISC[1])) > around * 1.4
    assert brightness(right, FOVEA) < around * 0.8
    assert brightness(right, (CORNER[0] + 12, CORNER[1] + 12)) < 5
    red, green, blue = (sum(channel.tobytes()) for channel in right.split())
    assert red > 1.8 * green > 1.8 * blue


def test_the_left_eye_is_the_mirror_image(right: Image.Image) -> None:
    """The optic disc of a left eye is on the left."""
    assert fundus.draw(left=True).tobytes() == ImageOps.mirror(right).tobytes()
