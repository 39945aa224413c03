"""Fetches the files that a dataset's URIs name into the workspace, and digests their bytes.

Used by the prepare step. Everything later reads the copies, so that what was digested is what was
read.
"""

import asyncio
import hashlib
import re
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from finetune_api.markers import Digest
from finetune_api.run import LAYOUT, Env, Run
from finetune_trainer import hub
from finetune_trainer.data.image_files import METADATA, class_files, has_classes
from finetune_trainer.data.readers import ENDINGS
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.errors import DataError, StorageError, UsageError
from finetune_trainer.objectstore import open_gs, open_s3, told_by_google, told_plainly

_CHUNK_BYTES = 1 << 20
_CONNECT_SECONDS = 30
_SILENCE_SECONDS = 120
_CLAIM = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
_TOO_MANY_REQUESTS = 429


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file of a source: its copy, the ``name`` that messages call it by, its bytes' digest.

    A folder of images is read in its place, and its digest is of their paths. ``origin`` is the
    folder that paths in the rows start from, ``root`` what they may not lead out of; unset for what
    came over the network.
    """

    path: Path
    name: str
    digest: Digest
    origin: Path | None = None
    root: Path | None = None


def is_remote(uri: str) -> bool:
    """Whether a URI is fetched over the network."""
    return uri.startswith(("https://", "s3://", "gs://", hub.SCHEME))


def display(uri: str) -> str:
    """The URI without what may be secret: user, password, and a signed link's query."""
    if not is_remote(uri):
        return uri
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def resolve_local(uri: str, environment: RankEnvironment, field: str) -> Path:
    """Where a claim's URI or a relative path lies on this machine; it need not exist.

    Raises
    ------
    UsageError
        If the URI leads out of its claim, has an unknown scheme, or is relative outside of a local
        run. ``field`` names the URI's place in the manifest.
    """
    if uri.startswith("pvc://"):
        claim, _, inside = uri.removeprefix("pvc://").partition("/")
        if not _CLAIM.fullmatch(claim) or not inside:
            raise UsageError(f"{field}: {uri!r} must have the form pvc://CLAIM/PATH")
        root = environment.claims / claim
        path = root / inside
        if not path.resolve().is_relative_to(root.resolve()):
            raise UsageError(f"{field}: {uri!r} leads out of its claim; name a path inside of it")
        return path
    if "://" in uri:
        raise UsageError(
            f"{field}: {display(uri)!r} has a scheme that isn't known here; "
            "use pvc://CLAIM/PATH, https://…, s3://…, gs://… or hf://…"
        )
    if environment.base is None:
        raise UsageError(
            f"{field}: {uri!r} is a path, which only a local run can follow ({Env.BASE} is not "
            "set); use pvc://CLAIM/PATH, https://…, s3://…, gs://… or hf://…"
        )
    return environment.base / uri


def model_folder(run: Run, environment: RankEnvironment) -> Path:
    """Where the model that a run tunes lies on this machine; it need not exist.

    Raises
    ------
    UsageError
        As ``resolve_local`` does.
    """
    if run.model.uri.startswith(hub.SCHEME):
        return environment.workspace.path(LAYOUT.model)
    return resolve_local(run.model.uri, environment, "model.uri")


def local_files(uri: str, environment: RankEnvironment, field: str) -> list[tuple[str, Path]]:
    """The files behind a claim's URI or a path, each with its name: one, or a folder's, sorted.

    Raises
    ------
    DataError
        If there is nothing there, or no file of a known format in the folder.
    """
    path = resolve_local(uri, environment, field)
    if path.is_file():
        return [(uri, path)]
    if path.is_dir():
        files = _files_of_rows(path)
        if not files:
            raise DataError(f"{field}: {uri}: no {', '.join(ENDINGS)} file in this folder")
        names = [f"{uri.rstrip('/')}/{file.name}" for file in files]
        # Each by its own URI, so that a link in the folder can't lead out of the claim either.
        return [(name, resolve_local(name, environment, field)) for name in names]
    raise DataError(f"{field}: {uri}: no such file; check the path{_seen_from(uri, environment)}")


def local_image_files(uri: str, environment: RankEnvironment, field: str) -> list[tuple[str, Path]]:
    """As ``local_files``, for rows of images: files of rows, or the folder of classes itself.

    Raises
    ------
    DataError
        If there is nothing there, or both.
    """
    folder = resolve_local(uri, environment, field)
    if not folder.is_dir():
        return local_files(uri, environment, field)
    rows = _files_of_rows(folder)
    named = [one for one in rows if one.stem == METADATA]
    if rows and not named and has_classes(folder):
        raise DataError(
            f"{field}: {uri}: holds folders of classes and {rows[0].name}; name the file itself, "
            f"call it {METADATA}{rows[0].suffix}, or take it away"
        )
    if not rows:
        return [(uri, folder)]
    files = local_files(uri, environment, field)
    return [one for one in files if one[1].stem == METADATA] if named else files


def _files_of_rows(folder: Path) -> list[Path]:
    """Its files of a known format, sorted; those whose names begin with a dot are passed over."""
    return sorted(
        one
        for one in folder.iterdir()
        if one.is_file() and one.suffix.lower() in ENDINGS and not one.name.startswith(".")
    )


Listing = Callable[[str, RankEnvironment, str], list[tuple[str, Path]]]
"""``local_files``, or what stands for it."""


