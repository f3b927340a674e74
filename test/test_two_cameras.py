"""Two nodes in two namespaces on one machine: neither sees what is the other's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from ros_harness import (
    OUTPUTS,
    Camera,
    Client,
    Health,
    Process,
    node_command,
    ros_world,
    running,
    write_weights,
)

from tc_depth_ros.frames.frame import stamp_ns

pytestmark = pytest.mark.ros

FRAMES = 20
# Told apart by size and frame
CAMERAS = {
    'front': Camera(160, 120, 'front_optical_frame'),
    'rear': Camera(128, 80, 'rear_optical_frame'),
}


@dataclass(frozen=True)
class Side:
    """A camera, its node, and what both have to say."""

    camera: Camera
    client: Client
    process: Process

    def show(self, index: int) -> int:
        """Show an image; its stamp."""
        image, info = self.camera.raw(self.camera.picture(index)), self.camera.info()
        image.header.frame_id = info.header.frame_id = self.camera.frame_id
        return self.client.show(image, info)


@pytest.fixture(scope='module')
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Side]]:
    """Run a node per camera as two_cameras.launch.py does."""
    folder = tmp_path_factory.mktemp('two')
    write_weights(folder / 'tiny.safetensors')
    parameters = {'weights': folder / 'tiny.safetensors'}
    with ros_world(folder), ExitStack() as stack:
        started = []
        for name, camera in CAMERAS.items():
            command = node_command(parameters, {'__ns': f'/{name}'})
            process = stack.enter_context(running(command, folder / f'{name}.txt'))
            client = stack.enter_context(closing(Client(f'{name}/tc_depth', f'{name}/')))
            started.append(Side(camera, client, process))
        for side in started:
            side.client.listen(*OUTPUTS)
            side.client.meet(side.camera.raw(side.camera.picture()), side.camera.info())
        yield started


def test_two_cameras_at_once_are_two_streams(sides: list[Side]) -> None:
    before = [side.client.settled() for side in sides]
    newest = max(side.client.stamp_ns for side in sides)
    for side in sides:
        side.client.forget()
        side.client.stamp_ns = newest  # the same stamps on both: only the topics differ
    shown = []
    for index in range(FRAMES):
        shown.append({side.show(index) for side in sides})
        for side in sides:
            side.client.spin_for(0.05)
    assert all(len(stamps) == 1 for stamps in shown)
    for side, earlier in zip(sides, before, strict=True):
        counts = all_arrived(side.client, earlier)
        published = counts.count('frames published')
        assert published == FRAMES - counts.dropped.get('superseded', 0) >= FRAMES / 2
        for output, messages in side.client.heard.items():
            assert len(messages) == published, output
            for message in messages:
                assert (message.height, message.width) == (side.camera.height, side.camera.width)
                assert message.header.frame_id == side.camera.frame_id
                assert {stamp_ns(message.header)} in shown


def all_arrived(client: Client, before: Health) -> Health:
    """Wait until the node has done with every image and every output is here; counts since."""

    def done(health: Health) -> bool:
        received = health.since(before).count('frames received')
        return received == FRAMES and health.count('frames waiting') == 0

    counts = client.until_healthy(done, 'exactly its own images').since(before)
    published = counts.count('frames published')
    client.until(lambda: all(len(m) >= published for m in client.heard.values()), 'all outputs')
    client.spin_for(0.5)  # what is the other's would come now
    return counts


def test_when_one_camera_fails_the_other_goes_on(sides: list[Side]) -> None:
    front, rear = sides
    image = front.camera.raw(front.camera.picture())
    image.data = image.data[:-1]
    health = front.client.show_until_healthy(
        lambda h: h.is_error, 'the fault is told', image, front.camera.info()
    )
    assert 'truncated' in health.message
    rear.client.meet(rear.camera.raw(rear.camera.picture()), rear.camera.info())
    assert not rear.client.settled().is_error
