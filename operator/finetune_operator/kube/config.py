"""Where the API server is, and how the operator proves who it is. Used by ``client``.

The kubernetes package's asyncio loaders read kubeconfigs and service accounts and run exec
plugins. Its REST layer is left out: it answers with types whose decoding blocks the loop, follows
proxies and passwords of the environment (``trust_env``), and can't be told what never to repeat.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import yaml
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import (
    ConfigException,
    list_kube_config_contexts,
    load_incluster_config,
    load_kube_config,
)

_log = logging.getLogger(__name__)
_HOME_KUBECONFIG = Path("~/.kube/config").expanduser()
# The loader checks little: a file of another shape ends in one of these.
_SHAPE_ERRORS = (ValueError, TypeError, AttributeError)


class ConfigurationError(Exception):
    """No API server is known, or what describes it can't be used."""


class Connection:
    """One API server and one identity.

    A service account's token is read anew each minute, since the kubelet rotates it. Other
    credentials are read anew, and an exec plugin is run again, when the API server no longer
    takes them. Trust and client certificates are read once.
    """

    def __init__(
        self, configuration: Configuration, load: Callable[[], Awaitable[Configuration]]
    ) -> None:
        self._configuration = configuration
        self._load = load
        self._renewing = asyncio.Lock()
        self.server = configuration.host.rstrip("/")
        self.proxy = configuration.proxy
        self.server_hostname = configuration.tls_server_name
        """The name that the server's certificate must have, where it isn't that of the address."""
        self.ssl = _ssl_context(configuration)

    async def authorization(self) -> str | None:
        """Value of the Authorization header; None where a certificate says it all.

        Raises
        ------
        ConfigurationError
            If the service account's token can't be read now.
        """
        try:
            return await self._configuration.get_api_key_with_prefix("BearerToken")
        except (ConfigException, OSError) as error:
            raise ConfigurationError(f"the service account's token: {error}") from error

    async def renew(self, refused: str | None) -> bool:
        """Read the credentials anew; whether there are others now than the refused ones.

        Of many requests that were refused together one does it for all.
        """
        async with self._renewing:
            if await self.authorization() != refused:
                return True
            try:
                self._configuration = await self._load()
            except ConfigurationError as error:
                _log.warning("the credentials could not be read anew: %s", error)
                return False
            return await self.authorization() != refused


async def find_connection(environment: Mapping[str, str] = os.environ) -> Connection:
    """The API server to talk to: of KUBECONFIG, else the pod's own, else of ``~/.kube/config``.

    Raises
    ------
    ConfigurationError
        If there is none of them, or the first of them can't be used.
    """
    if files := environment.get("KUBECONFIG"):
        return await kubeconfig_connection(files)
    if environment.get("KUBERNETES_SERVICE_HOST"):
        return await _connection(_load_service_account)
    if _HOME_KUBECONFIG.exists():
        return await kubeconfig_connection(str(_HOME_KUBECONFIG))
    raise ConfigurationError(
        f"no API server is known: set KUBECONFIG, write {_HOME_KUBECONFIG}, or run in a pod"
    )


def context_namespace(environment: Mapping[str, str] = os.environ) -> str:
    """The namespace that a person works in: of the kubeconfig's current context, else `default`.

    Raises
    ------
    ConfigurationError
        If a kubeconfig is named that can't be read.
    """
    files = environment.get("KUBECONFIG") or str(_HOME_KUBECONFIG)
    if not environment.get("KUBECONFIG") and not _HOME_KUBECONFIG.exists():
        return "default"
    try:
        _, current = list_kube_config_contexts(config_file=files)
    except (ConfigException, OSError, yaml.YAMLError, *_SHAPE_ERRORS) as error:
        raise ConfigurationError(f"kubeconfig {files}: {error}") from error
    return str(current.get("context", {}).get("namespace") or "default")


async def kubeconfig_connection(files: str) -> Connection:
    """The API server of the current context of a kubeconfig, or of several joined by ``:``.

    Raises
    ------
    ConfigurationError
        If it can't be read or names no server.
    """

    async def load() -> Configuration:
        configuration = Configuration()
        try:
            # Never written: what an exec plugin gives is kept in memory.
            await load_kube_config(
                config_file=files, client_configuration=configuration, persist_config=False
            )
        except (ConfigException, OSError, yaml.YAMLError, *_SHAPE_ERRORS) as error:
            raise ConfigurationError(f"kubeconfig {files}: {error}") from error
        return configuration

    return await _connection(load)


async def _load_service_account() -> Configuration:
    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration)
    except (ConfigException, OSError) as error:
        raise ConfigurationError(f"the pod's service account: {error}") from error
    return configuration


async def _connection(load: Callable[[], Awaitable[Configuration]]) -> Connection:
    configuration = await load()
    try:
        return Connection(configuration, load)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the certificates for {configuration.host}: {error}") from error


def _ssl_context(configuration: Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context(
        cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data
    )
    # Python 3.13 asks for key identifiers that many clusters' authorities, older than the rule,
    # don't carry; kubectl doesn't ask for them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
