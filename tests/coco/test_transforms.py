import numpy as np
import pytest
from torchvision import tv_tensors
from torchvision.transforms import v2

from coco.transforms import MIN_IOUS, Augmentation, colour_matrices, draw_crop, draw_sample, generator

BOXES = np.array([[0.1, 0.2, 0.4, 0.6], [0.5, 0.5, 0.9, 0.95], [0.05, 0.05, 0.15, 0.12]], dtype=np.float32)
LABELS = np.array([1, 2, 3])


def samples(count=300):
    return [draw_sample(generator(0, 0, index), 640, 480, BOXES.copy(), LABELS) for index in range(count)]


def test_a_sample_depends_on_seed_epoch_and_index_alone():
    def draw(*key):
        sample = draw_sample(generator(*key), 640, 480, BOXES.copy(), LABELS)
        return (sample.crop, sample.flip, sample.boxes.tobytes(), sample.colour.tobytes())

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(1, 2, 3), draw(0, 2, 3), draw(1, 0, 3), draw(1, 2, 0)}) == 4


def test_crops_are_whole_pixels_within_the_recipes_ranges_and_hold_a_box():
    for sample in samples():
        left, top, right, bottom = sample.crop
        assert 0 <= left < right <= 640 and 0 <= top < bottom <= 480
        width, height = (right - left) / 640, (bottom - top) / 480
        assert width >= 0.29 and height >= 0.29 and 0.45 < width / height < 2.2
        assert len(sample.boxes) == len(sample.labels) >= 1
        assert sample.boxes.dtype == np.float32
        assert (sample.boxes >= 0).all() and (sample.boxes <= 1).all()
        assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()


def test_a_seventh_and_more_of_the_pictures_stay_whole_and_half_are_flipped():
    drawn = samples()
    whole = np.mean([sample.crop == (0, 0, 640, 480) for sample in drawn])
    assert 1 / 7 < whole < 0.8
    assert 0.4 < np.mean([sample.flip for sample in drawn]) < 0.6


def test_cropped_boxes_cover_the_same_pixels_of_the_picture():
    for index in range(100):
        crop, boxes, labels = draw_crop(generator(0, 0, index), 640, 480, BOXES, LABELS)
        left, top, right, bottom = crop
        for box, label in zip(boxes, labels, strict=True):
            original = BOXES[label - 1] * np.float32([640, 480, 640, 480])
            back = box * np.float32([right - left, bottom - top] * 2) + np.float32([left, top] * 2)
            clipped = np.clip(original, [left, top] * 2, [right, bottom] * 2)
            np.testing.assert_allclose(back, clipped, atol=1e-2)


def test_only_boxes_whose_centre_is_inside_stay():
    for index in range(100):
        crop, _, labels = draw_crop(generator(0, 0, index), 640, 480, BOXES, LABELS)
        centres = (BOXES[:, :2] + BOXES[:, 2:]) / 2 * (640, 480)
        inside = ((centres >= crop[:2]) & (centres < crop[2:])).all(axis=1)
        assert labels.tolist() == LABELS[inside].tolist()


def test_flipping_mirrors_the_boxes():
    for index in range(50):
        rng = generator(0, 0, index)
        _, unflipped, _ = draw_crop(rng, 640, 480, BOXES, LABELS)
        sample = draw_sample(generator(0, 0, index), 640, 480, BOXES.copy(), LABELS)
        if sample.flip:
            np.testing.assert_allclose(sample.boxes[:, [0, 2]], 1 - unflipped[:, [2, 0]], atol=1e-6)
            np.testing.assert_array_equal(sample.boxes[:, [1, 3]], unflipped[:, [1, 3]])
        else:
            np.testing.assert_array_equal(sample.boxes, unflipped)


def test_a_tiny_picture_is_cropped_without_end_or_empty_crop():
    boxes = np.array([[0, 0, 1, 1]], dtype=np.float32)
    for index in range(50):
        crop, boxes_left, _ = draw_crop(generator(0, 0, index), 1, 2, boxes, np.array([1]))
        assert crop[2] > crop[0] and crop[3] > crop[1] and len(boxes_left) == 1


