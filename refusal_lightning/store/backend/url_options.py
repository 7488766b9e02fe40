"""A bucket or container by URL, with the options that a user gives: obstore's names, and the common ones of fsspec."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from refusal_lightning.errors import UserError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_CLIENT = ("allow_http", "allow_invalid_certificates", "connect_timeout", "proxy_url", "read_timeout", "timeout")
"""Options of the HTTP client; all others are of the service."""
_CLIENT_DEFAULTS = {"connect_timeout": "10s", "read_timeout": "60s", "timeout": "10m"}
_RETRIES = 6
_FSSPEC_NAMES = {
    "s3": {
        "anon": "skip_signature",
        "aws_access_key_id": "access_key_id",
        "aws_secret_access_key": "secret_access_key",
        "aws_session_token": "session_token",
        "endpoint_url": "endpoint",
        "key": "access_key_id",
        "region_name": "region",
        "secret": "secret_access_key",
        "token": "session_token",
    },
    "gs": {"endpoint_url": "base_url", "token": "service_account"},
    "az": {"anon": "skip_signature", "sas_token": "sas_key"},
}
"""What s3fs, gcsfs and adlfs call obstore's options."""


def open_bucket(url: str, options: Mapping[str, Any]) -> tuple[ObjectStore, str]:
    """(bucket or container, place in it) of a URL. Raises UserError for schemes and options that are not known."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        hint = "; mount it, and give the folder" if scheme in ("sftp", "ssh", "smb", "webdav") else ""
        raise UserError(f"a store cannot be kept at {scheme}://{hint}; known are {', '.join(SCHEMES)}, memory")
    bucket, _, prefix = rest.strip("/").partition("/")
    try:
        import obstore.exceptions
    except ImportError as error:
        raise UserError(
            f"{scheme}:// stores need a package that is not installed: pip install 'refusal-lightning[s3]'"
        ) from error
    try:
        return SCHEMES[scheme](bucket, dict(options)), prefix.strip("/")
    except (obstore.exceptions.BaseError, ValueError, TypeError) as error:
        raise UserError(f"store {url} cannot be opened: {str(error).partition(chr(10))[0]}") from error


def _s3(bucket: str, options: dict[str, Any]) -> ObjectStore:
    from obstore.store import S3Store

    profile = options.pop("profile", None)
    config, client = _divided("s3", {**options.pop("client_kwargs", {}), **options})
    endpoint = config.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if str(endpoint or "").startswith("http://"):
        client.setdefault("allow_http", True)
    provider = None if {"access_key_id", "skip_signature"} & config.keys() else _aws_profile(profile)
    if provider is not None and "region" in provider.config and not _region_is_set():
        config.setdefault("region", provider.config["region"])
    return S3Store(
        bucket,
        config=config,  # type: ignore[arg-type]
        client_options=client,  # type: ignore[arg-type]
        retry_config={"max_retries": _RETRIES},
        credential_provider=provider,
    )


def _aws_profile(name: str | None) -> Any:
    """Credentials as the AWS tools find them, whose files obstore does not read; None: the environment has some.

    Raises UserError if there are none, or not those of the profile that is named.
    """
    in_environment = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    if name is None and any(variable in os.environ for variable in in_environment):
        return None
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        if name is None:
            return None
        raise UserError(f"the AWS profile {name!r} needs a package: pip install boto3") from error
    try:
        return Boto3CredentialProvider(boto3.Session(profile_name=name))
    except (BotoCoreError, ValueError) as error:
        reason = error if isinstance(error, BotoCoreError) else "no credentials were found"
        raise UserError(
            f"{reason}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws; store.options: "
            "{anon: true} reads what is public"
        ) from error


def _region_is_set() -> bool:
    return any(name in os.environ for name in ("AWS_REGION", "AWS_DEFAULT_REGION"))


def _gs(bucket: str, options: dict[str, Any]) -> ObjectStore:
    from obstore.store import GCSStore

    config, client = _divided("gs", options)
    return GCSStore(bucket, config=config, client_options=client, retry_config={"max_retries": _RETRIES})  # type: ignore[arg-type]


def _az(container: str, options: dict[str, Any]) -> ObjectStore:
    from obstore.store import AzureStore

    config, client = _divided("az", options)
    container, _, host = container.partition("@")  # abfss://container@account.dfs.core.windows.net/...
    if host:
        config.setdefault("account_name", host.partition(".")[0])
    return AzureStore(container, config=config, client_options=client, retry_config={"max_retries": _RETRIES})  # type: ignore[arg-type]


def _divided(service: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(options of the service, options of the HTTP client), by obstore's names."""
    names = _FSSPEC_NAMES[service]
    config = {names.get(name, name): value for name, value in options.items() if name not in _CLIENT}
    client = {name: value for name, value in options.items() if name in _CLIENT}
    return config, {**_CLIENT_DEFAULTS, **client}


SCHEMES: dict[str, Callable[[str, dict[str, Any]], ObjectStore]] = {
    "s3": _s3,
    "s3a": _s3,
    "gs": _gs,
    "gcs": _gs,
    "az": _az,
    "abfs": _az,
    "abfss": _az,
}
"""Object storages by the scheme of their URLs."""
