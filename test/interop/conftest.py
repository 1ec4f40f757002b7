"""conftest.py - fixtures: a folder that is kept, and whatever a test starts is ended after it."""
import shutil

import pytest

from harness import INSTALLED, Appservice, Proxy


@pytest.fixture(scope="module")
def folder(request):
    path = INSTALLED / "run" / request.module.__name__
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


@pytest.fixture(scope="module")
def started():
    """A function that starts a program, which is ended after the module's last test."""
    programs = []

    def start(program):
        programs.append(program)
        return program.start()

    yield start
    for program in programs:
        program.stop()


@pytest.fixture(scope="module")
def appservice(folder, started):
    return started(Appservice(folder))


@pytest.fixture(scope="module")
def proxy(appservice):
    proxy = Proxy(appservice.url)
    yield proxy
    proxy.stop()
