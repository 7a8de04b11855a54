"""What is beyond its bound in a step that two devices took."""

import pytest
import torch

from accelerators.selftest.layers import first_beyond
from command_line.step_trace import compare_traces


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_that_point_elsewhere_are_beyond_the_bound_in_any_precision(dtype):
    generator = torch.Generator().manual_seed(0)
    theirs = {f"gradient {name}": torch.randn(100, generator=generator) for name in "ab"}
    rounded = {name: value * (1 + 1e-3) for name, value in theirs.items()}
    assert first_beyond(compare_traces(rounded, theirs, dtype)) is None
    turned = {name: value.roll(1) for name, value in theirs.items()}
    found = compare_traces(turned, theirs, dtype)
    assert found[-1].operator == "all gradients" and found[-1].relative > 1
    assert first_beyond(found) is not None
    assert first_beyond(compare_traces({**theirs, "gradient b": theirs["gradient b"] * torch.nan}, theirs, dtype))
