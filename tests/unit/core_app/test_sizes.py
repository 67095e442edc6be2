"""Sizes as people write them."""

import pytest

from core_app.sizes import read_size, size_text


@pytest.mark.parametrize(
    ("text", "size"),
    [("1048576", 1 << 20), ("10 GiB", 10 << 30), ("512M", 512 << 20), ("1.5 g", 3 << 29), ("2KB", 2048), (" 7 B ", 7)],
)
def test_what_people_write(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "1 EiB", "1.5", "0.3 KiB", "1 2", "1e3", "1 GiB 2 GiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"size as|whole number"):
        read_size(text)


@pytest.mark.parametrize("size", [0, 7, 1000, 1024, 1 << 20, 64 << 20, 3 << 29, 10 << 30, 1 << 40, 5 << 60])
def test_what_is_shown_can_be_written(size: int) -> None:
    assert read_size(size_text(size)) == size


def test_three_digits_are_shown() -> None:
    assert [size_text(size) for size in (1234567, 123456789, 999 << 20)] == ["1.18 MiB", "118 MiB", "999 MiB"]
