"""Make the built-in speech set with espeak-ng: every voice says every sentence.

    python data/make_speech.py --out data/speech

The same espeak-ng gives the same bytes again; the set in the repository comes from 1.51. Needs espeak-ng on
the PATH (Debian: ``apt install espeak-ng``), soundfile and soxr.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000
PEAK = 0.7
"""Largest sample of each voice before encoding: one gain a voice keeps its sentences' relation."""
SILENCE = 0.1
"""Seconds before and after each sentence, which espeak-ng starts and ends without."""
AMPLITUDE = 50
"""Of espeak-ng (its own default is 100), so low that no voice is clipped before the gain."""
COMPRESSION = 0.92
"""Of libsndfile's Opus encoder, from 0 (256 kbit/s) to 1 (6 kbit/s)."""


class Voice(NamedTuple):
    """One speaker: an espeak-ng accent and variant, its pitch (0-99) and its speed (words a minute)."""

    accent: str
    variant: str
    sex: str
    pitch: int
    speed: int


# Six accents, two women's and two men's voices of each; no variant, and no pair of pitch and speed, twice.
# Not en-gb but received pronunciation: espeak-ng 1.51 forgets the variant in "en-gb+f2" and the like.
VOICES = [
    Voice("en-us", "f1", "F", 55, 150),
    Voice("en-us", "Annie", "F", 30, 172),
    Voice("en-us", "m1", "M", 35, 158),
    Voice("en-us", "Denis", "M", 60, 166),
    Voice("en-us-nyc", "f4", "F", 70, 176),
    Voice("en-us-nyc", "Alicia", "F", 38, 168),
    Voice("en-us-nyc", "m4", "M", 64, 148),
    Voice("en-us-nyc", "boris", "M", 42, 170),
    Voice("en-gb-x-rp", "f2", "F", 40, 162),
    Voice("en-gb-x-rp", "steph", "F", 62, 146),
    Voice("en-gb-x-rp", "m2", "M", 70, 174),
    Voice("en-gb-x-rp", "gustave", "M", 28, 160),
    Voice("en-gb-scotland", "f3", "F", 58, 156),
    Voice("en-gb-scotland", "anika", "F", 24, 142),
    Voice("en-gb-scotland", "m7", "M", 52, 164),
    Voice("en-gb-scotland", "david", "M", 48, 152),
    Voice("en-gb-x-gbcwmd", "f5", "F", 66, 170),
    Voice("en-gb-x-gbcwmd", "grandma", "F", 34, 150),
    Voice("en-gb-x-gbcwmd", "m8", "M", 56, 144),
    Voice("en-gb-x-gbcwmd", "klatt4", "M", 46, 168),
    Voice("en-029", "linda", "F", 36, 158),
    Voice("en-029", "Andrea", "F", 26, 140),
    Voice("en-029", "m3", "M", 76, 154),
    Voice("en-029", "miguel", "M", 50, 172),
]

# Our own; "judge", "garden", "river", "quiet", "seven", "Thursday" and "yellow" come in two sentences each.
SENTENCES = [
    "Seven yellow boats drifted down the quiet river.",
    "The judge measured her garden with a piece of string.",
    "A thick fog hid the bridge over the quiet river.",
    "My father usually chews ginger on a long voyage.",
    "Please bring seven fresh oranges to the garden.",
    "Those choir boys sang beneath the yellow moon.",
    "Her cousin put a good book beside the warm fire.",
    "The nurse heard strange music through the open window.",
    "Both thieves vanished before the church bell rang.",
    "On Thursday a huge owl flew over the empty house.",
    "The judge poured hot tea and showed us a rare shell.",
    "We took the early train up north last Thursday.",
]


def say(voice: Voice, text: str, folder: Path) -> np.ndarray:
    """Give the samples of ``text`` as ``voice`` says it, at 16,000 Hz."""
    wave = folder / "said.wav"
    voice_name = f"{voice.accent}+{voice.variant}"
    options = ["-v", voice_name, "-p", voice.pitch, "-s", voice.speed, "-a", AMPLITUDE, "-w", wave]
    subprocess.run(["espeak-ng", "-z", *map(str, options), text], check=True)
    samples, rate = soundfile.read(wave)
    if np.abs(samples).max() > 0.99:
        raise ValueError(f"{voice_name} is clipped at amplitude {AMPLITUDE}; lower it.")
    samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    return np.pad(samples, round(SILENCE * SAMPLE_RATE))


