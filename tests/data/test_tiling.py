import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.data.tiling import nearest_multiples, refuse_uneven
from workbench.errors import InputError


@given(size=st.integers(1, 2000), unit=st.integers(1, 300))
def test_nearest_multiples_enclose_the_size(size, unit):
    crop, pad = nearest_multiples(size, unit)
    assert crop % unit == pad % unit == 0 and crop <= size <= pad
    assert pad - crop == (0 if size % unit == 0 else unit)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=3))
def test_what_divides_passes_and_what_is_advised_passes(pairs):
    grid, unit = {f"d{i}": n * u for i, (n, u) in enumerate(pairs)}, [u for _, u in pairs]
    refuse_uneven(grid, unit)
    grid["d0"] += 1
    crop, pad = nearest_multiples(grid["d0"], unit[0])
    for size in (crop, pad):
        if size:
            refuse_uneven(grid | {"d0": size}, unit)


def test_the_published_grid_loses_its_last_row():
    with pytest.raises(InputError) as raised:
        refuse_uneven({"lat": 361, "lon": 576}, (30, 32))
    assert str(raised.value) == (
        "the grid of lat 361 x lon 576 points does not divide into windows of 30 x 32 points (mask unit): crop lat to "
        "360 (data.crop: {lat: [0, 360]}) or pad lat to 390"
    )
    refuse_uneven({"lat": 360, "lon": 576}, (30, 32))


def test_a_window_larger_than_the_grid_can_only_be_padded_to():
    with pytest.raises(InputError, match=r"\(attention window\): pad y to 8; crop x to 8 .* or pad x to 16"):
        refuse_uneven({"y": 5, "x": 9}, (8, 8), "attention window")
    with pytest.raises(InputError, match=r"mask unit \(8,\): expected a number from 1 for each of y, x"):
        refuse_uneven({"y": 5, "x": 9}, (8,))
