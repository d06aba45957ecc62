"""Planning of rows: nothing lost, nothing twice, nothing too long."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from easylm_imitation.data.packing import best_fit, first_fit, one_a_row

CONTEXT = 16
lengths = st.lists(st.integers(1, CONTEXT), max_size=60).map(lambda values: np.asarray(values, np.int32))


@given(lengths=lengths, seed=st.integers(0, 9), open_rows=st.integers(1, 8), fit=st.sampled_from([best_fit, first_fit]))
def test_every_conversation_lands_once_and_rows_never_overflow(lengths, seed, open_rows, fit):
    order = np.random.default_rng(seed).permutation(len(lengths))
    rows = fit(lengths, order, CONTEXT, open_rows)
    members = [rows[row].tolist() for row in range(len(rows))]
    assert sorted(sum(members, [])) == list(range(len(lengths)))
    assert all(row for row in members)
    assert all(lengths[row].sum() <= CONTEXT for row in members)
    place = {conversation: i for i, conversation in enumerate(order.tolist())}
    assert all([place[m] for m in row] == sorted(place[m] for m in row) for row in members)


@given(lengths=lengths)
def test_with_all_rows_open_it_is_textbook_first_fit(lengths):
    room, expected = [], []
    for conversation, length in enumerate(lengths.tolist()):
        row = next((row for row, free in enumerate(room) if free >= length), len(room))
        if row == len(room):
            room.append(CONTEXT)
            expected.append([])
        room[row] -= length
        expected[row].append(conversation)
    rows = first_fit(lengths, np.arange(len(lengths)), CONTEXT, open_rows=max(1, len(lengths)))
    assert sorted(rows[row].tolist() for row in range(len(rows))) == sorted(expected)


@given(lengths=lengths)
def test_with_all_rows_open_it_is_textbook_best_fit(lengths):
    room, expected = [], []
    for conversation, length in enumerate(lengths.tolist()):
        fits = [row for row, free in enumerate(room) if free >= length]
        row = min(fits, key=lambda row: (room[row], row)) if fits else len(room)
        if not fits:
            room.append(CONTEXT)
            expected.append([])
        room[row] -= length
        expected[row].append(conversation)
    rows = best_fit(lengths, np.arange(len(lengths)), CONTEXT, open_rows=max(1, len(lengths)))
    assert [rows[row].tolist() for row in range(len(rows))] == expected


def test_the_worked_examples():
    rows = best_fit(np.asarray([2, 4, 2]), np.arange(3), context=6, open_rows=2)
    assert [rows[row].tolist() for row in range(len(rows))] == [[0, 1], [2]]
    rows = best_fit(np.asarray([3, 5, 3, 4]), np.arange(4), context=6, open_rows=1)     # closes what is in its way
    assert [rows[row].tolist() for row in range(len(rows))] == [[0], [1], [2], [3]]
    rows = first_fit(np.asarray([3, 4, 2]), np.arange(3), context=6, open_rows=2)
    assert [rows[row].tolist() for row in range(len(rows))] == [[0, 2], [1]]
    rows = first_fit(np.asarray([3, 4, 2]), np.arange(3), context=6, open_rows=1)
    assert [rows[row].tolist() for row in range(len(rows))] == [[0], [1, 2]]
    assert len(first_fit(np.asarray([], np.int32), np.arange(0), context=6, open_rows=2)) == 0


def test_one_a_row_and_what_does_not_fit():
    assert [one_a_row(np.asarray([2, 0, 1]))[row].tolist() for row in range(3)] == [[2], [0], [1]]
    with pytest.raises(ValueError, match="7 does not fit a row of 6"):
        first_fit(np.asarray([7]), np.arange(1), context=6, open_rows=1)


def test_packing_fills_rows_well():
    lengths = np.random.default_rng(0).integers(20, 400, 3000)
    filled = [lengths.sum() / (len(fit(lengths, np.arange(3000), context=1024, open_rows=32)) * 1024)
              for fit in (first_fit, best_fit)]
    assert filled[1] >= filled[0] > 0.97
    assert filled[1] > 0.98
