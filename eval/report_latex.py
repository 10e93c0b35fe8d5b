r"""Tables for a paper: LaTeX with booktabs, to be \input or copied from.

    \usepackage{booktabs, longtable, array}      what the file needs; it says so at its top

A table of more than 40 rows becomes a longtable, which may break over pages. Every text that is not ours is escaped, so
that neither a run's name nor a path can become a command. Letters outside Latin need LuaLaTeX or XeLaTeX and a font
that has them; all else that the tables contain (minus, dash, dagger, plus-minus, star) is written as commands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from eval.evaluation_blocks import Block
from eval.report_tables import Cell, Table

_LONG = 40
_MANY = 10  # columns that are then set close together
_WIDE = 24  # characters of a text column that is then set in lines
_COMMANDS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{DAGGER}": r"\dag{}",
    "\N{BLACK STAR}": r"$\star$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{SQUARE ROOT}": r"$\surd$",
    "\N{NO-BREAK SPACE}": "~",
}
_SPECIAL = re.compile("|".join(re.escape(character) for character in _COMMANDS))


def escape(text: str) -> str:
    """Text that stays text, on one line."""
    return _SPECIAL.sub(lambda found: _COMMANDS[found[0]], " ".join(text.split(" ")).replace("\n", " ").strip())


def render_latex(title: str, blocks: Sequence[Block]) -> str:
    """All tables of all blocks, each with caption and label."""
    head = [
        f"% {_comment(title)}",
        r"% needs \usepackage[T1]{fontenc} and \usepackage{booktabs, longtable, array}",
    ]
    parts = []
    for block in blocks:
        for number, titled in enumerate(block.tables):
            caption = f"{block.title}: {titled.title}." if titled.title else f"{block.title}."
            notes = " ".join(block.notes) if number == 0 else ""
            parts.append(latex_table(titled.table, f"{caption} {notes}".strip(), f"tab:{block.id}-{number}"))
    return "\n".join(head) + "\n\n" + "\n\n".join(parts) + "\n"


def latex_table(table: Table, caption: str, label: str) -> str:
    """One table; numbers to the right, the best of a row bold, the last row apart where it is a total."""
    columns = "".join(_column(table, number) for number in range(len(table.columns)))
    head = " & ".join(escape(name) for name in table.columns) + r" \\"
    rows = [" & ".join(map(_cell, row)) + r" \\" for row in table.rows]
    if table.total and rows:
        rows.insert(-1, r"\midrule")
    named = [rf"\caption{{{escape(caption)}}}", rf"\label{{{_label(label)}}}"]
    if len(rows) > _LONG:
        named = [f"{''.join(named)}" + r" \\"]
        body = [rf"\begin{{longtable}}{{{columns}}}", *named, r"\toprule", head, r"\midrule", r"\endhead"]
        return "\n".join([*body, *rows, r"\bottomrule", r"\end{longtable}"])
    size = r"\centering\footnotesize\setlength{\tabcolsep}{3pt}" if len(table.columns) > _MANY else r"\centering\small"
    body = [r"\begin{table}", size, *named, rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head]
    return "\n".join([*body, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _column(table: Table, number: int) -> str:
    if number >= table.texts:
        return "r"
    longest = max((len(row[number].text) for row in table.rows), default=0)
    return r">{\raggedright\arraybackslash}p{3cm}" if longest > _WIDE else "l"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    text = f"{{}}{text}" if text.startswith(("[", "*")) else text  # after a row's end these would be its options
    if cell.code:
        return rf"\texttt{{{text}}}"
    return rf"\textbf{{{text}}}" if cell.best else text


def _label(text: str) -> str:
    """A label takes letters, digits and a few signs; anything else becomes a dash."""
    return re.sub(r"[^A-Za-z0-9:@.-]", "-", text)


def _comment(text: str) -> str:
    return " ".join(text.split())
