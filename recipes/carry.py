"""Pack a recipe's speech small, to be carried to a machine with a GPU, where recipes/gpu.py unpacks it.

    python recipes/carry.py recipes/sat-1.toml build/carry --megabytes 45

Codes every recording that the recipe reads as Opus, at a low rate, with the tables that name them, into tar files of a
limited size (needs opusenc, Debian package opus-tools).
"""

import argparse
import io
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from unisat import audio
from unisat.training import recipe
from unisat.training.data import manifest

COLUMNS = "path speaker sex seconds source split corpus_key text text_norm".split()
"""What recipes ask for."""

PHONES = Path("../shared/speech2/alignments/phones.csv")


def tables(file: str) -> dict[Path, pd.DataFrame]:
    """The rows of each table that a recipe reads, by the table's path."""
    data = recipe.read(file).data
    rows: dict[Path, list[pd.DataFrame]] = {}
    for source in [*data.train.values(), *data.valid.values()]:
        if Path(source["source"]).suffix == ".csv":
            found = manifest(**source).table
            rows.setdefault(Path(source["source"]), []).append(found[found["seconds"] >= data.min_seconds])
    return {
        table: pd.concat(parts, ignore_index=True).drop_duplicates("path", ignore_index=True)
        for table, parts in rows.items()
    }


def thinned(rows: pd.DataFrame, hours: dict[str, float]) -> pd.DataFrame:
    """At most so many hours of each source whose name begins so: every second recording, say."""
    for name, most in hours.items():
        some = rows["source"].str.startswith(name)
        share = min(1.0, most * 3600 / max(1e-9, rows.loc[some, "seconds"].sum()))
        kept = np.diff(np.floor(np.arange(some.sum() + 1) * share)) > 0
        rows = rows.drop(rows.index[some][~kept])
    return rows


def coded(path: str, kilobits: float) -> bytes:
    """A recording as Ogg Opus."""
    wave = audio.load(path).numpy()
    sound = io.BytesIO()
    soundfile.write(sound, wave, 16_000, format="WAV", subtype="PCM_16")
    options = ["--quiet", "--speech", "--framesize", "60", "--padding", "0", "--discard-comments", "--discard-pictures"]
    command = ["opusenc", *options, "--bitrate", str(kilobits), "-", "-"]
    return subprocess.run(command, input=sound.getvalue(), capture_output=True, check=True).stdout


def pack(file: str, folder: Path, megabytes: float, rates: dict[str, float], hours: dict[str, float]) -> None:
    """Write ``part-1.tgz`` and so on; zipped for the sake of the headers alone, which are as large as short files."""
    folder.mkdir(parents=True, exist_ok=True)
    part, size, tar = 0, np.inf, None

    def add(name: str, content: bytes) -> None:
        nonlocal part, size, tar
        if size + len(content) > megabytes * 2**20 - 2**16:
            part, size = part + 1, 0
            if tar is not None:
                tar.close()
            tar = tarfile.open(folder / f"part-{part}.tgz", "w:gz", compresslevel=1)  # noqa: SIM115
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        assert tar is not None
        tar.addfile(entry, io.BytesIO(content))
        size += len(content) + 110  # what a header takes when zipped

    for table, rows in tables(file).items():
        rows = thinned(rows, hours)
        kilobits = next(rate for name, rate in rates.items() if name in table.parts)
        relative = [str(Path(path).relative_to(table.parent.resolve())) for path in rows["path"]]
        kept = rows.assign(path=[Path(path).with_suffix(".wav").as_posix() for path in relative])
        add(str(table), kept[[name for name in COLUMNS if name in kept]].to_csv(index=False).encode())
        for name, path in zip(relative, rows["path"], strict=True):
            add(str(table.parent / name), coded(path, kilobits))
        print(f"{table}: {len(rows)} recordings, {rows['seconds'].sum() / 3600:.2f} h, part {part}", flush=True)
    add(str(PHONES), phones(recipe.read(file).data).to_csv(index=False).encode())
    assert tar is not None
    tar.close()


def phones(data: recipe.Data) -> pd.DataFrame:
    """Phones of those whom the recipe reads: layers are chosen by them, and turned by them where a recipe says so."""
    who = pd.concat([manifest(**source).table["speaker"] for source in [*data.train.values(), *data.valid.values()]])
    table = pd.read_csv(PHONES)
    return table[table["speaker"].isin(who)]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=float, default=45.0, help="of a part")
    parser.add_argument("--rate", action="append", default=[], help="kbit/s by folder, speech=22", metavar="NAME=RATE")
    parser.add_argument("--hours", action="append", default=[], help="of a source at most", metavar="NAME=HOURS")
    options = parser.parse_args()
    pairs = [[name.split("=") for name in given] for given in (options.rate, options.hours)]
    rates, hours = ({name: float(value) for name, value in given} for given in pairs)
    pack(options.recipe, options.folder, options.megabytes, rates or {"speech": 22, "speech2": 14}, hours)


if __name__ == "__main__":
    main()
