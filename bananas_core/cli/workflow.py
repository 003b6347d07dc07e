"""``bananas workflow``: how far a workflow is, drawn; and cancelling or resuming it."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from rich.text import Text
from rich.tree import Tree

from bananas_core.cli.options import BrokerUrl, Json, ResultBackendUrl, arguments, find_target
from bananas_core.cli.output import Output, cell, short
from bananas_core.cli.run import ExitCode, complain, leave, run
from bananas_core.cli.views import error_text
from bananas_core.job import JobState
from bananas_core.target import Target, get_app
from bananas_core.workflow.handle import Workflow, get_workflow
from bananas_core.workflow.mermaid import mermaid, running
from bananas_core.workflow.node import SKIPPED
from bananas_core.workflow.tree import walk
from bananas_core.workflow.views import NodeView, Progress

MOST: Final = 20


def workflow(
    args: Annotated[list[str], arguments("ID")],
    as_mermaid: Annotated[
        bool, typer.Option("--mermaid", help="Print the graph as Mermaid text.")
    ] = False,
    most: Annotated[
        int, typer.Option("--most", help="Members shown of each group.", min=1, metavar="N")
    ] = MOST,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="End it, and all in it that has not ended.")
    ] = False,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Of --cancel, kept in the records.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Run again what did not succeed.")
    ] = False,
    rerun: Annotated[
        str | None,
        typer.Option("--rerun", help="Run this node again, and what follows.", metavar="NODE"),
    ] = None,
    broker_url: BrokerUrl = None,
    result_backend_url: ResultBackendUrl = None,
    as_json: Json = False,
) -> None:
    """Draw a workflow with the state of each node; cancel it, or run parts of it again."""
    target, (id,) = find_target(
        args, ["ID"], broker_url=broker_url, result_backend_url=result_backend_url
    )
    if sum((cancel, resume, rerun is not None, as_mermaid)) > 1:
        raise typer.BadParameter("give one of --mermaid, --cancel, --resume and --rerun")
    if reason is not None and not cancel:
        raise typer.BadParameter("--reason says why --cancel is given; give --cancel too")
    out = Output(json=as_json)
    if as_mermaid:
        run(_mermaid(target, id, most))
    elif cancel:
        leave(run(_cancel(target, id, reason, out)))
    elif resume or rerun is not None:
        run(_run_again(target, id, rerun, out))
    else:
        run(_draw(target, id, most, out))


async def _draw(target: Target, id: str, most: int, out: Output) -> None:
    async with get_app(target) as app:
        handle = await app.get_workflow(id)
        nodes = await handle.nodes(most)
        progress = await handle.progress()
    if out.json:
        for node in nodes:
            out.line(node)
    else:
        out.console.print(_tree(id, nodes, progress))


async def _mermaid(target: Target, id: str, most: int) -> None:
    async with get_app(target) as app:
        root = await get_workflow(app, id)
        nodes = [running(found) async for found in walk(app.backend, root, most)]
    print(mermaid(nodes), end="")


async def _cancel(target: Target, id: str, reason: str | None, out: Output) -> ExitCode:
    async with get_app(target) as app:
        handle = await app.get_workflow(id)
        done = await handle.cancel(reason)
        state = await handle.status()
    _say(out, handle, state)
    if done:
        return ExitCode.OK
    complain(f"workflow {id} had ended before: {state}")
    return ExitCode.JOB_FAILED


async def _run_again(target: Target, id: str, node: str | None, out: Output) -> None:
    async with get_app(target) as app:
        handle = await app.get_workflow(id)
        await (handle.resume() if node is None else handle.rerun(node))
        state = await handle.status()
    _say(out, handle, state)


def _say(out: Output, handle: Workflow, state: JobState) -> None:
    if out.json:
        out.line({"id": handle.id, "state": state})
    out.say(f"workflow {handle.id} is {state}")


def _tree(id: str, nodes: list[NodeView], progress: Progress) -> Tree:
    root, *rest = nodes
    counts = ", ".join(f"{number} {state}" for state, number in sorted(progress.states.items()))
    title = Text.assemble(f"workflow {id} ", _state(root), f"  {counts or 'no jobs'}")
    _add_error(title, root)
    tree = Tree(title, guide_style="dim")
    above: list[Tree] = [tree]
    cut = [(tree, root.left_out)]
    for node in rest:
        del above[node.depth :]
        branch = above[-1].add(_label(node))
        above.append(branch)
        cut.append((branch, node.left_out))
    for branch, left_out in cut:
        if left_out:
            branch.add(Text(f"… and {left_out} more", style="dim"))
    return tree


def _label(node: NodeView) -> Text:
    label = Text.assemble(cell(node.name.rpartition("/")[2]), " ", _state(node))
    if node.attempt > 1:
        label.append(f" attempt {node.attempt}", style="dim")
    _add_error(label, node)
    return label


def _add_error(label: Text, node: NodeView) -> None:
    if node.error is not None:
        label.append("  ")
        label.append(cell(short(error_text(node.error))))


def _state(node: NodeView) -> Text:
    return cell(SKIPPED.lower() if node.skipped else node.state.value)
