"""Class names in pictures, which have one font: matplotlib's own, so that they look the same on every machine."""

from collections.abc import Sequence

NAME_LENGTH = 24  # characters


def drawable_names(class_names: Sequence[str]) -> list[str]:
    """Class names as the font can draw them: shortened, and by number where it lacks a character."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    known = font.get_charmap().keys()
    return [
        (name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…")
        if all(ord(character) in known for character in name)
        else f"class {number}"
        for number, name in enumerate(class_names)
    ]
