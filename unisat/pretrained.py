"""What every model can do: start with fresh weights, load, save, and trade time for memory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

from unisat import checkpoint as files
from unisat import fairseq
from unisat.config import FAMILIES, UniSpeechSatConfig
from unisat.conv_adapter import coarser
from unisat.deprecation import OldAttribute
from unisat.frames import stack_length
from unisat.modules import GradientCheckpointingLayer

# what the reference's `from_pretrained` takes besides: for the hub, without an effect here, and with another answer
HUB = ("cache_dir", "force_download", "local_files_only", "token")
_NO_EFFECT = ("attn_implementation", "low_cpu_mem_usage", "trust_remote_code", "use_safetensors")
_INSTEAD = {
    "device_map": "a model lies on one device; move it: from_pretrained(...).to(device)",
    "output_loading_info": "what does not fit is an error, and what starts fresh a warning, which names all of it",
    "safe_serialization=False": "weights are written as safetensors only, which transformers reads too",
    "offload": "put training into `with torch.autograd.graph.save_on_cpu():`",
    "push_to_hub": "upload the folder: huggingface_hub.upload_folder(folder_path=folder, repo_id=name)",
    "generate": "logits hold all that it says; processor.batch_decode(logits.argmax(-1)) gives the text",
    "generation_config": "it writes no text token by token",
    "resize_token_embeddings": "load it with another vocab_size=, with ignore_mismatched_sizes=True",
    "get_input_embeddings": "it reads sound, and begins with model.base_model.feature_extractor",
    "set_input_embeddings": "it reads sound, and begins with model.base_model.feature_extractor",
    "get_output_embeddings": "a head's last layer is model.lm_head or model.classifier",
}
_SAVED_THE_SAME = ("max_shard_size", "safe_serialization", "save_function", "token", "variant")

Model = TypeVar("Model", bound="UniSpeechSatPreTrainedModel")


@runtime_checkable
class SelfInitialised(Protocol):
    """A module that can draw its own fresh weights, as torch's layers can."""

    def reset_parameters(self) -> None:
        """Draw the weights; `UniSpeechSatPreTrainedModel.init_weights` calls this after those of the parts."""


def _refuse(name: str, said: str) -> None:
    raise TypeError(f"{said} is not taken: {_INSTEAD[name]}.")


def _dtype(value: torch.dtype | str | None) -> torch.dtype | None:
    """A precision or its name; None, which is the file's, for "auto"."""
    if value is None or value == "auto":
        return None
    found = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(
            f"dtype={value!r} is no precision of weights; expected one such as torch.float16, its name 'float16', or "
            "'auto' for the file's."
        )
    return found


