import pytest
from ranks import Server


@pytest.fixture(scope="session")
def server():
    """Starts the processes of all fault tests."""
    with Server() as server:
        yield server
