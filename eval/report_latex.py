r"""Tables for a paper: LaTeX with booktabs, to be \input or copied from.

    \usepackage[T1]{fontenc}
    \usepackage{booktabs, longtable, array, graphicx}      what the file needs; it says so at its top

Column heads are set in lines, and a table that is far too wide is parted by columns (`eval.latex_widths`). What is left
over the line's width, a `table` is scaled down by: up to a quarter in an article of one column, nothing where lines are
longer. A table of more than 40 rows becomes a longtable, which may break over pages and cannot be scaled. Every text
that is not ours is escaped, so that neither a run's name nor a path can become a command. Letters outside Latin need
LuaLaTeX or XeLaTeX and a font that has them; all else that the tables contain (minus, dash, dagger, plus-minus, star)
is written as commands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from eval.evaluation_blocks import Block
from eval.latex_widths import LINE, WIDE, column_parts, head_lines, longest_cell
from eval.report_tables import Cell, Table

_LONG = 40
_SCALED = 1.35  # of a line's width, at most
_FIT = r"""\providecommand{\tablefit}[1]{%  no wider than the line
  \sbox0{#1}\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi}"""
_SMALL = r"\footnotesize\setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{4pt}"
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
        r"% needs \usepackage[T1]{fontenc} and \usepackage{booktabs, longtable, array, graphicx}",
        _FIT,
    ]
    parts = []
    for block in blocks:
        for number, titled in enumerate(block.tables):
            caption = f"{block.title}: {titled.title}." if titled.title else f"{block.title}."
            notes = " ".join(block.notes) if number == 0 else ""
            parts.append(latex_table(titled.table, caption, f"tab:{block.id}-{number}", notes))
    return "\n".join(head) + "\n\n" + "\n\n".join(parts) + "\n"


def latex_table(table: Table, caption: str, label: str, notes: str = "") -> str:
    """One table, or several of its columns; numbers to the right, the best of a row bold, a total apart.

    notes: what follows the caption, once.
    """
    long = len(table.rows) > _LONG
    parts = column_parts(table, LINE * (1 if long else _SCALED))
    if len(parts) == 1:
        return _set(table, f"{caption} {notes}".strip(), label, long)
    found = []
    for number, part in enumerate(parts, 1):
        named = f"{caption.rstrip('.')} ({number} of {len(parts)}). {notes if number == 1 else ''}".strip()
        found.append(_set(part, named, f"{label}-part-{number}", long))
    return "\n\n".join(found)


def _set(table: Table, caption: str, label: str, long: bool) -> str:
    columns = "".join(_column(table, number) for number in range(len(table.columns)))
    head = " & ".join(_head(table, number) for number in range(len(table.columns))) + r" \\"
    rows = [" & ".join(map(_cell, row)) + r" \\" for row in table.rows]
    if table.total and rows:
        rows.insert(-1, r"\midrule")
    named = rf"\caption{{{escape(caption)}}}", rf"\label{{{_label(label)}}}"
    top = [r"\toprule", head, r"\midrule"]
    if long:
        # A head that is repeated must not hold the label: it would be there once a page.
        first = ["".join(named) + r" \\", *top, r"\endfirsthead"]
        again = [r"\caption[]{(continued)} \\", *top, r"\endhead"]
        begin = [r"\begingroup" + _SMALL, rf"\begin{{longtable}}{{{columns}}}"]
        return "\n".join([*begin, *first, *again, *rows, r"\bottomrule", r"\end{longtable}", r"\endgroup"])
    body = [r"\begin{table}", r"\centering" + _SMALL, *named, rf"\tablefit{{\begin{{tabular}}{{{columns}}}"]
    return "\n".join([*body, *top, *rows, r"\bottomrule", r"\end{tabular}}", r"\end{table}"])


def _head(table: Table, number: int) -> str:
    lines = [escape(line) for line in head_lines(table, number)]
    return lines[0] if len(lines) == 1 else r"\shortstack[r]{" + r"\\".join(lines) + "}"


def _column(table: Table, number: int) -> str:
    if number >= table.texts:
        return "r"
    return r">{\raggedright\arraybackslash}p{2.5cm}" if longest_cell(table, number) > WIDE else "l"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    text = f"{{}}{text}" if text.startswith(("[", "*")) else text  # after a row's end these would be its options
    if cell.code:
        return rf"\texttt{{{_breakable(text)}}}"
    return rf"\textbf{{{text}}}" if cell.best else text


def _breakable(text: str) -> str:
    """A path that may go on in the next line after a sign."""
    return re.sub(r"(/|\\_|-|\.|:)", r"\1\\allowbreak{}", text)


def _label(text: str) -> str:
    """A label takes letters, digits and a few signs; anything else becomes a dash."""
    return re.sub(r"[^A-Za-z0-9:@.-]", "-", text)


def _comment(text: str) -> str:
    return " ".join(text.split())
