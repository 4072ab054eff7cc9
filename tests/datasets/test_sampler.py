"""Global batches: the same for every world size, resumable at every step."""

import numpy as np
import pytest

from datasets.sampler import (
    GlobalBatchSampler,
    check_batch_size,
    labelled_share,
    shard_range,
    split_key,
)
from utils.parallel.seed import ORDER, generator

WORLDS = [1, 2, 3, 4]


@pytest.mark.parametrize("total", [0, 1, 3, 10, 37])
@pytest.mark.parametrize("world", WORLDS)
def test_shards_follow_one_another_and_differ_by_one_at_most(total, world):
    shards = [shard_range(total, rank, world) for rank in range(world)]
    assert [i for shard in shards for i in shard] == list(range(total))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("rank", [-1, 2, 3])
def test_a_rank_outside_of_the_world_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank {rank} is not one of 2"):
        shard_range(10, rank, 2)
    with pytest.raises(ValueError, match=f"rank {rank} is not one of 2"):
        GlobalBatchSampler(10, 2, rank, 2)


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
    assert len(whole) == 4
    for step, batch in enumerate(whole):
        assert batch == [(3, i) for i in order[12 * step : 12 * step + 12]]
        assert all(type(e) is int and type(i) is int for e, i in batch)


def test_every_index_at_most_once_an_epoch_and_the_remainder_dropped():
    seen = [i for batch in batches(53, 12) for _, i in batch]
    assert len(seen) == len(set(seen)) == 48
    everything = {i for e in range(30) for b in batches(53, 12, epoch=e) for _, i in b}
    assert everything == set(range(53))


def test_order_differs_by_epoch_and_seed():
    def order(**kw):
        return [i for batch in batches(40, 4, **kw) for _, i in batch]

    assert order(seed=1) == order(seed=1)
    assert order(seed=1) != order(seed=2)
    assert order(seed=1, epoch=0) != order(seed=1, epoch=1)
    assert order(seed=0, epoch=1) != order(seed=1, epoch=0)


@pytest.mark.parametrize("last", ["drop", "fill"])
@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_start_step_skips_exactly(start, last):
    sampler = GlobalBatchSampler(48, 12, 1, 2, last=last)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.set_epoch(2, start)
    assert list(sampler) == whole[start:]
    assert len(sampler) == 4
    sampler.set_epoch(2)
    assert list(sampler) == whole


def test_a_start_step_beyond_the_epoch_is_refused():
    with pytest.raises(ValueError, match="step 5 is not in an epoch of 4 steps"):
        GlobalBatchSampler(48, 12).set_epoch(0, 5)
    with pytest.raises(ValueError, match="step -1"):
        GlobalBatchSampler(48, 12).set_epoch(0, -1)


def test_fill_completes_the_last_batch_from_the_head():
    filled = batches(53, 12, last="fill")
    order = [int(i) for i in generator(ORDER, 0, 0).permutation(53)]
    assert len(filled) == len(GlobalBatchSampler(53, 12, last="fill")) == 5
    assert [i for _, i in filled[-1]] == order[48:] + order[:7]
    # Where nothing is left over, nothing is added.
    assert batches(48, 12, last="fill") == batches(48, 12, last="drop")


@pytest.mark.parametrize("world", WORLDS)
def test_fill_goes_round_a_set_smaller_than_a_batch(world):
    order = [int(i) for i in generator(ORDER, 0, 0).permutation(5)]
    parts = [batches(5, 12, r, world, last="fill")[0] for r in range(world)]
    assert [i for part in parts for _, i in part] == (order * 3)[:12]


def test_drop_refuses_a_set_smaller_than_a_batch():
    with pytest.raises(ValueError, match=r"5 samples.*--batch_size 12"):
        GlobalBatchSampler(5, 12)
    with pytest.raises(ValueError, match="empty"):
        GlobalBatchSampler(0, 12, last="fill")
    with pytest.raises(ValueError, match="'drop' or 'fill'"):
        GlobalBatchSampler(20, 12, last="keep")


@pytest.mark.parametrize(
    ("batch_size", "world", "fits"),
    [(20, 6, "18 and 24"), (10, 4, "8 and 12"), (3, 4, "4")],
)
def test_an_uneven_batch_names_the_nearest_that_fit(batch_size, world, fits):
    with pytest.raises(ValueError) as error:
        GlobalBatchSampler(1000, batch_size, 0, world)
    text = str(error.value)
    assert f"--batch_size {batch_size} " in text and f" {world} processes" in text
    assert text.endswith(f"nearest that fit: {fits}")
    with pytest.raises(ValueError, match="at least 1"):
        check_batch_size(0, 1)


def test_split_key():
    assert split_key(7) == (0, 7) == split_key(np.int64(7))
    assert split_key((3, 7)) == (3, 7)


def test_label_shares_are_stratified_and_seeded():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [100, 37, 2]))

    def counts(rows):
        return np.bincount(labels[rows], minlength=4).tolist()

    tenth = labelled_share(labels, 0.1, 1)
    assert counts(tenth) == [10, 4, 0, 1]
    assert counts(labelled_share(labels, 0.001, 1)) == [1, 1, 0, 1]
    assert len(np.unique(tenth)) == len(tenth)
    assert np.array_equal(tenth, labelled_share(labels, 0.1, 1))
    assert not np.array_equal(tenth, labelled_share(labels, 0.1, 2))
    assert set(tenth) < set(labelled_share(labels, 0.2, 1))
    assert np.array_equal(labelled_share(labels, 1.0, 1), np.arange(139))
