"""What is timed, as unisat, transformers and torchaudio each do it. Imported in a peer's environment, too.

Each class has a method for each work that it can do; it sets up, and gives a function that does the work once and
returns a number that tells whether two did the same (None: they need not).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

SAMPLE_RATE = 16_000
Run = Callable[[], float | None]
SAT = "UniSpeechSatModel"

STILL = {f"{name}_dropout": 0.0 for name in ("hidden", "attention", "activation", "final", "feat_proj")}
"""A step without dropout: what is drawn costs each side the same."""

STEPS = {"step_tiny": ("tiny", 10, 3), "step_base": ("base", 4, 3)}
"""Size, utterances, and their seconds."""

SHARED = (
    "hidden_size num_hidden_layers num_attention_heads intermediate_size conv_dim conv_stride conv_kernel conv_bias "
    "feat_extract_norm do_stable_layer_norm num_conv_pos_embeddings num_conv_pos_embedding_groups codevector_dim "
    "proj_codevector_dim num_codevectors_per_group num_codevector_groups mask_time_prob mask_time_length"
).split()


def noise(*seconds: float, seed: int = 0) -> list[torch.Tensor]:
    """A waveform of each length."""
    generator = torch.Generator().manual_seed(seed)
    return [0.1 * torch.randn(int(SAMPLE_RATE * one), generator=generator) for one in seconds]


def padded(waves: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Waveforms as a batch, and its mask."""
    samples = torch.tensor([len(wave) for wave in waves])
    values = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    return values, (torch.arange(values.shape[1]) < samples[:, None]).long()


RAGGED = tuple(torch.linspace(2, 10, 8).tolist())
"""Seconds of eight clips in one batch."""


def corpus() -> tuple[float, ...]:
    """Seconds of 20 utterances, distributed as those of read speech (gamma, 1 to 16 s), in no order."""
    import numpy as np

    return tuple(np.clip(np.random.default_rng(0).gamma(2.5, 2.2, size=20), 1, 16).tolist())


def clips() -> tuple[float, ...]:
    """Seconds of 32 clips for x-vectors, 1 to 6 s, in no order."""
    import numpy as np

    return tuple(np.random.default_rng(1).uniform(1, 6, size=32).tolist())


def summary(states: torch.Tensor) -> float:
    """A number that tells two outputs apart."""
    return float(states.float().abs().mean())


def stepping(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Run:
    """Give a step of training: loss, gradients, clipping, AdamW."""
    on_gpu = next(model.parameters()).is_cuda
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True if on_gpu else None)

    def run() -> None:
        found = loss()
        optimizer.zero_grad()
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        found.item()

    return run


class Others:
    """Works of the other families and of a GPU, which all sides do alike."""

    def tf32(self) -> Run:
        """The last hidden state of 10 s, with products in TF32."""
        run = self.forward()

        def rough() -> float | None:
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = True
            try:
                return run()
            finally:
                torch.set_float32_matmul_precision("highest")
                torch.backends.cudnn.allow_tf32 = False

        return rough

    def compiled(self) -> Run:
        """The same through `torch.compile`, in float32."""
        model, wave = torch.compile(self.model()), noise(10)[0][None].to(self.device)
        return lambda: summary(model(wave).last_hidden_state)

    def large_bf16(self) -> Run:
        """A batch of ten such utterances in bfloat16."""
        model, waves = self.model().to(torch.bfloat16), torch.stack(noise(*[10] * 10)).to(self.device, torch.bfloat16)
        return lambda: summary(model(waves).last_hidden_state)

    def step_bf16(self) -> Run:
        """A step of pretraining of Base with autocasting."""
        run = self._step("step_base")

        def half() -> float | None:
            with torch.autocast(self.device.partition(":")[0], torch.bfloat16):
                return run()

        return half

    def wavlm(self) -> Run:
        """The last hidden state of 10 s, of WavLM Base."""
        return self.forward(kind="WavLMModel", subfolder="wavlm")

    def wavlm_ragged(self) -> Run:
        """A padded batch through WavLM Base."""
        return self.ragged("WavLMModel", subfolder="wavlm")

    def hubert(self) -> Run:
        """The last hidden state of 10 s, of HuBERT Base."""
        return self.forward(kind="HubertModel", subfolder="hubert")

    def wav2vec2(self) -> Run:
        """The same of wav2vec 2.0 Base."""
        return self.forward(kind="Wav2Vec2Model", subfolder="wav2vec2")


