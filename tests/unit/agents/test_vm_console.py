"""vm.console: the tail of a log that a guest wrote, whatever it wrote."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.common.errors import CommandError
from agents.handlers.vm_console import TAIL_BYTES, VmConsoleHandler, readable
from agents.protocol.kinds import VmConsole, VmConsoleAnswer
from tests.unit.agents.fake_context import FakeContext

LOG = "vm-1.log"


def read(folder: Path, lines: int = 100) -> VmConsoleAnswer:
    return VmConsoleHandler(folder).run(FakeContext(), VmConsole(vm_id="1", console_name=LOG, lines=lines))


def test_the_last_lines_are_told(tmp_path: Path) -> None:
    (tmp_path / LOG).write_bytes(b"one\r\ntwo\r\nthree\r\nlogin: ")
    assert read(tmp_path) == VmConsoleAnswer(text="one\ntwo\nthree\nlogin: ", truncated=False)
    assert read(tmp_path, 2) == VmConsoleAnswer(text="three\nlogin: ", truncated=True)


def test_a_long_log_is_cut_off_at_its_beginning(tmp_path: Path) -> None:
    (tmp_path / LOG).write_bytes(b"a" * TAIL_BYTES + b"\nlast")
    answer = read(tmp_path)
    assert (len(answer.text), answer.text[-6:], answer.truncated) == (TAIL_BYTES, "a\nlast", True)


def test_what_was_just_moved_aside_comes_before(tmp_path: Path) -> None:
    (tmp_path / f"{LOG}.0").write_bytes(b"x" * TAIL_BYTES + b"older\n")
    (tmp_path / LOG).write_bytes(b"newer\n")
    answer = read(tmp_path)
    assert (len(answer.text), answer.text[-13:], answer.truncated) == (TAIL_BYTES, "xolder\nnewer\n", True)
    assert read(tmp_path, 1).text == "newer\n"


def test_where_there_is_none_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        read(tmp_path)
    assert caught.value.problem.code == "no_console"


def test_nothing_leads_out_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        VmConsoleHandler(tmp_path).run(FakeContext(), VmConsole(vm_id="1", console_name="../secret"))


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"\x1b[2J\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b]0;window title\x07shell", "shell"),
        (b"\x1bc\x1b(Breset", "reset"),
        (b"bell\x07 nul\x00 tab\t", "bell\ufffd nul\ufffd tab\t"),
        (b"half\rline", "half\nline"),
        ("to\u202eleft \u2066iso\u2028late".encode(), "to\ufffdleft \ufffdiso\ufffdlate"),
        ("Grüße 🐧".encode(), "Grüße 🐧"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"<script>alert(1)</script>", "<script>alert(1)</script>"),
    ],
)
def test_what_acts_on_a_terminal_is_not_told(raw: bytes, shown: str) -> None:
    assert readable(raw) == shown


@given(st.binary())
def test_nothing_unreadable_gets_through(raw: bytes) -> None:
    text = readable(raw).replace("\n", "").replace("\t", "")
    assert not [
        character for character in text if unicodedata.category(character) in {"Cc", "Cf", "Cn", "Cs", "Zl", "Zp"}
    ]
