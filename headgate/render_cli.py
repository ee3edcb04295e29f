"""`headgate render …`: configuration for Envoys and clusters, from the same headgate.yaml."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml
from rich.console import Console

from headgate.render import names, paste
from headgate.render.attach import Parts, parts
from headgate.render.bootstrap import static_bootstrap
from headgate.render.envoy_gateway import Fleet
from headgate.render.envoy_gateway import objects as eg_objects
from headgate.render.gateway_api import Entrance, gateway, route
from headgate.render.istio import Egress
from headgate.render.istio import objects as istio_objects
from headgate.render.kubernetes import kubernetes_secret, values
from headgate.render.layout import Layout
from headgate.render.own_envoy import OwnEnvoy
from headgate.render.sds import Secrets, sds_files
from headgate.render.secrets import credentials, redacted
from headgate.render.yaml_text import dump, dump_all, load
from headgate.settings import Settings, load_settings, split_address
from headgate.terminal import fail
from sidecar.configfile import ConfigFile
from sidecar.errors import ConfigError, HeadgateError, Problem

render_app = typer.Typer(help="Print configuration for Envoy.", no_args_is_help=True)
_err = Console(stderr=True)
Made = TypeVar("Made")

ConfigOption = Annotated[Path, typer.Option("-c", "--config", help="headgate.yaml")]
RunDirOption = Annotated[str | None, typer.Option(help="folder for sockets and Envoy's files")]
ExtprocOption = Annotated[str | None, typer.Option(help="where Envoy reaches ext_proc (else services.extproc)")]
RatelimitOption = Annotated[
    str | None, typer.Option(help="where Envoy reaches the rate-limit service (else services.ratelimit)")
]
WithSecretsOption = Annotated[bool, typer.Option(help="write the providers' keys into it")]
SecretsDirOption = Annotated[
    str, typer.Option(help="folder in which Envoy finds the keys as SDS files (`headgate render secrets` writes them)")
]
CaOption = Annotated[str, typer.Option(help="CA bundle for providers, as Envoy sees it (else this machine's)")]
HostOption = Annotated[str, typer.Option(help="the name by which clients call it")]
NamespaceOption = Annotated[str, typer.Option(help="namespace of the objects")]
GatewayClassOption = Annotated[str, typer.Option(help="the GatewayClass")]
PortOption = Annotated[int, typer.Option(help="port of the Gateway")]
CertificateOption = Annotated[str, typer.Option(help="Secret with the Gateway's certificate; empty: plain HTTP")]
MOUNTED = "/etc/headgate/keys"
SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"  # in the images of Istio's and Envoy Gateway's Envoys
_EVERYWHERE = ("0.0.0.0", "::", "[::]")  # noqa: S104 - refused


def layout_of(settings: Settings) -> Layout:
    """Where the parts of this configuration meet; without a `run_dir` in a folder that is private to this user."""
    default = Path(tempfile.gettempdir()) / f"headgate-{os.getuid()}"
    return Layout(Path(settings.run_dir).absolute() if settings.run_dir else default)


def _note(text: str) -> None:
    _err.print(f"note: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _read(config: Path, **flags: str | None) -> tuple[Settings, ConfigFile]:
    """The settings, with flags by the name of the setting (`services__extproc`)."""
    given = {f"HEADGATE_{name.upper()}": value for name, value in flags.items() if value is not None}
    return load_settings(config, {**os.environ, **given})


def reachable(settings: Settings, file: ConfigFile, *, network: bool = False) -> None:
    """Raise `ConfigError` when no Envoy could reach our services at what `services` says, or we not an Envoy of others.

    `network`: Envoy is on another machine, so sockets are no way.
    """
    services = ["extproc", *(["ratelimit"] if settings.limits.enforce == "envoy" else [])]
    problems = [
        Problem(
            file.place(("models", model, "cache", "semantic")),
            f"models.{model}.cache.semantic",
            "its vectors come over a listener that only Headgate's own Envoy has",
            "take it out, or use `headgate up` or `headgate render static`",
        )
        for model in settings.semantic_models
    ]
    for name in services:
        address = getattr(settings.services, name)
        place, path = file.place(("services", name)), f"services.{name}"
        if address and not address.startswith("unix://"):
            if split_address(address)[0] in _EVERYWHERE:
                mend = f"say where Envoy reaches it: --{name} HOST:PORT"
                problems.append(Problem(place, path, f"{address} is where to listen, not where to call", mend))
        elif network:
            mend = f"say where Envoy reaches it: --{name} HOST:PORT"
            problems.append(Problem(place, path, "a socket cannot be reached from another machine", mend))
    if problems:
        raise ConfigError(problems)


def _secrets(settings: Settings, file: ConfigFile, *, with_secrets: bool, folder: str) -> Secrets:
    if with_secrets and folder:
        problem = Problem("--secrets-dir", "", "with --with-secrets the keys would be in both", "choose one")
        raise ConfigError([problem])
    if folder and not folder.startswith("/"):
        raise ConfigError([Problem("--secrets-dir", "", f"'{folder}' is not absolute", "write it as Envoy sees it")])
    values: Mapping[str, str] = credentials(settings, file) if with_secrets else redacted(settings)
    return Secrets(values, folder.rstrip("/"))


@render_app.command("static")
def static(
    config: ConfigOption,
    with_secrets: WithSecretsOption = False,
    envoy_admin: Annotated[str, typer.Option(help="address of Envoy's own admin interface")] = "127.0.0.1:9901",
    run_dir: RunDirOption = None,
) -> None:
    """Print one static Envoy bootstrap (JSON) that works with `headgate serve` and the same file.

    Providers' keys are left out unless --with-secrets is given.
    """
    try:
        settings, file = _read(config, run_dir=run_dir)
        keys = credentials(settings, file) if with_secrets else redacted(settings)
        bootstrap = static_bootstrap(settings, layout_of(settings), keys, admin=envoy_admin)
    except HeadgateError as error:
        fail(error)
    print(json.dumps(bootstrap, indent=2))


@render_app.command("attach")
def attach(
    config: ConfigOption,
    into: Annotated[Path | None, typer.Option(help="your bootstrap: print it with Headgate in it")] = None,
    listener: Annotated[str, typer.Option(help="with --into: the listener, where several speak HTTP")] = "",
    filter_chain: Annotated[str, typer.Option(help="with --into: the filter chain, where several speak HTTP")] = "",
    domain: Annotated[list[str] | None, typer.Option(help="domain of our virtual host (again for more)")] = None,
    extproc: ExtprocOption = None,
    ratelimit: RatelimitOption = None,
    with_secrets: WithSecretsOption = False,
    secrets_dir: SecretsDirOption = "",
    ca: CaOption = "",
    run_dir: RunDirOption = None,
) -> None:
    """Print what an Envoy that you run already needs to be a gateway, too (YAML).

    Without --into: the parts, with comments that say where each goes. With --into: your bootstrap with the parts in
    it, your routes untouched; parts of an earlier time are replaced. Comments in your file are lost.
    """
    try:
        wanted = [names.domain("--domain", one) for one in domain or []]
        settings, file = _read(config, run_dir=run_dir, services__extproc=extproc, services__ratelimit=ratelimit)
        reachable(settings, file)
        secrets = _secrets(settings, file, with_secrets=with_secrets, folder=secrets_dir)
        if into is None:
            print(paste.text(_parts(settings, secrets, wanted or ["*"], ca)), end="")
            return
        own = OwnEnvoy.find(str(into), _read_yaml(into), listener=listener, chain=filter_chain)
        if settings.has_cache and own.reply_format():
            what = "your body_format would be put around kept answers"
            mend = "move it into mappers, take `cache` from the models, or give Headgate a listener of its own"
            raise ConfigError([Problem(str(into), own.reply_format(), what, mend)])
        notes = own.attach(_parts(settings, secrets, own.domains(wanted), ca))
    except HeadgateError as error:
        fail(error)
    if secrets.values and not with_secrets and not secrets_dir:
        what = "the providers' keys are written as <redacted>, and Envoy would send that"
        notes.append(f"{what}: use --secrets-dir DIR, or --with-secrets")
    print(dump(own.bootstrap), end="")
    for note in notes:
        _note(note)


@render_app.command("istio")
def istio(
    config: ConfigOption,
    host: Annotated[list[str], typer.Option(help="the name by which apps call it: http://HOST (again for more)")],
    extproc: ExtprocOption = None,
    ratelimit: RatelimitOption = None,
    namespace: Annotated[str, typer.Option(help="the egress gateway's namespace")] = "istio-system",
    selector: Annotated[str, typer.Option(help="label of the egress gateway's pods")] = "istio=egressgateway",
    service: Annotated[str, typer.Option(help="the egress gateway's service")] = "istio-egressgateway",
    listen_port: Annotated[int, typer.Option(help="where the gateway's pods listen for port 443")] = 8443,
    secrets_dir: SecretsDirOption = MOUNTED,
    ca: CaOption = SYSTEM_CA,
) -> None:
    """Print the objects that make an Istio egress gateway a gateway for language models (YAML).

    Keys are never in them: mount the Secret that `headgate render secrets --kubernetes` prints.
    """
    try:
        for one in host:
            names.host("--host", one)
        names.namespace("--namespace", namespace)
        names.host("--service", service)
        label = names.label("--selector", selector)
        settings, file = _read(config, services__extproc=extproc, services__ratelimit=ratelimit)
        reachable(settings, file, network=True)
        secrets = _secrets(settings, file, with_secrets=False, folder=secrets_dir)
        address = service if "." in service else f"{service}.{namespace}.svc.cluster.local"
        egress = Egress(tuple(host), namespace, label, address, listen_port=listen_port)
        domains = [*host, *(f"{one}:*" for one in host)]
        made = _parts(settings, secrets, domains, ca)
        found = _checked(lambda: istio_objects(made, egress))
    except HeadgateError as error:
        fail(error)
    print(dump_all(values(found)), end="")


@render_app.command("envoy-gateway")
def envoy_gateway(
    config: ConfigOption,
    host: HostOption,
    extproc: ExtprocOption = None,
    namespace: NamespaceOption = "headgate",
    gateway_class: GatewayClassOption = "eg",
    port: PortOption = 80,
    certificate: CertificateOption = "",
    keys: Annotated[str, typer.Option(help="the Secret of `headgate render secrets --kubernetes`")] = "headgate-keys",
    secrets_dir: Annotated[str, typer.Option(help="where that Secret is mounted")] = MOUNTED,
    xds_listener: Annotated[str, typer.Option(help="name of Envoy's listener (Envoy Gateway 1.10: tcp-80)")] = "",
    xds_routes: Annotated[str, typer.Option(help="name of its routes (Envoy Gateway 1.10: http-80)")] = "",
    ca: CaOption = SYSTEM_CA,
) -> None:
    """Print the objects that have Envoy Gateway run a gateway for language models (YAML).

    Limits are decided in ext_proc (`limits.enforce: in_process`). Keys are never in the objects.
    """
    try:
        _check_entrance(host, gateway_class, namespace, certificate)
        names.kubernetes_name("--keys", keys)
        settings, file = _read(config, services__extproc=extproc)
        if settings.limits.enforce != "in_process":
            what = "in Envoy Gateway limits are decided in ext_proc: its own policies never ask our rate-limit service"
            place = file.place(("limits", "enforce"))
            raise ConfigError([Problem(place, "limits.enforce", what, "write `limits: {enforce: in_process}`")])
        reachable(settings, file, network=True)
        entrance = Entrance(host, gateway_class, namespace, port=port, certificate=certificate)
        addresses = tuple(layout_of(settings).extprocs(settings))
        secrets = _secrets(settings, file, with_secrets=False, folder=secrets_dir)
        made = _parts(settings, secrets, [host], ca)
        fleet = Fleet(entrance, keys, secrets.folder, addresses, xds_listener, xds_routes)
        found = _checked(lambda: eg_objects(settings, made, fleet))
    except HeadgateError as error:
        fail(error)
    print(dump_all(values(found)), end="")


@render_app.command("gateway-api")
def gateway_api(
    config: ConfigOption,
    host: HostOption,
    gateway_class: GatewayClassOption,
    namespace: NamespaceOption = "",
    port: PortOption = 80,
    certificate: CertificateOption = "",
    service: Annotated[str, typer.Option(help="the Service of Headgate's own Envoy")] = "headgate",
    service_port: Annotated[int, typer.Option(help="its port (else that of `listen`)")] = 0,
) -> None:
    """Print a Gateway and an HTTPRoute that lead to Headgate's own Envoy (`headgate up`), for any implementation."""
    try:
        _check_entrance(host, gateway_class, namespace, certificate)
        names.kubernetes_name("--service", service)
        settings, _ = _read(config)
        entrance = Entrance(host, gateway_class, namespace, port=port, certificate=certificate)
        leads_to = service_port or split_address(settings.listen)[1]
    except HeadgateError as error:
        fail(error)
    print(dump_all(values([gateway(entrance), route(entrance, service, leads_to)])), end="")


