"""Segments: files as the tools write them, round trips, hostile files, and frames against a loop."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unisat as us
from unisat.segments import KINDS, Segments, span

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words 2"
        xmin = 0
        xmax = 1.5
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = ""
        intervals [2]:
            xmin = 0.25
            xmax = 1.0e0
            text = "say ""3"" 7
times"
        intervals [3]:
            xmin = 1.0
            xmax = 1.5
            text = "ə"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 1.5
        points: size = 1
        points [1]:
            number = 0.75
            mark = "!"
"""
SHORT = (
    'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n1.5\n<exists>\n2\n'
    '"IntervalTier"\n"words 2"\n0\n1.5\n3\n0\n0.25\n""\n'
    '0.25\n1\n"say ""3"" 7\ntimes"\n1\n1.5\n"ə"\n"TextTier"\n"clicks"\n0\n1.5\n1\n0.75\n"!"\n'
)


def rows(segments):
    return segments.table[["id", "tier", "start", "end", "label"]].to_numpy().tolist()


def written(folder, name, text, encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", [LONG, SHORT], ids=["long", "short"])
def test_textgrids_in_both_forms_and_in_unicode(tmp_path, text, encoding):
    assert rows(Segments.read(written(tmp_path, "u1.TextGrid", text, encoding))) == [
        ["u1", "clicks", 0.75, 0.75, "!"],
        ["u1", "words 2", 0.25, 1.0, 'say "3" 7\ntimes'],
        ["u1", "words 2", 1.0, 1.5, "ə"],
    ]


def test_textgrids_without_tiers_or_intervals(tmp_path):
    none = LONG[: LONG.index("tiers?")] + "tiers? <absent>\n"
    assert len(Segments.read(written(tmp_path, "a.TextGrid", none))) == 0
    empty = SHORT[: SHORT.index("\n3\n0\n0.25")] + "\n0\n"
    assert len(Segments.read(written(tmp_path, "b.TextGrid", empty.replace("<exists>\n2", "<exists>\n1")))) == 0


FILES = {
    "a.ctm": (
        ";; a comment\nu1 1 0.5 0.25 yes 0.9\nu2 A 0 1 no\n",
        [["u1", "word", 0.5, 0.75, "yes"], ["u2", "word", 0, 1, "no"]],
    ),
    "sa1.phn": ("0 1600 h#\n1600 3200 sh\n", [["sa1", "phone", 0, 0.1, "h#"], ["sa1", "phone", 0.1, 0.2, "sh"]]),
    "sa1.WRD": ("1600 3200 she\n", [["sa1", "word", 0.1, 0.2, "she"]]),
    "a.rttm": (
        "SPKR-INFO m 1 <NA> <NA> <NA> unknown Ann <NA> <NA>\nSPEAKER m 1 2 1.5 <NA> <NA> Ann <NA> <NA>\n",
        [["m", "speaker", 2, 3.5, "Ann"]],
    ),
    "a.item": (
        "#file onset offset #phone prev-phone next-phone speaker\nu1 0.2 0.3 AA B K s1\n",
        [["u1", "phone", 0.2, 0.3, "AA"]],
    ),
    "84-121123.alignment.txt": (
        '84-121123-0000 ",GO,,DO" "0.490,0.890,1.000,1.270"\n',
        [["84-121123-0000", "word", 0.49, 0.89, "GO"], ["84-121123-0000", "word", 1.0, 1.27, "DO"]],
    ),
    "a.csv": ("id,tier,start,end,label\n007,phones,0,0.5,AA\n", [["007", "phones", 0, 0.5, "AA"]]),
}


@pytest.mark.parametrize("name", FILES)
def test_other_files_as_their_tools_write_them(tmp_path, name):
    text, expected = FILES[name]
    assert rows(Segments.read(written(tmp_path, name, text))) == expected
    kind = next(kind for kind, (_, endings) in KINDS.items() if name.lower().endswith(endings))
    renamed = Segments.read(written(tmp_path, "x.dat", text), kind=kind, tier="mine")
    assert renamed.tiers == ["mine"]


EAF = """<?xml version="1.0" encoding="UTF-8"?><ANNOTATION_DOCUMENT><TIME_ORDER>
<TIME_SLOT TIME_SLOT_ID="t1" TIME_VALUE="100"/><TIME_SLOT TIME_SLOT_ID="t2" TIME_VALUE="600"/></TIME_ORDER>
<TIER TIER_ID="gloss"><ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a2" ANNOTATION_REF="a1">
<ANNOTATION_VALUE>dog</ANNOTATION_VALUE>
</REF_ANNOTATION></ANNOTATION></TIER><TIER TIER_ID="word"><ANNOTATION>
<ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="t1" TIME_SLOT_REF2="t2">
<ANNOTATION_VALUE>Hund</ANNOTATION_VALUE>
</ALIGNABLE_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>"""


def test_elan_tiers_that_refer_to_others_have_their_times(tmp_path):
    found = Segments.read(written(tmp_path, "talk.eaf", EAF))
    assert rows(found) == [["talk", "gloss", 0.1, 0.6, "dog"], ["talk", "word", 0.1, 0.6, "Hund"]]


def test_praatio_reads_ours_and_we_read_its(tmp_path):
    textgrid = pytest.importorskip("praatio.textgrid", reason="praatio is not installed")
    table = pd.DataFrame(
        [("u", "words", 0.1, 0.5, 'a "b"'), ("u", "words", 0.5, 0.75, "c"), ("u", "phones", 0.1, 0.2, "ɐ")],
        columns=["id", "tier", "start", "end", "label"],
    )
    ours = Segments(table)
    ours.to_textgrid(tmp_path / "u.TextGrid", seconds=1.0)
    theirs = textgrid.openTextgrid(str(tmp_path / "u.TextGrid"), includeEmptyIntervals=False)
    assert [tuple(entry) for entry in theirs.getTier("words").entries] == [(0.1, 0.5, 'a "b"'), (0.5, 0.75, "c")]
    assert theirs.maxTimestamp == 1.0
    for form in ("short_textgrid", "long_textgrid"):
        (tmp_path / form).mkdir()
        theirs.save(str(tmp_path / form / "u.TextGrid"), format=form, includeBlankSpaces=True)
        assert rows(Segments.read(tmp_path / form / "u.TextGrid")) == rows(ours)


def test_pympi_writes_what_we_read(tmp_path):
    elan = pytest.importorskip("pympi.Elan", reason="pympi-ling is not installed")
    file = elan.Eaf()
    file.add_tier("word")
    file.add_annotation("word", 100, 600, "Hund")
    file.add_annotation("word", 600, 900, "")
    file.to_file(str(tmp_path / "talk.eaf"))
    assert rows(Segments.read(tmp_path / "talk.eaf")) == [["talk", "word", 0.1, 0.6, "Hund"]]


LABEL = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=6)


