"""Uploads: each part is sent once, and a refused SendMedia is sent again without its upload.

``PHASE4_TEST_UPLOAD_MB=1024`` uploads a gigabyte; the suite uploads less.
"""

import asyncio
import os

import pyrogram
import pytest
from pyrogram.errors import FloodWait

from bot.core.outbound import Outbound
from bot.testing.mtproto import MTProtoServer
from tests.integrations.pyrogram_bots import GROUP, USER, in_fast_time, process_outbound, running

MEGABYTES = int(os.environ.get("PHASE4_TEST_UPLOAD_MB", "24"))
PART = 512 * 1024


@pytest.fixture
def large_file(tmp_path):
    """A sparse file with something of its own in each part."""
    path = tmp_path / "film.mkv"
    with path.open("wb") as file:
        file.truncate(MEGABYTES * 1024 * 1024)
        for part in range(MEGABYTES * 2):
            file.seek(part * PART)
            file.write(part.to_bytes(8, "big"))
    return path


def test_floods_on_parts_and_on_the_send_repeat_no_part(large_file):
    async def main():
        server = MTProtoServer()
        outbound = await process_outbound()
        count = MEGABYTES * 2
        async with running(server) as app:
            await app.send_message(GROUP, "uploading")
            server.refuse("SaveBigFilePart", 9)
            server.refuse("SaveBigFilePart", 25, error="FLOOD_PREMIUM_WAIT")
            server.refuse("SendMedia", 41)
            message = await app.send_document(GROUP, str(large_file))
        parts = server.requests("SaveBigFilePart")
        refused = [one for one in parts if one.outcome != "ok"]
        assert sorted(one.outcome for one in refused) == ["FLOOD_PREMIUM_WAIT_25", "FLOOD_WAIT_9"]
        received = server.parts()
        assert sorted(received) == list(range(count))
        assert all(len(times) == 1 for times in received.values()), "a part was sent twice"
        assert len({digest for [(_, digest)] in received.values()}) == count
        assert len(parts) == count + 2
        sends = server.requests("SendMedia")
        assert [one.outcome for one in sends] == ["FLOOD_WAIT_41", "ok"]
        assert sends[0].query.random_id == sends[1].query.random_id
        assert sends[1].at - sends[0].at >= 41.0
        assert message.document.file_size == MEGABYTES * 1024 * 1024
        assert outbound.statistics()["refusals"] == 1, "parts wait by themselves"

    in_fast_time(main)


def test_a_refused_part_holds_parts_and_no_message(large_file):
    async def main():
        server = MTProtoServer()
        await process_outbound()
        async with running(server) as app:
            status = await app.send_message(USER, "0 %")
            server.refuse("SaveBigFilePart", 120)
            upload = asyncio.create_task(app.send_document(GROUP, str(large_file)))
            await asyncio.sleep(2.0)
            await status.edit("held by Telegram")
            assert not upload.done()
            await upload
        [refused] = [one for one in server.requests("SaveBigFilePart") if one.outcome != "ok"]
        in_wait = [
            one
            for one in server.requests("SaveBigFilePart")
            if refused.at + 0.5 < one.at < refused.at + 120.0
        ]
        assert not in_wait, "parts were sent into the wait"
        assert server.shown(USER, status.id) == "held by Telegram"

    in_fast_time(main)


def test_without_it_a_long_wait_of_a_part_loses_the_upload(large_file):
    """What the adapter is for: the client alone sends all other parts, then fails."""

    async def main():
        server = MTProtoServer()
        async with server.client() as app:
            server.refuse("SaveBigFilePart", 25)
            with pytest.raises(FloodWait):
                await app.send_document(GROUP, str(large_file))
        assert len(server.requests("SaveBigFilePart")) == MEGABYTES * 2

    in_fast_time(main)


def test_a_part_that_is_missing_is_sent_again_alone(large_file):
    """The client's own repair goes through, past no limit."""

    async def main():
        server = MTProtoServer()
        await process_outbound()
        async with running(server) as app:
            server.fail("SendMedia", 400, "FILE_PART_3_MISSING")
            await app.send_document(GROUP, str(large_file))
        times = {part: len(received) for part, received in server.parts().items()}
        assert times.pop(3) == 2
        assert set(times.values()) == {1}

    in_fast_time(main)


def test_an_album_is_sent_again_without_its_uploads(tmp_path):
    async def main():
        server = MTProtoServer()
        await process_outbound()
        files = []
        for number in range(3):
            path = tmp_path / f"{number}.bin"
            path.write_bytes(bytes([number]) * 700_000)
            files.append(pyrogram.types.InputMediaDocument(str(path)))
        async with running(server) as app:
            server.refuse("SendMultiMedia", 30)
            server.refuse("UploadMedia", 5)
            messages = await app.send_media_group(GROUP, files)
        assert len(messages) == 3
        parts = server.requests("SaveFilePart")
        assert len(parts) == 6
        assert len({(one.query.file_id, one.query.file_part) for one in parts}) == 6
        sends = server.requests("SendMultiMedia")
        assert [one.outcome for one in sends] == ["FLOOD_WAIT_30", "ok"]
        ids = [[one.random_id for one in send.query.multi_media] for send in sends]
        assert ids[0] == ids[1]
        assert [one.outcome for one in server.requests("UploadMedia")] == ["FLOOD_WAIT_5", *["ok"] * 3]

    in_fast_time(main)


def test_a_cancelled_upload_leaves_no_slot_taken(large_file):
    async def main():
        server = MTProtoServer(latency=0.05)
        outbound = await process_outbound()
        async with running(server) as app:
            server.refuse("SendMedia", 60)
            upload = asyncio.create_task(app.send_document(GROUP, str(large_file)))
            while not outbound.statistics()["refusals"]:
                await asyncio.sleep(0.1)
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)
            assert outbound.statistics()["queued"] == outbound.statistics()["in_flight"] == 0
            await app.send_message(GROUP, "after the wait")
        outbound.check_invariants()
        assert [one.outcome for one in server.requests("SendMedia")] == ["FLOOD_WAIT_60"]

    in_fast_time(main)


async def test_a_small_upload_in_real_time(large_file):
    """The same without a jumping clock."""
    server = MTProtoServer(limits=None)
    outbound = Outbound()
    await outbound.enable()
    async with running(server, outbound=outbound) as app:
        server.refuse("SaveBigFilePart", 1)
        await app.send_document(GROUP, str(large_file))
    await outbound.disable()
    assert all(len(times) == 1 for times in server.parts().values())