class UniSpeechSatPreTrainedModel(nn.Module):
    """A model with a config, whose weights start fresh or come from a file."""

    base_model_prefix = "unispeech_sat"
    main_input_name = "input_values"
    config_class: ClassVar[type[UniSpeechSatConfig]] = UniSpeechSatConfig
    optional: ClassVar[tuple[str, ...]] = ()
    """Weights of the backbone that a checkpoint may lack, and that may be in one without a use."""
    supports_gradient_checkpointing = True
    # losses are means over the batch; the Trainer of transformers 5 asks whether they take num_items_in_batch
    accepts_loss_kwargs = False
    freeze_feature_extractor = OldAttribute("freeze_feature_encoder")

    def __init__(self, config: UniSpeechSatConfig):
        super().__init__()
        if not isinstance(config, UniSpeechSatConfig) or config.model_type != self.config_class.model_type:
            other = FAMILIES.get(getattr(config, "model_type", ""))
            raise ValueError(
                f"{type(self).__name__} is made from a {self.config_class.__name__}, got {type(config).__name__}; "
                + (f"use the classes of {other}, such as {other}Model; " if other else "")
                + f"for a checkpoint use {type(self).__name__}.from_pretrained(folder)."
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

    @property
    def base_model(self) -> nn.Module:
        """The backbone, which is the model itself if it has no head."""
        return getattr(self, self.base_model_prefix, self)

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of weights, with ``only_trainable`` without the frozen ones; there are no embeddings of tokens."""
        return sum(weight.numel() for weight in self.parameters() if weight.requires_grad or not only_trainable)

    def get_feat_extract_output_lengths(self, input_lengths: Any, add_adapter: bool | None = None) -> Any:
        """Number of frames of recordings with so many samples, a number or a tensor of them.

        Where there is a convolutional adapter, frames are counted behind it, or with ``add_adapter=False`` in front.
        """
        lengths = stack_length(input_lengths, self.config.conv_kernel, self.config.conv_stride)
        behind = self.config.add_adapter and add_adapter is not False
        for _ in range(self.config.num_adapter_layers if behind else 0):
            lengths = coarser(lengths, self.config)
        return lengths

    _get_feat_extract_output_lengths = get_feat_extract_output_lengths

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the model writes text token by token: no."""
        return False

    def __getattr__(self, name: str) -> Any:
        if name in _INSTEAD:
            raise AttributeError(f"{type(self).__name__} has no {name}: {_INSTEAD[name]}.")
        return super().__getattr__(name)

    def post_init(self) -> None:
        """Draw fresh weights, with which constructors end in the reference."""
        self.init_weights()

    def tie_weights(self) -> None:
        """Do nothing, since no two layers share weights."""

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
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm) and "weight" in dict(module.named_parameters()):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                bound = math.sqrt(module.groups / (module.in_channels * module.kernel_size[0]))
                nn.init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, SelfInitialised):
            module.reset_parameters()

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None, every_n_layers: int = 1
    ) -> None:
        """In training, keep only the inputs of layers (of every n-th) for the backward pass, and compute them twice.

        ``gradient_checkpointing_kwargs`` is the reference's and has no effect: checkpointing here is never reentrant.
        """
        for index, layer in enumerate(self._checkpointed()):
            layer.gradient_checkpointing = index % every_n_layers == 0

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Do what `gradient_checkpointing_enable` does, which has this name since transformers 5."""
        if offload:
            _refuse("offload", "offload=True")
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, every_n_layers)

    def gradient_checkpointing_disable(self) -> None:
        """Keep all activations for the backward pass."""
        for layer in self._checkpointed():
            layer.gradient_checkpointing = False

    activation_checkpointing_disable = gradient_checkpointing_disable

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether any layer is computed twice in training."""
        return any(layer.gradient_checkpointing for layer in self._checkpointed())

    def _checkpointed(self) -> list[GradientCheckpointingLayer]:
        return [module for module in self.modules() if isinstance(module, GradientCheckpointingLayer)]

    @classmethod
    def from_pretrained(
        cls: type[Model],
        name_or_path: str | Path,
        *,
        config: UniSpeechSatConfig | None = None,
        dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        subfolder: str = "",
        state_dict: Mapping[str, torch.Tensor] | None = None,
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
        dtype : torch.dtype or str, optional
            Precision of the parameters, or its name; None or "auto" for the file's. ``torch_dtype`` is the same.
        revision : str, optional
            Branch, tag or commit of a hub repository.
        subfolder : str
            Folder of the checkpoint inside the folder or the repository.
        state_dict : dict of str to tensor, optional
            Weights to take instead of the folder's.
        ignore_mismatched_sizes : bool
            Draw weights of the head afresh if the checkpoint's have another shape (another ``num_labels``).
        **changes
            Fields of the config to change, such as ``padding="reference"`` or ``layerdrop=0.0``. The reference's
            ``cache_dir``, ``force_download``, ``local_files_only`` and ``token`` go to the hub, and
            ``gradient_checkpointing=True`` turns that on.

        Raises
        ------
        ValueError
            If weights are missing, unused or misshapen (the message lists all of them), or a file cannot be read.
        TypeError
            If an argument of the reference is not taken; the message says what to write instead.
        """
        hub = {name: changes.pop(name) for name in HUB if name in changes}
        checkpointing = changes.pop("gradient_checkpointing", False)
        for name in _NO_EFFECT:
            changes.pop(name, None)
        for name in ("device_map", "output_loading_info"):
            if changes.pop(name, None):
                _refuse(name, f"{name}=")
        precision = _dtype(changes.pop("torch_dtype", None) if dtype is None else dtype)
        folder = files.find_folder(name_or_path, revision, subfolder, **hub)
        config = config or cls.config_class.from_pretrained(folder)
        config = config.replace(**changes) if changes else config
        state = files.read_weights(folder) if state_dict is None else state_dict
        model = cls._filled(config, state, str(folder), precision, ignore_mismatched_sizes)
        model.name_or_path = str(folder)
        if checkpointing:
            model.gradient_checkpointing_enable()
        return model

    @classmethod
    def from_fairseq(
        cls: type[Model],
        path: str | Path,
        *,
        config: UniSpeechSatConfig | None = None,
        dtype: torch.dtype | str | None = None,
        **changes: Any,
    ) -> Model:
        """Load one of the authors' own ``.pt`` files as `from_pretrained` loads a folder; fairseq is not needed.

        The files are those of UniSpeech-SAT, wav2vec 2.0, HuBERT and WavLM.

        Parameters
        ----------
        path : str or Path
            The file of a pretrained model, or of one fine-tuned with CTC.
        config : UniSpeechSatConfig, optional
            If None, the weights give the sizes, and the file's own settings give the rest.
        """
        precision = _dtype(changes.pop("torch_dtype", None) if dtype is None else dtype)
        values, state = fairseq.read(path, cls.config_class.model_type)
        config = config or cls.config_class.from_dict(values)
        config = config.replace(**changes) if changes else config
        return cls._filled(config, state, str(path), precision, False)

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
            optional=cls.optional,
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

    def save_pretrained(
        self,
        folder: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        **options: Any,
    ) -> None:
        """Write ``config.json`` and ``model.safetensors``, which ``transformers`` reads too.

        Parameters
        ----------
        folder : str or Path
            It is made if it is missing.
        is_main_process : bool
            Whether this process writes; of several, one should.
        state_dict : dict of str to tensor, optional
            Weights to write instead of the model's own, under the same names.
        **options
            The reference's ``save_function``, ``max_shard_size``, ``variant`` and ``token`` change nothing: all
            weights go into one file.
        """
        if options.pop("push_to_hub", False):
            _refuse("push_to_hub", "push_to_hub=True")
        if options.get("safe_serialization") is False:
            _refuse("safe_serialization=False", "safe_serialization=False")
        if unknown := sorted(set(options) - set(_SAVED_THE_SAME)):
            raise TypeError(f"save_pretrained() has no argument {unknown[0]!r}.")
        state = self.state_dict() if state_dict is None else state_dict
        if different := sorted(state.keys() ^ self.state_dict().keys()):
            raise ValueError(
                f"state_dict must have the model's own names of weights; {different[0]!r} is in one alone."
            )
        if is_main_process:
            config = self.config.replace(architectures=[type(self).__name__], torch_dtype=self.dtype)
            config.save_pretrained(folder)
            files.write_weights(state, folder)