def write_opus(path: Path, samples: np.ndarray, serial: int) -> int:
    """Write an Ogg Opus file that is the same for the same arguments; give the samples it reads back as."""
    soundfile.write(path, samples, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=COMPRESSION)
    path.write_bytes(with_serial(path.read_bytes(), serial))
    return soundfile.info(path).frames


def with_serial(ogg: bytes, serial: int) -> bytes:
    """Renumber an Ogg stream (libsndfile numbers at random) and mend its checksums (RFC 3533, section 6)."""
    pages = bytearray(ogg)
    start = 0
    while start < len(pages):
        segments = pages[start + 26]
        end = start + 27 + segments + sum(pages[start + 27 : start + 27 + segments])
        pages[start + 14 : start + 18] = serial.to_bytes(4, "little")
        pages[start + 22 : start + 26] = bytes(4)
        pages[start + 22 : start + 26] = ogg_checksum(pages[start:end]).to_bytes(4, "little")
        start = end
    return bytes(pages)


def ogg_checksum(page: bytes | bytearray) -> int:
    """CRC-32 with the polynomial 0x04c11db7, most significant bit first, no inversion."""
    checksum = 0
    for byte in page:
        checksum = (checksum << 8 & 0xFFFFFFFF) ^ CRC_TABLE[checksum >> 24 ^ byte]
    return checksum


def crc_of_byte(byte: int) -> int:
    """Checksum of one byte, for the table."""
    register = byte << 24
    for _ in range(8):
        register = register << 1 ^ (0x104C11DB7 if register & 0x80000000 else 0)
    return register


CRC_TABLE = [crc_of_byte(byte) for byte in range(256)]


def make(out: Path) -> list[dict[str, object]]:
    """Write the whole set under ``out``, replacing the speaker folders there, and give its table's rows."""
    rows: list[dict[str, object]] = []
    for number, voice in enumerate(VOICES, start=1):
        speaker = f"v{number:02}"
        shutil.rmtree(out / speaker, ignore_errors=True)
        (out / speaker).mkdir(parents=True)
        with tempfile.TemporaryDirectory() as folder:
            spoken = [say(voice, text, Path(folder)) for text in SENTENCES]
        gain = PEAK / max(np.abs(samples).max() for samples in spoken)
        for index, (text, samples) in enumerate(zip(SENTENCES, spoken, strict=True), start=1):
            sentence = f"s{index:02}"
            path = f"{speaker}/{speaker}_{sentence}.opus"
            frames = write_opus(out / path, gain * samples, serial=100 * number + index)
            if frames != len(samples):
                raise ValueError(f"{path} reads back as {frames} samples, written were {len(samples)}.")
            rows.append(
                {
                    "path": path,
                    "speaker": speaker,
                    "voice": f"{voice.accent}+{voice.variant}",
                    "sex": voice.sex,
                    "accent": voice.accent,
                    "pitch": voice.pitch,
                    "speed": voice.speed,
                    "sentence": sentence,
                    "text": text,
                    "seconds": frames / SAMPLE_RATE,
                }
            )
    with (out / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return rows


def main() -> None:
    """Make the set and say what it is."""
    parser = argparse.ArgumentParser(description="Make the built-in speech set with espeak-ng.")
    parser.add_argument("--out", type=Path, default=Path("data/speech"), help="folder to write to")
    out = parser.parse_args().out
    if shutil.which("espeak-ng") is None:
        parser.error("espeak-ng is not on the PATH; install it, for example: apt install espeak-ng")
    rows = make(out)
    seconds = [float(str(row["seconds"])) for row in rows]
    files = [path for path in out.rglob("*") if path.is_file()]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    print(f"{len(VOICES)} voices x {len(SENTENCES)} sentences = {len(rows)} utterances")
    print(f"{sum(seconds) / 60:.1f} minutes, {min(seconds):.2f} to {max(seconds):.2f} s each")
    print(f"{megabytes:.2f} MB in {len(files)} files")


if __name__ == "__main__":
    main()
