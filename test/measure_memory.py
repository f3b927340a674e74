"""
Print what one node, and two nodes side by side, hold in memory, with the embedded network.

    PYTHONPATH=.:training python test/measure_memory.py [WIDTH HEIGHT]

A node on a GPU holds more: CUDA's own libraries alone are gigabytes.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

from ros_harness import (
    LARGE_MESSAGES,
    OUTPUTS,
    Camera,
    Client,
    Process,
    node_command,
    ros_world,
    running,
)

SETTLING_S = 15.0


def start(stack: ExitStack, folder: Path, name: str, camera: Camera) -> tuple[Process, Client]:
    """Run a node in a namespace, and show it one image."""
    command = node_command({'device': 'cpu'}, {'__ns': f'/{name}'})
    process = stack.enter_context(running(command, folder / f'{name}.txt', LARGE_MESSAGES))
    client = stack.enter_context(closing(Client(f'{name}/tc_depth', f'{name}/')))
    client.listen(*OUTPUTS)
    client.meet(camera.raw(camera.picture()), camera.info())
    return process, client


def show(clients: list[Client], camera: Camera) -> None:
    """Show images at about 5 Hz until memory has settled."""
    image, info = camera.raw(camera.picture()), camera.info()
    for _ in range(int(5 * SETTLING_S)):
        for client in clients:
            client.show(image, info)
            client.spin_for(0.2 / len(clients))
            client.forget()


def main() -> None:
    size = [int(argument) for argument in sys.argv[1:]] or [640, 480]
    camera = Camera(*size)
    processes: list[Process] = []
    clients: list[Client] = []
    with tempfile.TemporaryDirectory() as scratch, ros_world(Path(scratch)), ExitStack() as stack:
        for name in ('front', 'rear'):
            process, client = start(stack, Path(scratch), name, camera)
            processes.append(process)
            clients.append(client)
            show(clients, camera)
            print(f'{len(processes)} node(s), {size[0]}x{size[1]}, all outputs subscribed')
            for memory in [process.memory for process in processes]:
                print(f'  RSS {memory.resident_mb:.0f} MB, PSS {memory.proportional_mb:.0f} MB')


if __name__ == '__main__':
    main()
