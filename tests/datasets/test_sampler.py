"""Global batches: the same for every world size, resumable at every step."""

import pytest

from datasets.sampler import GlobalBatchSampler, check_batch_size, shard_range
from utils.parallel.seed import ORDER, generator

WORLDS = [1, 2, 3, 4]


@pytest.mark.parametrize("total", [0, 1, 3, 10, 37])
@pytest.mark.parametrize("world", WORLDS)
def test_shards_follow_one_another_and_differ_by_one_at_most(total, world):
    shards = [shard_range(total, rank, world) for rank in range(world)]
    assert [i for shard in shards for i in shard] == list(range(total))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


def batches(*args, epoch=0, start_step=0, **kwargs):
    sampler = GlobalBatchSampler(*args, **kwargs)
    sampler.set_epoch(epoch, start_step)
    return list(sampler)


@pytest.mark.parametrize("last", ["drop", "fill"])
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("size", [12, 40, 53])
def test_ranks_together_have_the_single_process_batch(size, world, last):
    whole = batches(size, 12, seed=5, last=last, epoch=3)
    ranks = [batches(size, 12, r, world, 5, last, epoch=3) for r in range(world)]
    assert {len(rank) for rank in ranks} == {len(whole)}
    for step, batch in enumerate(whole):
        parts = [rank[step] for rank in ranks]
        assert {len(part) for part in parts} == {12 // world}
        assert [key for part in parts for key in part] == batch


def test_keys_are_the_permutation_of_seed_and_epoch():
    order = generator(ORDER, 5, 3).permutation(53)
    whole = batches(53, 12, seed=5, epoch=3)
    assert len(whole) == len(GlobalBatchSampler(53, 12)) == 4
    for step, batch in enumerate(whole):
        assert batch == [(3, i) for i in order[12 * step : 12 * step + 12]]
        assert all(type(e) is int and type(i) is int for e, i in batch)


@pytest.mark.parametrize("last", ["drop", "fill"])
def test_start_step_skips_exactly(last):
    whole = batches(48, 12, 1, 2, last=last, epoch=2)
    for start in (0, 1, 4):
        some = batches(48, 12, 1, 2, last=last, epoch=2, start_step=start)
        assert some == whole[start:]


@pytest.mark.parametrize("size", [53, 48, 5])  # 5 are gone round three times
def test_fill_completes_the_last_batch_from_the_head(size):
    order = generator(ORDER, 0, 0).permutation(size).tolist()
    steps = batches(size, 12, last="fill")
    assert len(steps) == -(-size // 12)
    assert [i for step in steps for _, i in step] == (order * 3)[: 12 * len(steps)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shard_range(10, -1, 2), "rank -1 is not one of 2"),
        (lambda: shard_range(10, 2, 2), "rank 2 is not one of 2"),
        (lambda: GlobalBatchSampler(10, 2, 2, 2), "rank 2 is not one of 2"),
        (lambda: GlobalBatchSampler(48, 12).set_epoch(0, 5), "5 is not in an epoch"),
        (lambda: GlobalBatchSampler(48, 12).set_epoch(0, -1), "step -1"),
        (lambda: GlobalBatchSampler(5, 12), "5 samples.* 12: use --batch_size 5 or "),
        (lambda: GlobalBatchSampler(0, 12, last="fill"), "empty"),
        (lambda: GlobalBatchSampler(20, 12, last="keep"), "'drop' or 'fill'"),
        (lambda: check_batch_size(0, 1), "is below 1"),
        (lambda: check_batch_size(20, 6), r"20 .* 6 processes.*_size 18 or 24$"),
        (lambda: check_batch_size(10, 4), "--batch_size 8 or 12$"),
        (lambda: GlobalBatchSampler(99, 3, 0, 4), "batch_size 3 .*--batch_size 4$"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
