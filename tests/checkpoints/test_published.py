import json
import zlib

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision

from checkpoints.durable_io import DurableCheckpointIO
from checkpoints.files import CheckpointError, is_published, read_checkpoint
from checkpoints.finding import resume_path
from checkpoints.published import from_ours, to_ours
from checkpoints.published_layout import from_reference_state, to_reference_state
from command_line.evaluate import evaluate
from datamodule import COCODataModule
from evaluation.metric import NUMBERS
from ssd.model import FEATURE_CHANNELS, SSD300
from ssd.parameters import parameter_groups
from ssd_module import SSDModule, load_module
from tests.conftest import SHARED
from training.published_saving import save_reference_checkpoint


def golden_state(backbone: str) -> dict[str, torch.Tensor]:
    """The reference's weights, filled by name as the golden figures were made."""
    path = SHARED / "golden" / "reference_state_dict.json"
    if not path.exists():
        pytest.skip(f"golden figures are not here: {path}")
    state = {}
    for name, shape in json.loads(path.read_text())["state_dict_shapes"][backbone].items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif name.endswith("running_mean"):
            state[name] = torch.randn(shape, generator=generator) * 0.1
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        elif name.endswith("bias"):
            state[name] = torch.randn(shape, generator=generator) * 0.05
        elif len(shape) == 1:
            state[name] = torch.rand(shape, generator=generator) * 0.5 + 0.75
        else:
            state[name] = torch.randn(shape, generator=generator) * (1 / np.prod(shape[1:])) ** 0.5
    return state


@pytest.fixture
def golden_checkpoint(tmp_path):
    def write(backbone: str, prefix: str = "", **more):
        path = tmp_path / f"{backbone}.pt"
        state = {f"{prefix}{key}": value for key, value in golden_state(backbone).items()}
        torch.save({"epoch": 3, "iteration": 12, "model": state, **more}, path)
        return path

    return write


@pytest.mark.parametrize(
    ("backbone", "prefix"),
    [("resnet18", ""), ("resnet34", "module."), ("resnet50", "module.1.")],  # as runs on several devices name them
)
def test_forward_with_the_recipes_weights_agrees_with_its_own(
    golden, golden_checkpoint, reference_order, backbone, prefix
):
    figures = golden(f"forward_{backbone}.npz")
    module = load_module(golden_checkpoint(backbone, prefix)).eval()
    assert module.hparams.backbone == backbone and module.hparams.num_classes == 80
    images = torch.randn(2, 3, 300, 300, generator=torch.Generator().manual_seed(int(figures["seed"])))
    with torch.no_grad():
        offsets, logits = module(images)
    offsets = offsets[:, reference_order].transpose(1, 2)
    logits = logits[:, reference_order].transpose(1, 2)
    for ours, theirs in ((offsets[:, :, ::7], figures["loc"]), (logits[:, :, ::97], figures["conf"])):
        theirs = torch.from_numpy(theirs)
        assert (ours - theirs).abs().max() <= 1e-3 * theirs.abs().max()
    assert offsets.double().abs().sum().item() == pytest.approx(float(figures["loc_abssum"]), rel=1e-3)
    assert logits.double().abs().sum().item() == pytest.approx(float(figures["conf_abssum"]), rel=1e-3)


@pytest.mark.parametrize("backbone", [name for name in FEATURE_CHANNELS if name != "thin"])
def test_our_weights_have_the_recipes_names_and_shapes_when_exported(backbone):
    path = SHARED / "golden" / "reference_state_dict.json"
    if not path.exists():
        pytest.skip(f"golden figures are not here: {path}")
    expected = json.loads(path.read_text())["state_dict_shapes"]
    if backbone not in expected:
        pytest.skip(f"no golden shapes of {backbone}")
    state = to_reference_state(SSD300(backbone, 80).state_dict())
    assert {name: list(value.shape) for name, value in state.items()} == expected[backbone]


def test_a_saved_reference_checkpoint_opens_again_with_its_classes(tmp_path):
    module = SSDModule("resnet18", 3, class_names=["cat", "dog", "emu"])
    save_reference_checkpoint(module, tmp_path / "epoch_0.pt")
    raw = torch.load(tmp_path / "epoch_0.pt", weights_only=True)
    assert raw["label_map"] == {0: "background", 1: "cat", 2: "dog", 3: "emu"}
    again = load_module(tmp_path / "epoch_0.pt")
    assert again.class_names == ("cat", "dog", "emu")
    for key, value in module.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], value)


