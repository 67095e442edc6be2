"""The command line where it is pure: what people write, where the server is, what is printed, how it comes out."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from cloudctl.cli.access import Access, find_access
from cloudctl.cli.client import refused
from cloudctl.cli.doctor import clock, is_low
from cloudctl.cli.errors import CliError, ExitCode
from cloudctl.cli.findings import Level
from cloudctl.cli.machine import acceleration, program, room
from cloudctl.cli.main import main
from cloudctl.cli.output import clean, size
from cloudctl.cli.table import Field, Kind
from cloudctl.cli.values import bytes_of, seconds_of, value_of
from cloudctl.cli.waiting import exit_code_of, story

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\u202etxt.exe\u202c\u2066\u2028\x7f\0"
"""Window title, clear screen, carriage return, C1 control, direction overrides, separators, DEL, NUL."""


class TestWhatPeopleWrite:
    @pytest.mark.parametrize(
        ("text", "bytes_"),
        [("0", 0), ("512", 512), ("1K", 1024), ("192MiB", 192 << 20), ("1.5 GiB", 3 << 29), ("2tb", 2 << 40)],
    )
    def test_sizes_are_powers_of_1024(self, text: str, bytes_: int) -> None:
        assert bytes_of(text) == bytes_

    @pytest.mark.parametrize("text", ["", "GiB", "-1", "1X", "1e9", "0x10", "1 2", "1,5G"])
    def test_no_size(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not a size"):
            bytes_of(text)

    @pytest.mark.parametrize(
        ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("12h", 43_200), ("30d", 2_592_000)]
    )
    def test_times(self, text: str, seconds: float) -> None:
        assert seconds_of(text) == seconds

    @pytest.mark.parametrize(
        ("text", "value"), [("30", 30), ("true", True), ("1.5", 1.5), ("127.0.0.0/8", "127.0.0.0/8"), ('"30"', "30")]
    )
    def test_json_or_text(self, text: str, value: object) -> None:
        assert value_of(Field("value", Kind.JSON), text) == value

    def test_an_object_is_its_members_or_the_value_of_the_only_one(self) -> None:
        disk = Field("data_disks", Kind.OBJECT, many=True, members=(Field("size_bytes", Kind.BYTES),))
        assert value_of(disk, "size=1G") == value_of(disk, "1G") == {"size_bytes": 1 << 30}
        limits = Field("limits", Kind.OBJECT, members=(Field("vms", Kind.NUMBER, nullable=True), Field("note")))
        assert value_of(limits, "vms=none,note=a=b") == {"vms": None, "note": "a=b"}
        with pytest.raises(ValueError, match="members: vms, note"):
            value_of(limits, "vm=1")

    def test_a_content_is_text_or_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "user-data").write_text("#cloud-config\n")
        field = Field("user_data", Kind.CONTENT)
        assert value_of(field, "inline") == "inline"
        assert value_of(field, f"@{tmp_path}/user-data") == "#cloud-config\n"
        with pytest.raises(ValueError, match="cannot be read"):
            value_of(field, f"@{tmp_path}/none")

    def test_standard_input_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("-----BEGIN\n"))
        assert value_of(Field("certificate", Kind.CONTENT), "@-") == "-----BEGIN\n"

    @pytest.mark.parametrize("kind", [Kind.SECRET, Kind.SECRET_MAP])
    def test_a_secret_comes_from_a_file_only(self, kind: Kind, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("s3cret\n")
        name = "X-Key=" if kind is Kind.SECRET_MAP else ""
        read = value_of(Field("secret", kind), f"{name}@{tmp_path}/secret")
        assert read in ("s3cret", ("X-Key", "s3cret"))
        with pytest.raises(ValueError, match="no secret") as refusal:
            value_of(Field("secret", kind), f"{name}s3cret")
        assert "s3cret" not in str(refusal.value)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["vms", "create", "--name", "a"], "Missing option"),
            (["vms", "create", "--memory", "lots"], "is not a size"),
            (["templates", "create", "--format", "vmdk"], "none of qcow2, raw, iso"),
            (["users", "create", "--password", "hunter2"], "no secret"),
            (["vms", "stop"], "Missing argument"),
            (["vms", "fly"], "No such command"),
            (["vms", "start", "a", "--wait", "--timeout", "soon"], "is not a time"),
        ],
    )
    def test_a_mistake_is_usage(self, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(arguments) == ExitCode.USAGE
        err = capsys.readouterr().err
        assert said in err
        assert "hunter2" not in err


class TestWhereTheServerIs:
    def file(self, folder: Path, text: str, mode: int = 0o600) -> Path:
        path = folder / "config.toml"
        path.write_text(text)
        path.chmod(mode)
        return path

    def test_options_then_environment_then_file(self, tmp_path: Path) -> None:
        file = self.file(tmp_path, 'url = "https://file"\ntoken = "of-file"')
        (tmp_path / "token").write_text("of-option\n")
        environment = {"CLOUDCTL_URL": "https://env", "CLOUDCTL_TOKEN": "of-env"}
        assert find_access({}, file=file) == Access("https://file", "of-file")
        assert find_access(environment, file=file) == Access("https://env", "of-env")
        found = find_access(environment, "https://option/", str(tmp_path / "token"), file)
        assert found == Access("https://option", "of-option")

    def test_the_default_file_is_found(self, tmp_path: Path) -> None:
        (tmp_path / "cloudctl").mkdir()
        self.file(tmp_path / "cloudctl", 'url = "https://file"\ntoken = "t"')
        assert find_access({"XDG_CONFIG_HOME": str(tmp_path)}) == Access("https://file", "t")

    def test_the_token_of_the_file_goes_to_the_address_of_the_file_only(self, tmp_path: Path) -> None:
        file = self.file(tmp_path, 'url = "https://file/"\ntoken = "t"')
        assert find_access({"CLOUDCTL_URL": "https://elsewhere"}, file=file).token == ""
        assert find_access({"CLOUDCTL_URL": "https://file"}, file=file).token == "t"

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602])
    def test_a_file_that_others_can_read_or_change_is_refused(self, tmp_path: Path, mode: int) -> None:
        file = self.file(tmp_path, 'url = "https://file"\ntoken = "t"', mode)
        with pytest.raises(CliError, match="chmod 600"):
            find_access({}, file=file)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("url = ", "cannot be read"),
            ("url = 1", "must be texts"),
            ('url = "https://a"\ntokn = "t"', "unknown keys: tokn"),
            ('url = "cloud.example"', "no address"),
            ('url = "ftp://cloud.example"', "no address"),
            ('url = "https://me:pw@cloud.example"', "more than scheme"),
            ('url = "https://a"\ntoken = "a b"', "what no token holds"),
            ('url = "https://a"\ntoken = "a\\nHost: b"', "what no token holds"),
            ("", "not known where"),
        ],
    )
    def test_what_cannot_be_used_is_said(self, tmp_path: Path, text: str, said: str) -> None:
        with pytest.raises(CliError, match=said) as error:
            find_access({}, file=self.file(tmp_path, text))
        assert error.value.exit_code == ExitCode.USAGE


class TestWhatIsPrinted:
    def test_nothing_that_a_terminal_could_act_on_is_left(self) -> None:
        assert clean(HOSTILE).isprintable()
        assert clean(HOSTILE).startswith("\\x1b]0;owned\\x07")
        assert clean("Größe 漢字 🙂 [bold]") == "Größe 漢字 🙂 [bold]"

    @pytest.mark.parametrize("number", [0, 1023, 1024, 3 << 29, 5 << 60])
    def test_sizes(self, number: int) -> None:
        assert (
            size(number) == {0: "0 B", 1023: "1023 B", 1024: "1 KiB", 3 << 29: "1.5 GiB", 5 << 60: "5120 PiB"}[number]
        )

    def test_a_problem_keeps_its_parts_and_fields(self) -> None:
        parts = {"cause": "c", "consequence": "q", "remedy": "r", "errors": {"name": ["Too long."]}, "operation": "o1"}
        error = refused(400, parts)
        assert (error.cause, error.consequence, error.remedy, error.status) == ("c", "q", "r", 400)
        assert ("name", "Too long.") in error.details
        assert "cloudctl operations watch o1" in dict(error.details)["in the way"]

    @pytest.mark.parametrize("body", [None, [], "text", {}, {"errors": "no mapping"}])
    def test_an_answer_that_is_no_problem_is_told_all_the_same(self, body: Any) -> None:
        error = refused(418, body)
        assert "418" in error.cause
        assert error.remedy


class TestHowItComesOut:
    @pytest.mark.parametrize(
        ("state", "wanted", "code"),
        [
            ("succeeded", "succeeded", 0),
            ("failed", "succeeded", 1),
            ("needs_attention", "succeeded", 3),
            ("cancelled", "succeeded", 4),
            ("cancelled", "cancelled", 0),
            ("succeeded", "cancelled", 1),
            ("failed", "cancelled", 1),
            ("needs_attention", "cancelled", 3),
        ],
    )
    def test_the_exit_code_is_the_outcome(self, state: str, wanted: str, code: int) -> None:
        assert exit_code_of({"state": state}, wanted) == code

    def test_the_story_of_an_operation_on_its_way(self) -> None:
        progress = {"done_bytes": 1 << 20, "total_bytes": 4 << 20, "rate": 1 << 20, "eta_seconds": 3, "message": "m"}
        row = {"state": "running", "step": "download", "direction": "do", "progress": progress}
        assert story(row) == "running, download · 1 MiB of 4 MiB · 1 MiB/s · 3 s left · m"
        assert story(row | {"direction": "undo", "progress": {}}) == "running, download · putting back"
        assert story(row | {"state": "succeeded", "step": None}) == "succeeded"

    def test_nothing_is_asked_without_an_address(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        monkeypatch.delenv("CLOUDCTL_URL", raising=False)
        assert main(["vms", "list"]) == ExitCode.USAGE
        err = capsys.readouterr().err
        assert "remedy: Give --url" in err

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_completion_is_printed(self, shell: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["completion", shell]) == 0
        assert "_CLOUDCTL_COMPLETE" in capsys.readouterr().out


class TestDoctor:
    @pytest.mark.parametrize(
        ("asked", "answered", "apart"),
        [(1000.0, 1000.2, None), (1000.9, 1001.0, None), (995.0, 995.1, 5), (1010.0, 1010.1, 9), (900.0, 1100.0, None)],
    )
    def test_clocks_are_compared_with_what_the_answer_can_tell(
        self, asked: float, answered: float, apart: int | None
    ) -> None:
        found = list(clock("Thu, 01 Jan 1970 00:16:40 GMT", asked, answered))
        assert [f"{apart} s apart" in finding.what for finding in found] == ([] if apart in (None, 5) else [True])
        assert not list(clock("no date", asked, answered))

    def test_a_pool_is_low_below_a_tenth_or_when_nothing_is_known(self) -> None:
        assert is_low({"available_bytes": 10, "capacity_bytes": 100})
        assert not is_low({"available_bytes": 11, "capacity_bytes": 100})
        assert is_low({"available_bytes": 0, "capacity_bytes": 0})

    def test_programs_are_run(self) -> None:
        assert program(["true"], "").level is Level.GOOD
        failed = program(["false"], "Do this.")
        assert (failed.level, failed.remedy) == (Level.BAD, "Do this.")
        assert "cannot be started" in program(["no-such-program-here"], "").what

    def test_a_host_without_qemu_is_told_why_it_has_no_kvm(self) -> None:
        found = acceleration("no-such-qemu")
        assert found.level is Level.DOUBTFUL
        assert "no-such-qemu cannot be started" in found.what

    def test_room(self, tmp_path: Path) -> None:
        free = os.statvfs(tmp_path)
        assert free.f_bavail * 10 > free.f_blocks, "this machine's disk is full"
        assert room(tmp_path).level is Level.GOOD
        assert room(tmp_path / "none").level is Level.BAD

    def test_without_an_address_the_machine_is_looked_at_nevertheless(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        monkeypatch.delenv("CLOUDCTL_URL", raising=False)
        # No program is found, so that the test does not depend on what this machine has.
        monkeypatch.setenv("PATH", str(tmp_path))
        assert main(["doctor", "--host", "--room", str(tmp_path), "--output", "json"]) == ExitCode.FAILED
        findings = json.loads(capsys.readouterr().out)
        assert [one["level"] for one in findings] == ["problem", "problem", "problem", "warning", "ok"]
        assert all(one["remedy"] for one in findings if one["level"] != "ok")
