"""Where corpora keep their files: the layouts of LibriSpeech, VCTK, TIMIT and others, and what their lists say.

A row has ``relative`` (the file's path from the folder), ``speaker``, ``text`` and what else the layout tells:
``session``, ``sex``, ``accent``, ``sentence``, ``microphone``.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unisat import audio
from unisat.files import in_utf_8

LAYOUTS = {
    "metadata": "a table metadata.csv with a column path",
    "kaldi": "wav.scp without commands, with segments, utt2spk, text, spk2gender",
    "librispeech": "<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac",
    "libritts": "<speaker>/<chapter>/<speaker>_<chapter>_<paragraph>_<utterance>.wav",
    "mls": "audio/<speaker>/<book>/<speaker>_<book>_<utterance>.flac",
    "voxceleb": "id10001/<video>/00001.wav",
    "vctk": "wav48/p225/p225_001.wav or p225_001_mic1.flac, with txt/p225/p225_001.txt",
    "timit": "DR1/FCJF0/SA1.WAV, with SA1.TXT",
    "aishell": "S0002/BAC009S0002W0122.wav",
    "folders": "<speaker>/<session>/<utterance>.wav, with or without sessions",
}
"""The layouts of files that `folder` knows, in the order in which it tries them."""

# Each named group becomes a column. The pattern "folders" fits every file; it is matched with the path below the
# given folder, the others with the whole path.
PATTERNS = {
    "librispeech": r".*/(?P<speaker>\d+)/(?P<session>\d+)/(?P=speaker)-(?P=session)-\d+\.\w+",
    "libritts": r".*/(?P<speaker>\d+)/(?P<session>\d+)/(?P=speaker)_(?P=session)_\d+_\d+\.\w+",
    "mls": r".*/(?P<speaker>\d+)/(?P<session>\d+)/(?P=speaker)_(?P=session)_\d+\.\w+",
    "voxceleb": r".*/(?P<speaker>id\d{5})/(?P<session>[^/]+)/\d+\.\w+",
    "vctk": r".*/(?P<speaker>p\d{3}|s5)/(?P=speaker)_\d{3}(_(?P<microphone>mic\d))?\.\w+",
    "timit": r"(?i:.*/(?P<accent>dr[1-8])/(?P<speaker>(?P<sex>[fm])[a-z]{2}[a-z0-9]\d)/(?P<sentence>s[aix]\d+)"
    r"(\.wav)?\.\w+)",
    "aishell": r".*/(?P<speaker>S\d{4})/BAC\d+(?P=speaker)W\d+\.\w+",
    "folders": r"((?P<speaker>[^/]+)/)?((?P<session>.+)/)?[^/]+",
}

NO_SPEAKERS = (
    r"(?i:(train|test|dev|valid|validation|val|eval|enrol|audio|wavs?|clips|flac|mp3|sph|data|speech|sounds?|part|split)"
    r"([-_. ].*|\d*)|dr\d)"
)
"""Folders of these names hold parts of a corpus, and not what one speaker said."""


def tree(root: str, layout: str, unreadable: dict[str, str]) -> list[dict[str, Any]]:
    """Find the sound files under ``root``, sorted; those that do not fit the layout go to ``unreadable``."""
    files = sorted(_sounds(root, "", (), unreadable), key=lambda file: file.split("/"))
    if not files:
        raise ValueError(f"there is no sound file ({', '.join(audio.SUFFIXES)}) under {root}; check the path.")
    for name in PATTERNS if layout == "auto" else [layout]:
        places = files if name == "folders" else [f"{Path(root).as_posix()}/{file}" for file in files]
        matches = [re.fullmatch(PATTERNS[name], place) for place in places]
        if sum(match is not None for match in matches) >= (len(files) / 2 if layout == "auto" else 1):
            break
    else:
        raise ValueError(f"no file under {root} fits the layout {layout!r}: {LAYOUTS[layout]}.")
    unknown = layout == "auto" and name == "folders" and not _speaker_folders(root, matches)
    rows, people, texts = [], _people(Path(root, files[0]), name), _Texts(name)
    for file, match in zip(files, matches, strict=True):
        if match is None:
            unreadable[os.path.join(root, file)] = f"{file} does not fit the layout {name!r}: {LAYOUTS[name]}."
        else:
            labels = {} if unknown else {name: label and in_utf_8(label) for name, label in match.groupdict().items()}
            about = people.get(labels.get("speaker"), {})
            rows.append({"relative": file, **labels, **about, "text": texts.of(Path(root, file), labels)})
    return rows


def _sounds(root: str, below: str, above: tuple[tuple[int, int], ...], unreadable: dict[str, str]) -> Iterator[str]:
    """Find sound files in a folder and those below it, also behind links, but in no circles; hidden ones are left out.

    ``below`` is the path from ``root`` to the folder, ``above`` are the folders on the way.
    """
    folder = os.path.join(root, below)
    try:
        about = os.stat(folder)
        entries = [] if (about.st_dev, about.st_ino) in above else list(os.scandir(folder))
    except OSError as error:
        unreadable[folder] = f"{folder} could not be listed ({error.strerror}); it may hold more files."
        return
    for entry in entries:
        try:
            inside = entry.is_dir()
        except OSError:  # a link to itself
            inside = False
        if entry.name.startswith("."):
            continue
        if inside:
            yield from _sounds(root, f"{below}{entry.name}/", (*above, (about.st_dev, about.st_ino)), unreadable)
        elif os.path.splitext(entry.name)[1].lower() in audio.SUFFIXES:
            yield below + entry.name


def _speaker_folders(root: str, matches: list[re.Match[str] | None]) -> bool:
    """Whether the folders under ``root`` may be speakers; if not, warn."""
    found = {(match["speaker"], match["session"]) for match in matches if match and match["speaker"]}
    speakers = {speaker for speaker, _ in found}
    parts = sorted(speaker for speaker in speakers if re.fullmatch(NO_SPEAKERS, speaker))
    if not parts and (len(speakers) > 1 or len(found) < 2):
        return True
    named = ", ".join((parts or sorted(speakers))[:3])
    warnings.warn(
        f"{root} is laid out in no way that is known, and its folders ({named}) do not seem to be speakers: nobody's "
        "name is taken from them. Open the folder above the speakers, pass layout='folders' if they are speakers, or "
        "write a metadata.csv with the columns path and speaker.",
        UserWarning,
        stacklevel=4,
    )
    return False


def _people(file: Path, layout: str) -> dict[str | None, dict[str, str]]:
    """Read sex and accent of each speaker from the corpus's list, in a folder above ``file``."""
    names = {
        "librispeech": ("SPEAKERS.TXT",),
        "libritts": ("SPEAKERS.txt", "speakers.tsv"),
        "mls": ("metainfo.txt",),
        "vctk": ("speaker-info.txt",),
        "aishell": ("speaker.info",),
    }.get(layout, ())
    lists = [place / name for place in file.parents[:5] for name in names if (place / name).exists()]
    people: dict[str | None, dict[str, str]] = {}
    for line in lists[0].read_text("utf-8", "replace").splitlines() if lists else []:
        if layout == "vctk" and len(cells := line.split()) > 3:
            # a line such as: p225  23  F  English  Southern England; version 0.80 leaves out the p
            speaker = f"p{cells[0]}" if cells[0].isdigit() else cells[0]
            people[speaker] = {"sex": cells[2], "accent": cells[3]}
        elif layout == "aishell" and len(cells := line.split()) > 1:
            people[f"S{cells[0]}"] = {"sex": cells[1]}  # a line such as: 0002 F
        elif layout != "vctk" and len(cells := re.split(r"[|\t]", line)) > 1:
            # a line such as: 14 | F | train-clean-360 | 25.03 | Name; comments begin with a semicolon
            people[cells[0].strip()] = {"sex": cells[1].strip()}
    return people


