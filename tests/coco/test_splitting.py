import numpy as np
import pytest

from coco.splitting import validation_images


def images(seed=0, count=400):
    """Objects of five classes, from common to rare, on `count` images, some without any."""
    rng = np.random.default_rng(seed)
    labels = [rng.choice(5, size=rng.integers(0, 6), p=[0.6, 0.3, 0.08, 0.015, 0.005]) + 1 for _ in range(count)]
    return np.cumsum([0, *map(len, labels)]), np.concatenate(labels)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_the_part_has_about_the_share_of_images_and_of_every_class(share, seed):
    first, labels = images()
    chosen = validation_images(range(400), first, labels, share, seed)
    assert abs(chosen.mean() - share) < 0.05
    of_object = np.repeat(chosen, np.diff(first))
    for label in range(1, 6):
        of_class = of_object[labels == label]
        assert 0 < of_class.sum() < len(of_class), "every class of two objects and more is in both parts"
        assert abs(of_class.sum() - share * len(of_class)) <= max(3, 0.08 * len(of_class))
    empty = np.diff(first) == 0
    assert abs(chosen[empty].mean() - share) < 0.06


def test_it_depends_on_names_and_seed_and_not_on_the_order_of_the_images():
    first, labels = images()
    chosen = validation_images(range(400), first, labels, 0.2, 0)
    order = np.random.default_rng(1).permutation(400)
    rows = np.concatenate([np.arange(first[i], first[i + 1]) for i in order])
    shuffled = validation_images(order, np.cumsum([0, *np.diff(first)[order]]), labels[rows], 0.2, 0)
    assert np.array_equal(shuffled, chosen[order])
    assert not np.array_equal(chosen, validation_images(range(400), first, labels, 0.2, 1))


def test_images_of_one_name_are_a_group():
    first, labels = images()
    names = [f"film {i // 10}" for i in range(400)]
    chosen = validation_images(names, first, labels, 0.25, 0).reshape(40, 10)
    assert (chosen.all(axis=1) | ~chosen.any(axis=1)).all() and 5 <= chosen[:, 0].sum() <= 15


def test_an_only_object_stays_in_training():
    assert not validation_images(range(2), np.array([0, 1, 2]), np.array([1, 2]), 0.5, 0).any()
