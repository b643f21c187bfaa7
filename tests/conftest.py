"""What all tests share."""

from tests.databases import DATABASES


def pytest_sessionfinish() -> None:
    DATABASES.stop()
