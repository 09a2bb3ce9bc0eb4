"""MemoryMeter: the bytes of a KV cache against those of an SSM's state."""

from mambaviz.theory.cost import (
    conv_state_bytes,
    crossover_length,
    kv_cache_bytes,
    ssm_state_bytes,
)
from mambaviz.widgets.explorable import Explorable
from mambaviz.widgets.three_odometers import CHAPTER
from mambaviz.widgets.traits import Quantity


def memory(layers: int, width: int, length: int) -> dict[str, int]:
    """Bytes that each model keeps, and the numbers in the cache.

    Mamba has two blocks for each layer of the Transformer, so that both have
    as many parameters; every number has 2 bytes.

    Returns:
        "floats" and "cache" of the Transformer, "state" and "conv" of Mamba.
    """
    cache = kv_cache_bytes(length, layers, width)
    return {
        "floats": cache // 2,
        "cache": cache,
        "state": ssm_state_bytes(2 * layers, width),
        "conv": conv_state_bytes(2 * layers, width),
    }


class MemoryMeter(Explorable):
    """What must be kept to go on writing?

    Two models of as many parameters: a Transformer, whose cache holds a key
    and a value for every layer and token, and a Mamba of twice as many
    blocks, with 16 states in each of its channels and the last 4 inputs of a
    short convolution. Every number has 2 bytes.

    Args:
        length: tokens so far, from 1 to 4000.
        layers: of the Transformer, from 1 to 96.
        width: d_model of both, from 16 to 8192.

    Example:
        >>> MemoryMeter(length=2048).numbers()["KV cache"]
        '75,497,472 bytes'
    """

    _module = "memory_meter"
    question = "What must be kept to go on writing?"
    lesson = (
        "A Transformer keeps two numbers for each token, layer and unit of"
        " width. Mamba keeps a state whose size never changes. Between models"
        " of as many parameters the cache is the larger one from 32 tokens"
        " on, or from 40 if the inputs that Mamba's short convolution keeps"
        " are counted too; layers and width do not matter for that."
    )
    answer = (
        "Make the text longer: the cache grows in step, and Mamba's bar stays"
        " as it is. Put the length at 32 and then at 40: there the cache"
        " overtakes the states, and the states with the inputs of the"
        " convolution. Now change layers and width: all bars grow alike, and"
        " the two crossings do not move. They move if the state is kept in 4"
        " bytes a number, to 64 tokens without the convolution, or if heads"
        " share their keys and values, to 128 where four do."
    )
    computed = {
        "mambaviz.theory.kv_cache_bytes": CHAPTER + "#cache-bytes-code",
        "mambaviz.theory.crossover_length": CHAPTER + "#crossover-code",
    }

    length = Quantity(
        200,
        low=1,
        high=4000,
        integer=True,
        label="L",
        symbol="x",
        hint="tokens so far; the arrow keys go one by one",
    )
    layers = Quantity(
        12,
        low=1,
        high=96,
        integer=True,
        label="Layers",
        symbol="ink",
        hint="of the Transformer; Mamba has two blocks for each",
    )
    width = Quantity(
        768,
        low=16,
        high=8192,
        integer=True,
        label="Width",
        symbol="ink",
        hint="d_model, of both",
    )

    def numbers(self) -> dict[str, str]:
        """The bytes and the crossings, as text."""
        found = memory(self.layers, self.width, self.length)
        both = found["state"] + found["conv"]
        return {
            "Numbers in the cache": f"{found['floats']:,}",
            "KV cache": f"{found['cache']:,} bytes",
            "Mamba's states": f"{found['state']:,} bytes",
            "with the convolution's inputs": f"{both:,} bytes",
            "Cache over states": f"{found['cache'] / found['state']:.3g}",
            "The cache is as large as the states": (
                f"at {crossover_length()} tokens"
            ),
            "as states and convolution": (
                f"at {crossover_length(d_conv=4)} tokens"
            ),
        }
