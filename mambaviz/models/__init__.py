"""The models: one family a file."""

from mambaviz.models.attention import (
    KVCache,
    MultiHeadAttention,
    attention_weights,
    causal_mask,
    recorded_weights,
    scaled_dot_product_attention,
)
from mambaviz.models.captured import CapturedStep
from mambaviz.models.checkpoints import CheckpointError
from mambaviz.models.h3 import H3, H3State
from mambaviz.models.hyena import Hyena, HyenaFilter, HyenaState
from mambaviz.models.inspection import RecordedScan, recorded_scans
from mambaviz.models.language_model import RELEASED, MambaConfig, MambaLM
from mambaviz.models.lti import LSSL, ChannelMixing
from mambaviz.models.mamba import (
    S6,
    MambaBlock,
    MambaState,
    ResidualBlock,
    RMSNorm,
)
from mambaviz.models.rnn import RNN, RNNLM
from mambaviz.models.s4 import S4
from mambaviz.models.s4d import S4D
from mambaviz.models.sampling import (
    choose_token,
    generate,
    token_probabilities,
)
from mambaviz.models.transformer import (
    EncoderDecoder,
    TransformerBlock,
    TransformerLM,
)

__all__ = [
    "H3",
    "LSSL",
    "RELEASED",
    "RNN",
    "RNNLM",
    "S4",
    "S4D",
    "S6",
    "CapturedStep",
    "ChannelMixing",
    "CheckpointError",
    "EncoderDecoder",
    "H3State",
    "Hyena",
    "HyenaFilter",
    "HyenaState",
    "KVCache",
    "MambaBlock",
    "MambaConfig",
    "MambaLM",
    "MambaState",
    "MultiHeadAttention",
    "RMSNorm",
    "RecordedScan",
    "ResidualBlock",
    "TransformerBlock",
    "TransformerLM",
    "attention_weights",
    "causal_mask",
    "choose_token",
    "generate",
    "recorded_scans",
    "recorded_weights",
    "scaled_dot_product_attention",
    "token_probabilities",
]
