"""The x-vector: one vector for a voice, from speech of any length (Snyder et al., 2018), trained with AM-softmax."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unisat.config import UniSpeechSatConfig
from unisat.fast import apply, conv1d
from unisat.frames import SAMPLE_RATE, conv_length, hop, receptive_field, valid_positions
from unisat.heads import HeadModel, check_classes
from unisat.inputs import check_tensor
from unisat.outputs import XVectorOutput
from unisat.precision import full_precision, widen


class TDNNLayer(nn.Module):
    """A dilated convolution over frames; its weights are stored as a linear layer over the frames that it sees."""

    def __init__(self, config: UniSpeechSatConfig, layer: int):
        super().__init__()
        channels_in = config.tdnn_dim[max(layer - 1, 0)]
        self.width, self.dilation = config.tdnn_kernel[layer], config.tdnn_dilation[layer]
        self.kernel = nn.Linear(channels_in * self.width, config.tdnn_dim[layer])
        self.activation = nn.ReLU()

    def forward(
        self, hidden: Float[Tensor, "batch frames channels_in"]
    ) -> Float[Tensor, "batch fewer_frames channels"]:
        """Convolve; the output has ``(kernel - 1) * dilation`` frames fewer than the input."""
        kernel: Any = self.kernel
        if not isinstance(kernel, nn.Linear):  # quantized, say: the product that a convolution is
            seen = hidden.unfold(1, (self.width - 1) * self.dilation + 1, 1)[..., :: self.dilation]
            return self.activation(kernel(seen.transpose(2, 3).flatten(2)))
        weight = kernel.weight.unflatten(1, (self.width, -1)).transpose(1, 2)  # (out, in, kernel)
        out = conv1d(hidden.transpose(1, 2), weight, kernel.bias, dilation=self.dilation)
        return self.activation(out.transpose(1, 2))


class AMSoftmaxLoss(nn.Module):
    """Cross-entropy of scaled cosines; a margin lowers the right speaker's (arXiv:1801.05599, equation 7)."""

    def __init__(self, input_dim: int, num_labels: int, scale: float = 30.0, margin: float = 0.4):
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.empty(input_dim, num_labels))

    def reset_parameters(self) -> None:
        """Draw the weights from the standard normal distribution."""
        nn.init.normal_(self.weight)

    def forward(self, logits: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """Loss of ``logits`` for speakers ``labels``."""
        return _am_softmax(logits, self.weight, labels, self.scale, self.margin)


@full_precision  # 30 times the rounding of a cosine in bfloat16 is a tenth
def _am_softmax(logits: Tensor, weight: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    cosine = F.normalize(logits, dim=1) @ F.normalize(weight, dim=0)  # (batch, speakers)
    margins = margin * F.one_hot(labels, weight.shape[1]).to(cosine)
    return F.cross_entropy(scale * (cosine - margins), labels)


def pool_statistics(
    hidden: Float[Tensor, "batch frames channels"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "batch statistics"]:
    """Mean and unbiased standard deviation over the first ``lengths`` (at least 2) frames of each utterance."""
    valid = valid_positions(lengths, hidden.shape[1])[..., None]
    # sums over time pass what float16 can hold
    wide, count = widen(hidden), lengths[:, None]
    mean = wide.masked_fill(~valid, 0).sum(1) / count
    centred = (wide - mean[:, None]).masked_fill(~valid, 0)
    # the square root has no gradient at 0; a constant channel does without it and gets 0, as from torch.std
    variance = centred.square().sum(1) / (count - 1)
    std = torch.where(variance > 0, variance, 1).sqrt() * (variance > 0)
    return torch.cat([mean, std], dim=-1).to(hidden.dtype)


class UniSpeechSatForXVector(HeadModel):
    """A vector for each utterance's voice: the cosine of two utterances' ``embeddings`` says how alike they are."""

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__(config, weighted_sum=True)
        self.projector = nn.Linear(config.hidden_size, config.tdnn_dim[0])
        self.tdnn = nn.ModuleList(TDNNLayer(config, layer) for layer in range(len(config.tdnn_dim)))
        self.feature_extractor = nn.Linear(2 * config.tdnn_dim[-1], config.xvector_output_dim)
        self.classifier = nn.Linear(config.xvector_output_dim, config.xvector_output_dim)
        self.objective = AMSoftmaxLoss(config.xvector_output_dim, config.num_labels)
        self.init_weights()

    @property
    def shortest_frames(self) -> int:
        """Frames that an utterance needs: a standard deviation needs two frames behind the TDNN."""
        config = self.config
        return 2 + sum((k - 1) * d for k, d in zip(config.tdnn_kernel, config.tdnn_dilation, strict=True))

    @property
    def shortest_seconds(self) -> float:
        """Seconds that an utterance needs (0.325 by default)."""
        config = self.config
        last = hop(config.conv_stride) * (self.shortest_frames - 1)
        return (last + receptive_field(config.conv_kernel, config.conv_stride)) / SAMPLE_RATE

    def pooled_lengths(self, lengths: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Frames of each utterance behind the TDNN, for ``lengths`` in front of it.

        With ``padding="reference"`` they are counted as in the reference, which forgets the dilation.
        """
        faithful = self.config.padding == "reference"
        for kernel, dilation in zip(self.config.tdnn_kernel, self.config.tdnn_dilation, strict=True):
            lengths = conv_length(lengths, kernel, dilation=1 if faithful else dilation)
        return lengths

    def forward(
        self,
        input_values: Float[Tensor, "batch samples"],
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Embed each utterance; with ``labels`` (batch,) of speakers, also give the AM-softmax loss.

        Returns
        -------
        XVectorOutput

        Raises
        ------
        ValueError
            If an utterance is shorter than `shortest_seconds`, or a label is no speaker's number.
        """
        if labels is not None:
            check_tensor("labels", labels)
            labels = labels.flatten() if labels.numel() == len(input_values) else labels
            check_classes(labels, (len(input_values),), self.config.num_labels, "(batch,)", ignored=None)
        output, hidden = self.backbone(input_values, attention_mask, output_attentions, output_hidden_states, **options)
        self._check(output.lengths)
        embeddings = self.embed(hidden, None if attention_mask is None else output.lengths)
        logits = self.classifier(embeddings)
        loss = None if labels is None else self.objective(logits, labels.to(logits.device))
        result = XVectorOutput(loss, logits, embeddings, output.hidden_states, output.attentions)
        return self.give(result, return_dict)

    def embed(
        self, hidden: Float[Tensor, "batch frames hidden"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch xvector"]:
        """Give the x-vectors of the first ``lengths`` frames of hidden states (one layer's, or the weighted sum)."""
        hidden = apply(self.projector, hidden)
        for layer in self.tdnn:
            hidden = layer(hidden)
        if lengths is None:
            pooled = torch.full((len(hidden),), hidden.shape[1], device=hidden.device)
        else:
            pooled = self.pooled_lengths(lengths).clamp(max=hidden.shape[1])
        return self.feature_extractor(pool_statistics(hidden, pooled))

    def _check(self, lengths: Int[Tensor, " batch"]) -> None:
        if int(lengths.min()) < self.shortest_frames:
            short = [i for i, length in enumerate(lengths.tolist()) if length < self.shortest_frames]
            raise ValueError(
                f"an x-vector needs {self.shortest_frames} frames ({self.shortest_seconds:g} s of speech); "
                f"utterance(s) {short} have {[int(lengths[i]) for i in short]}. Join or drop short clips."
            )