def test_a_copy_of_weights_with_another_prefix_beside_them_is_refused(golden_checkpoint, tmp_path):
    raw = torch.load(golden_checkpoint("resnet18"), weights_only=True)
    raw["model"]["module.conf.0.bias"] = raw["model"]["conf.0.bias"]
    torch.save(raw, tmp_path / "both.pt")
    with pytest.raises(CheckpointError, match=r"tensors both with `module\.` before their names and without"):
        load_module(tmp_path / "both.pt")


def test_coco_classes_get_cocos_category_ids(golden_checkpoint):
    ids = load_module(golden_checkpoint("resnet18")).category_ids
    assert len(ids) == 80 and ids[:12] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13) and ids[-1] == 90


def test_a_label_map_of_another_size_is_refused(golden_checkpoint):
    with pytest.raises(CheckpointError, match="names 1 classes, the heads have 80"):
        load_module(golden_checkpoint("resnet18", label_map={0: "background", 1: "cat"}))


def test_a_file_that_is_no_recipe_checkpoint_is_refused_by_name(tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: neither .*published recipe \(model\); it has weights"):
        load_module(tmp_path / "other.pt")


@pytest.mark.parametrize("steps", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_training_follows_the_recipes_losses(steps, golden, golden_checkpoint):
    figures = golden("training_resnet18.npz")
    module = load_module(golden_checkpoint("resnet18")).train()
    images = torch.randn(4, 3, 300, 300, generator=torch.Generator().manual_seed(int(figures["seed_images"])))
    batch = {
        "images": images,
        "boxes": torch.from_numpy(figures["gt_boxes_xyxy"]),
        "labels": torch.from_numpy(figures["gt_labels"]),
    }
    module.log = module.log_dict = lambda *args, **kwargs: None  # no trainer here
    groups = parameter_groups(module.model, float(figures["weight_decay"]))
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=float(figures["momentum"]))
    losses = []
    for rate in figures["lrs"][:steps]:
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        loss = module.training_step(batch, 0)["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[:4] == pytest.approx(figures["losses"][:4].tolist(), rel=2e-4)
    assert losses == pytest.approx(figures["losses"][:steps].tolist(), rel=1e-2)


# Training that goes on from the published format


class SaveBoth(pl.Callback):
    """After every epoch: <epoch>.pt in the published format, <epoch>.ckpt in Lightning's."""

    def __init__(self, directory):
        self.directory = directory

    def on_train_epoch_end(self, trainer, pl_module):
        save_reference_checkpoint(pl_module, self.directory / f"{trainer.current_epoch}.pt")
        trainer.save_checkpoint(self.directory / f"{trainer.current_epoch}.ckpt")


class Losses(pl.Callback):
    def __init__(self):
        self.values, self.rates = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


def fit(sample, max_epochs, ckpt_path=None, callbacks=(), warmup_steps=3, num_workers=0):
    """A trainer after training, and the losses of its steps: two an epoch."""
    pl.seed_everything(0)
    losses = Losses()
    data = COCODataModule(str(sample), batch_size=2, num_workers=0)
    module = SSDModule("thin", 4, data.class_names, data.category_ids, warmup_steps=warmup_steps, milestones=(2,))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        limit_train_batches=2,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, losses],
        plugins=[DurableCheckpointIO()],
    )
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer, losses


@pytest.fixture(scope="module")
def both(sample, tmp_path_factory):
    """0.pt and 0.ckpt after the first of three epochs, 1.* after the second, 2.* after the third."""
    directory = tmp_path_factory.mktemp("both")
    fit(sample, 3, callbacks=[SaveBoth(directory)])
    return directory


