"""What every model can do: start with fresh weights, load, save, and trade time for memory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

from unisat import checkpoint as files
from unisat import fairseq
from unisat.config import UniSpeechSatConfig

Model = TypeVar("Model", bound="UniSpeechSatPreTrainedModel")


@runtime_checkable
class SelfInitialised(Protocol):
    """A module that can draw its own fresh weights, as torch's layers can."""

    def reset_parameters(self) -> None:
        """Draw the weights; `UniSpeechSatPreTrainedModel.init_weights` calls this after those of the parts."""


class UniSpeechSatPreTrainedModel(nn.Module):
    """A model with a config, whose weights start fresh or come from a file."""

    base_model_prefix = "unispeech_sat"
    main_input_name = "input_values"

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        if not isinstance(config, UniSpeechSatConfig):
            raise ValueError(
                f"{type(self).__name__} is made from a UniSpeechSatConfig, got {type(config).__name__}; "
                f"for a checkpoint use {type(self).__name__}.from_pretrained(folder)."
            )
        self.config = config
        self.name_or_path: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next(self.parameters()).dtype

    def init_weights(self) -> None:
        """Draw fresh weights from torch's generator.

        ========================  ==============================================================================
        linear layers             normal, std ``initializer_range``; bias 0
        norms                     weight 1, bias 0
        convolutions              Kaiming normal; bias uniform within ``sqrt(groups / (channels_in * kernel))``
        feature projection        uniform within ``1 / sqrt(channels)``, weight and bias
        positional convolution    normal, std ``2 / sqrt(kernel * hidden_size)``; bias 0 (the reference means to do
                                  this, but writes into a temporary and keeps torch's default)
        masked_spec_embed         uniform in [0, 1)
        ========================  ==============================================================================
        """
        self.init_modules(self)

    def init_modules(self, module: nn.Module) -> None:
        """Draw fresh weights for a part of the model."""
        if self.device.type != "meta":  # a checkpoint fills those on the meta device
            module.apply(self._init_module)

    def _init_module(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                bound = math.sqrt(module.groups / (module.in_channels * module.kernel_size[0]))
                nn.init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, SelfInitialised):
            module.reset_parameters()

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """In training, keep only the layers' inputs for the backward pass, and compute the rest twice.

        The argument is the reference's and has no effect: checkpointing here is never reentrant.
        """
        self._set_gradient_checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        """Keep all activations for the backward pass."""
        self._set_gradient_checkpointing(False)

    def _set_gradient_checkpointing(self, enable: bool) -> None:
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                setattr(module, "gradient_checkpointing", enable)  # noqa: B010 - not every module has it

    @classmethod
    def from_pretrained(
        cls: type[Model],
        name_or_path: str | Path,
        *,
        config: UniSpeechSatConfig | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        ignore_mismatched_sizes: bool = False,
        **changes: Any,
    ) -> Model:
        """Load a checkpoint, in evaluation mode.

        Any model can take its backbone from the checkpoint of a model with another head. A head that the checkpoint
        does not have starts fresh, with a warning that names its weights.

        Parameters
        ----------
        name_or_path : str or Path
            A folder with ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin`` (single or sharded),
            or the name of a repository on the hub (needs ``pip install 'unisat[hub]'``).
        config : UniSpeechSatConfig, optional
            Used instead of the folder's ``config.json``.
        dtype : torch.dtype, optional
            Precision of the parameters; None for the file's.
        revision : str, optional
            Branch, tag or commit of a hub repository.
        ignore_mismatched_sizes : bool
            Draw weights of the head afresh if the checkpoint's have another shape (another ``num_labels``).
        **changes
            Fields of the config to change, such as ``padding="reference"`` or ``layerdrop=0.0``.

        Raises
        ------
        ValueError
            If weights are missing, unused or misshapen (the message lists all of them), or a file cannot be read.
        """
        folder = files.find_folder(name_or_path, revision)
        config = config or UniSpeechSatConfig.from_pretrained(folder)
        config = config.replace(**changes) if changes else config
        state = files.read_weights(folder)
        model = cls._filled(config, state, str(folder), dtype, ignore_mismatched_sizes)
        model.name_or_path = str(folder)
        return model

    @classmethod
    def from_fairseq(
        cls: type[Model],
        path: str | Path,
        *,
        config: UniSpeechSatConfig | None = None,
        dtype: torch.dtype | None = None,
        **changes: Any,
    ) -> Model:
        """Load one of the authors' own ``.pt`` files as `from_pretrained` loads a folder; fairseq is not needed.

        Parameters
        ----------
        path : str or Path
            The file of a pretrained model, or of one fine-tuned with CTC.
        config : UniSpeechSatConfig, optional
            If None, the weights give the sizes, and the file's own settings give the rest.
        """
        values, state = fairseq.read(path)
        config = config or UniSpeechSatConfig.from_dict(values)
        config = config.replace(**changes) if changes else config
        return cls._filled(config, state, str(path), dtype, False)

    @classmethod
    def _filled(
        cls: type[Model],
        config: UniSpeechSatConfig,
        state: Mapping[str, torch.Tensor],
        source: str,
        dtype: torch.dtype | None,
        ignore_mismatched_sizes: bool,
    ) -> Model:
        with torch.device("meta"):  # no memory and no random numbers: the weights come from the file
            model = cls(config)
        new = files.load_weights(
            model,
            state,
            cls.base_model_prefix,
            source=source,
            dtype=dtype,
            fresh=lambda: cls(config).state_dict(),
            ignore_mismatched_sizes=ignore_mismatched_sizes,
        )
        if new:
            warnings.warn(
                f"{source} has no weights for {', '.join(new)}: they start fresh; train them before you use what they "
                "give.",
                stacklevel=3,
            )
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``, which ``transformers`` reads too."""
        dtype = str(self.dtype).removeprefix("torch.")
        config = self.config.replace(architectures=[type(self).__name__], torch_dtype=dtype)
        config.save_pretrained(folder)
        files.write_weights(self.state_dict(), folder)
