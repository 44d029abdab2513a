"""Phones of recorded speech, frame by frame, and the speech they belong to; for the other benchmarks."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

import unisat as us
from unisat.frames import conv_length, frame_seconds

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
SILENCE = "SIL"


def alignments() -> pd.DataFrame:
    """One row for each phone: ``file`` (in ../shared/speech, without its ending), speaker, phone, start, end."""
    table = pd.read_csv(
        SHARED / "speech2" / "alignments" / "phones.csv", usecols="path speaker phone start end".split()
    )
    table["file"] = [str(Path(path).with_suffix("")) for path in table["path"]]
    return table[table["phone"] != SILENCE]


def recordings(listed: str | None = None) -> pd.DataFrame:
    """Recordings with phones: ``file``, ``path`` where the sound lies, speaker, source, split.

    ``listed`` is one of the tables in data/ (``"development"``), or ``"unseen"`` for those of the trial lists; None for
    the speakers that may be trained on.
    """
    speech = SHARED / "speech"
    whole = pd.read_csv(speech / "metadata.csv")
    pool = pd.read_csv(speech / "pool" / "metadata.csv").assign(split="train")
    pool["path"] = "pool/" + pool["path"]
    table = pd.concat([whole, pool], ignore_index=True)
    table["file"] = [str(Path(path).with_suffix("")) for path in table["path"]]
    table["path"] = [str(speech / path) for path in table["path"]]
    names = {name: set(pd.read_csv(ROOT / "data" / f"{name}.csv")["speaker"]) for name in ("people", "development")}
    if listed == "unseen":
        table = table[table["split"] == "unseen"]
    elif listed is not None:
        table = table[table["speaker"].isin(names[listed])]
    else:
        table = table[(table["split"] == "train") & ~table["speaker"].isin(names["people"] | names["development"])]
        table = table[table["source"] != "Free Spoken Digit Dataset"]
    return table["file path speaker source split seconds".split()].reset_index(drop=True)


class Phones:
    """The phone of each frame of each recording, the same number for the same phone everywhere."""

    def __init__(self) -> None:
        table = alignments()
        self.names = sorted(table["phone"].unique())
        table["code"] = pd.Categorical(table["phone"], self.names).codes
        self.parts = {name: part[["start", "end", "code"]].to_numpy() for name, part in table.groupby("file")}

    def __contains__(self, file: str) -> bool:
        return file in self.parts

    def __call__(self, file: str, samples: int) -> np.ndarray:
        """(frames,): the phone at each frame's centre, -1 in silence and outside of words."""
        frames = conv_length(samples, 400, 320)
        centre = frame_seconds(frames, [400], [320]).numpy()
        codes = np.full(frames, -1)
        for start, end, code in self.parts[file]:
            codes[(centre >= start) & (centre < end)] = int(code)
        return codes


def waves(table: pd.DataFrame, seconds: float | None = None) -> list[torch.Tensor]:
    """The sound of each row, or its beginning."""
    samples = None if seconds is None else int(seconds * us.frames.SAMPLE_RATE)
    return [us.audio.load(path)[:samples] for path in table["path"]]


@torch.inference_mode()
def hidden_states(model: us.UniSpeechSatModel, waveforms: list[torch.Tensor]) -> list[torch.Tensor]:
    """(layers + 1, frames, hidden) of each waveform; several at once, of like lengths, on a GPU many."""
    device, most = model.device, 200.0 if model.device.type != "cpu" else 16.0
    if device.type == "cpu":
        model = model.float()  # which halves are slow on
    order = sorted(range(len(waveforms)), key=lambda row: len(waveforms[row]))
    found: dict[int, torch.Tensor] = {}
    while order:
        size = max(1, int(most * us.frames.SAMPLE_RATE / len(waveforms[order[-1]])))
        order, rows = order[:-size], order[-size:]
        batch = us.Batch.from_arrays([waveforms[row] for row in rows], sampling_rate=us.frames.SAMPLE_RATE)
        mask = batch.attention_mask.to(device) if len(rows) > 1 else None
        states = model(batch.input_values.to(device), mask, output_hidden_states=True).hidden_states
        stacked = torch.stack(states).float().cpu()
        for place, row in enumerate(rows):
            found[row] = stacked[:, place, : conv_length(len(waveforms[row]), 400, 320)]
    return [found[row] for row in range(len(waveforms))]
