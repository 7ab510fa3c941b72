"""Which cells write to which slot, without keeping one alive."""

from __future__ import annotations

import gc
import threading

from shm_metrics.writer.bound_cells import BoundCells


class Cell:
    pass


def test_cells_are_found_by_their_slot_with_the_hash_they_were_bound_for():
    cells, one, other, third = BoundCells(), Cell(), Cell(), Cell()
    cells.add(16, 7, one)
    cells.add(16, 8, other)
    cells.add(20, 9, third)
    assert cells.at(16) == [(7, one), (8, other)]
    assert cells.at(20) == [(9, third)]
    assert cells.at(17) == []
    assert sorted(cells.slots()) == [16, 20]
    assert cells.all() == [one, other, third]


def test_a_cell_that_is_gone_is_not_found_and_not_kept():
    cells, kept, gone = BoundCells(), Cell(), Cell()
    cells.add(16, 7, kept)
    cells.add(16, 8, gone)
    del gone
    gc.collect()
    assert cells.at(16) == [(7, kept)]
    assert cells.all() == [kept]


def test_of_a_cell_that_was_bound_twice_to_a_slot_the_last_time_counts():
    cells, cell = BoundCells(), Cell()
    cells.add(16, 7, cell)
    cells.add(16, 8, cell)
    assert cells.at(16) == [(8, cell)]


def test_a_cell_that_went_to_another_slot_is_found_at_both():
    """The caller compares with where the cell writes now."""
    cells, cell = BoundCells(), Cell()
    cells.add(16, 7, cell)
    cells.add(20, 7, cell)
    assert cells.at(16) == cells.at(20) == [(7, cell)]


def test_ten_thousand_cells_that_come_and_go_leave_few_entries_and_the_living_are_found():
    cells, living = BoundCells(), [Cell() for _ in range(10)]
    for n, cell in enumerate(living):
        cells.add(n, 100 + n, cell)
    for n in range(10_000):
        cells.add(n % 50, n, Cell())
    assert sum(len(entries) for entries in cells._by_slot.values()) < 2_000
    for n, cell in enumerate(living):
        assert (100 + n, cell) in cells.at(n)


def test_more_living_cells_than_entries_at_first_are_all_kept():
    cells, living = BoundCells(), [Cell() for _ in range(5_000)]
    for n, cell in enumerate(living):
        cells.add(n % 100, n, cell)
    assert sorted(map(id, cells.all())) == sorted(map(id, living))


def test_no_cell_is_lost_that_another_thread_adds_while_the_dead_are_dropped():
    cells, living, start = BoundCells(), [], threading.Barrier(4)

    def work(number):
        mine = []
        start.wait(30)
        for n in range(4_000):
            cell = Cell()
            cells.add(n % 7, n, cell)
            if n % 4 == 0:
                mine.append(cell)
        living.extend(mine)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(living) == 4_000
    assert {id(cell) for cell in living} == {id(cell) for cell in cells.all()}