def test_training_goes_on_from_the_published_format_as_from_our_own(both, sample):
    ours, our_losses = fit(sample, 3, both / "0.ckpt")
    published, losses = fit(sample, 3, both / "0.pt", num_workers=1)  # which reads ahead: of the right epoch
    assert losses.values == our_losses.values and len(losses.values) == 4
    assert losses.rates == our_losses.rates, "past the warm-up of 3 steps and the milestone after 4"
    assert losses.rates[-1] == pytest.approx(0.1 * losses.rates[1])
    assert (published.current_epoch, published.global_step) == (ours.current_epoch, ours.global_step) == (3, 6)
    weights = [trainer.lightning_module.state_dict() for trainer in (ours, published)]
    assert all(torch.equal(weights[1][key], value) for key, value in weights[0].items())
    momenta = [trainer.optimizers[0].state_dict()["state"] for trainer in (ours, published)]
    assert all(torch.equal(momenta[1][i]["momentum_buffer"], momenta[0][i]["momentum_buffer"]) for i in momenta[0])


def test_a_round_trip_is_the_identity(both):
    """Weights, optimiser and counters: Lightning's own of the moment the published file was written, and that file."""
    ours = torch.load(both / "1.ckpt", weights_only=True)
    again = to_ours(read_checkpoint(both / "1.pt"), "1.pt")
    assert again["state_dict"].keys() == ours["state_dict"].keys()
    assert all(torch.equal(again["state_dict"][key], value) for key, value in ours["state_dict"].items())
    (theirs,), (our,) = again["optimizer_states"], ours["optimizer_states"]
    assert theirs["param_groups"] == our["param_groups"] and theirs["state"].keys() == our["state"].keys()
    for index, state in our["state"].items():
        assert torch.equal(theirs["state"][index]["momentum_buffer"], state["momentum_buffer"])
    assert again["global_step"] == ours["global_step"] == 4
    assert again["lr_schedulers"][0]["base_lrs"] == ours["lr_schedulers"][0]["base_lrs"]


def test_the_published_file_has_the_recipes_parts_in_its_order(both):
    raw = torch.load(both / "1.pt", weights_only=True)
    assert (raw["epoch"], raw["iteration"]) == (2, 4) and is_published(raw)
    first, second = raw["optimizer"]["param_groups"]
    assert (first["weight_decay"], second["weight_decay"]) == (0.0, 5e-4), "the recipe lists what does not decay first"
    assert first["params"] + second["params"] == list(range(len(first["params"]) + len(second["params"])))
    names = [name for name in raw["model"] if "running_" not in name and "num_batches" not in name]
    small = [name for name in names if raw["model"][name].dim() == 1]
    for index, name in enumerate(small + [name for name in names if name not in small]):
        assert raw["optimizer"]["state"][index]["momentum_buffer"].shape == raw["model"][name].shape, name
    assert raw["scheduler"]["milestones"] == {2: 1} and raw["scheduler"]["last_epoch"] == 2
    assert all(value.is_contiguous() for value in raw["model"].values())


def test_milestones_stay_at_their_epochs_where_the_files_epochs_had_more_steps(both, sample, tmp_path):
    """Another loader, batch size or number of devices; a rate left over from the warm-up is not kept either."""
    raw = torch.load(both / "0.pt", weights_only=True)
    raw["iteration"] = 500
    for group in raw["optimizer"]["param_groups"]:
        group["lr"] = 7.0
    torch.save(raw, tmp_path / "0.pt")
    _, losses = fit(sample, 3, tmp_path / "0.pt", warmup_steps=0)
    base = raw["optimizer"]["param_groups"][0]["initial_lr"]
    assert losses.rates == pytest.approx([base, base, 0.1 * base, 0.1 * base])


