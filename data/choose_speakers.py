"""Choose who ships with the package and who is kept for choices: data/people.csv and data/development.csv.

    python data/choose_speakers.py

Neither is ever trained on, and none of them is among the unseen speakers that judge in the end. Both lists hold as many
women as men of each source, where there are enough: people who read English, with word and phone times. The order
inside a source is a hash of the speaker's name, so that the same speech gives the same lists.
"""

import hashlib
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).resolve().parent
SHARED = FOLDER.parents[1] / "shared"
VCTK, LIBRISPEECH, SPEECHOCEAN = "CSTR VCTK", "LibriSpeech train-clean-100", "speechocean762"
WANTED = {  # of each sex
    "people": {VCTK: None, LIBRISPEECH: 8, SPEECHOCEAN: 11},
    "development": {LIBRISPEECH: 4, SPEECHOCEAN: 6},
}
SHORTEST, LONGEST = 3.0, 6.0
"""Seconds of a piece worth listening to."""


def candidates() -> pd.DataFrame:
    """Speakers that are not among the unseen ones, with what there is of each."""
    whole = pd.read_csv(SHARED / "speech" / "metadata.csv")
    pool = pd.read_csv(SHARED / "speech" / "pool" / "metadata.csv")
    pool["path"] = "pool/" + pool["path"]
    table = pd.concat([whole, pool], ignore_index=True)
    table = table[~table["speaker"].isin(whole.loc[whole["split"] == "unseen", "speaker"])]
    timed = table["path"].isin(pd.read_csv(SHARED / "speech2" / "alignments" / "phones.csv", usecols=["path"])["path"])
    table["pieces"] = (timed & table["seconds"].between(SHORTEST, LONGEST)).astype(int)
    table["timed"] = table["seconds"].where(timed, 0.0)
    speakers = table.groupby("speaker").agg(
        source=("source", "first"),
        sex=("sex", "first"),
        utterances=("path", "size"),
        seconds=("seconds", "sum"),
        timed_seconds=("timed", "sum"),
        pieces=("pieces", "sum"),
    )
    # three voices of LibriSpeech have 20 minutes each: they are for training
    speakers = speakers[(speakers["timed_seconds"] > 0) & (speakers["seconds"] < 600)].reset_index()
    speakers["order"] = [hashlib.sha256(name.encode()).hexdigest() for name in speakers["speaker"]]
    return speakers


def choose(speakers: pd.DataFrame, wanted: dict[str, int | None]) -> pd.DataFrame:
    """So many of each sex and source: those with most pieces, at most eight counted, then by their hash."""
    ranked = speakers.assign(pieces=speakers["pieces"].clip(upper=8)).sort_values(
        ["pieces", "order"], ascending=[False, True]
    )
    parts = []
    for source, count in wanted.items():
        some = ranked[ranked["source"] == source]
        parts.append(some if count is None else some.groupby("sex").head(count))
    return speakers.loc[pd.concat(parts).index].sort_values(["source", "speaker"])


def main() -> None:
    """Write both lists."""
    left = candidates()
    for name, wanted in WANTED.items():
        chosen = choose(left, wanted)
        left = left.drop(chosen.index)
        chosen.drop(columns="order").round(2).to_csv(FOLDER / f"{name}.csv", index=False)
        counts = chosen.groupby("source")["sex"].value_counts().unstack()
        print(f"{name}: {len(chosen)} speakers, {chosen['seconds'].sum() / 60:.1f} minutes\n{counts}")


if __name__ == "__main__":
    main()
