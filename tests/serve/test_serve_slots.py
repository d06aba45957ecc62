"""Who gets which slot, and who waits for a copy of what another reads."""
from easylm_imitation.serve.jobs import Answer, Sampling
from easylm_imitation.serve.slots import Slots

STEM = list(range(100, 150))


def answer(*prompt):
    return Answer(prompt, 4, Sampling(), None, lambda news: None, stop_ids=frozenset())


def admitted(slots, *prompts):
    jobs = [answer(*prompt) for prompt in prompts]
    for job in jobs:
        slots.admit(job)
    return jobs


def read(job, count):
    job.read = min(job.read + count, len(job.prompt) - 1)
    job.ready = not job.unread


def test_who_begins_alike_waits_for_the_first_and_copies_its_slot():
    slots = Slots(3)
    first, second, other = admitted(slots, [*STEM, 1, 2], [*STEM, 3, 4], [7] * 60)
    assert [job for _, job in slots.reading()] == [first, other]
    read(first, 49)
    assert slots.copies() == []         # 50 tokens are shared
    read(first, 10)
    assert slots.copies() == [(0, 1)]
    assert (second.read, slots.reused) == (50, 50)
    assert slots.copies() == []
    assert [job for _, job in slots.reading()] == [second, other]


def test_a_short_beginning_is_read_rather_than_copied():
    slots = Slots(2)
    admitted(slots, [*STEM[:31], 1, 1], [*STEM[:31], 2, 2])
    assert len(slots.reading()) == 2


def test_who_waits_for_one_that_is_given_up_reads_by_itself():
    slots = Slots(3)
    first, second, third = admitted(slots, [*STEM, 1], [*STEM, 2], [*STEM, 3])
    slots.release(first)
    assert slots.copies() == []
    assert [job for _, job in slots.reading()] == [second, third]
    assert second.read == third.read == 0


def test_a_prompt_that_is_another_s_whole_is_copied_but_for_its_last_token():
    slots = Slots(2)
    first, second = admitted(slots, STEM, STEM)
    read(first, 100)
    assert slots.copies() == [(0, 1)]
    assert (second.read, second.unread) == (49, 0)


def test_a_free_slot_that_holds_as_much_needs_no_copy():
    slots = Slots(2)
    [first] = admitted(slots, [*STEM, 1, 2])
    read(first, 100)
    slots.release(first)
    again, other = admitted(slots, [*STEM, 5, 6], [*STEM[:40], 9])
    assert again.behind is None
    assert again.read == 50
    assert other.behind is not None     # the slot that held the beginning is taken, and may be copied at once
    assert slots.copies() == [(0, 1)]
    assert other.read == 40