class Unisat(Others):
    """Ours; with ``plain``, without its shortcuts."""

    def __init__(self, folder: str, device: str, plain: bool = False) -> None:
        import unisat
        from unisat import shortcuts

        self.us, self.folder, self.device = unisat, folder, device
        self.scope = shortcuts.plain if plain else None
        self.version = "this one, without shortcuts" if plain else "this one"

    def model(self, kind: str = SAT, **options):
        """Base with the weights that all share."""
        return getattr(self.us, kind).from_pretrained(self.folder, **options).to(self.device).eval()

    def forward(self, dtype: torch.dtype = torch.float32, kind: str = SAT, **options) -> Run:
        """The last hidden state of 10 s."""
        model, wave = self.model(kind, **options).to(dtype), noise(10)[0][None].to(self.device)
        return lambda: summary(model(wave).last_hidden_state)

    def bf16(self) -> Run:
        """The same in bfloat16."""
        return self.forward(torch.bfloat16)

    def ragged(self, kind: str = SAT, **options) -> Run:
        """A padded batch."""
        model = self.model(kind, **options)
        values, mask = (part.to(self.device) for part in padded(noise(*RAGGED)))
        return lambda: (model(values, mask), None)[1]

    def everything(self) -> Run:
        """All hidden states and all attentions of 10 s."""
        model, wave = self.model(), noise(10)[0][None].to(self.device)
        return lambda: summary(model(wave, output_hidden_states=True, output_attentions=True).attentions[-1])

    def collect(self) -> Run:
        """Mean and standard deviation of each hidden state over each utterance."""
        model = self.model()
        speech = self.us.Batch.from_arrays(noise(*corpus()), sampling_rate=SAMPLE_RATE)

        def run() -> float:
            bank = self.us.collect(model, speech, "hidden.*", progress=False)
            return summary(torch.stack([torch.from_numpy(bank[site]) for site in bank.hidden]))

        return run

    collect_padded = collect

    def masks(self) -> Run:
        """Span masks of a batch of 64 with 1,500 frames."""
        lengths = torch.full((64,), 1500)
        generator = torch.Generator().manual_seed(0)

        def run() -> None:
            self.us.masking.span_mask(lengths, 1500, mask_prob=0.65, mask_length=10, min_spans=2, generator=generator)

        return run

    def xvector(self) -> Run:
        """X-vectors of ragged clips."""
        from unisat.interpret.speakers.xvectors import xvectors

        model = self.model("UniSpeechSatForXVector")
        speech = self.us.Batch.from_arrays(noise(*clips()), sampling_rate=SAMPLE_RATE)
        return lambda: (xvectors(model, speech), None)[1]

    def _step(self, name: str) -> Run:
        size, batch, seconds = STEPS[name]
        config = getattr(self.us.UniSpeechSatConfig, size)(**STILL, layerdrop=0.0, mask_time_prob=0.65)
        model = self.us.UniSpeechSatForPreTraining(config).to(self.device).train()
        waves = torch.stack(noise(*[seconds] * batch)).to(self.device)
        targets = torch.randint(0, 100, (batch, 50 * seconds - 1), generator=torch.Generator().manual_seed(0))
        targets = targets.to(self.device)

        return stepping(model, lambda: model(waves, targets=targets).loss)

    def step_tiny(self) -> Run:
        """A step of pretraining: masks, loss, gradients, clipping, AdamW."""
        return self._step("step_tiny")

    def step_base(self) -> Run:
        """The same of Base."""
        return self._step("step_base")