@render_app.command("secrets")
def secrets_command(
    config: ConfigOption,
    folder: Annotated[Path | None, typer.Option("--dir", help="write the files there (0600, each moved in)")] = None,
    kubernetes: Annotated[str, typer.Option(help="print a Kubernetes Secret of this name that holds the files")] = "",
    namespace: Annotated[str, typer.Option(help="its namespace")] = "",
) -> None:
    """Write the providers' keys as SDS files, for an Envoy that was rendered with --secrets-dir.

    Envoy takes a changed file at once. They hold the keys: keep them as you keep keys.
    """
    try:
        if (folder is None) == (not kubernetes):
            raise ConfigError([Problem("--dir", "", "says where the keys go", "give --dir, or --kubernetes NAME")])
        names.kubernetes_name("--kubernetes", kubernetes)
        names.namespace("--namespace", namespace)
        settings, file = _read(config)
        files = {name: dump(value) for name, value in sds_files(settings, credentials(settings, file)).items()}
        if folder is not None:
            _write_private(folder, files)
    except HeadgateError as error:
        fail(error)
    if folder is None:
        print(dump_all([kubernetes_secret(kubernetes, namespace, files)]), end="")


def _check_entrance(host: str, gateway_class: str, namespace: str, certificate: str) -> None:
    names.host("--host", host, wildcard=True)
    names.kubernetes_name("--gateway-class", gateway_class)
    names.namespace("--namespace", namespace)
    names.kubernetes_name("--certificate", certificate)


