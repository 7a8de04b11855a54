"""What a step's arithmetic is, and what a device could do of it: the roof that images per second stand under."""

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from ssd.default_boxes import IMAGE_SIZE
from ssd.model import SSD300
from training.step_rate import synchronise

SIDES = {"cpu": 2048}  # of the matrices multiplied; of other devices:
SIDE, SMALLEST = 8192, 256
SECONDS = 0.5  # of products at least, so that a device's clocks settle


def network_flops(backbone: str, num_classes: int, trains: bool) -> int:
    """Floating-point operations of convolutions and matrix products, a product and a sum being two, for one image: of
    the network forward, and backward too if it trains. Counted on tensors without memory."""
    with torch.device("meta"):
        model = SSD300(backbone, num_classes).train(trains)
        images = torch.empty(2, 3, IMAGE_SIZE, IMAGE_SIZE)  # batch normalisation refuses one value a channel
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(trains):
        offsets, logits = model(images)
        if trains:
            (offsets.sum() + logits.sum()).backward()
    return counter.get_total_flops() // len(images)


def matrix_product_rate(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """Floating-point operations a second of square matrix products on `device`, the best of several; of smaller ones
    where what else is on the device leaves no room."""
    side = side or SIDES.get(device.type, SIDE)
    while True:
        try:
            return _product_rate(device, dtype, side)
        except RuntimeError as error:  # torch's OutOfMemoryError is one
            if "out of memory" not in str(error) or side <= SMALLEST:
                raise
            side //= 2


def _product_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    one, other = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    best, since = 0.0, time.perf_counter()
    while time.perf_counter() - since < SECONDS or not best:
        synchronise(device)
        start = time.perf_counter()
        one @ other
        synchronise(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def computing_dtype(precision: str) -> torch.dtype:
    """That convolutions compute in, by Lightning's name of a precision."""
    names = {"16": torch.float16, "bf16": torch.bfloat16, "64": torch.float64}
    return names.get(precision.partition("-")[0], torch.float32)
