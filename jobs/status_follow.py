"""`ccp-ray status --follow`: look again and again, as a table that renews itself on a terminal, as lines elsewhere.

    stage       state     done                    rows/s   left        last commit
    corpus      finished  9,000 rows
    encoder     running   step 120 of 220, loss 3.412, 1,234 tokens/s  4.0 minutes  30 seconds ago
    embeddings  waiting

Lines are of stages that run, at each look, and of others when their state changes. Looking costs requests, so no more
than a tenth of the time is spent on it: a look that takes a second is followed by a pause of ten.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table

from jobs.plan import duration

Row = Mapping[str, Any]
_PAUSE = 9.0  # of the time that a look took, at least
_STYLES = {"finished": "green", "running": "bold", "stalled": "red", "waiting": "dim"}


class Line(NamedTuple):
    """One output, as people read it."""

    stage: str
    state: str
    done: str = ""
    speed: str = ""
    left: str = ""
    last: str = ""


def follow(
    look: Callable[[], list[Any]],
    show: Callable[[Iterator[list[Any]]], None],
    every: float,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Give `show` what `look` finds, until all of it is finished."""

    def looks() -> Iterator[list[Any]]:
        while True:
            started = time.monotonic()
            rows = look()
            taken = time.monotonic() - started
            yield rows
            if all(row["state"] == "finished" for row in rows):
                return
            sleep(max(every, _PAUSE * taken))

    show(looks())


def shown_live(console: Console | None = None) -> Callable[[Iterator[list[Row]]], None] | None:
    """Shows a table that renews itself; None where standard output is no terminal."""
    console = console or Console()
    if not console.is_terminal:
        return None

    def show(looks: Iterator[list[Row]]) -> None:
        with Live(console=console, auto_refresh=False) as live:
            for rows in looks:
                live.update(_table(lines(rows)), refresh=True)

    return show


def shown_plain(looks: Iterator[list[Row]]) -> None:
    """Prints lines."""
    states: dict[str, str] = {}
    for rows in looks:
        now = time.strftime("%H:%M:%S")
        for line in lines(rows):
            if line.state == "running" or states.get(line.stage) != line.state:
                ends = (line.left and f"{line.left} left", line.last and f"last commit {line.last}")
                figures = (line.done, line.speed, *ends)
                print(f"{now} {line.stage}: {', '.join(part for part in (line.state, *figures) if part)}")
            states[line.stage] = line.state
        sys.stdout.flush()


def _table(found: Sequence[Line]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("stage", "state", "done", "speed", "left", "last commit"):
        table.add_column(title, justify="right" if title in ("speed", "left") else "left", no_wrap=title != "done")
    for line in found:
        table.add_row(*line, style=_STYLES[line.state])
    return table


def lines(rows: Sequence[Row]) -> list[Line]:
    """A line an output, named from the folder that they have in common."""
    cut = len(_common_folder([row["uri"] for row in rows]))
    return [_line(row["uri"][cut:], row) for row in rows]


def _line(stage: str, row: Row) -> Line:
    if row["state"] == "waiting":
        return Line(stage, "waiting")
    if row["state"] == "finished":
        rows = row["summary"].get("rows")
        return Line(stage, "finished", "" if rows is None else f"{rows:,} rows")
    idle, active = row["last_commit_s"], row["active"]
    last = "" if idle is None else f"{duration(idle)} ago"
    state = "running" if active else "stalled"
    if "training" in row:
        now = row["training"]
        done = f"step {now['step']:,} of {now['steps']:,}, loss {now['loss']:.3f}"
        left = duration(now["left_s"]) if active else ""
        return Line(stage, state, done, f"{now['tokens_per_s']:,.0f} tokens/s", left, last)
    return Line(stage, state, *_pieces(row["stages"]), last)


def _pieces(stages: Mapping[str, Mapping[str, Any]]) -> tuple[str, str, str]:
    """What is done, how fast and how long yet, of the first part that is not through, or of the last."""
    if not stages:
        return "", "", ""
    through = list(takewhile(lambda item: item[1]["committed"] == item[1]["planned"], stages.items()))
    name, part = [*stages.items()][min(len(through), len(stages) - 1)]
    label = "" if name == "pieces" else f"{name}: "
    done = f"{label}{part['committed']:,}" + ("" if part["planned"] is None else f" of {part['planned']:,}")
    share = f", {100 * part['rows'] / part['planned_rows']:.1f} %" if part["planned_rows"] else ""
    speed = f"{part['rows_per_s']:,.0f} rows/s" if part["rows_per_s"] else ""
    return f"{done} pieces{share}", speed, duration(part["left_s"]) if part["left_s"] else ""


def _common_folder(uris: Sequence[str]) -> str:
    """Up to and with its last slash; of one URI its folder."""
    first, *others = [uri.split("/")[:-1] for uri in uris]
    common = list(takewhile(lambda parts: len(set(parts)) == 1, zip(first, *others, strict=False)))
    return "".join(f"{parts[0]}/" for parts in common)
