"""The checks for one device: memory, operators, a network, training, precision, what is saved."""

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import Tensor, nn

from .checks import Check, Found, NotPossible, Setting, Wrong, low_precisions
from .layers import differences, first_beyond, largest, layer_outputs
from .shadow import BOUNDS, TF32, Difference, ShadowedOperators
from .tiny import Tiny, tiny, tiny_data, trainer, weights

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)


def memory(setting: Setting) -> Found:
    """What goes to the device comes back to the bit."""
    values = torch.randint(-(2**40), 2**40, (1000,))
    for dtype in DTYPES:
        sent = values.to(dtype)
        for way in ("contiguous", "channels-last", "pinned"):
            if way == "channels-last":
                sent = sent.view(2, 5, 10, 10).contiguous(memory_format=torch.channels_last)
            elif way == "pinned" and setting.accelerator != "cpu":
                sent = sent.pin_memory()
            back = sent.to(setting.device, non_blocking=way == "pinned").clone().cpu()
            if not torch.equal(back, sent) or back.stride() != sent.stride():
                raise Wrong(f"{dtype}, {way}, does not come back as it was sent")
    return Found(f"{len(DTYPES)} dtypes, to the bit")


def operators(setting: Setting) -> Found:
    """Those of data preparation, losses, sorting and indexing, in float32."""
    with ShadowedOperators(setting.device) as shadow:
        _programme(setting.device)
    return judged(shadow)


def network(setting: Setting) -> Found:
    """Every operator of training steps of a small network, in float32 and under autocast."""
    words, figures = [], {}
    for dtype in (torch.float32, *low_precisions(setting)):
        with ShadowedOperators(setting.device) as shadow:
            _steps(tiny().to(setting.device), setting.device, dtype)
        found = judged(shadow)
        name = str(dtype).removeprefix("torch.")
        words.append(f"{name}: {found.words}")
        figures[name] = found.figures
    return Found("; ".join(words), figures)


def layer_by_layer(setting: Setting) -> Found:
    """The outputs of the layers, each with the differences of those before in it."""
    return compare_layers(tiny().eval(), _batch()[:2], setting)


def compare_layers(module: nn.Module, inputs: Iterable[Tensor], setting: Setting) -> Found:
    """A network's layers on the device beside the CPU's, in float32 and under autocast; raises Wrong with the first
    that is beyond its bound. The network comes back on the CPU."""
    inputs = list(inputs)
    with torch.no_grad(), layer_outputs(module) as cpu:
        module(*inputs)
    words, figures = [], {}
    for dtype in (torch.float32, *low_precisions(setting)):
        bound = 10 * (max(BOUNDS[dtype], TF32 if setting.accelerator != "cpu" else 0))  # they add up
        with torch.no_grad(), layer_outputs(module.to(setting.device)) as ours, _autocast(setting, dtype):
            module(*(value.to(setting.device) for value in inputs))
        module.cpu()
        found = differences(ours, cpu, bound)
        name = str(dtype).removeprefix("torch.")
        figures[name] = {each.operator: each.relative for each in found}
        if (first := first_beyond(found)) is not None:
            raise Wrong(f"the first layer to part from the CPU, in {name}: {first}", figures)
        words.append(f"{name} {largest(found).relative:.2g} at {largest(found).operator}")
    return Found(f"{len(cpu)} layers; largest difference {', '.join(words)}", figures)


def curve(setting: Setting) -> Found:
    """A training run beside the CPU's: the same losses at first, and at the end as low a one."""
    epochs = 2 if setting.quick else 20
    ours, theirs = (_losses(device, epochs) for device in (setting.accelerator, "cpu"))
    return judged_curve(ours, theirs)


