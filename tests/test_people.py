"""The speech of real people that comes with unisat: who they are, and what they say when."""

import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

import unisat as us

PEOPLE = ROOT / "data" / "people"


@pytest.fixture(scope="module")
def people():
    return us.corpus.people()


@pytest.fixture(scope="module")
def segments():
    return us.Segments.people()


def test_who_they_are(people):
    table = people.table
    chosen = pd.read_csv(ROOT / "data" / "people.csv").set_index("speaker")
    assert {*table["speaker"]} == {*chosen.index}
    assert len(chosen) >= 40
    sexes = table.groupby("speaker")["sex"].first()
    assert sexes.to_dict() == chosen["sex"].to_dict()
    assert abs((sexes == "F").sum() - (sexes == "M").sum()) <= 1
    assert table["seconds"].between(3, 6).all()
    counts = table.groupby("speaker").size()
    assert (counts >= chosen["pieces"].clip(upper=6)[counts.index]).all()  # six where there is so much
    assert set(table["licence"]) == {"CC BY 4.0", "CC BY 4.0 (VCTK 0.92) / ODC-By 1.0 (VCTK 0.80)"}
    assert not table["text"].isna().any()


def test_it_is_small_and_the_page_says_what_it_is():
    assert sum(path.stat().st_size for path in PEOPLE.rglob("*.*")) < 8e6
    sys.path.insert(0, str(ROOT / "data"))
    import make_people

    assert make_people.summary() in (ROOT / "data" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("row", [0, 60, 130, 265])
def test_files_are_as_long_as_the_table_says(people, row):
    wave = us.audio.load(people.table["path"][row])
    assert len(wave) / 16_000 == pytest.approx(people.table["seconds"][row], abs=0.01)
    assert wave.abs().max() > 0.05


def test_words_are_those_of_the_text(people, segments):
    said = segments.tier("word").table.groupby("id")["label"].agg(" ".join).str.upper()
    text = (
        people.table.set_index("id")["text"].str.upper().str.replace("-", " ").str.replace(r"[^A-Z' ]", "", regex=True)
    )
    same = [said[name].split() == text[name].split() for name in text.index]
    assert np.mean(same) > 0.98  # numbers and abbreviations are spelt out


def test_phones_lie_in_words_and_words_in_the_recording(people, segments):
    assert segments.tiers == ["phone", "word"]
    assert not len(segments.beyond(people.table.set_index("id")["seconds"].to_dict(), slack=0.0))
    phones = segments.tier("phone")
    assert len(phones.labels()) == 39
    words = segments.tier("word").table
    for name, mine in phones.table.groupby("id"):
        there = words[words["id"] == name]
        starts, ends = there["start"].to_numpy(), there["end"].to_numpy()
        place = np.searchsorted(starts, mine["start"].to_numpy() + 1e-6) - 1
        assert (mine["end"].to_numpy() <= ends[place] + 0.011).all(), name
    lengths = {
        name: int(seconds * 50) for name, seconds in zip(people.table["id"], people.table["seconds"], strict=True)
    }
    labelled = np.concatenate(list(phones.frames(lengths).values()))
    assert np.mean([label is not None for label in labelled]) > 0.6


def test_speech_is_louder_than_pauses(people, segments):
    """Times that were shifted would not see it."""
    louder = []
    for row in range(0, len(people), 13):
        name = people.table["id"][row]
        wave = us.audio.load(people.table["path"][row])
        frames = wave[: len(wave) // 320 * 320].view(-1, 320).square().mean(1)
        spoken = np.array([label is not None for label in segments.tier("phone").frames({name: len(frames)})[name]])
        if (~spoken).sum() > 5:
            louder.append(frames[spoken].mean() > 4 * frames[~spoken].mean())
    assert len(louder) > 10
    assert np.mean(louder) > 0.8
