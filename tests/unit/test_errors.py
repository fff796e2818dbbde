"""Messages stay one line that a person reads, whatever people call their files and classes."""

from classifier.errors import shorten


def test_names_in_a_message_are_few_and_short() -> None:
    long = "a" * 100 + "b" * 100
    assert shorten(["cat", "dog"]) == "cat, dog"
    assert shorten([long]) == f"{'a' * 40}…{'b' * 40}"
    assert shorten([*"abcdef", long]) == "a, b, c, d, e and 2 more"
    assert shorten([*"abcdef", long], 6) == f"a, b, c, d, e, f, {'a' * 40}…{'b' * 40}"
