"""Windows of images: they cover the image, and image and map show the same place."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from spatialboost.probes.windows import FILL, Window, middle, random_window, sliding_windows, whole


@pytest.mark.parametrize("image", [(480, 640), (683, 512), (512, 512), (300, 1000)])
@pytest.mark.parametrize("scale", [1.0, 1.73])
def test_sliding_windows_cover_every_pixel(image, scale):
    windows = sliding_windows(image, (512, 512), 2 / 3, scale)
    covered = np.zeros(windows[0].resized, int)
    for window in windows:
        covered[window.top : window.top + 512, window.left : window.left + 512] += 1
    assert covered.min() >= 1 and min(covered.shape) == round(512 * scale)
    assert covered.shape[1] / covered.shape[0] == pytest.approx(image[1] / image[0], rel=0.01)
    starts = sorted({window.left for window in windows})
    assert all(after - before <= 341 for before, after in pairwise(starts))


def test_image_and_map_of_a_window_are_of_the_same_place():
    torch.manual_seed(0)
    values = (np.arange(40)[:, None] * 4 + np.arange(60)[None] % 40).astype(np.uint8)
    image = values[..., None].repeat(3, 2)
    for squeezed in (True, False):
        for _ in range(20):
            window, zoom = random_window((40, 60), (32, 32), (0.5, 2.0), squeezed=squeezed)
            shown, labels = window.of_image(image), window.of_map(values.astype(float))
            assert shown.shape == (32, 32, 3) and 0.5 <= zoom <= 2
            inside = np.isfinite(labels)
            assert (shown[~inside] == FILL).all() and inside.any()
            # smooth from top to bottom; what bicubic pixels and nearest ones differ by
            assert np.median(np.abs(shown[..., 0][inside].astype(float) - labels[inside])) < 5


def test_a_mirrored_window_is_the_window_mirrored():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    window, other = Window((20, 30), 3, 7, (8, 9)), Window((20, 30), 3, 7, (8, 9), mirrored=True)
    np.testing.assert_array_equal(other.of_image(image), window.of_image(image)[:, ::-1])
    np.testing.assert_array_equal(window.of_image(image), image[3:11, 7:16])
    np.testing.assert_array_equal(other.of_map(image[..., 0], 0), window.of_map(image[..., 0], 0)[:, ::-1])


def test_the_middle_is_that_of_torchvision():
    from PIL import Image
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)
    theirs = Compose([Resize(64, InterpolationMode.BICUBIC), CenterCrop(56)])(Image.fromarray(image))
    np.testing.assert_array_equal(middle((60, 90), (56, 56)).of_image(image), np.asarray(theirs))
    assert whole((5, 6)).of_image(image).shape == (5, 6, 3)
