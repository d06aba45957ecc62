"""A failure to read is one line, whatever Orbax left under way."""
import gc
import sys
import types

import pytest

from easylm_imitation.weights import Unreadable
from easylm_imitation.weights.reading import reading


@pytest.fixture
def shown(monkeypatch):
    """The objects that Python complains about because nobody waits for them."""
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda news: seen.append(news.object.__qualname__))
    return seen


@types.coroutine
def _for_ever():
    yield


async def _read_of_ours():
    try:
        await _for_ever()
    except BaseException as error:
        raise OSError("while reading array index") from error


def _left_in(folder: str) -> types.CoroutineType:
    """A read under way, of code in that folder."""
    code = _read_of_ours.__code__.replace(co_filename=f"/lib/{folder}/serialization.py", co_qualname=folder)
    read = types.FunctionType(code, globals(), folder)()
    read.send(None)
    return read


def test_the_reads_that_are_left_behind_do_not_complain_but_others_do(shown):
    left = [_left_in("orbax"), _left_in("other")]
    with pytest.raises(Unreadable, match="^run: it is damaged .first.; put it back$"), \
            reading("run: it is damaged", "put it back"):
        raise ValueError("first")
    del left
    gc.collect()
    assert shown == ["other"]
