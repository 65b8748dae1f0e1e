"""Small videos, stores and a running server for the tests of the labeling app."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import uvicorn
from sqlalchemy import create_engine

from labeling_app.files.candidates import import_tasks
from labeling_app.store import passwords
from labeling_app.store.database import database_url
from labeling_app.store.store import UPLOADS, Store
from labeling_app.web.provider import Provider
from labeling_app.web.server import create_app
from tests.labeling_app.postgresql_server import MISSING, running_server, server_binaries

PASSWORD = "correct horse"
FPS = 8


def write_clip(path: Path, seed: int, num_frames: int = 8, size: int = 64) -> Path:
    """An H.264 mp4 of a square that moves; each seed has its own colour and speed."""
    random = np.random.default_rng(seed)
    ground, colour = random.integers(40, 90, size=3), random.integers(120, 255, size=3)
    speed = int(random.integers(1, 4))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(num_frames):
            image = np.empty((size, size, 3), dtype=np.uint8)
            image[:] = ground
            left = (8 + number * speed) % (size - 20)
            image[22:42, left : left + 20] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_folder(folder: Path, prompts: list[str], videos_per_prompt: int = 4, first_seed: int = 0) -> Path:
    """A folder as `vidalign generate` writes it; other seeds are other videos."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, prompt in enumerate(prompts):
        for index in range(videos_per_prompt):
            name = f"secret-model-{number:03d}-{index}.mp4"
            write_clip(folder / name, seed=first_seed + 100 * number + index)
            rows.append({"file_name": name, "prompt": prompt})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="session", autouse=True)
def uploads_outside_the_working_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stores of PostgreSQL keep their files in a temporary folder; nothing may be left in the working folder."""
    here = Path(UPLOADS).absolute()
    there_before = here.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labeling_app.store.store.UPLOADS", str(tmp_path_factory.mktemp("uploads")))
        yield
    assert there_before or not here.exists(), f"a test left {here}: give its store `uploads`"


@pytest.fixture(scope="session")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve prompts with four videos each."""
    prompts = [f"a red circle moves right, take {number}" for number in range(12)]
    return write_folder(tmp_path_factory.mktemp("generated") / "candidates", prompts)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a running PostgreSQL server; its database `prepared` has the newest schema."""
    binaries = server_binaries()
    if binaries is None:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING, pytrace=False)
        pytest.skip(MISSING)
    # Not pytest's temporary folder: the server runs as a user who may not enter it.
    folder = Path(tempfile.mkdtemp(prefix="vidalign-postgresql-"))
    with running_server(folder, binaries) as url:
        run_sql(url, "CREATE DATABASE prepared")
        Store(url.replace("/postgres", "/prepared")).close()
        yield url
    shutil.rmtree(folder, ignore_errors=True)


def run_sql(url: str, statement: str) -> None:
    """Runs a statement outside of transactions."""
    engine = create_engine(database_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file without rows that has the newest schema."""
    file = tmp_path_factory.mktemp("sqlite") / "prepared.db"
    Store(file).close()
    return file


@pytest.fixture(scope="session")
def filled_sqlite(tmp_path_factory: pytest.TempPathFactory, sqlite: Path, candidates: Path) -> Path:
    """`sqlite` with the campaign `main` of `filled`."""
    file = Path(shutil.copy(sqlite, tmp_path_factory.mktemp("filled") / "filled.db"))
    import_main(f"sqlite:///{file}", candidates)
    return file


@pytest.fixture(scope="session")
def filled_postgresql(postgresql: str, candidates: Path) -> str:
    """Name of a database with the campaign `main` of `filled`."""
    run_sql(postgresql, "CREATE DATABASE filled TEMPLATE prepared")
    import_main(postgresql.replace("/postgres", "/filled"), candidates)
    return "filled"


def import_main(url: str, candidates: Path) -> None:
    """Imports the campaign `main`: twelve tasks of four videos, two annotators each."""
    with Store(url) as store:
        import_tasks(store, candidates, campaign="main", overlap=2)


@pytest.fixture
def sqlite_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A database without rows, or with those of `filled` where the test asks for it; other fixtures fill it."""
    prepared = request.getfixturevalue("filled_sqlite" if "filled" in request.fixturenames else "sqlite")
    return Path(shutil.copy(prepared, tmp_path / "labels.db"))


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database as that of `sqlite_file`, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{request.getfixturevalue('sqlite_file')}"
        return
    server, name = request.getfixturevalue("postgresql"), f"test_{uuid.uuid4().hex}"
    filled = "filled" in request.fixturenames
    template = request.getfixturevalue("filled_postgresql") if filled else "prepared"
    run_sql(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.replace("/postgres", f"/{name}")
    run_sql(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def other_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Another empty database, on both kinds for each kind of `database`."""
    if request.param == "sqlite":
        file = shutil.copy(request.getfixturevalue("sqlite"), tmp_path / "other.db")
        yield f"sqlite:///{file}"
        return
    server, name = request.getfixturevalue("postgresql"), f"other_{uuid.uuid4().hex}"
    run_sql(server, f"CREATE DATABASE {name} TEMPLATE prepared")
    yield server.replace("/postgres", f"/{name}")
    run_sql(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes passwords by a thousandth of the work; `test_login.py` hashes them as it is shipped."""
    monkeypatch.setattr(passwords, "SCRYPT_COST", 2**4)


@pytest.fixture(autouse=True)
def shared_pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the Gradio apps of the pages once for all tests without a server, as they hold nothing of a store."""
    pages = sys.modules.get("labeling_app.web.pages")
    if pages is not None and "serve" not in request.fixturenames:
        monkeypatch.setattr(pages, "gradio_page", _made_once(pages.gradio_page))


@cache
def _made_once(make: Callable[..., Any]) -> Callable[..., Any]:
    return cache(make)


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    with Store(database) as opened:
        yield opened


@pytest.fixture
def filled(store: Store) -> Store:
    """A store with the campaign `main`: twelve tasks of four videos, two annotators each.

    Copied with its database (see `sqlite_file`), as the import reads all videos.
    """
    return store


@pytest.fixture
def write_candidates(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of candidates with the given prompts and number of videos a prompt."""
    return lambda prompts, videos_per_prompt, first_seed=0: write_folder(
        tmp_path / "candidates", prompts, videos_per_prompt, first_seed
    )


class Clock:
    """A clock that tests turn by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@dataclass
class RunningServer:
    url: str
    store: Store
    stop: Callable[[], None]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@pytest.fixture
def serve() -> Iterator[Callable[..., RunningServer]]:
    """Starts the labeling app on this machine, by default on a free port."""
    running: list[Callable[[], None]] = []

    def start(store: Store, port: int = 0, provider: Provider | None = None) -> RunningServer:
        app = create_app(store, provider=provider)
        config = uvicorn.Config(
            app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()

        def stop() -> None:
            server.should_exit = True
            thread.join(timeout=10)

        running.append(stop)
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        return RunningServer(f"http://127.0.0.1:{port}", store, stop)

    yield start
    for stop in running:
        stop()
