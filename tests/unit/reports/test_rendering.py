"""The renderers show every text as it is. Independent parsers of HTML, Markdown and LaTeX read it back."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt
from pylatexenc.latex2text import LatexNodes2Text, MacroTextSpec, get_default_latex_context_db

from explora.core.reports.document import (
    Bar,
    Bars,
    Curves,
    Interval,
    Intervals,
    Level,
    Listing,
    Remarks,
    Report,
    Section,
    Series,
    Table,
)
from explora.core.reports.html_page import as_html
from explora.core.reports.latex import as_latex, escape
from explora.core.reports.markdown import as_markdown
from explora.core.reports.sparklines import curve_table, sparkline

NASTY = r"""a_b 50% #1 {x} $y$ ^ ~ \n <script>alert("&")</script> | `c` *d* [e](f) --lora 'g' é &lt;"""
CHARACTERS = [
    MacroTextSpec("textless", "<"),
    MacroTextSpec("textgreater", ">"),
    MacroTextSpec("textbar", "|"),
    MacroTextSpec("textquotedbl", '"'),
    MacroTextSpec("textasciicircum", "^"),
]
SVG = "{http://www.w3.org/2000/svg}"


STEPS = tuple(range(21))


def falling(start: float) -> tuple[float, ...]:
    return tuple(start - step / 10 for step in STEPS)


def report(text: str = NASTY) -> Report:
    curve = Series(label=text, xs=STEPS, ys=falling(3), low=falling(2.5), high=falling(3.5))
    plots = (
        Curves(title=text, x="step", y="loss", series=(curve,), levels=(Level(label=text, value=2.0),)),
        Bars(
            title="Memory", x="MB", bars=(Bar(label=text, parts={"a": 1.0, "b": 2.0}, mark=2.5),), mark="peak"
        ),
        Bars(title="Speed", x="tokens/s", bars=(Bar(label="lora", parts={"": 5.0}, spread=(4.0, 6.0)),)),
        Intervals(title="Scores", x="accuracy", items=(Interval(label=text, value=0.5, low=0.4, high=0.6),)),
    )
    table = Table(
        title=text, header=("run", text), lines=((text, "1"), ("b", text)), best=frozenset({(0, 1)})
    )
    return Report(
        title=text,
        lead=(text,),
        sections=(
            Section(heading=text, blocks=plots),
            Section(heading="T", blocks=(table, Listing(title=text, text=text), Remarks(lines=(text,)))),
        ),
    )