def _write_private(folder: Path, files: Mapping[str, str]) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, text in files.items():
            fresh = folder / f".{name}.new"
            fresh.unlink(missing_ok=True)
            fresh.touch(mode=0o600)
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(folder / name)
    except OSError as error:
        problem = Problem("--dir", "", f"{folder} cannot be written: {error.strerror}", "choose a folder of yours")
        raise ConfigError([problem]) from error


def _parts(settings: Settings, secrets: Secrets, domains: list[str], ca: str) -> Parts:
    return _checked(lambda: paste.checked(parts(settings, layout_of(settings), secrets, domains, ca=ca)))


def _checked(make: Callable[[], Made]) -> Made:
    """What `make` makes. That Envoy's messages do not know it can only be a mistake of ours."""
    try:
        return make()
    except ValueError as error:
        raise HeadgateError(f"this is a mistake of Headgate's, please report it: {error}") from error


def _read_yaml(path: Path) -> Any:
    try:
        return load(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = Problem(str(path), "", f"cannot be read: {error.strerror}", "--into takes an Envoy bootstrap")
        raise ConfigError([problem]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        what = getattr(error, "problem", None) or "no text"
        raise ConfigError([Problem(place, "", f"is no YAML: {what}", "--into takes an Envoy bootstrap")]) from error