def test_a_picture_without_boxes_is_cropped_too():
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    crops = [draw_crop(generator(0, 0, index), 640, 480, *none) for index in range(300)]
    whole = sum(crop == (0, 0, 640, 480) for crop, _, _ in crops)
    assert 0.1 < whole / 300 < 0.3
    assert all(boxes.shape == (0, 4) and labels.shape == (0,) for _, boxes, labels in crops)


def plain_jitter(pixels: np.ndarray, seed: int) -> np.ndarray:
    """The colour jitter step by step on float pixels [n, 3], with the draws of `colour_matrices`."""
    rng = np.random.default_rng(seed)
    brightness, contrast, saturation = rng.uniform(0.875, 1.125), rng.uniform(0.5, 1.5), rng.uniform(0.5, 1.5)
    turns = rng.uniform(-0.05, 0.05)
    luma = np.array([0.299, 0.587, 0.114])
    for name in rng.permutation(["brightness", "contrast", "saturation", "hue"]):
        grey = (pixels @ luma)[:, None]
        if name == "brightness":
            pixels = pixels * brightness
        elif name == "contrast":
            pixels = contrast * pixels + (1 - contrast) * grey.mean()
        elif name == "saturation":
            pixels = saturation * pixels + (1 - saturation) * grey
        else:
            # NTSC's I and Q as the real and imaginary part of one chroma number, turned by an angle.
            chroma = pixels @ [0.595716, -0.274453, -0.321263] + 1j * (pixels @ [0.211456, -0.522591, 0.311135])
            chroma = chroma * np.exp(2j * np.pi * turns)
            i, q = chroma.real[:, None], chroma.imag[:, None]
            pixels = grey + i * [0.9563, -0.2721, -1.1070] + q * [0.6210, -0.6474, 1.7046]
    return pixels


@pytest.mark.parametrize("seed", range(6))
def test_colour_matrices_equal_the_jitter_applied_step_by_step(seed):
    pixels = np.random.default_rng(100 + seed).uniform(0, 1, (50, 3))
    matrices = colour_matrices(np.random.default_rng(seed)).astype(np.float64)
    ours = pixels @ matrices[:, :3].T + matrices[:, 3:] @ pixels.mean(axis=0)
    np.testing.assert_allclose(ours, plain_jitter(pixels, seed), atol=2e-3)  # NTSC's published constants are rounded


def test_jitter_stays_within_the_recipes_ranges():
    grey = np.full(3, 0.5)
    for index in range(200):
        matrices = colour_matrices(generator(0, 0, index))
        brightness = (matrices[:, :3] + matrices[:, 3:]) @ grey / 0.5  # of a grey picture only brightness moves
        assert (brightness >= 0.874).all() and (brightness <= 1.126).all()


def test_the_recipes_crop_demands_are_the_papers():
    assert MIN_IOUS == (0.1, 0.3, 0.5, 0.7, 0.9, None)


NOTHING = {
    "zoom_out": 1.0,
    "crop_side": 1.0,
    "flip": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
}
IDENTITY = np.concatenate((np.eye(3), np.zeros((3, 3))), axis=1)


def drawn(count=50, **settings):
    augmentation = Augmentation(**settings)
    return [draw_sample(generator(0, 0, i), 640, 480, BOXES.copy(), LABELS, augmentation) for i in range(count)]


def test_with_every_part_off_the_picture_is_left_alone():
    for sample in drawn(**NOTHING):
        assert sample.crop == (0, 0, 640, 480) and not sample.flip
        np.testing.assert_array_equal(sample.boxes, BOXES)
        np.testing.assert_allclose(sample.colour, IDENTITY, atol=1e-6)


@pytest.mark.parametrize("part", NOTHING)
def test_each_part_can_be_the_only_one(part):
    default = 4.0 if part == "zoom_out" else getattr(Augmentation(), part)
    kept = drawn(**{**NOTHING, part: default})
    cropped = any(sample.crop != (0, 0, 640, 480) for sample in kept)
    coloured = any(not np.allclose(sample.colour, IDENTITY, atol=1e-6) for sample in kept)
    flipped = any(sample.flip for sample in kept)
    zoomed_out = any(sample.place != (0, 0, 300, 300) for sample in kept)
    geometry = ("zoom_out", "crop_side", "flip")
    assert (zoomed_out, cropped, flipped) == tuple(part == name for name in geometry)
    assert coloured == (part not in geometry)


