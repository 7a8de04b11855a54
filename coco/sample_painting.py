"""Paint of the sample data set: textures, what lies behind the objects, and the filling of an outline."""

import math

import numpy as np
from PIL import Image

from coco.sample_shapes import clip, window_and_mask

MIN_CONTRAST = 100  # RGB distance between an object's colour and what it is painted on


def background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A texture, often with soft blobs, and clutter that is no object: strokes and freckles."""
    # Muted, so that a network trained for minutes on few pictures finds the objects, which are vivid.
    canvas = _texture(rng, height, width, rng.uniform(70, 185) + rng.uniform(-18, 18, 3), variation=18)
    if rng.random() < 0.4:
        blobs = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        canvas += (np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC), np.float32) - 128) * 0.15
    canvas += rng.standard_normal((height, width, 1), dtype=np.float32) * rng.uniform(0, 8)
    picture = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    for _ in range(rng.integers(0, 10)):
        centre = rng.uniform([0, 0], [width, height])
        if rng.random() < 0.5:
            along = rng.normal(size=2) * 40
            across = np.array([-along[1], along[0]]) / np.hypot(*along) * rng.uniform(0.75, 2)
            clutter = np.array([along + across, along - across, -along - across, across - along])
        else:
            angles = np.sort(rng.uniform(0, 2 * math.pi, 7))[:, None]
            clutter = np.hstack([np.cos(angles), np.sin(angles)]) * rng.uniform(2, 6) * rng.uniform(0.6, 1, (7, 1))
        clutter = clip(centre + clutter, width, height)
        if len(clutter) > 2:
            paint(rng, picture, clutter)
    return picture


def paint(rng: np.random.Generator, picture: Image.Image, outline: np.ndarray) -> None:
    """Fill an outline. Objects of every class and clutter all come here, and nothing here knows which it is."""
    window, mask = window_and_mask(outline, picture.size)
    behind = np.asarray(picture.crop(window)).reshape(-1, 3)
    colours = _vivid(rng, 24)
    distances = np.linalg.norm(colours[:, None] - behind[:: 1 + len(behind) // 200], axis=-1)  # [24, pixels]
    too_close = (distances < MIN_CONTRAST).mean(1)
    colour = colours[np.argmax(too_close < 0.05)] if too_close.min() < 0.05 else colours[np.argmin(too_close)]
    fill = _texture(rng, window[3] - window[1], window[2] - window[0], colour).clip(0, 255).astype(np.uint8)
    picture.paste(Image.fromarray(fill), window, mask)
    if rng.random() < 0.35:
        edge = window_and_mask(outline, picture.size, edge=int(rng.integers(1, 4)))[1]
        picture.paste(tuple(int(v) for v in _vivid(rng, 1)[0]), window, edge)


def _vivid(rng: np.random.Generator, count: int) -> np.ndarray:
    """float32 [count, 3] RGB of any hue, far from grey."""
    colours = rng.uniform(0, 1, (count, 3))
    low, high = colours.min(1, keepdims=True), colours.max(1, keepdims=True)
    return (255 * (colours - low) / (high - low) * rng.uniform(0.7, 1, (count, 1))).astype(np.float32)


def _texture(
    rng: np.random.Generator, height: int, width: int, colour: np.ndarray, variation: float = 35
) -> np.ndarray:
    """[H, W, 3] float32: plain, a gradient, stripes, checks or blotches of a colour and one near it."""
    other = rng.uniform(-variation, variation, 3).astype(np.float32)
    angle, period = rng.uniform(0, 2 * math.pi), rng.uniform(6, 24)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kind = rng.integers(5)
    mix: np.ndarray
    if kind == 0:
        mix = np.zeros((height, width), np.float32)
    elif kind == 1:
        mix = (along - along.min()) / max(float(np.ptp(along)), 1)
    elif kind == 2:
        mix = np.floor(along / period) % 2
    elif kind == 3:
        mix = (np.floor(along / period) + np.floor(across / period)) % 2
    else:
        coarse = Image.fromarray(rng.integers(0, 256, (2 + height // 12, 2 + width // 12), dtype=np.uint8))
        mix = np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
    return np.asarray(colour, np.float32) + mix[..., None] * other
