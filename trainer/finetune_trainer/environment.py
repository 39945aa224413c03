"""Who this process is: the environment of a trainer pod, its workspace and its run.

Read once at a process's edge and passed on; nothing else looks at ``os.environ``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from finetune_api.run import ENV_MEANING, Env, Run
from finetune_trainer.errors import StorageError, UsageError

_CLAIMS_IN_WORKSPACE = "claims"
_DEFAULT_MASTER_PORT = 29500
_DEFAULT_GRACE_SECONDS = 30
_DEFAULT_COLLECTIVE_SECONDS = 900


@dataclass(frozen=True)
class Workspace:
    """The job's own folder; ``finetune_api.run.LAYOUT`` says what lies where in it."""

    root: Path

    def path(self, part: PurePosixPath | str) -> Path:
        """Where a part of the layout lies on this machine."""
        return self.root / part


@dataclass(frozen=True, kw_only=True)
class RankEnvironment:
    """The environment variables of ``finetune_api.run.Env``, typed and with their defaults."""

    run_file: Path
    workspace: Workspace
    claims: Path
    base: Path | None
    attempt: int
    worker: int
    pod_uid: str
    master_addr: str
    master_port: int
    listen: str | None
    termination_log: Path | None
    grace_seconds: int
    report_seconds: int
    collective_seconds: int
    fake_gpus: bool

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "RankEnvironment":
        """Read the environment; an empty variable counts as unset.

        Raises
        ------
        UsageError
            If a required variable is missing or one that is a number is none.
        """
        workspace = Workspace(Path(_required(environ, Env.WORKSPACE)).absolute())
        claims = environ.get(Env.CLAIMS)
        base = environ.get(Env.BASE)
        termination_log = environ.get(Env.TERMINATION_LOG)
        return cls(
            run_file=Path(_required(environ, Env.RUN_FILE)),
            workspace=workspace,
            claims=Path(claims).absolute() if claims else workspace.path(_CLAIMS_IN_WORKSPACE),
            base=Path(base).absolute() if base else None,
            attempt=_number(environ, Env.ATTEMPT, default=1, least=1),
            worker=_number(environ, Env.WORKER, default=0, least=0),
            pod_uid=environ.get(Env.POD_UID) or "unknown",
            master_addr=environ.get(Env.MASTER_ADDR) or "127.0.0.1",
            master_port=_number(environ, Env.MASTER_PORT, default=_DEFAULT_MASTER_PORT, least=1),
            listen=environ.get(Env.LISTEN) or None,
            termination_log=Path(termination_log) if termination_log else None,
            grace_seconds=_number(
                environ, Env.GRACE_SECONDS, default=_DEFAULT_GRACE_SECONDS, least=1
            ),
            report_seconds=_number(environ, Env.REPORT_SECONDS, default=0, least=0),
            collective_seconds=_number(
                environ, Env.COLLECTIVE_SECONDS, default=_DEFAULT_COLLECTIVE_SECONDS, least=1
            ),
            fake_gpus=environ.get(Env.FAKE_GPUS) == "true",
        )

    def load_run(self) -> Run:
        """Read the run that this process has to do, with the CPU in place of a fake accelerator.

        Raises
        ------
        StorageError
            If the file can't be read.
        UsageError
            If it is no run of this contract's version; the message names the fields.
        """
        try:
            text = self.run_file.read_bytes()
        except OSError as error:
            raise StorageError(
                f"{self.run_file}: can't read the run file ({error.strerror}); "
                f"{Env.RUN_FILE} must name the JSON of the resolved run"
            ) from error
        try:
            run = Run.model_validate_json(text)
        except ValidationError as error:
            fields = "; ".join(
                f"{'.'.join(str(part) for part in one['loc']) or 'file'}: {one['msg']}"
                for one in error.errors(include_input=False, include_url=False)[:5]
            )
            raise UsageError(
                f"{self.run_file}: not a run that this trainer reads: {fields}; "
                "use the trainer image of the operator's own version"
            ) from error
        if not self.fake_gpus:
            return run
        return run.model_copy(update={"gang": run.gang.model_copy(update={"device": "cpu"})})


def _required(environ: Mapping[str, str], name: Env) -> str:
    value = environ.get(name)
    if not value:
        raise UsageError(f"{name} is not set. It holds: {ENV_MEANING[name]}")
    return value


def _number(environ: Mapping[str, str], name: Env, *, default: int, least: int) -> int:
    text = environ.get(name)
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"{name} is {text!r}: it must be a whole number, at least {least}")
    return int(text)
