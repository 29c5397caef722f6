import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from workbench.metrics.resampling import MIN_BLOCKS, automatic_block_length, block_counts


def autoregressive(count, correlation, series=1, groups=1, seed=0):
    noise = np.random.default_rng(seed).normal(size=(groups, count + 200, series))
    return lfilter([1.0], [1.0, -correlation], noise, axis=1)[:, 200:]


@settings(max_examples=50, deadline=None)
@given(groups=st.integers(1, 4), length=st.integers(1, 12), data=st.data())
def test_every_resample_has_as_many_samples_as_there_are(groups, length, data):
    block = data.draw(st.integers(1, length))
    counts = block_counts(groups, length, block, 7, seed=3)
    assert counts.shape == (7, groups * length)
    assert (counts.sum(axis=1) == groups * length).all()


def test_every_sample_is_drawn_equally_often():
    counts = block_counts(2, 10, 3, 20_000, seed=0)
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.05)


def test_blocks_are_consecutive_circular_and_stay_in_their_group():
    counts = block_counts(3, 5, 5, 200, seed=0)
    # a block as long as its group holds the group once: every resample is made of whole groups
    assert all(len(set(row)) == 1 for resample in counts for row in resample.reshape(3, 5))


def test_resampling_is_reproducible_by_seed():
    same = block_counts(1, 30, 4, 10, seed=5), block_counts(1, 30, 4, 10, seed=5)
    np.testing.assert_array_equal(*same)
    assert (same[0] != block_counts(1, 30, 4, 10, seed=6)).any()


def test_block_length_grows_with_autocorrelation_and_sample_size():
    short, long = (automatic_block_length(autoregressive(1000, c, series=50)) for c in (0.5, 0.9))
    assert 10 <= short < 25  # an AR(1) of correlation 0.5 has the optimum (2 (0.5 / 0.75)^2 1.5 1000)^(1/3) = 14
    assert 2 * short < long
    assert automatic_block_length(autoregressive(100, 0.9, series=50)) < long


@pytest.mark.parametrize(("samples", "expected"), [(27, 3), (28, 4), (1000, 10), (4, 1), (9, 2), (1, 1)])
def test_uncorrelated_samples_have_blocks_of_the_cube_root(samples, expected):
    assert automatic_block_length(np.ones((1, samples, 1))) == expected


def test_samples_that_alternate_have_the_longest_blocks():
    alternating = (-1.0) ** np.arange(100)[None, :, None]
    differenced = np.diff(np.random.default_rng(3).normal(size=(1, 101, 300)), axis=1)
    assert automatic_block_length(alternating) == 25
    assert automatic_block_length(differenced) == 25


def test_no_more_than_a_part_of_the_samples_is_one_block():
    trend = np.linspace(0, 1, 40)[None, :, None]
    assert automatic_block_length(trend) == 40 // MIN_BLOCKS


def test_enough_trajectories_are_blocks_themselves():
    assert automatic_block_length(autoregressive(20, 0.0, groups=MIN_BLOCKS)) == 20
    assert automatic_block_length(autoregressive(20, 0.0, groups=MIN_BLOCKS - 1)) == 4  # cube root of 60


def test_diverged_series_do_not_count():
    series = autoregressive(100, 0.5, series=20)
    spoiled = np.concatenate([series, np.full((1, 100, 3), np.nan)], axis=-1)
    assert automatic_block_length(spoiled) == automatic_block_length(series)
    assert automatic_block_length(np.full((1, 100, 3), np.nan)) == 25
