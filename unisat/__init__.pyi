# The names of `unisat` and the modules that hold them; each is loaded when it is first used (SPEC 1).

# model
from . import outputs as outputs, shortcuts as shortcuts
from .config import UniSpeechSatConfig as UniSpeechSatConfig
from .configs import (
    AutoConfig as AutoConfig,
    Data2VecAudioConfig as Data2VecAudioConfig,
    HubertConfig as HubertConfig,
    UniSpeechConfig as UniSpeechConfig,
    Wav2Vec2Config as Wav2Vec2Config,
    WavLMConfig as WavLMConfig,
)
from .family import (
    AutoModel as AutoModel,
    AutoModelForAudioClassification as AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification as AutoModelForAudioFrameClassification,
    AutoModelForAudioXVector as AutoModelForAudioXVector,
    AutoModelForCTC as AutoModelForCTC,
    AutoModelForPreTraining as AutoModelForPreTraining,
    Data2VecAudioForAudioFrameClassification as Data2VecAudioForAudioFrameClassification,
    Data2VecAudioForCTC as Data2VecAudioForCTC,
    Data2VecAudioForSequenceClassification as Data2VecAudioForSequenceClassification,
    Data2VecAudioForXVector as Data2VecAudioForXVector,
    Data2VecAudioModel as Data2VecAudioModel,
    HubertForCTC as HubertForCTC,
    HubertForSequenceClassification as HubertForSequenceClassification,
    HubertModel as HubertModel,
    UniSpeechForCTC as UniSpeechForCTC,
    UniSpeechForSequenceClassification as UniSpeechForSequenceClassification,
    UniSpeechModel as UniSpeechModel,
    Wav2Vec2ForAudioFrameClassification as Wav2Vec2ForAudioFrameClassification,
    Wav2Vec2ForCTC as Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining as Wav2Vec2ForPreTraining,
    Wav2Vec2ForSequenceClassification as Wav2Vec2ForSequenceClassification,
    Wav2Vec2ForXVector as Wav2Vec2ForXVector,
    Wav2Vec2Model as Wav2Vec2Model,
    WavLMForAudioFrameClassification as WavLMForAudioFrameClassification,
    WavLMForCTC as WavLMForCTC,
    WavLMForSequenceClassification as WavLMForSequenceClassification,
    WavLMForXVector as WavLMForXVector,
    WavLMModel as WavLMModel,
)
from .feature_extraction import Wav2Vec2FeatureExtractor as Wav2Vec2FeatureExtractor
from .heads import (
    UniSpeechSatForAudioFrameClassification as UniSpeechSatForAudioFrameClassification,
    UniSpeechSatForCTC as UniSpeechSatForCTC,
    UniSpeechSatForSequenceClassification as UniSpeechSatForSequenceClassification,
)
from .model import UniSpeechSatModel as UniSpeechSatModel
from .pretrained import UniSpeechSatPreTrainedModel as UniSpeechSatPreTrainedModel
from .pretraining import UniSpeechSatForPreTraining as UniSpeechSatForPreTraining
from .processing import (
    AutoFeatureExtractor as AutoFeatureExtractor,
    AutoProcessor as AutoProcessor,
    AutoTokenizer as AutoTokenizer,
    Wav2Vec2Processor as Wav2Vec2Processor,
)
from .quantizer import GumbelVectorQuantizer as GumbelVectorQuantizer
from .tokenization import Wav2Vec2CTCTokenizer as Wav2Vec2CTCTokenizer
from .xvector import UniSpeechSatForXVector as UniSpeechSatForXVector
from .zoo import load as load

# speech
from . import audio as audio, corpus as corpus, frames as frames
from .corpus import Batch as Batch
from .segments import Segments as Segments

# watch, change, collect, measure: the rooms, and the names most often wanted
from . import interpret as interpret
from .interpret.activations.attention import rollout as rollout, value_norms as value_norms
from .interpret.activations.attention_blocks import attention_statistics as attention_statistics
from .interpret.activations.capture import capture as capture, run as run
from .interpret.activations.long_recordings import encode_long as encode_long
from .interpret.activations.sites import sites as sites
from .interpret.interventions import metrics as metrics
from .interpret.interventions.attribution import attribute as attribute
from .interpret.interventions.edits import (
    Ablate as Ablate,
    Edit as Edit,
    Erase as Erase,
    Patch as Patch,
    Placebo as Placebo,
    Project as Project,
    Steer as Steer,
)
from .interpret.interventions.erase import erase as erase
from .interpret.interventions.intervene import intervene as intervene
from .interpret.interventions.sweep import sweep as sweep
from .interpret.features.bank import FeatureBank as FeatureBank
from .interpret.features.collect import collect as collect
from .interpret.layers.analogies import analogies as analogies
from .interpret.layers.comparison import compare as compare
from .interpret.layers.directions import direction as direction
from .interpret.layers.similarity import layer_similarity as layer_similarity
from .interpret.layers.subspaces import subspaces as subspaces
from .interpret.layers.weights import fit_layer_weights as fit_layer_weights, layer_weights as layer_weights
from .interpret.probing.abx import abx as abx
from .interpret.probing.probes import probe_layers as probe_layers
from .interpret.speakers.maps import embed as embed
from .interpret.speakers.trials import verify_trials as verify_trials
from .interpret.units.clusters import units as units
from .interpret.units.codebook import codebook_usage as codebook_usage
from .interpret.units.lenses import ctc_lens as ctc_lens, kmeans_lens as kmeans_lens, unit_lens as unit_lens

# show
from . import plots as plots, widgets as widgets
from .plots import grade as grade, listen as listen

# train
from . import losses as losses, masking as masking, mixing as mixing

__version__: str
