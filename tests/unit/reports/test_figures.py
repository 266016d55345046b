"""Tables of figures: which cells are marked as the best."""

from __future__ import annotations

from explora.core.reports.figures import Column, figure_table, minutes


def test_what_reads_the_same_is_marked_alike():
    def marked(*seconds: float) -> frozenset[tuple[int, int]]:
        column = Column(name="minutes", values=seconds, write=minutes, highest=False)
        return figure_table("", ("run",), [("",)] * len(seconds), [column]).best

    assert marked(12.1, 12.0, 60.0) == {(0, 1), (1, 1)}  # 0.20, 0.20, 1.00
    assert marked(12.0, 30.0, 60.0) == {(0, 1)}
    assert marked(12.1, 12.0) == set()
