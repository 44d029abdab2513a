"""Cut the speech of real people that ships with the package: data/people, from the recorded speech beside this clone.

    python data/make_people.py

Of each speaker in data/people.csv at most eight pieces of 3 to 6 seconds, with transcript and with the times of words
and phones. Files that are as long as a piece are copied byte by byte; longer ones are cut in the longest pauses between
words and encoded anew.
"""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

FOLDER = Path(__file__).resolve().parent
SHARED = FOLDER.parents[1] / "shared"
OUT = FOLDER / "people"
PIECES, SHORTEST, LONGEST = 8, 3.0, 6.0
MARGIN = 0.15
"""Seconds of a pause that a cut piece keeps on both sides."""

COLUMNS = [
    "path",
    "id",
    "speaker",
    "sex",
    "accent",
    "age",
    "session",
    "text",
    "seconds",
    "source",
    "licence",
    "source_file",
]


def recordings() -> pd.DataFrame:
    """All files of the chosen speakers that have phone times, the whole utterance as its session where it was cut."""
    whole = pd.read_csv(SHARED / "speech" / "metadata.csv", dtype=str)
    pool = pd.read_csv(SHARED / "speech" / "pool" / "metadata.csv", dtype=str)
    pool["path"] = "pool/" + pool["path"]
    table = pd.concat([whole, pool], ignore_index=True)
    chosen = pd.read_csv(FOLDER / "people.csv")["speaker"]
    table = table[table["speaker"].isin(chosen)].drop_duplicates("path")
    table["seconds"] = table["seconds"].astype(float)
    table["session"] = table["source_utt"].fillna(table["path"])
    return table.sort_values(["speaker", "path"])


def cuts(words: pd.DataFrame, seconds: float) -> list[tuple[float, float]]:
    """Begin and end of each piece of a recording; one as long as a piece is left whole."""
    if SHORTEST <= seconds <= LONGEST:
        return [(0.0, seconds)]
    if seconds < SHORTEST or len(words) < 4:
        return []
    pauses = [
        ((before.end + behind.start) / 2, behind.start - before.end)
        for before, behind in zip(words.iloc[:-1].itertuples(), words.iloc[1:].itertuples(), strict=True)
    ]
    first, last = max(0.0, words["start"].min() - MARGIN), min(seconds, words["end"].max() + MARGIN)
    pieces, at = [], first
    while last - at > LONGEST:
        fitting = [pause for pause in pauses if SHORTEST <= pause[0] - at <= LONGEST]
        if not fitting:
            break
        stop = max(fitting, key=lambda pause: pause[1])[0]
        pieces.append((at, stop))
        at = stop
    if SHORTEST <= last - at <= LONGEST:
        pieces.append((at, last))
    return pieces


def main() -> None:
    """Cut, copy, and write both tables."""
    shutil.rmtree(OUT, ignore_errors=True)
    phones = pd.read_csv(SHARED / "speech2" / "alignments" / "phones.csv")
    timed = dict(list(phones[~phones["word"].str.startswith("<")].groupby("path")))  # without silence
    rows, segments = [], []
    for speaker, files in recordings().groupby("speaker"):
        (OUT / speaker).mkdir(parents=True)
        made = 0
        # whole files first: nothing is lost by encoding them again
        files = files.assign(whole=~files["seconds"].between(SHORTEST, LONGEST)).sort_values(["whole", "path"])
        for file in files[files["path"].isin(timed)].itertuples():
            mine = timed[file.path]
            words = mine.groupby("word_index").agg(start=("start", "min"), end=("end", "max"), word=("word", "first"))
            for start, end in cuts(words, file.seconds):
                if made == PIECES:
                    break
                made += 1
                name = f"{speaker}-{made:02d}"
                place = OUT / speaker / f"{name}.opus"
                if end - start == file.seconds:
                    shutil.copy(SHARED / "speech" / file.path, place)
                else:
                    wave, rate = soundfile.read(SHARED / "speech" / file.path, dtype="float32")
                    soundfile.write(place, wave[round(start * rate) : round(end * rate)], rate, "OPUS", format="OGG")
                inside = words[(words["start"] >= start - 1e-6) & (words["end"] <= end + 0.05)]
                row = {column: getattr(file, column, None) for column in COLUMNS} | {"id": name}
                text = file.text if end - start == file.seconds and isinstance(file.text, str) else None
                text = text or " ".join(inside["word"]).upper()
                seconds = round(soundfile.info(place).duration, 4)
                rows.append(
                    {
                        **row,
                        "path": f"{speaker}/{name}.opus",
                        "text": text,
                        "seconds": seconds,
                        "source_file": file.path,
                    }
                )
                tiers = [("word", inside.rename(columns={"word": "label"}))]
                tiers.append(("phone", mine[mine["word_index"].isin(inside.index)].rename(columns={"phone": "label"})))
                for tier, part in tiers:
                    part = part.assign(id=name, tier=tier, start=part["start"] - start, end=part["end"] - start)
                    segments.append(part[["id", "tier", "start", "end", "label"]])
    table, labels = pd.DataFrame(rows, columns=COLUMNS), pd.concat(segments).round(3)
    labels["end"] = np.minimum(labels["end"], labels["id"].map(table.set_index("id")["seconds"]))
    table.to_csv(OUT / "metadata.csv", index=False)
    labels.to_csv(OUT / "segments.csv", index=False)
    for licence in ("CC-BY-4.0.txt", "LibriSpeech-LICENSE.TXT", "VCTK-0.92-README.txt", "VCTK-0.80-ODC-By-1.0.txt"):
        (OUT / "LICENSES").mkdir(exist_ok=True)
        shutil.copy(SHARED / "speech" / "LICENSES" / licence, OUT / "LICENSES" / licence)
    print(summary())


def summary() -> str:
    """What there is."""
    table, labels = pd.read_csv(OUT / "metadata.csv"), pd.read_csv(OUT / "segments.csv", keep_default_na=False)
    counts, seconds = table.groupby("speaker").size(), table["seconds"]
    size = sum(path.stat().st_size for path in OUT.rglob("*.*"))
    return (
        f"{len(counts)} speakers, {len(table)} pieces, {counts.min()} to {counts.max()} each\n"
        f"{seconds.sum() / 60:.1f} minutes, {seconds.min():.2f} to {seconds.max():.2f} s each\n"
        f"{(labels['tier'] == 'word').sum()} words, {(labels['tier'] == 'phone').sum()} phones, {size / 1e6:.2f} MB"
    )


if __name__ == "__main__":
    main()