class _Texts:
    """What is said in each file, from the transcripts that a layout puts near it, each of which is read once."""

    def __init__(self, layout: str) -> None:
        self.layout = layout
        self.tables: dict[Path, dict[str, str]] = {}

    def of(self, file: Path, labels: dict[str, str | None]) -> str | None:
        """Give the text of a file."""
        if self.layout == "librispeech":
            return self._table(file.with_name(f"{labels['speaker']}-{labels['session']}.trans.txt")).get(file.stem)
        if self.layout == "mls":
            return self._table(Path(*file.parts[:-4], "transcripts.txt")).get(file.stem)
        if self.layout == "aishell":
            tables = [self._table(place / "transcript" / "aishell_transcript_v0.8.txt") for place in file.parents[2:5]]
            return next((table[file.stem] for table in tables if file.stem in table), None)
        if self.layout == "libritts":
            return self._alone(file.with_suffix(".normalized.txt"))
        if self.layout == "timit":  # a line such as: 0 46797 She had your dark suit ...
            name = str(labels["sentence"])
            found = self._alone(file.with_name(f"{name}.TXT")) or self._alone(file.with_name(f"{name}.txt"))
            return found and found.split(maxsplit=2)[-1]
        if self.layout == "vctk":
            utterance = file.stem.removesuffix(f"_{labels['microphone']}")
            return self._alone(file.parents[2] / "txt" / str(labels["speaker"]) / f"{utterance}.txt")
        return None

    def _table(self, transcript: Path) -> dict[str, str]:
        """Read a transcript with the name of an utterance at the beginning of each line."""
        if transcript not in self.tables:
            lines = transcript.read_text("utf-8", "replace").splitlines() if transcript.exists() else []
            words = (line.split(maxsplit=1) for line in lines)
            self.tables[transcript] = {found[0]: found[1].strip() for found in words if len(found) == 2}
        return self.tables[transcript]

    @staticmethod
    def _alone(transcript: Path) -> str | None:
        lines = transcript.read_text("utf-8", "replace").splitlines() if transcript.exists() else []
        return lines[0].strip() if lines else None
