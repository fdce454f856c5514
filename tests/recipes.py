"""What docs/coming_from_pytorch.md says, taken apart: rows of its tables, and the blocks of its sections."""

import pathlib
import re

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "coming_from_pytorch.md"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def sections() -> dict[str, str]:
    """Heading -> what is below it; the part before the first has the page's title."""
    parts = re.split(r"^##? (.*)\n", PAGE.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def rows() -> list[tuple[list[str], str]]:
    """(torch's code, one of gradx's for it) in the tables' rows, without what stands in a block as well."""
    text = PAGE.read_text()
    ours = "".join(blocks(text, "python"))
    code = lambda cell: re.findall(r"`([^`]+)`", cell)
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [
        (code(left), made)
        for left, right in cells
        for made in code(right)
        if "gx." in made and made not in ours
    ]
