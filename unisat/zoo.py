"""The checkpoints that come with unisat: `load` gives one as a backbone, a pretraining model or an x-vector model."""

from __future__ import annotations

from pathlib import Path

from unisat.model import UniSpeechSatModel
from unisat.pretrained import UniSpeechSatPreTrainedModel
from unisat.pretraining import UniSpeechSatForPreTraining
from unisat.xvector import UniSpeechSatForXVector

FOLDER = Path(__file__).parent / "checkpoints"
HEADS: dict[str, dict[str | None, type[UniSpeechSatPreTrainedModel]]] = {
    "tiny": {None: UniSpeechSatModel, "pretraining": UniSpeechSatForPreTraining, "xvector": UniSpeechSatForXVector},
    "tiny-hubert": {None: UniSpeechSatModel, "pretraining": UniSpeechSatForPreTraining},
}
"""Which heads each checkpoint has."""


def folder(name: str = "tiny") -> Path:
    """Folder of a built-in checkpoint: weights, k-means, model card (``README.md``) and training curves.

    Raises
    ------
    ValueError
        If no built-in checkpoint has this name.
    """
    names = sorted(path.name for path in FOLDER.iterdir() if path.is_dir()) if FOLDER.is_dir() else []
    if name not in names:
        raise ValueError(
            f"there is no built-in checkpoint {name!r}; there are: {', '.join(names) or 'none'}. For a folder or a "
            "model on the hub use UniSpeechSatModel.from_pretrained."
        )
    return FOLDER / name


def load(name: str = "tiny", head: str | None = None) -> UniSpeechSatPreTrainedModel:
    """Load a built-in checkpoint in float32 and in evaluation mode; this needs no network.

    Parameters
    ----------
    name : {"tiny", "tiny-hubert"}
        Eight pre-LN layers of width 192, pretrained on twelve hours of recorded speech. "tiny" learned with the
        contrastive loss and utterance mixing. Its twin, "tiny-hubert", had the same speech, targets, steps and start,
        and the content loss alone. The model cards describe the data, the training and the limits.
    head : {None, "pretraining", "xvector"}
        None gives the backbone alone, "pretraining" adds the parts of its objective, "xvector" its speaker embedding,
        which "tiny" alone has.

    Raises
    ------
    ValueError
        If there is no such checkpoint, or it has no such head.
    """
    path, heads = folder(name), HEADS[name]
    if head not in heads:
        raise ValueError(f"head={head!r} of {name!r} must be one of {', '.join(map(repr, heads))}.")
    model = heads[head].from_pretrained(str(path))
    return model.float()
