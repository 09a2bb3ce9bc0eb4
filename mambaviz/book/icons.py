"""The theme's icons, without its 1.5 MB script and 0.9 MB of fonts.

The theme ships every icon of Font Awesome as a script that turns ``<i>``
elements into pictures, and once more as fonts for its style sheets. The book
shows some twenty of them. Their outlines are taken from that script into one
small style sheet, as masks that let the colour of the text through.
"""

import re
from typing import NamedTuple
from urllib.parse import quote

from sphinx.util.logging import getLogger

from mambaviz.book.pages import ICON_STYLES, Page, icons_of

PACKS = {"fab": "brands", "far": "regular", "fas": "solid"}

# How an icon is drawn, wherever it comes from: --mv-icon is its outline.
DRAWN = (
    "background:currentColor;display:inline-block;height:1em;"
    "width:var(--mv-icon-width,1em);"
    "-webkit-mask:var(--mv-icon) center/contain no-repeat;"
    "mask:var(--mv-icon) center/contain no-repeat;"
    "-webkit-print-color-adjust:exact;print-color-adjust:exact"
)

# What the theme says of an svg, which its script would have put there.
ADJUSTED = """\
.search-button-field > i { display: inline-block; }
.bd-search .fa-solid.fa-magnifying-glass { position: static; }
.bd-header-article .btn i,
.bd-header-article .btn span[class*="fa-"] {
  width: 1.3rem;
  font-size: 1.1rem;
  line-height: 1;
  text-align: center;
  vertical-align: middle;
}
.dropdown-download-buttons .btn__icon-container { margin-right: 0.4rem; }
@media (forced-colors: active) {
  [class*="fa-"]::before { background: CanvasText !important; }
}
"""

UNQUOTED = " =:/',"  # in a data URL between double quotes

_OUTLINE = re.compile(
    r'"?(?P<name>[\w-]+)"?:\[(?P<width>\d+),(?P<height>\d+),'
    r'\[(?P<others>[^\]]*)\],"(?P<code>[0-9a-f]+)","(?P<path>[^"]*)"\]'
)
_PACK_END = re.compile(r'\("(fa[brs])",\w+\)')
_MODIFIER = re.compile(r"\.(fa-[\w-]+)\{")
_GLYPH_RULE = re.compile(
    r"\.fa-[\w-]+:before(?:,\.fa-[\w-]+:before)*\{content:[^}]*\}"
)
_FONT_FACE = re.compile(r"@font-face\{[^}]*Font Awesome[^}]*\}")
_VARIABLE = re.compile(r'(--pst-(icon-[\w-]+|breadcrumb-divider)):"(.)"')
_NAMED_CONTENT = re.compile(
    r"content:(var\(--pst-(?:icon-[\w-]+|breadcrumb-divider)\))"
)
_CODED_CONTENT = re.compile(r'content:"\\([0-9a-f]{4})"')
_ICON_FONT = re.compile(
    r"font:var\(--fa-font-\w+\)|"
    r"font-family:Font Awesome\\ 6 Free;font-weight:900"
)
_IN_SCRIPT = re.compile(
    r'"((?:fa[brs]?|fa-(?:brands|regular|solid)) fa-[^"]+)"'
)

_LOGGER = getLogger(__name__)


class Outline(NamedTuple):
    """The shape of an icon, in its own units."""

    width: int
    height: int
    path: str

    @property
    def url(self) -> str:
        """The shape as a picture that a style sheet can hold."""
        svg = (
            "<svg xmlns='http://www.w3.org/2000/svg' "
            f"viewBox='0 0 {self.width} {self.height}'>"
            f"<path d='{self.path}'/></svg>"
        )
        return f'url("data:image/svg+xml,{quote(svg, safe=UNQUOTED)}")'


class Icons:
    """The icons of a theme, by style and name and by style and code."""

    def __init__(self, script: str, styles: str) -> None:
        """Read the theme's own files.

        Args:
            script: its icon script, with all outlines.
            styles: its style sheet, which knows the modifiers such as
                ``fa-lg``.
        """
        self.outlines: dict[tuple[str, str], Outline] = {}
        self.modifiers = set(_MODIFIER.findall(styles))
        begin = 0
        for end in _PACK_END.finditer(script):
            style = PACKS[end[1]]
            for found in _OUTLINE.finditer(script, begin, end.start()):
                outline = Outline(
                    int(found["width"]), int(found["height"]), found["path"]
                )
                others = re.findall(r'"([^"]+)"', found["others"])
                for name in (found["name"], *others):
                    self.outlines[style, f"fa-{name}"] = outline
                self.outlines[style, found["code"]] = outline
            begin = end.end()

    def sheet(self, used: set[tuple[str, str]]) -> str:
        """A style sheet with the used icons.

        Args:
            used: pairs of style and class name. One that the theme does not
                have is warned of.
        """
        styled = ",".join(f".{word}::before" for word in ICON_STYLES)
        rules = [f'{styled}{{content:"";vertical-align:-.125em;{DRAWN}}}']
        for style, name in sorted(used):
            outline = self.outlines.get((style, name))
            if outline is not None:
                words = [f".{w}" for w, s in ICON_STYLES.items() if s == style]
                width = outline.width / outline.height
                rules.append(
                    f":is({','.join(words)}).{name}"
                    f"{{--mv-icon:{outline.url};--mv-icon-width:{width:g}em}}"
                )
            elif name not in self.modifiers:
                _LOGGER.warning("the theme has no %s icon %s", style, name)
        return "\n".join([*rules, ADJUSTED])

    def without_fonts(self, styles: str) -> str:
        """A style sheet of the theme that draws with outlines, not letters.

        Args:
            styles: a style sheet that names icons by a letter of a font.
        """

        def variable(match: re.Match) -> str:
            code = f"{ord(match[3]):x}"
            in_brands = match[2] in {"icon-github", "icon-gitlab"}
            outline = self.outlines["brands" if in_brands else "solid", code]
            return f"{match[1]}:{outline.url}"

        def coded(match: re.Match) -> str:
            outline = self.outlines["solid", match[1]]
            return f'content:"";--mv-icon:{outline.url}'

        styles = _GLYPH_RULE.sub("", _FONT_FACE.sub("", styles))
        styles = _VARIABLE.sub(variable, styles)
        styles = _NAMED_CONTENT.sub(r'content:"";--mv-icon:\1', styles)
        styles = _CODED_CONTENT.sub(coded, styles)
        return _ICON_FONT.sub(DRAWN, styles)


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
