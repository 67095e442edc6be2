"""Secrets: readable by one agent on their way, by this installation at rest."""

import base64
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from nacl.exceptions import CryptoError
from pytest_django.fixtures import Settings

from agents.protocol.sealing import new_key, unseal
from core_app.keys import key_from_file
from core_app.sealing import decrypt_at_rest, encrypt_at_rest, seal_to_agent


@pytest.fixture
def secrets_dir(tmp_path: Path, settings: Settings) -> Path:
    settings.CLOUDCTL_SECRETS_DIR = tmp_path / "secrets"
    return tmp_path / "secrets"


def test_what_is_stored_comes_back_and_is_not_readable(secrets_dir: Path) -> None:
    stored = encrypt_at_rest("hunter2 ✓")
    assert decrypt_at_rest(stored) == "hunter2 ✓"
    assert b"hunter2" not in base64.b64decode(stored)
    assert encrypt_at_rest("hunter2 ✓") != stored
    assert stat.S_IMODE((secrets_dir / "at-rest.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(secrets_dir.stat().st_mode) == 0o700


def test_altered_or_foreign_data_is_refused(secrets_dir: Path) -> None:
    stored = base64.b64decode(encrypt_at_rest("x"))
    altered = base64.b64encode(stored[:-1] + bytes([stored[-1] ^ 1])).decode()
    with pytest.raises(CryptoError):
        decrypt_at_rest(altered)
    (secrets_dir / "at-rest.key").write_bytes(bytes(32))
    with pytest.raises(CryptoError):
        decrypt_at_rest(base64.b64encode(stored).decode())


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "key"
    program = (
        "import sys; from pathlib import Path; from core_app.keys import key_from_file; sys.stdin.read(1);"
        "print(key_from_file(Path(sys.argv[1])).hex())"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    answers = [run.communicate("go", timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * 8
    keys = {answer.strip() for answer in answers}
    assert keys == {key_from_file(path).hex()}
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]


def test_a_damaged_key_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="restore it from a backup"):
        key_from_file(path)
    assert path.read_bytes() == b"short"


def test_only_the_agent_opens_what_is_sealed_to_it() -> None:
    private, public = new_key()
    sealed = seal_to_agent(public, {"Authorization": "Bearer hunter2"})
    assert unseal(private, sealed) == {"Authorization": "Bearer hunter2"}
    with pytest.raises(CryptoError):
        unseal(new_key()[0], sealed)
