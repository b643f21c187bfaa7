"""The documented import names: the same code as ours, and never beside the published packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import caracalai_revocation
from countermand.published import refuse_twice
from countermand.stores.contract import DEFAULT_REVOCATION_TTL_MS, RevocationStore
from countermand.stores.memory import InMemoryRevocationStore


def test_the_documented_import_name_is_the_same_code() -> None:
    assert sorted(caracalai_revocation.__all__) == [
        "DEFAULT_REVOCATION_TTL_MS",
        "InMemoryRevocationStore",
        "RevocationStore",
    ]
    assert caracalai_revocation.InMemoryRevocationStore is InMemoryRevocationStore
    assert caracalai_revocation.RevocationStore is RevocationStore
    assert caracalai_revocation.DEFAULT_REVOCATION_TTL_MS == DEFAULT_REVOCATION_TTL_MS == 86_400_000


def install(folder: Path, distribution: str) -> None:
    """Put into `folder` what an installer leaves of a distribution."""
    name = distribution.replace("-", "_")
    info = folder / f"{name}-1.2.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2.3\n")


def test_a_published_package_beside_ours_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "caracalai-made-up")
    refuse_twice("caracalai-made-up")

    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ImportError, match="pip uninstall caracalai-made-up") as caught:
        refuse_twice("caracalai-made-up")
    assert caught.value.name == "caracalai_made_up"


@pytest.mark.parametrize(("distribution", "refused"), [("caracalai-revocation", True), ("caracalai-core", False)])
def test_our_documented_name_refuses_to_be_imported_beside_the_published_one(
    tmp_path: Path, distribution: str, refused: bool
) -> None:
    install(tmp_path, distribution)

    done = subprocess.run(
        [sys.executable, "-c", "import caracalai_revocation"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode != 0) is refused
    assert ("ImportError: caracalai-revocation and countermand are both installed" in done.stderr) is refused
