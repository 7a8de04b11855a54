import numpy as np
import pytest
from torch.utils.data import DistributedSampler, SequentialSampler

from coco.sampler import EvaluationSampler, OverfittingSampler, TrainingSampler


def keys(num_replicas, rank, batch_size, epoch=0, seed=0, indices=None):
    sampler = TrainingSampler(np.arange(100, 150) if indices is None else indices, batch_size, seed, num_replicas, rank)
    sampler.set_epoch(epoch)
    assert len(list(sampler)) == len(sampler)
    return list(sampler)


def test_every_step_takes_the_same_samples_for_any_number_of_processes():
    alone = [index for _, index in keys(1, 0, 8)]
    ranks = [[index for _, index in keys(2, rank, 4)] for rank in range(2)]
    for step in range(len(alone) // 8):
        together = ranks[0][step * 4 : step * 4 + 4] + ranks[1][step * 4 : step * 4 + 4]
        assert together == alone[step * 8 : step * 8 + 8]


def test_an_epoch_has_every_sample_at_most_once_and_drops_the_tail():
    taken = [index for _, index in keys(1, 0, 8)]
    assert len(taken) == 48 == len(set(taken))
    assert set(taken) <= set(range(100, 150))


def test_epochs_and_seeds_change_the_order_and_keys_carry_the_epoch():
    assert keys(1, 0, 8, epoch=1) != keys(1, 0, 8, epoch=0)
    assert keys(1, 0, 8, seed=1) != keys(1, 0, 8, seed=0)
    assert {epoch for epoch, _ in keys(1, 0, 8, epoch=5)} == {5}


def test_too_few_images_for_one_step_is_an_error_with_both_numbers():
    with pytest.raises(ValueError, match=r"3 training images.*2 device\(s\) x batch 4"):
        keys(2, 0, 4, indices=np.arange(3))


@pytest.mark.parametrize(("length", "replicas"), [(10, 1), (10, 3), (1, 2), (7, 4)])
def test_evaluation_takes_every_image_once_in_equally_many_steps(length, replicas):
    shards = [list(EvaluationSampler(length, replicas, rank)) for rank in range(replicas)]
    assert len({len(shard) for shard in shards}) == 1
    assert len(shards[0]) == len(EvaluationSampler(length, replicas, 0))
    assert sorted(index for shard in shards for index in shard if index is not None) == list(range(length))


@pytest.mark.parametrize(("replicas", "batch_size"), [(1, 8), (2, 4), (1, 3), (3, 5)])
def test_an_epoch_goes_on_at_any_sample_with_any_number_of_processes_and_the_next_one_is_whole(replicas, batch_size):
    whole = [index for _, index in keys(1, 0, 1)]

    def sampler(rank, epoch):
        resumed = TrainingSampler(np.arange(100, 150), batch_size, 0, replicas, rank, start=(0, 16))
        assert next(iter(resumed))[0] == 0, "before Lightning tells the epoch, too"
        resumed.set_epoch(epoch)
        return [index for _, index in resumed]

    ranks = [np.reshape(sampler(rank, 0), (-1, batch_size)) for rank in range(replicas)]
    left = np.stack(ranks, axis=1).ravel().tolist()
    step = replicas * batch_size
    assert left == whole[16 : 16 + (50 - 16) // step * step]
    assert sampler(0, 1) == [index for _, index in keys(replicas, 0, batch_size, epoch=1)]


def test_overfitting_has_the_first_epochs_order_in_every_epoch_and_lightning_leaves_its_samplers_alone():
    sampler = OverfittingSampler(np.arange(50), 8, seed=3)
    first = keys(1, 0, 8, seed=3, indices=np.arange(50))
    sampler.set_epoch(4)
    assert list(sampler) == [(4, index) for _, index in first]
    for each in (sampler, EvaluationSampler(5)):
        assert isinstance(each, SequentialSampler) and isinstance(each, DistributedSampler)
    assert not isinstance(TrainingSampler(np.arange(9), 8, 0), SequentialSampler)