def judged_curve(ours: list[float], theirs: list[float], bound: float = 0.02) -> Found:
    """Raises Wrong where the first losses differ by more than `bound`, or the last quarter's mean by a fifth."""
    figures = {"device": ours, "cpu": theirs}
    first = max(abs(a - b) / abs(b) for a, b in zip(ours[:4], theirs[:4], strict=True))
    quarter = max(len(theirs) // 4, 1)
    last = [sum(losses[-quarter:]) / quarter for losses in (ours, theirs)]
    words = f"loss {ours[0]:.4f} to {last[0]:.4f} in {len(ours)} steps, the CPU's {theirs[0]:.4f} to {last[1]:.4f}"
    if not first <= bound or not abs(last[0] - last[1]) <= max(0.2 * last[1], 0.05):
        raise Wrong(f"{words}; in the first four steps they differ by {first:.2g}", figures)
    return Found(words, figures)


def scaler(setting: Setting) -> Found:
    """float16 with a gradient scaler: steps are taken, and one with an infinite gradient is left out."""
    if setting.accelerator == "cpu":
        raise NotPossible("float16 with a gradient scaler is for accelerators")
    model = _Overflows()
    run = trainer(setting.accelerator, precision="16-mixed")
    run.fit(model, tiny_data(64, 8))
    scales = model.scales
    if not torch.isfinite(weights(model)).all():
        raise Wrong("an infinite gradient reached the weights", {"scales": scales})
    if not (scales[3] == scales[2] / 2 and model.moved[3] == 0 and all(model.moved[i] > 0 for i in (1, 2, 5))):
        raise Wrong(
            f"scale {scales} and movement {model.moved}: step 4, whose gradient is infinite, was to be left out and "
            "the scale halved",
            {"scales": scales, "moved": model.moved},
        )
    return Found(f"scale {scales[0]:g}, halved by the infinite gradient, whose step was left out", {"scales": scales})


class _Overflows(Tiny):
    """The gradient of its fourth step is infinite."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()
        self.scales: list[float] = []
        self.moved: list[float] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self.before = self.head.weight.detach().clone()

    def on_after_backward(self) -> None:
        if self.trainer.fit_loop.batch_idx == 3 and self.head.weight.grad is not None:
            self.head.weight.grad.fill_(float("inf"))

    def on_train_batch_end(self, *args: Any) -> None:
        self.scales.append(float(self.trainer.precision_plugin.scaler.get_scale()))
        self.moved.append(float((self.head.weight.detach() - self.before).abs().max()))


def average(setting: Setting) -> Found:
    """Lightning's exponential moving average of weights."""
    found = []
    for accelerator in (setting.accelerator, "cpu"):
        model = tiny()
        trainer(accelerator, callbacks=[EMAWeightAveraging(decay=0.9)]).fit(model, tiny_data(64, 8))
        found.append(weights(model))
    return close(found[0], found[1], bound=0.02)


def resumed(setting: Setting) -> Found:
    """A run that goes on from a checkpoint ends as one that never stopped; the checkpoint opens on the CPU."""
    path = setting.scratch / "tiny.ckpt"
    whole, again = tiny(), tiny()
    for model in (whole, again):
        trainer(setting.accelerator, max_epochs=2).fit(model, tiny_data(64, 8))
    run = trainer(setting.accelerator)
    run.fit(tiny(), tiny_data(64, 8))
    run.save_checkpoint(path)
    devices = {value.device.type for value in torch.load(path, weights_only=True)["state_dict"].values()}
    if setting.accelerator == "mlu" and devices != {"cpu"}:
        raise Wrong(f"a checkpoint holds tensors on {devices}: it would not open where torch_mlu is absent")
    went_on = tiny()
    torch.manual_seed(7)
    trainer(setting.accelerator, max_epochs=2).fit(went_on, tiny_data(64, 8), ckpt_path=path, weights_only=True)
    return same_or_as_unsteady(weights(went_on), weights(whole), weights(again))


def same_or_as_unsteady(resumed: Tensor, whole: Tensor, again: Tensor) -> Found:
    """Equal to the bit, or no further apart than twenty times what two runs of this device differ by."""
    apart, unsteady = (float((values - whole).abs().max()) for values in (resumed, again))
    if apart == 0:
        return Found("equal to the bit")
    words = f"weights differ by {apart:.2g}, those of two runs that never stopped by {unsteady:.2g}"
    if apart > 20 * unsteady:
        raise Wrong(words)
    return Found(f"not deterministic here: {words}", {"resumed": apart, "repeated": unsteady})


def close(ours: Tensor, theirs: Tensor, bound: float) -> Found:
    apart = float((ours - theirs).abs().max() / theirs.abs().max())
    if not apart <= bound:
        raise Wrong(f"weights differ by {apart:.2g} of the largest, bound {bound:g}")
    return Found(f"weights differ by {apart:.2g} of the largest", {"relative": apart})


def judged(shadow: ShadowedOperators) -> Found:
    """The words of a shadowed block; raises Wrong with each operator that is beyond its bound."""
    figures = {
        "differences": {f"{name} {dtype}": vars(each) for (name, dtype), each in shadow.largest.items()},
        "calls": dict(shadow.calls),
        "the host waits": dict(shadow.reads),
        "not compared": shadow.not_compared,
    }
    if wrong := shadow.wrong:
        raise Wrong("; ".join(map(str, wrong[:5])) + (f"; {len(wrong) - 5} more" if len(wrong) > 5 else ""), figures)
    worst: Difference = max(shadow.largest.values(), key=lambda each: each.relative)
    waits = f", {shadow.reads.total()} waits of the host" if shadow.reads else ""
    left_out = f", {len(shadow.not_compared)} not compared" if shadow.not_compared else ""
    return Found(
        f"{len(shadow.calls)} operators{left_out}{waits}, largest difference {worst.relative:.2g} in {worst.operator}",
        figures,
    )


def _programme(device: torch.device) -> None:
    """Runs what networks leave to a data module, a loss and a postprocessing."""
    values = torch.randn(4, 1000).to(device).requires_grad_()
    labels = torch.randint(1000, (4,)).to(device)
    pictures = torch.randint(256, (2, 3, 20, 20), dtype=torch.uint8).to(device)
    floats = nn.functional.interpolate(pictures.float().div(255), size=(33, 17), mode="bilinear", antialias=False)
    floats.sub(floats.mean((2, 3), keepdim=True)).div(floats.std((2, 3), keepdim=True) + 1e-6).clamp(-2, 2).flip(3)
    losses = (
        nn.functional.cross_entropy(values, labels, reduction="none").sum()
        + nn.functional.smooth_l1_loss(values, values.detach().roll(1, 1))
        + nn.functional.binary_cross_entropy_with_logits(values, (values.detach() > 0).float())
        + nn.functional.kl_div(values.log_softmax(1), values.detach().softmax(1), reduction="batchmean")
    )
    losses.backward()
    fixed = values.detach()
    order = fixed.sort(dim=1, descending=True).indices
    fixed.gather(1, order).cumsum(1)
    fixed.topk(20, dim=1)
    fixed.max(dim=1)
    fixed.argmax(1)
    torch.where(fixed > 0, fixed.exp(), fixed.abs().sqrt().log1p())
    torch.cat((fixed[:, ::2], fixed.tanh()[:, 1::2]), 1).masked_fill(fixed > 1, 0.0).sum(1)
    torch.zeros_like(fixed).scatter_(1, order[:, :10], 1.0)
    torch.zeros(1000, 4, device=device).index_add_(0, order[0, :7], fixed[:, :7].t())
    fixed.index_select(1, order[0, :50])
    boxes = fixed.view(-1, 4)[:50].sigmoid()
    torch.maximum(boxes[:, None, :2], boxes[None, :, :2]).minimum(boxes[:, None, 2:]).prod(-1)
    (order * 3 // 2 % 7).sum()
    fixed.isfinite().all(1).logical_not().any()


def _steps(model: Tiny, device: torch.device, dtype: torch.dtype) -> None:
    """Two training steps with each of two optimisers."""
    parameters = list(model.parameters())
    for optimizer in (torch.optim.AdamW(parameters, lr=1e-3), torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)):
        for _ in range(2):
            pictures, tokens, labels = (value.to(device) for value in _batch())
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                outputs = model(pictures.contiguous(memory_format=torch.channels_last), tokens)
            optimizer.zero_grad()
            nn.functional.cross_entropy(outputs.float(), labels).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()


def _batch() -> list[Tensor]:
    return next(iter(tiny_data(8, 8)))


def _losses(accelerator: str, epochs: int) -> list[float]:
    model = tiny()
    run: pl.Trainer = trainer(accelerator, max_epochs=epochs)
    run.fit(model, tiny_data(128, 8))
    return torch.stack(model.losses).float().tolist()


def _autocast(setting: Setting, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(setting.device.type, dtype=dtype, enabled=dtype != torch.float32)


CHECKS = (
    Check("memory", memory),
    Check("operators", operators),
    Check("operators of a network", network),
    Check("layers of a network", layer_by_layer),
    Check("loss curve", curve, limit=600),
    Check("fp16 gradient scaler", scaler),
    Check("moving average", average),
    Check("resumed from a checkpoint", resumed),
)
