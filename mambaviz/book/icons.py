"""The theme's icons, without its 1.5 MB script and 0.9 MB of fonts.

The theme draws its icons with a font or, when its script has run, as SVG. We
leave the script out and cut the font down to the glyphs that the book shows.
The cut font is small enough to stand in the style sheet itself, so the icons
are there at the first paint.
"""

import base64
import logging
import re
from io import BytesIO
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont
from sphinx.util.logging import getLogger

from mambaviz.book.pages import Page, icons_of

FONTS = {  # style: file, family and weight in the theme's style sheet
    "solid": ("fa-solid-900.ttf", "Font Awesome 6 Free", 900),
    "regular": ("fa-regular-400.ttf", "Font Awesome 6 Free", 400),
    "brands": ("fa-brands-400.ttf", "Font Awesome 6 Brands", 400),
}
BRANDS = {"github", "gitlab"}  # among the icons that the theme's rules name

# The theme's style sheet expects what its script would have made: an svg.
ADJUSTED = """\
.search-button-field > i { display: inline-block; }
.bd-header-article .btn i, .bd-header-article .btn span[class*="fa-"] {
  width: 1.3rem; text-align: center;
}
"""

_RULE = re.compile(
    r"(?P<names>\.fa-[\w-]+:before(?:,\.fa-[\w-]+:before)*)"
    r'\{content:"\\?(?P<glyph>[^"]+)"\}'
)
_FONT_FACE = re.compile(r"@font-face\{[^}]*Font Awesome[^}]*\}")
_VARIABLE = re.compile(r'--pst-icon-([\w-]+):"(.)"')
_SIZE = re.compile(r"\.(fa-[\w-]+)\{")
_IN_SCRIPT = re.compile(r'"((?:fa[brs]?|fa-(?:brands|regular|solid)) fa-[^"]+)"')

_LOGGER = getLogger(__name__)
logging.getLogger("fontTools").setLevel(logging.WARNING)


def used_icons(pages: list[Page], scripts: list[str]) -> set[tuple[str, str]]:
    """The icons that the pages show and that scripts may add to them.

    Args:
        pages: all pages of the book.
        scripts: the sources of the theme's scripts.

    Returns:
        Pairs of style and class name.
    """
    used = {icon for page in pages for icon in page.icons}
    for script in scripts:
        for classes in _IN_SCRIPT.findall(script):
            used |= icons_of(classes)
    return used


def trim_theme_styles(styles: str, used: set[tuple[str, str]]) -> str:
    """The theme's style sheet with the rules of no icon but the used ones.

    Args:
        styles: the style sheet.
        used: pairs of style and class name.
    """
    names = {f".{name}:before" for _, name in used}

    def keep(match: re.Match) -> str:
        kept = names.intersection(match["names"].split(","))
        return match.group() if kept else ""

    return _RULE.sub(keep, _FONT_FACE.sub("", styles))


def icon_styles(
    styles: str, used: set[tuple[str, str]], fonts: Path
) -> str:
    """A style sheet with one small font for each style in use.

    Args:
        styles: the theme's style sheet, which knows each icon's glyph.
        used: pairs of style and class name. One that no rule of the theme
            knows is warned of.
        fonts: the folder of the theme's fonts.
    """
    glyphs = {
        name[1 : -len(":before")]: _character(rule["glyph"])
        for rule in _RULE.finditer(styles)
        for name in rule["names"].split(",")
    }
    known = glyphs.keys() | set(_SIZE.findall(styles))
    for style, name in sorted(used):
        if name not in known:
            _LOGGER.warning("the theme has no icon %s (%s)", name, style)
    needed = {
        style: {glyphs[n] for s, n in used if s == style and n in glyphs}
        for style in FONTS
    }
    for name, glyph in _VARIABLE.findall(styles):
        needed["brands" if name in BRANDS else "solid"].add(glyph)
    faces = [
        _font_face(style, characters, fonts)
        for style, characters in needed.items()
        if characters
    ]
    return "\n".join([*faces, ADJUSTED])


def _character(glyph: str) -> str:
    """The character that a style sheet means by ``f185`` or ``+``."""
    return glyph if len(glyph) == 1 else chr(int(glyph, 16))


def _font_face(style: str, characters: set[str], fonts: Path) -> str:
    file, family, weight = FONTS[style]
    options = subset.Options(
        flavor="woff", recalc_timestamp=False, layout_features=[], hinting=False
    )
    font = TTFont(fonts / file, recalcTimestamp=False)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text="".join(sorted(characters)))
    subsetter.subset(font)
    missing = characters - {chr(code) for code in font.getBestCmap()}
    for character in sorted(missing):
        _LOGGER.warning(
            "%s has no glyph for the icon U+%04X", file, ord(character)
        )
    small = BytesIO()
    font.flavor = options.flavor
    font.save(small)
    data = base64.b64encode(small.getvalue()).decode("ascii")
    return (
        f'@font-face {{ font-family: "{family}"; font-style: normal; '
        f"font-weight: {weight}; font-display: block; "
        f'src: url("data:font/woff;base64,{data}") format("woff"); }}'
    )
