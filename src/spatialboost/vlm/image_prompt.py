"""How an image stands in the text: its visual tokens alone, or each cell's tokens after the name of the cell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from spatialboost.errors import SpatialBoostError

Form = Literal["plain", "named", "coordinates"]

IMAGE = "<image>"
MOST_CELLS = 50  # a side: with more, the centres of two cells can have the same coordinates with two decimals
_POINT = re.compile(r"\((0\.\d\d|1\.00), (0\.\d\d|1\.00)\)")  # as questions write points


@dataclass(frozen=True)
class ImagePrompt:
    """What stands in the text in the place of an image.

    Example:
        >>> prompt = ImagePrompt((2, 2), "named", tokens_per_cell=3)
        >>> prompt.pieces(0, 1)
        [('Image: A1:', 3), ('; A2:', 3), ('; B1:', 3), ('; B2:', 3)]
        >>> prompt.reword("What is the depth at (0.75, 0.25)? And at (0.80, 0.25)?")
        'What is the depth at A2? And at (0.80, 0.25) in A2?'

    A cell is one position of the grid of features that the projector reads: a patch, or a square of patches if they are
    pooled. Rows have letters, from the top; columns have numbers, from the left. The name of a cell alone stands for
    the point at its centre, in coordinates with two decimals (`centre`). So a question keeps its meaning, and its
    answer stays true.

    A pretrained language model finds the tokens of a cell by its name, as it finds any word of its context again. It
    cannot find them by their order alone without much training.

    Args:
        grid: Rows and columns of cells.
        form: ``plain``: the visual tokens one after the other, as in the paper. ``named``: before the tokens of each
            cell stands its name, such as ``B3``. ``coordinates``: before them stand the coordinates of its centre, such
            as ``(0.62, 0.38)``.
        tokens_per_cell: Visual tokens that the projector makes of each cell.

    Raises:
        SpatialBoostError: The form is unknown, a number is below one, or there are too many cells for names.
    """

    grid: tuple[int, int]
    form: Form = "plain"
    tokens_per_cell: int = 1

    def __post_init__(self) -> None:
        if self.form not in ("plain", "named", "coordinates"):
            raise SpatialBoostError(f"prompt is {self.form!r}; expected plain, named or coordinates")
        if min(*self.grid, self.tokens_per_cell) < 1:
            raise SpatialBoostError(
                f"an image of {self.grid[0]} x {self.grid[1]} cells with {self.tokens_per_cell} tokens each; expected "
                "at least 1 of each"
            )
        if self.form != "plain" and max(self.grid) > MOST_CELLS:
            raise SpatialBoostError(
                f"prompt is {self.form}, but an image has {self.grid[0]} x {self.grid[1]} cells; expected at most "
                f"{MOST_CELLS} a side: choose a larger pool or a smaller data.image_size"
            )

    @property
    def num_tokens(self) -> int:
        """Visual tokens of an image."""
        return self.grid[0] * self.grid[1] * self.tokens_per_cell

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the cells, row by row; empty strings in the form ``plain``."""
        rows, columns = self.grid
        cells = [(row, column) for row in range(rows) for column in range(columns)]
        if self.form == "plain":
            return ("",) * len(cells)
        if self.form == "named":
            return tuple(f"{_letters(row)}{column + 1}" for row, column in cells)
        return tuple(_written(self.centre(row, column)) for row, column in cells)

    def centre(self, row: int, column: int) -> tuple[int, int]:
        """The point (x, y) that the name of a cell stands for, in hundredths of the image's width and height.

        Example:
            >>> ImagePrompt((4, 4)).centre(1, 2)
            (62, 38)
        """
        rows, columns = self.grid
        return round((2 * column + 1) * 50 / columns), round((2 * row + 1) * 50 / rows)

    def pieces(self, number: int, count: int) -> list[tuple[str, int]]:
        """The text before each group of visual tokens, and the number of tokens in the group.

        Args:
            number: Number of the image in the conversation, from 0.
            count: Number of images in the conversation; if there are several, their numbers are said.
        """
        if self.form == "plain":
            return [("", self.num_tokens)]
        head = "Image" if count == 1 else f"Image {number + 1}"
        starts = [f"{head}: ", *["; "] * (len(self.names) - 1)]
        return [(f"{start}{name}:", self.tokens_per_cell) for start, name in zip(starts, self.names, strict=True)]

    def length(self, tokenizer: Any) -> int:
        """All tokens that stand in the place of the only image of a conversation.

        Where there is no tokenizer, five are counted for a name and ten for coordinates, with what stands around them.
        """
        texts = [text for text, _ in self.pieces(0, 1) if text]
        if not texts:
            return self.num_tokens
        if not callable(tokenizer):
            return self.num_tokens + len(texts) * (5 if self.form == "named" else 10)
        return self.num_tokens + sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))

    def reword(self, text: str) -> str:
        """A text in which the points are said by the names of cells: the centre of a cell by the name alone."""
        return text if self.form == "plain" else _POINT.sub(self._say, text)

    def reworded(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Messages in which the points are said by the names of cells; the contents are texts."""
        return [{**message, "content": self.reword(message["content"])} for message in messages]

    def spelled(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The messages with all their text, also that of images; each image still has its mark.

        Example:
            >>> ImagePrompt((1, 2), "named").spelled([{"role": "user", "content": "<image>\\nHow deep?"}])
            [{'role': 'user', 'content': 'Image: A1:; A2:<image>\\nHow deep?'}]
        """
        count, seen, spelled = sum(message["content"].count(IMAGE) for message in messages), 0, []
        for message in self.reworded(messages):
            content, *rest = message["content"].split(IMAGE)
            for part in rest:
                content += "".join(text for text, _ in self.pieces(seen, count)) + IMAGE + part
                seen += 1
            spelled.append({**message, "content": content})
        return spelled

    def _say(self, found: re.Match[str]) -> str:
        x, y = (round(100 * float(number)) for number in found.groups())
        rows, columns = self.grid
        row, column = min(y * rows // 100, rows - 1), min(x * columns // 100, columns - 1)
        name = self.names[row * columns + column]
        if self.centre(row, column) == (x, y):
            return name
        return f"{found[0]} in {name}" if self.form == "named" else f"{found[0]} in the cell at {name}"


def _letters(number: int) -> str:
    """0 is A, 25 is Z, 26 is AA, as the columns of a spreadsheet."""
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def _written(point: tuple[int, int]) -> str:
    return f"({point[0] / 100:.2f}, {point[1] / 100:.2f})"
