"""The MTProto server for tests behaves as Telegram is known to."""

import asyncio
import io

import pyrogram
import pytest
from pyrogram.errors import FilePartMissing, FloodWait, MessageNotModified

from bot.testing import fast_loop
from bot.testing.mtproto import MTProtoServer
from bot.testing.telegram_limits import ServerLimits

GROUP = -1_001_000_000_000


def test_a_client_starts_sends_and_stops_without_a_network():
    async def main():
        server = MTProtoServer()
        async with server.client("bot", bot_token="42:secret") as app:
            assert (app.me.id, app.me.is_bot) == (42, True)
            sent = [await app.send_message(chat, "hello") for chat in (5, -6, GROUP)]
            assert [(one.chat.id, one.text) for one in sent] == [
                (5, "hello"),
                (-6, "hello"),
                (GROUP, "hello"),
            ]
            assert [server.shown(one.chat.id, one.id) for one in sent] == ["hello"] * 3
            await sent[0].edit("changed")
            assert server.shown(5, sent[0].id) == "changed"
            with pytest.raises(MessageNotModified):
                await sent[0].edit("changed")
            await sent[1].delete()
            assert server.shown(-6, sent[1].id) is None
        assert not app.is_connected

    fast_loop.run(main())


def test_the_21st_message_in_a_minute_is_refused_and_the_penalty_noted():
    async def main():
        server = MTProtoServer()
        async with server.client(sleep_threshold=0) as app:
            for number in range(20):
                await app.send_message(GROUP, f"{number}")
            with pytest.raises(FloodWait) as refused:
                await app.send_message(GROUP, "one too many")
            assert refused.value.value == 60
            await asyncio.sleep(5)
            with pytest.raises(FloodWait):
                await app.send_message(GROUP, "into the penalty")
            assert [one.in_penalty for one in server.requests("SendMessage")][-2:] == [False, True]
            await asyncio.sleep(60)
            await app.send_message(GROUP, "free again")

    fast_loop.run(main())


def test_the_clients_own_sleeping_is_the_real_one():
    async def main():
        server = MTProtoServer()
        async with server.client(sleep_threshold=30) as app:
            server.refuse("SendMessage", 25)
            await app.send_message(GROUP, "slept")
            server.refuse("SendMessage", 31)
            with pytest.raises(FloodWait):
                await app.send_message(GROUP, "not slept")
        first, second = server.requests("SendMessage")[:2]
        assert second.at - first.at == pytest.approx(25)

    fast_loop.run(main())


def test_a_request_that_hangs_times_out_as_the_clients_do():
    async def main():
        server = MTProtoServer()
        async with server.client() as app:
            hang = server.hang("SendMessage", times=1)
            began = asyncio.get_running_loop().time()
            await app.send_message(GROUP, "sent by the second try")
            assert asyncio.get_running_loop().time() - began == pytest.approx(16, abs=0.1)  # virtual
            assert hang.waiting == 0
        assert [one.outcome for one in server.requests("SendMessage")] == [None, "ok"]

    fast_loop.run(main())


def test_files_must_be_whole_and_are_not_kept():
    async def main():
        server = MTProtoServer()
        async with server.client() as app:
            file = io.BytesIO(bytes(3 * 512 * 1024))
            file.name = "a.bin"
            message = await app.send_document(5, file)
            assert message.document.file_size == 3 * 512 * 1024
            assert [len(times) for times in server.parts().values()] == [1, 1, 1]
            assert all(one.query.bytes == b"" for one in server.requests("SaveFilePart"))
            raw = pyrogram.raw
            media = raw.types.InputMediaUploadedDocument(
                file=raw.types.InputFile(id=1, parts=2, name="b", md5_checksum=""),
                mime_type="text/plain",
                attributes=[],
            )
            with pytest.raises(FilePartMissing):
                await app.invoke(
                    raw.functions.messages.SendMedia(
                        peer=await app.resolve_peer(5), media=media, message="", random_id=7
                    )
                )

    fast_loop.run(main())


def test_a_random_id_is_taken_once():
    async def main():
        server = MTProtoServer()
        async with server.client() as app:
            query = pyrogram.raw.functions.messages.SendMessage(
                peer=await app.resolve_peer(5), message="x", random_id=7
            )
            await app.invoke(query)
            with pytest.raises(TimeoutError):  # a 500, which the session tries ten times
                await app.invoke(query)
        assert server.shown(5, 2) is None

    fast_loop.run(main())


def test_updates_reach_handlers():
    async def main():
        server = MTProtoServer()
        seen = []
        async with server.client() as app:

            async def message(client, update):
                seen.append((update.from_user.id, update.chat.id, update.text))

            async def query(client, update):
                seen.append((update.from_user.id, update.data))
                await update.answer("done")

            app.add_handler(pyrogram.handlers.MessageHandler(message))
            app.add_handler(pyrogram.handlers.CallbackQueryHandler(query))
            await asyncio.sleep(0.01)
            await server.message(app, "private", user=7)
            await server.message(app, "in a group", user=7, chat=GROUP)
            number = await server.message(app, "menu", user=7)
            await server.callback(app, b"stop", user=7, message_id=number)
            await server.until(lambda: len(seen) == 4)
            await server.until(lambda: server.requests("SetBotCallbackAnswer"))
        assert set(seen) == {
            (7, 7, "private"),
            (7, GROUP, "in a group"),
            (7, 7, "menu"),
            (7, "stop"),
        }

    fast_loop.run(main())


def test_two_accounts_have_limits_and_messages_of_their_own():
    async def main():
        server = MTProtoServer(limits=ServerLimits(chat_burst=1))
        one, two = server.client("one"), server.client("two", is_bot=False, sleep_threshold=0)
        async with one, two:
            assert one.me.id != two.me.id
            assert not two.me.is_bot
            first = await one.send_message(5, "of one")
            second = await two.send_message(5, "of two")
            assert (first.id, second.id) == (1, 1)
            assert server.shown(5, 1, client=two) == "of two"
            with pytest.raises(FloodWait):
                await two.send_message(5, "too fast")

    fast_loop.run(main())


def test_what_it_cannot_answer_says_so_and_can_be_added():
    async def main():
        server = MTProtoServer()
        async with server.client() as app:
            query = pyrogram.raw.functions.messages.GetStickers(emoticon="x", hash=0)
            with pytest.raises(NotImplementedError, match=r"messages\.GetStickers"):
                await app.invoke(query)
            server.on(
                "messages.GetStickers",
                lambda client, query: pyrogram.raw.types.messages.StickersNotModified(),
            )
            assert isinstance(await app.invoke(query), pyrogram.raw.types.messages.StickersNotModified)

    fast_loop.run(main())


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="limits"):
        MTProtoServer(limits=5)
    with pytest.raises(ValueError, match="latency"):
        MTProtoServer(latency=-1)


def test_a_client_of_ones_own_is_taken_before_its_start():
    async def main():
        server = MTProtoServer()
        app = pyrogram.Client("mine", api_id=1, api_hash="x", bot_token="42:secret")
        assert server.attach(app) is app
        async with app:
            await app.send_message(5, "hello")
            with pytest.raises(ValueError, match="not started"):
                server.attach(app)
        async with app:
            await app.send_message(5, "started again")
        assert server.shown(5, 2) == "started again"

    fast_loop.run(main())
