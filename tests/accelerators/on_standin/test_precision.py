"""Mixed precision that is mixed, and scaled."""

import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from toy import Toy, loader, trainer

from accelerators import MLUMixedPrecision, SingleMLUStrategy


def on_mlu(precision: MLUMixedPrecision, **flags):
    return trainer(accelerator="mlu", devices=1, strategy=SingleMLUStrategy(), plugins=[precision], **flags)


@pytest.mark.parametrize(("flag", "dtype"), [("16-mixed", torch.float16), ("bf16-mixed", torch.bfloat16)])
def test_row_mixed_precision_computes_in_the_low_precision(flag, dtype):
    model = Toy()
    on_mlu(MLUMixedPrecision(flag)).fit(model, loader())
    assert model.seen["dtype"] == dtype
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_row_mixed_precision_fp16_gradients_are_scaled_and_unscaled_before_clipping():
    class Watches(Toy):
        def on_after_backward(self):
            self.scaled = self.model[-1].bias.grad.abs().item()

        def on_before_optimizer_step(self, optimizer):
            self.unscaled = self.model[-1].bias.grad.abs().item()

        def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            self.norm = torch.cat([p.grad.flatten() for p in self.parameters()]).norm().item()

    model, precision = Watches(), MLUMixedPrecision("16-mixed", scaler=torch.amp.GradScaler("mlu", init_scale=1024))
    on_mlu(precision, limit_train_batches=1, gradient_clip_val=0.01).fit(model, loader())
    assert model.scaled == pytest.approx(model.unscaled * 1024, rel=1e-3)
    assert model.norm == pytest.approx(0.01, rel=1e-3)


def test_fp16_skips_a_step_with_infinite_gradients_and_halves_the_scale():
    class Overflows(Toy):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * float("inf")

    model, precision = Overflows(), MLUMixedPrecision("16-mixed")
    before = [parameter.clone() for parameter in model.parameters()]
    on_mlu(precision, limit_train_batches=1).fit(model, loader())
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert precision.scaler.get_scale() == 32768


@pytest.mark.parametrize("flag", ["bf16-mixed", "bf16-true"])
def test_bf16_is_refused_where_the_card_lacks_it(flag, monkeypatch):
    monkeypatch.setenv("STANDIN_MLU_CAPABILITY", "3.7")
    flags = {"plugins": [MLUMixedPrecision(flag)]} if flag == "bf16-mixed" else {"precision": flag}
    run = trainer(accelerator="mlu", devices=1, strategy="mlu_single", **flags)
    with pytest.raises(MisconfigurationException, match=r"bfloat16 .*mlu:0 has none.*16-"):
        run.fit(Toy(), loader())


def test_half_precision_of_lightnings_own_runs():
    model = Toy()
    trainer(accelerator="mlu", devices=1, strategy="mlu_single", precision="bf16-true").validate(
        model, loader(), verbose=False
    )
    assert model.seen["dtype"] == torch.bfloat16


def test_the_plugin_is_refused_on_another_device():
    with pytest.raises(MisconfigurationException, match="is on cpu: autocast would do nothing"):
        trainer(accelerator="cpu", plugins=[MLUMixedPrecision("bf16-mixed")]).fit(Toy(), loader())


def test_a_scaler_that_is_switched_off_is_refused():
    with pytest.raises(MisconfigurationException, match="switched off"):
        MLUMixedPrecision("16-mixed", scaler=torch.amp.GradScaler("mlu", enabled=False))
