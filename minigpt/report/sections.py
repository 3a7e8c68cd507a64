"""A part of a report, which a page draws as HTML and Markdown shows as text, so that both say the same."""

from __future__ import annotations

from dataclasses import dataclass

from minigpt.base.tables import Table, fenced, plain


@dataclass(frozen=True)
class Section:
    """A heading with sentences, figures, each by the name of its drawing and its title, their caption, and tables.

    anchor: where a page's contents lead, if it has some.
    """

    title: str
    sentences: tuple[str, ...] = ()
    figures: tuple[tuple[str, str], ...] = ()
    caption: str = ""
    tables: tuple[Table, ...] = ()
    anchor: str = ""

    def markdown(self) -> list[str]:
        """Its blocks as Markdown; figures are files beside it."""
        blocks = [f"## {plain(self.title)}", *map(plain, self.sentences)]
        for name, title in self.figures:
            blocks += [f"**{plain(title)}**"] if title != self.title else []
            blocks.append(f"![{plain(title)}]({figure_file(name)})")
        blocks += [plain(self.caption)] if self.caption else []
        for table in self.tables:
            if table.records:
                blocks += [f"### {plain(table.title)}", table.markdown()]
            if table.commands:
                blocks.append(fenced(table.commands))
        return blocks


def figure_file(name: str) -> str:
    """Where the drawing of this name lies, beside the Markdown."""
    return f"figures/{name}.svg"
