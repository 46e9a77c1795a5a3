"""`costguard serve`: the guarding proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from costguard.cli.app import ENDPOINT, PROJECT, Session, pass_session, prices_option
from costguard.errors import LedgerError

if TYPE_CHECKING:
    from costguard.guard import Guard


@click.command(short_help="Guard clients in any language: a reverse proxy.")
@click.option("--upstream", required=True, type=ENDPOINT, help="The API that calls go to: https://api.runware.ai")
@click.option("--upstream-ws", metavar="URL", help="Where its websockets are. Default: Runware's, or the same address.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8402, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--project", type=PROJECT, help="Of calls without a token. Default: default.")
@click.option("--project-header", metavar="NAME", help="Let callers name their project in this header.")
@click.option("--require-token", is_flag=True, help="No call without a token, also before there are any.")
@click.option(
    "--mode",
    type=click.Choice(["enforce", "observe", "off"]),
    default="enforce",
    show_default=True,
    help="Whether calls are refused, only recorded, or passed on unseen.",
)
@click.option(
    "--on-ledger-error",
    type=click.Choice(["block", "allow"]),
    default="block",
    show_default=True,
    help="What happens to calls while the ledger cannot be used.",
)
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds the API may be silent. Default: any.")
@click.option("--drain", type=click.FloatRange(0), default=30, show_default=True, help="Seconds for calls at the end.")
@prices_option
@pass_session
def serve(
    session: Session,
    upstream: str,
    upstream_ws: str | None,
    host: str,
    port: int,
    project: str | None,
    project_header: str | None,
    require_token: bool,
    mode: str,
    on_ledger_error: str,
    timeout: float | None,
    drain: float,
    folder: str | None,
) -> None:
    """Pass calls on to an API, each held before it is sent and settled at what was billed.

    Clients use this address in place of the API's, and send their key as before. Who may call, and on which project:
    see `costguard token`. A call over budget is answered with 402, in the form of errors that its client knows.
    """
    from costguard.guard import Guard
    from costguard.projects import DEFAULT_PROJECT
    from costguard.serving import app, pages, running
    from costguard.serving.upstream import endpoint_of

    guard = Guard(
        session.place(make_folder=True),
        project or DEFAULT_PROJECT,
        mode=mode,
        on_ledger_error=on_ledger_error,
        prices=folder,
        endpoints=[endpoint_of(upstream), *([upstream_ws] if upstream_ws else [])],
        clock=session.clock,
    )
    with guard, running.listen(host, port) as listening:
        proxy = app(
            guard,
            upstream,
            upstream_ws=upstream_ws,
            project_header=project_header,
            require_token=require_token,
            timeout_s=timeout,
            drain_s=drain,
        )
        if not pages.is_loopback(listening.getsockname()[0]):
            click.echo(_warning(host, asks=require_token or _has_tokens(guard)), err=True)

        def started() -> None:
            name, at = listening.getsockname()[:2]
            where = f"[{name}]" if ":" in name else name
            click.echo(f"Serving {upstream} on http://{where}:{at} (mode {guard.mode}). Ctrl-C ends it.", err=True)

        running.run(proxy, listening, drain_s=drain, started=started)


def _has_tokens(guard: Guard) -> bool:
    try:
        return guard.mode != "off" and bool(guard.ledger.tokens())
    except LedgerError:
        return False


def _warning(host: str, *, asks: bool) -> str:
    told = (
        f"Warning: others than this machine reach {host}; keys pass unencrypted unless something before it speaks TLS."
    )
    return told if asks else f"{told} Nobody is asked for a token: make some (`costguard token create`)."


COMMANDS = (serve,)