class Reader(HTMLParser):
    """Collects the texts by the element around them, the elements, and the ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts, self.tags, self.ids = list[tuple[str, str]](), list[str](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_data(self, data: str) -> None:
        self.texts.append((self.tags[-1] if self.tags else "", data))

    def of(self, tag: str) -> list[str]:
        return [text for at, text in self.texts if at == tag and text.strip()]


def test_the_page_shows_every_text_as_it_is():
    page = as_html(report())
    read = Reader(page)
    for tag in ("title", "h1", "h2", "li", "figcaption", "span", "th", "td", "pre"):
        assert NASTY in read.of(tag), tag
    assert read.of("strong") == ["1"]
    assert "<script" not in page
    assert len(read.ids) == len(set(read.ids))
    assert as_html(report()) == page


def test_the_page_loads_nothing():
    page = as_html(report("plain"))
    assert not re.search(r"<(script|link|img|iframe|object|image)\b", page)
    assert not re.search(r"""(src|href)=["'](?!#)""", page)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_plots_have_an_alternative_text_and_the_colours_of_the_page():
    page = as_html(report())
    drawings = [ElementTree.fromstring(each) for each in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    assert len(drawings) == 4
    for drawing in drawings:
        assert drawing.get("role") == "img"
        assert drawing.get("aria-label")
    curves, memory, *_ = drawings
    assert "from 3 to 1" in (curves.get("aria-label") or "")
    assert NASTY in [text.text for text in curves.iter(f"{SVG}text")]  # no formula where there is a $
    assert "peak" in "".join(memory.itertext())
    defined = set(re.findall(r"(--\w+):", page))
    assert set(re.findall(r"var\((--\w+)\)", page)) <= defined
    assert not re.search(r"(fill|stroke): #", page)


def test_a_level_far_away_does_not_stretch_a_plot():
    def limits(level: float) -> list[str]:
        curve = Series(label="lora", xs=(0, 1), ys=(60.0, 70.0))
        levels = (Level(label="trivial", value=level),)
        plot = Curves(title="t", x="step", y="perplexity", series=(curve,), levels=levels)
        page = as_html(Report(title="t", lead=(), sections=(Section(heading="h", blocks=(plot,)),)))
        return re.findall(r">(\d+(?:\.\d+)?)</text>", page)

    far = limits(8192.0)
    assert max(map(float, far)) < 100
    assert max(map(float, limits(80.0))) >= 80


def markdown_texts(text: str) -> list[str]:
    """Return the texts of all cells, items and paragraphs as Markdown's own parser sees them."""
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "inline":
            found.append(
                "".join(child.content for child in token.children or [] if child.type != "softbreak")
            )
        elif token.type == "fence":
            found.append(token.content.rstrip())
    return found


def test_markdown_reads_back_as_the_same_text():
    written = as_markdown(report())
    texts = markdown_texts(written)
    # the title, a lead, a heading, a curve and its level, the table, its cells, a title, text, a remark
    assert texts.count(NASTY) == 3 + 2 + 4 + 3
    assert "**1**" in written
    assert "█" in written


def test_markdown_without_escapes_would_be_read_wrong(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("explora.core.reports.markdown._SPECIAL", re.compile("((?!))"))
    assert markdown_texts(as_markdown(report())).count(NASTY) < 3


def latex_text(source: str) -> str:
    """Return the text as a LaTeX parser sees it; it has to be told of some of LaTeX's own characters."""
    known = get_default_latex_context_db()
    known.add_context_category("characters", prepend=True, macros=CHARACTERS)
    return LatexNodes2Text(latex_context=known).latex_to_text(source)


def test_latex_reads_back_as_the_same_text():
    assert latex_text(escape(NASTY)) == NASTY
    assert latex_text(NASTY) != NASTY
    assert escape("\N{GRINNING FACE}\n\x1b") == "[U+1F600] [U+001B]"
    document = as_latex(report())
    # a lead, a heading, a curve and its level, the table, its cells, a title, text, a remark; the parser
    # writes the title of the document in capitals
    assert latex_text(document).count(NASTY) == 2 + 3 + 4 + 3
    assert document.count(r"\begin{longtable}") == document.count(r"\end{longtable}") == 2


def test_a_fence_is_longer_than_those_in_its_text():
    listing = Listing(title="t", text="````\nx\n````")
    text = as_markdown(Report(title="t", lead=(), sections=(Section(heading="h", blocks=(listing,)),)))
    assert "````\nx\n````" in markdown_texts(text)


def test_a_sparkline_has_the_means_of_stretches():
    assert sparkline([0, 0, 1, 1, 2, 2], "abc", width=3) == "abc"
    assert sparkline([1.0, 1.0], "abc") == "aa"


def test_a_short_curve_is_a_table_of_its_values():
    series = (Series(label="a", xs=(1e-4, 1e-3), ys=(0.5, 0.6)), Series(label="b", xs=(1e-3,), ys=(0.7,)))
    levels = (Level(label="trivial", value=0.4),)
    found = curve_table(Curves(title="t", x="learning rate", y="score", series=series, levels=levels))
    assert found.header == ("learning rate", "0.0001", "0.001")
    assert found.lines == (("a", "0.5", "0.6"), ("b", "", "0.7"), ("trivial", "", "0.4"))