def fetch(
    uri: str,
    environment: RankEnvironment,
    field: str,
    folder: Path,
    listing: Listing = local_files,
) -> list[SourceFile]:
    """Copy what a URI names into ``folder``, in one pass over its bytes; images stay in place.

    Raises
    ------
    DataError
        If it does not exist, or may not be read.
    UsageError
        If the URI itself is wrong.
    StorageError
        If the network or the disk fails; another attempt may help.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if is_remote(uri):
        name = urlsplit(uri).path.rpartition("/")[2]
        if name in {"", ".", ".."}:
            raise UsageError(f"{field}: {display(uri)} must name a file, not a folder")
        copy = folder / name
        _download(uri, field, copy)
        return [SourceFile(path=copy, name=display(uri), digest=digest_of(copy))]
    root = _root(uri, environment, field)
    return [
        _in_place(name, path, root) if path.is_dir() else _copied(name, path, folder, root)
        for name, path in listing(uri, environment, field)
    ]


def files_in_place(
    uri: str, environment: RankEnvironment, field: str, listing: Listing = local_files
) -> list[SourceFile]:
    """The files behind a claim's URI or a path as they are now, where they are.

    Raises
    ------
    DataError, UsageError
        As ``local_files`` does.
    """
    root = _root(uri, environment, field)
    return [_in_place(name, path, root) for name, path in listing(uri, environment, field)]


def _in_place(name: str, path: Path, root: Path) -> SourceFile:
    origin = path if path.is_dir() else path.parent
    return SourceFile(path=path, name=name, digest=digest_of(path), origin=origin, root=root)


def _copied(name: str, path: Path, folder: Path, root: Path) -> SourceFile:
    copy = folder / path.name
    digest = _copy(path, copy)
    return SourceFile(path=copy, name=name, digest=digest, origin=path.parent, root=root)


def _root(uri: str, environment: RankEnvironment, field: str) -> Path:
    """What no path in the rows may lead out of: the claim, or else the data's own folder."""
    if uri.startswith("pvc://"):
        return environment.claims / uri.removeprefix("pvc://").partition("/")[0]
    path = resolve_local(uri, environment, field)
    return path if path.is_dir() else path.parent


def digest_of(path: Path) -> Digest:
    """SHA-256 of a file's bytes, or of the paths in a folder of classes."""
    digest = hashlib.sha256()
    if path.is_dir():
        for name, _ in class_files(path, path.name):
            digest.update(f"{name}\n".encode())
        return f"sha256:{digest.hexdigest()}"
    for chunk in _chunks(path):
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def digest_of_lines(lines: Iterable[str]) -> Digest:
    """SHA-256 over lines, each with its end."""
    content = "".join(f"{line}\n" for line in lines)
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def _copy(source: Path, target: Path) -> Digest:
    """Copy a file and digest the very bytes that were written."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for chunk in _chunks(source):
            digest.update(chunk)
            file.write(chunk)
    return f"sha256:{digest.hexdigest()}"


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _seen_from(uri: str, environment: RankEnvironment) -> str:
    if uri.startswith("pvc://") or environment.base is None:
        return ""
    return f" (it starts from {environment.base})"


def _download(uri: str, field: str, target: Path) -> None:
    if uri.startswith(hub.SCHEME):
        hub.fetch_file(uri, field, target)
        return
    where = f"{field}: {display(uri)}"
    teller = told_by_google if uri.startswith("gs://") else _told_by_a_web_server
    with told_plainly(where, "fetched"), teller(where):
        _file_system(uri).get_file(uri, str(target))


@contextmanager
def _told_by_a_web_server(where: str) -> Iterator[None]:
    import aiohttp

    try:
        yield
    except aiohttp.ClientResponseError as error:
        if error.status >= 500 or error.status == _TOO_MANY_REQUESTS:
            raise StorageError(f"{where}: the server answered {error.status}") from error
        if error.status in {401, 403}:
            raise PermissionError from error
        raise DataError(f"{where}: the server answered {error.status}; check the link") from error
    except aiohttp.ClientConnectorCertificateError as error:
        raise DataError(f"{where}: the server's certificate is not trusted") from error
    except aiohttp.ClientError as error:
        raise StorageError(f"{where}: can't be fetched ({type(error).__name__})") from error


def _file_system(uri: str) -> Any:  # fsspec publishes no types
    """The file system that reads ``uri``, never one that an earlier call set up differently."""
    import fsspec

    if uri.startswith("s3://"):
        return open_s3()
    if uri.startswith("gs://"):
        return open_gs()
    return fsspec.filesystem("https", get_client=_https_session, skip_instance_cache=True)


async def _https_session(loop: asyncio.AbstractEventLoop, **_: Any) -> Any:  # as fsspec calls it
    """An HTTPS client that trusts the machine's authorities and never leaves HTTPS.

    A redirect to plain HTTP would send the request, and bring the rows, where anybody can change
    them.
    """
    import aiohttp

    watch = aiohttp.TraceConfig()
    watch.on_request_redirect.append(_refuse_plain_http)
    return aiohttp.ClientSession(
        loop=loop,
        connector=aiohttp.TCPConnector(ssl=ssl.create_default_context()),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS
        ),
        trace_configs=[watch],
        trust_env=True,
    )


async def _refuse_plain_http(_session: Any, _context: Any, redirect: Any) -> None:
    target = urljoin(str(redirect.url), redirect.response.headers.get("Location", ""))
    if not target.startswith("https://"):
        raise DataError(
            f"{display(str(redirect.url))}: redirects to {display(target)!r}, which is not https; "
            "use an address that stays on https"
        )