class Transformers(Others):
    """UniSpeechSatModel of transformers, and Wav2Vec2ForPreTraining for the step."""

    def __init__(self, folder: str, device: str) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        self.hf, self.folder, self.device, self.version = transformers, folder, device, transformers.__version__
        # newer versions give attention weights on their eager path only
        self.eager = {} if self.version.startswith("4.37") else {"attn_implementation": "eager"}

    def model(self, kind: str = SAT, **options):
        """Base with the weights that all share."""
        return getattr(self.hf, kind).from_pretrained(self.folder, **options).to(self.device).eval()

    def forward(self, dtype: torch.dtype = torch.float32, kind: str = SAT, **options) -> Run:
        """The last hidden state of 10 s."""
        model, wave = self.model(kind, **options).to(dtype), noise(10)[0][None].to(self.device, dtype)
        return lambda: summary(model(wave).last_hidden_state)

    def bf16(self) -> Run:
        """The same in bfloat16."""
        return self.forward(torch.bfloat16)

    def ragged(self, kind: str = SAT, **options) -> Run:
        """A padded batch."""
        model = self.model(kind, **options)
        values, mask = (part.to(self.device) for part in padded(noise(*RAGGED)))
        return lambda: (model(values, attention_mask=mask), None)[1]

    def everything(self) -> Run:
        """All hidden states and all attentions of 10 s."""
        model, wave = self.model(**self.eager), noise(10)[0][None].to(self.device)
        return lambda: summary(model(wave, output_hidden_states=True, output_attentions=True).attentions[-1])

    def collect(self, size: int = 1) -> Run:
        """Utterances one at a time: what gives the right numbers."""
        model = self.model()
        waves = [(wave - wave.mean()) / torch.sqrt(wave.var(unbiased=False) + 1e-7) for wave in noise(*corpus())]

        def run() -> float | None:
            found = []
            for first in range(0, len(waves), size):
                values, mask = (part.to(self.device) for part in padded(waves[first : first + size]))
                states = model(values, attention_mask=mask, output_hidden_states=True).hidden_states
                lengths = model._get_feat_extract_output_lengths(mask.sum(1))
                valid = (torch.arange(states[0].shape[1], device=self.device) < lengths[:, None])[..., None].float()
                for state in states:
                    mean = (state * valid).sum(1) / valid.sum(1)
                    spread = (((state - mean[:, None]) ** 2 * valid).sum(1) / valid.sum(1)).sqrt()
                    found.append(torch.cat([mean, spread], dim=-1))
            return summary(torch.cat(found)) if size == 1 else None

        return run

    def collect_padded(self) -> Run:
        """Eight utterances at a time, in the order of the corpus: its first group norm averages over the padding."""
        return self.collect(8)

    def masks(self) -> Run:
        """Span masks of a batch of 64 with 1,500 frames."""
        from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

        return lambda: (torch.tensor(_compute_mask_indices((64, 1500), 0.65, 10, min_masks=2)), None)[1]

    def xvector(self) -> Run:
        """X-vectors of ragged clips, eight at a time in their order."""
        model, waves = self.model("UniSpeechSatForXVector"), noise(*clips())
        batches = [padded(waves[first : first + 8]) for first in range(0, len(waves), 8)]

        def run() -> None:
            for values, mask in batches:
                model(values.to(self.device), attention_mask=mask.to(self.device))

        return run

    def _step(self, name: str) -> Run:
        import json
        from pathlib import Path

        from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

        size, batch, seconds = STEPS[name]
        ours = json.loads((Path(self.folder) / f"{size}.json").read_text())
        sizes = {key: ours[key] for key in SHARED}
        config = self.hf.Wav2Vec2Config(**sizes, **STILL, layerdrop=0.0, feat_quantizer_dropout=0.0)
        model = self.hf.Wav2Vec2ForPreTraining(config).to(self.device).train()
        waves = torch.stack(noise(*[seconds] * batch)).to(self.device)
        shape = (batch, int(model._get_feat_extract_output_lengths(waves.shape[1])))

        def loss() -> torch.Tensor:
            mask = _compute_mask_indices(shape, config.mask_time_prob, config.mask_time_length)
            negatives = _sample_negative_indices(shape, config.num_negatives, mask)
            return model(
                waves,
                mask_time_indices=torch.tensor(mask, device=self.device),
                sampled_negative_indices=torch.tensor(negatives, device=self.device),
            ).loss

        return stepping(model, loss)

    def step_tiny(self) -> Run:
        """A step as its own example script takes it."""
        return self._step("step_tiny")

    def step_base(self) -> Run:
        """The same of Base."""
        return self._step("step_base")


class Torchaudio:
    """wav2vec2_base of torchaudio: the same architecture, with weights of its own."""

    def __init__(self, folder: str, device: str) -> None:
        import torchaudio

        self.audio, self.device, self.version = torchaudio, device, torchaudio.__version__

    def forward(self, dtype: torch.dtype = torch.float32) -> Run:
        """The last hidden state of 10 s."""
        model = self.audio.models.wav2vec2_base().to(self.device, dtype).eval()
        wave = noise(10)[0][None].to(self.device, dtype)
        return lambda: (model(wave), None)[1]

    def bf16(self) -> Run:
        """The same in bfloat16."""
        return self.forward(torch.bfloat16)

    def ragged(self) -> Run:
        """A padded batch with lengths."""
        model = self.audio.models.wav2vec2_base().to(self.device).eval()
        values, mask = padded(noise(*RAGGED))
        values, lengths = values.to(self.device), mask.sum(1).to(self.device)
        return lambda: (model(values, lengths), None)[1]


def kind(name: str, folder: str, device: str) -> Unisat | Transformers | Torchaudio:
    """The class of a peer, made."""
    if name.startswith("transformers"):
        return Transformers(folder, device)
    if name == "torchaudio":
        return Torchaudio(folder, device)
    return Unisat(folder, device, plain=name == "plain")
