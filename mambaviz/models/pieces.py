"""Text as tokens, for the toy models of the book: a small fixed vocabulary.

A token is a *piece* of text: a word that the toy knows, with the space before
it, or one single character. Of several pieces that fit, the longest is taken,
so that any text of the known characters has just one list of tokens, and the
pieces in a row are the text again: decode(encode(s)) = s.

See: the chapter ``transformer-cost``.
"""

import string
from collections.abc import Iterable, Sequence

NAMES = ("Maarten", "Ada", "Alan", "Emmy", "Grace", "Mary", "Sofia", "Kurt")
THINGS = ("tea", "music", "chess", "cats", "rain", "numbers")
WORDS = ("my", "name", "is", "and", "I", "like", "likes", "Goodbye")
SINGLE = string.ascii_letters + " .,?'"
PIECES = (
    "Hello",
    *(f" {word}" for word in (*WORDS, *NAMES, *THINGS)),
    *SINGLE,
)


def encode_pieces(text: str, pieces: Sequence[str] = PIECES) -> list[int]:
    """The tokens of a text, always the longest piece that fits.

    Args:
        text: of the characters that are pieces themselves.
        pieces: the vocabulary; a token is a place in it.

    Raises:
        ValueError: a character that no piece begins with.

    Example:
        >>> [PIECES[n] for n in encode_pieces("Hello my name is Bo")]
        ['Hello', ' my', ' name', ' is', ' ', 'B', 'o']
    """
    ids = {piece: n for n, piece in enumerate(pieces)}
    longest = max(map(len, pieces))
    tokens, start = [], 0
    while start < len(text):
        for length in range(longest, 0, -1):
            piece = text[start : start + length]
            if piece in ids:
                break
        else:
            raise ValueError(
                f"no token begins with {text[start]!r}; the vocabulary has "
                f"letters without accents, the space and . , ? '"
            )
        tokens.append(ids[piece])
        start += len(piece)
    return tokens


def decode_pieces(
    tokens: Iterable[int], pieces: Sequence[str] = PIECES
) -> str:
    """The text of some tokens: their pieces in a row.

    Example:
        >>> decode_pieces(encode_pieces("Goodbye, Maarten."))
        'Goodbye, Maarten.'
    """
    return "".join(pieces[token] for token in tokens)
