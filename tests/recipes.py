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


def rows() -> list[tuple[list[str], list[str]]]:
    """The code of both columns of each row of the tables, torch's first."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    code = lambda cell: re.findall(r"`([^`]+)`", cell)
    return [(code(left), code(right)) for left, right in (line.strip("| ").split(" | ") for line in lines)]
