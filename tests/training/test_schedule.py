import pytest
import torch

from training.schedule import RecipeSchedule


def schedule(steps_per_epoch, warmup_steps=4, milestones=(2,), last_step=None):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return RecipeSchedule(optimizer, steps_per_epoch, warmup_steps, milestones, 0.1, last_step)


def rates(made, steps):
    used = []
    for _ in range(steps):
        used.append(made.optimizer.param_groups[0]["lr"])
        made.optimizer.step()
        made.step()
    return used


def test_the_rate_rises_from_zero_and_falls_at_the_milestone():
    assert rates(schedule(3), 8) == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 0.1, 0.1])


def test_a_cosine_falls_from_the_end_of_warm_up_to_zero_at_the_last_step():
    half = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0), 8)
    used = rates(schedule(None, warmup_steps=2, milestones=(), last_step=10), 11)
    assert used[:2] == [0, 0.5]
    assert used[2:] == pytest.approx([*rates(half, 8), 0])


def test_a_saved_schedule_goes_on_at_its_step():
    first = schedule(3)
    rates(first, 5)
    second = schedule(3)
    second.load_state_dict(first.state_dict())
    assert rates(second, 2) == pytest.approx([0, 0.1]), "the optimiser's own state brings the rate of the first step"


@pytest.mark.parametrize("steps_per_epoch", [3, 50])
def test_a_schedule_placed_by_epoch_keeps_its_milestones_in_epochs(steps_per_epoch):
    made = schedule(steps_per_epoch, warmup_steps=2)
    made.load_state_dict({"epoch": 1, "last_epoch": 700, "base_lrs": [0.5], "lr_lambdas": [None]})
    assert rates(made, steps_per_epoch + 1) == pytest.approx([0.5] * steps_per_epoch + [0.05])


def test_the_length_of_an_epoch_is_not_saved():
    assert "steps_per_epoch" not in schedule(3).state_dict()