def test_a_crop_has_at_least_its_least_side_and_other_ranges_are_kept_to():
    for sample in drawn(crop_side=0.8):
        left, top, right, bottom = sample.crop
        assert (right - left) / 640 > 0.79 and (bottom - top) / 480 > 0.79
    assert all(sample.flip for sample in drawn(flip=1.0))
    shades = [sample.colour[:, :3].sum(axis=1).mean() for sample in drawn(**{**NOTHING, "brightness": 0.9})]
    assert min(shades) < 0.4 and max(shades) > 1.6


def zoomed(count=300, **settings):
    return [sample for sample in drawn(count, **{**settings, "zoom_out": 4.0}) if sample.place != (0, 0, 300, 300)]


def test_zoom_out_makes_about_half_the_pictures_smaller_by_up_to_its_side():
    kept = zoomed(**{**NOTHING, "flip": 0.5})
    assert 100 < len(kept) < 200
    sides = np.array([(right - left, bottom - top) for left, top, right, bottom in (sample.place for sample in kept)])
    assert sides.min() >= 74 and np.median(sides) < 150, "uniform in 1 to 4 times the side"
    assert np.abs(sides[:, 0] - sides[:, 1]).max() <= 2, "a canvas has the picture's shape"
    assert all(sample.crop == (0, 0, 640, 480) for sample in kept)


def test_off_zoom_out_draws_nothing_so_that_runs_of_before_go_on_bit_for_bit():
    for index in range(20):
        rng = generator(0, 0, index)
        crop, _, _ = draw_crop(rng, 640, 480, BOXES, LABELS)
        sample = draw_sample(generator(0, 0, index), 640, 480, BOXES, LABELS)
        assert sample.crop == crop and sample.flip == (rng.random() < 0.5)


@pytest.mark.parametrize("crop_side", [1.0, 0.3])
def test_zoomed_out_and_flipped_boxes_are_where_torchvisions_transforms_put_them(crop_side):
    """Crop, resize, flip and pad by torchvision, as a worker does it to the pixels."""
    found = zoomed(60, crop_side=crop_side)
    assert any(sample.flip for sample in found) and len(found) > 20
    for sample in found:
        left, top, right, bottom = sample.place
        boxes = tv_tensors.BoundingBoxes(
            BOXES[sample.labels - 1] * np.float32([640, 480, 640, 480]), format="XYXY", canvas_size=(480, 640)
        )
        x, y, x1, y1 = sample.crop
        placed = v2.functional.crop(boxes, y, x, y1 - y, x1 - x)
        placed = v2.functional.resize(placed, [bottom - top, right - left])
        if sample.flip:
            placed = v2.functional.horizontal_flip(placed)
        placed = v2.functional.pad(placed, [left, top, 300 - right, 300 - bottom])
        np.testing.assert_allclose(sample.boxes * 300, placed.clamp(0, 300), atol=0.01)


def test_a_picture_without_boxes_is_zoomed_out_too_and_something_of_it_stays():
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    for index in range(200):
        sample = draw_sample(generator(0, 0, index), 640, 480, *none, Augmentation(zoom_out=4.0))
        assert sample.crop[0] < sample.crop[2] and sample.crop[1] < sample.crop[3]
        assert sample.place[0] < sample.place[2] and sample.place[1] < sample.place[3]


def test_boxes_that_zooming_leaves_without_a_size_are_dropped_with_their_labels():
    boxes = np.array([[0.1, 0.1, 0.1000015, 0.5], [0.3, 0.3, 0.6, 0.6]], np.float32)
    for index in range(100):
        sample = draw_sample(generator(0, 0, index), 640, 480, boxes, np.array([1, 2]), Augmentation(zoom_out=10.0))
        assert len(sample.boxes) == len(sample.labels) and (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
