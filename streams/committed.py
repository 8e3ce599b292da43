"""Faust, made to read what transactions have committed and no more (by itself it does so only where it writes in transactions), and
to begin where its store says: the offsets of its group go their own way when the store is put back, or the topics are."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import faust
from faust.transport.drivers import aiokafka
from faust.types import TP

Positions = Callable[[], Mapping[tuple[str, int], int]]


class _Thread(aiokafka.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # handed to its fetcher when it starts
        return consumer


class _Consumer(aiokafka.Consumer):
    app: "CommittedApp"

    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        reached = await asyncio.get_running_loop().run_in_executor(None, self.app.positions)
        start = {tp: reached.get((tp.topic, tp.partition), 0) for tp in self.assignment()}
        await self.seek_wait(start)
        return start


class _Transport(aiokafka.Transport):
    Consumer = _Consumer


class CommittedApp(faust.App):
    """`positions`: the next offset to be read of each partition; one that it does not name is read from its beginning."""

    def __init__(self, name: str, positions: Positions, **options: Any) -> None:
        self.positions = positions
        super().__init__(name, **options)

    def _new_transport(self) -> _Transport:
        return _Transport(self.conf.broker_consumer, self)