@given(st.lists(st.tuples(st.integers(1, 900), LABEL), min_size=1, max_size=12), st.integers(0, 500))
def test_what_is_written_is_read_again(tmp_path_factory, parts, gap):
    folder = tmp_path_factory.mktemp("written")
    ends = np.cumsum([gap + length for length, _ in parts]) / 1000
    table = [("u", "t", end - length / 1000, end, label) for end, (length, label) in zip(ends, parts, strict=True)]
    ours = Segments(pd.DataFrame(table, columns=["id", "tier", "start", "end", "label"]))
    ours.to_textgrid(folder / "u.TextGrid")
    again = Segments.read(folder / "u.TextGrid")
    assert again.table["label"].tolist() == ours.table["label"].tolist()
    np.testing.assert_allclose(again.table[["start", "end"]], ours.table[["start", "end"]], atol=1e-9)
    ours.to_ctm(folder / "u.ctm")
    again = Segments.read(folder / "u.ctm", tier="t")
    assert again.table["label"].tolist() == ours.table["label"].tolist()
    np.testing.assert_allclose(again.table[["start", "end"]], ours.table[["start", "end"]], atol=2e-6)


# frames


SEGMENTS = Segments.from_rows(
    {
        "u1": [{"start": 0.0, "end": 0.1, "label": "AA"}, {"start": 0.1, "end": 0.15, "label": "K"}],
        "u2": [{"start": 0.031, "end": 0.2, "text": "K"}],
    },
    tier="phone",
)


@pytest.mark.parametrize("rule", ["centre", "abx"])
def test_frames_are_those_of_a_loop(rule):
    found = SEGMENTS.frames({"u1": 9, "u2": 7, "u3": 2}, rule)
    for name, frames in found.items():
        for t, label in enumerate(frames):
            middle = 0.0125 + 0.02 * t if rule == "centre" else 0.01 + 0.02 * t
            mine = SEGMENTS.table[SEGMENTS.table["id"] == name]
            there = (mine["start"] <= middle) & (
                (middle < mine["end"]) if rule == "centre" else (middle <= mine["end"] + 1e-9)
            )
            assert label == (mine["label"][there].iloc[-1] if there.any() else None), (name, t)
    assert [len(frames) for frames in found.values()] == [9, 7, 2]


def test_a_label_is_the_same_label_in_every_utterance():
    """Numbered utterance by utterance, number 0 of the first would be AA and of the second K."""
    from unisat.interpret.features.labels import frame_codes

    codes, names = frame_codes(SEGMENTS.frames({"u1": 7, "u2": 9}), ["u1", "u2"], np.array([7, 9]))
    assert names == SEGMENTS.labels() == ["AA", "K"]
    assert codes.tolist() == [0, 0, 0, 0, 0, 1, 1, -1, 1, 1, 1, 1, 1, 1, 1, 1]


@given(st.floats(0, 3), st.floats(0, 1))
def test_spans_meet_without_a_gap(start, length):
    middle, end = start + length, start + 2 * length
    (first, between), (again, last) = span([start, middle], [middle, end])
    assert between == again
    assert first <= between <= last


