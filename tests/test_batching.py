"""Batches that are read ahead: order, bounds, what is left out, and where the time goes."""

import threading
import time
from collections import deque
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unisat.corpus import Batch
from unisat.interpret.features import batching
from unisat.interpret.features.batching import ReadAhead, Speech, batches

CPU = torch.device("cpu")


def speech(*samples, do_normalize=True):
    noise = torch.Generator().manual_seed(0)
    waves = [torch.rand(count, generator=noise) - 0.5 for count in samples]
    return Speech(Batch.from_arrays(waves, sampling_rate=16_000), None, do_normalize)


@given(st.lists(st.floats(0.1, 20), min_size=1, max_size=40), st.floats(0.5, 60))
def test_a_plan_holds_each_utterance_once_and_pads_little(seconds, batch_seconds):
    seconds = np.array(seconds)
    plan = batches(seconds, batch_seconds)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(seconds)))
    for rows in plan:
        assert len(rows) == 1 or len(rows) * seconds[rows].max() <= batch_seconds
    longest = [seconds[rows].max() for rows in plan]
    assert longest == sorted(longest, reverse=True)
    for before, after in pairwise(plan):  # like goes with like
        assert seconds[before].min() >= seconds[after].max()


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_come_in_order_padded_and_normalised(workers):
    source = speech(4000, 1000, 3000, 2000, 50)
    todo = [(7, np.array([0, 2])), (9, np.array([3, 1])), (11, np.array([4]))]
    found = list(ReadAhead(source, todo, CPU, least=100, workers=workers))
    assert [batch.number for batch in found] == [7, 9, 11]
    assert [batch.rows for batch in found] == [[0, 2], [3, 1], []]
    assert found[2].too_short == {4: 50}
    assert found[2].wanted == [4]
    for batch in found[:2]:
        assert batch.lengths.tolist() == [len(batch.waveforms[row]) for row in batch.rows]
        assert batch.attention_mask.sum(1).tolist() == batch.lengths.tolist()
        for values, length in zip(batch.input_values, batch.lengths.tolist(), strict=True):
            assert abs(float(values[:length].mean())) < 1e-5
            assert float(values[:length].std()) == pytest.approx(1, abs=1e-3)
            assert not values[length:].any()


def test_reading_goes_on_while_the_model_works_but_not_far_ahead(monkeypatch):
    source = speech(*[1000] * 12)
    read, lock = [], threading.Lock()

    def slow(self, rows):
        with lock:
            read.extend(rows)
        return {row: self.source.waveforms[row] for row in rows}

    monkeypatch.setattr(Speech, "read", slow)
    for taken, _ in enumerate(ReadAhead(source, [(n, np.array([n])) for n in range(12)], CPU)):
        time.sleep(0.02)
        assert min(12, taken + 2) <= len(read) <= taken + 4


def test_where_the_time_goes(monkeypatch):
    asked = threading.Event()

    class Queue(deque):
        def popleft(self):  # the clock of who waits has started
            asked.set()
            return super().popleft()

    def slow(self, rows):
        asked.wait()  # on a busy machine the reader could be ahead
        time.sleep(0.05)
        return {row: self.source.waveforms[row] for row in rows}

    monkeypatch.setattr(batching, "deque", Queue)
    monkeypatch.setattr(Speech, "read", slow)
    ahead = ReadAhead(speech(1000, 1000), [(0, np.array([0])), (1, np.array([1]))], CPU)
    for _ in ahead:
        with ahead.working():
            time.sleep(0.1)
    timing = ahead.timing()
    assert timing["seconds"] >= timing["model"] + timing["waiting"] >= 0.25
    assert timing["model"] >= 0.2
    assert timing["outside_share"] == pytest.approx(1 - timing["model"] / timing["seconds"])


def test_an_error_of_a_reader_is_the_callers(monkeypatch):
    monkeypatch.setattr(Speech, "read", lambda self, rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(ReadAhead(speech(1000), [(0, np.array([0]))], CPU))
