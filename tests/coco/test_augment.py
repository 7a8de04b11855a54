import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F

from coco.augment import IMAGENET_MEAN, IMAGENET_STD, _normalise, normalise
from coco.transforms import colour_matrices, generator

IMAGES = torch.randint(0, 256, (3, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_normalisation_equals_torchvisions():
    expected = F.normalize(IMAGES.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(normalise(IMAGES), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_jitter_in_a_batch_equals_each_picture_alone(memory_format):
    colour = np.stack([colour_matrices(generator(0, 0, index)) for index in range(3)])
    batched = normalise(IMAGES.contiguous(memory_format=memory_format), torch.from_numpy(colour))
    for picture, matrices, ours in zip(IMAGES.double().numpy(), colour, batched, strict=True):
        pixels = picture.reshape(3, -1)
        jittered = matrices[:, :3] @ pixels + (matrices[:, 3:] @ pixels.mean(axis=1))[:, None]
        jittered = torch.from_numpy(jittered.clip(0, 255).reshape(picture.shape)) / 255
        expected = F.normalize(jittered, list(IMAGENET_MEAN), list(IMAGENET_STD)).float()
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_a_whole_batch_at_once_as_accelerators_do_it_gives_the_same_bits():
    colour = torch.from_numpy(np.stack([colour_matrices(generator(0, 0, index)) for index in range(3)]))
    assert torch.equal(normalise(IMAGES, colour), _normalise(IMAGES, colour))
    assert torch.equal(normalise(IMAGES), _normalise(IMAGES, None))


def test_identity_matrices_leave_the_colours_alone():
    identity = torch.cat((torch.eye(3), torch.zeros(3, 3)), dim=1).expand(3, -1, -1)
    torch.testing.assert_close(normalise(IMAGES, identity), normalise(IMAGES), atol=1e-5, rtol=1e-5)


def test_the_result_is_channels_last_by_default():
    assert normalise(IMAGES).is_contiguous(memory_format=torch.channels_last)


def test_an_empty_batch_stays_empty():
    assert normalise(IMAGES[:0]).shape == (0, 3, 20, 30)