def test_what_stands_beside():
    table = SEGMENTS.context()
    assert table["previous"].tolist() == ["", "AA", ""]
    assert table["next"].tolist() == ["K", "", ""]
    assert table["duration"].tolist() == pytest.approx([0.1, 0.05, 0.169])


def test_parts_of_it():
    assert SEGMENTS.where(id="u1").ids == ["u1"]
    assert len(SEGMENTS.where(label=["K"])) == 2
    assert SEGMENTS.beyond({"u1": 0.08, "u2": 0.2})["label"].tolist() == ["K"]
    assert repr(SEGMENTS) == "Segments(3 segments of 2 utterances, tiers phone)"
    assert us.Segments is Segments


# hostile files


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "a.TextGrid",
            LONG.replace("xmax = 1.0e0", "xmax = 1.2"),
            r"a.TextGrid, line 25: .* starts at 1 s, before the end",
        ),
        ("a.TextGrid", LONG.replace("xmin = 0.25", "xmin = -1"), 'a.TextGrid, line 20: \'say "3" 7.* from -1 to 1 s'),
        ("a.TextGrid", LONG.replace("xmax = 1.0e0", "xmax = 0.2"), "a.TextGrid, line 20: .* from 0.25 to 0.2 s"),
        ("a.TextGrid", LONG[:400], r"a.TextGrid, line 2\d: the file ends where"),
        ("a.TextGrid", LONG.replace("size = 3", 'size = "3"'), "line 14: expected the number of intervals, a number"),
        ("a.TextGrid", LONG.replace('"TextTier"', '"PitchTier"'), "an IntervalTier or a TextTier, not 'PitchTier'"),
        ("a.TextGrid", "<html>", "the file ends where 'ooTextFile' is expected"),
        (
            "a.ctm",
            "u1 1 0.5 0.25\n",
            "a.ctm, line 1: expected utterance, channel, start, duration, label, got 'u1 1 0.5 0.25'",
        ),
        ("a.ctm", "u1 1 half 0.25 x\n", "a.ctm, line 1: expected a number of seconds or samples, got 'half'"),
        ("a.ctm", "u1 1 0.5 -0.25 x\n", "a.ctm, line 1: 'x' from 0.5 to 0.25 s"),
        ("a.ctm", "u1 1 nan 1 x\n", "a.ctm, line 1: 'x' from nan to nan s"),
        ("a.phn", "0 sh\n", "a.phn, line 1: expected first sample, last sample, label"),
        ("a.alignment.txt", 'x "A,B" "1.0"\n', "line 1: expected utterance"),
        ("a.eaf", EAF.replace("</TIER>", "", 1), "a.eaf, line"),
        ("a.eaf", EAF.replace('ANNOTATION_REF="a1"', 'ANNOTATION_REF="a9"'), "refers to 'a9', which has no times"),
        ("a.eaf", EAF.replace('TIME_VALUE="600"', ""), "annotation 'a1' of 'word' has no times"),
        ("a.eaf", '<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', "defines entities"),
        ("a.csv", "id,start\nu,1\n", "a.csv, line 2: expected the columns id, tier, start, end, label"),
        ("a.txt", "hello", "cannot tell what this is; pass kind="),
    ],
)
def test_hostile_files_are_answered_with_file_and_line(tmp_path, name, text, said):
    with pytest.raises(ValueError, match=said):
        Segments.read(written(tmp_path, name, text))


def test_unknown_encodings_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"a.TextGrid is not text in UTF-8 or UTF-16 \(byte \d+ is 0xe9\)"):
        Segments.read(written(tmp_path, "a.TextGrid", LONG.replace("ə", "é"), "latin-1"))


def test_tables_and_requests_that_cannot_be():
    with pytest.raises(ValueError, match="tier, label are missing"):
        Segments(pd.DataFrame({"id": ["a"], "start": [0], "end": [1]}))
    with pytest.raises(ValueError, match="first 'x' of 'a' from 2 to 1 s"):
        Segments(pd.DataFrame([("a", "t", 2, 1, "x")], columns=["id", "tier", "start", "end", "label"]))
    both = pd.DataFrame(
        [("a", "t", 0, 1, "x"), ("a", "u", 0.5, 2, "y")], columns=["id", "tier", "start", "end", "label"]
    )
    with pytest.raises(ValueError, match=r"there are the tiers t, u; take .tier\(name\)"):
        Segments(both).frames({"a": 9})
    with pytest.raises(ValueError, match="'a' has segments that overlap, first behind 'x'"):
        Segments(both.assign(tier="t")).frames({"a": 9})
    with pytest.raises(ValueError, match="there is no tier 'v'; there are t, u"):
        Segments(both).tier("v")
    with pytest.raises(ValueError, match="no file fits"):
        Segments.read("/nowhere/*.ctm")
    with pytest.raises(ValueError, match="'u': expected start, end and label, got start, end"):
        Segments.from_rows({"u": [{"start": 0, "end": 1}]})
