# The rooms, and names that are not at the top of `unisat`; each is loaded when it is first used.

from . import activations as activations
from . import features as features
from . import interventions as interventions
from . import layers as layers
from . import masks as masks
from . import objective as objective
from . import probing as probing
from . import result as result
from . import speakers as speakers
from . import statistics as statistics
from . import units as units
from .activations.attention import head_measures as head_measures
from .activations.attention import measures as measures
from .activations.attention_blocks import rollout_of as rollout_of
from .activations.capture import Trace as Trace
from .activations.long_recordings import chunk_error as chunk_error
from .interventions.intervene import active_scopes as active_scopes
from .layers.weights import WeightedLayerSum as WeightedLayerSum
from .objective import clean_targets as clean_targets
from .objective import one_step as one_step
from .probing.report import LayerReport as LayerReport
from .speakers.maps import nearest_utterances as nearest_utterances
from .speakers.xvectors import xvectors as xvectors
from .statistics.error_rates import eer as eer
from .statistics.error_rates import eer_interval as eer_interval
from .statistics.error_rates import min_dcf as min_dcf