def test_the_scaler_of_fp16_training_travels_too(both, sample, tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=7)
    raw = torch.load(both / "0.pt", weights_only=True) | {"amp": scaler.state_dict()}
    assert to_ours(raw, "0.pt")[MixedPrecision.__qualname__] == scaler.state_dict()
    assert MixedPrecision.__qualname__ not in to_ours(raw | {"amp": {"loss_scaler0": {}}}, "0.pt")
    module = SSDModule("resnet18", 3)
    module.trainer = pl.Trainer(accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu", scaler)], logger=False)
    save_reference_checkpoint(module, tmp_path / "amp.pt")
    assert read_checkpoint(tmp_path / "amp.pt")["amp"] == scaler.state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": {"state": {}, "param_groups": [{"params": [0]}]}}, r"groups of \[1\] parameters, expected"),
        ({"epoch": "three"}, "x.pt: cannot be resumed .*three"),
        ({"model": {"conf.0.bias": torch.zeros(20)}}, "its backbone is none of resnet18"),
        ({"label_map": {0: "background", 1: "cat"}}, "names 1 classes, the heads have 4"),
        ({"label_map": {"a": "b", 1: "c"}}, "x.pt: `label_map` should map"),
        ({"model": {"a": 1}}, "x.pt: its `model` is no state dict of tensors"),
        ({"model": {5: torch.ones(1)}}, "x.pt: its `model` is no state dict of tensors"),
        ({"category_ids": 5}, "x.pt: `category_ids` is a int, expected a list"),
        ({"optimizer": []}, "x.pt: cannot be resumed"),
        ({"optimizer": {"param_groups": [5, 6], "state": {}}}, "x.pt: cannot be resumed"),
        ({"epoch": float("inf")}, "x.pt: cannot be resumed"),
    ],
)
def test_a_file_that_cannot_be_resumed_is_refused_with_the_reason(both, change, message):
    raw = torch.load(both / "0.pt", weights_only=True) | change
    with pytest.raises(CheckpointError, match=message):
        to_ours(raw, "x.pt")


@pytest.mark.parametrize("other", [{"optimizer": "adamw"}, {"schedule": "cosine"}])
def test_of_another_optimiser_or_schedule_the_published_file_has_the_weights_alone(both, other):
    ours = torch.load(both / "1.ckpt", weights_only=True)
    assert {"optimizer", "scheduler"} <= from_ours(ours).keys()
    ours["hyper_parameters"] |= other
    published = from_ours(ours)
    assert not {"optimizer", "scheduler"} & published.keys()
    assert published["model"] and published["epoch"] == 2


def test_of_a_run_that_trained_a_part_of_the_network_the_published_file_has_the_weights_alone(both):
    ours = torch.load(both / "1.ckpt", weights_only=True)
    decayed = ours["optimizer_states"][0]["param_groups"][0]
    decayed["params"] = decayed["params"][:-5]  # as with --model.freeze
    published = from_ours(ours)
    assert not {"optimizer", "scheduler"} & published.keys() and published["model"]


def test_names_without_a_dot_and_numbers_without_dimensions_are_no_heads():
    state = {"x": torch.tensor(1.0), "loc.0.bias": torch.tensor(2.0), "conf.²": torch.ones(2)}
    assert len(from_reference_state(state)) == 3


def test_a_file_with_weights_alone_can_be_evaluated_and_fine_tuned_but_not_resumed(both, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"model": torch.load(both / "0.pt", weights_only=True)["model"]}, path)
    assert load_module(path).hparams.num_classes == 4
    assert "optimizer_states" not in to_ours(read_checkpoint(path))
    with pytest.raises(CheckpointError, match=r"it has no epoch, iteration, optimizer\. .*--finetune_from"):
        resume_path(str(path), None)


def test_a_file_without_some_weights_is_refused_by_their_name(both):
    raw = torch.load(both / "0.pt", weights_only=True)
    del raw["model"]["loc.3.weight"]
    with pytest.raises(CheckpointError, match=r"1 of its tensors .* first offset_heads\.3\.weight \(found None"):
        to_ours(raw, "x.pt")


@pytest.mark.parametrize(
    ("backbone", "classes", "message"),
    [
        ("resnet18", 4, "backbone = thin, this run has resnet18"),
        ("thin", 3, "num_classes = 4, this run has 3"),
    ],
)
def test_a_file_of_another_network_than_asked_is_refused(both, sample, backbone, classes, message):
    data = COCODataModule(str(sample), num_workers=0)
    module = SSDModule(backbone, classes)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, plugins=[DurableCheckpointIO()])
    with pytest.raises(CheckpointError, match=message):
        trainer.fit(module, data, ckpt_path=both / "0.pt", weights_only=True)


def test_evaluate_takes_the_recipes_weights(shared_data, golden_checkpoint):
    data = shared_data("coco_cc_mini")
    names = COCODataModule(str(data)).val_annotations.class_names
    path = golden_checkpoint("resnet18", label_map=dict(enumerate(("background", *names))))
    arguments = ["--data_root", str(data), "--accelerator", "cpu", "--num_workers", "0", "--limit", "2"]
    numbers = evaluate(["--ckpt_path", str(path), *arguments])
    assert set(NUMBERS) <= numbers.keys()
