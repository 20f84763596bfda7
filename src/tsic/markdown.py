"""Tables as Markdown that also reads well as it stands."""

from collections.abc import Sequence


def to_markdown(rows: Sequence[Sequence[str]], *, texts: int = 1) -> str:
    """Line up a table whose first row is its head.

    Args:
        rows: Cells, as many in each row.
        texts: Columns that stand at the left; the others are numbers, which stand at the right.

    Returns:
        Lines of Markdown, without a line break at the end.
    """
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        [f"{cell:{'<' if i < texts else '>'}{widths[i]}}" for i, cell in enumerate(row)]
        for row in rows
    ]
    rule = [f"{'-' * (width + 1)}{'-' if i < texts else ':'}" for i, width in enumerate(widths)]
    head, *others = (f"| {' | '.join(cells)} |" for cells in lines)
    return "\n".join([head, f"|{'|'.join(rule)}|", *others])
