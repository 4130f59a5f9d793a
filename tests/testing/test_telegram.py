"""The Bot API server over real HTTP, asked by aiohttp, aiogram and python-telegram-bot."""

import asyncio
import io
import json

import aiohttp
import pytest
import telegram
import telegram.error
from aiogram import Bot, Dispatcher
from aiogram import exceptions as aiogram_errors
from aiogram.client.default import DefaultBotProperties
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.types import (
    BotCommand,
    BufferedInputFile,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputMediaPhoto,
)

from bot.core._shared.errors import InvalidArgumentError
from bot.testing import fast_loop
from bot.testing.telegram import ServerLimits, TelegramServer

GROUP, SUPERGROUP, USER = -100, -1001234567890, 42
BUTTON = InlineKeyboardMarkup(inline_keyboard=[[InlineKeyboardButton(text="Go", callback_data="go")]])


@pytest.fixture
async def server():
    """Wide limits: these tests are about everything else."""
    async with TelegramServer(limits=ServerLimits(chat_burst=1_000, bulk=(1_000, 1.0))) as server:
        yield server


def aiogram_bot(server, token=None, **options):
    session = AiohttpSession(api=TelegramAPIServer.from_base(server.url))
    return Bot(token or server.token, session=session, **options)


@pytest.fixture
async def bot(server):
    async with aiogram_bot(server).context() as bot:
        yield bot


@pytest.fixture
async def ptb(server):
    bot = telegram.Bot(server.token, base_url=server.base_url, base_file_url=server.base_file_url)
    async with bot:
        yield bot


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


# Bodies.


async def test_parameters_come_as_query_json_form_or_multipart(server, http):
    url = f"{server.url}/bot{server.token}/sendMessage"
    multipart = aiohttp.FormData(default_to_multipart=True)
    multipart.add_field("chat_id", "42")
    multipart.add_field("text", "multipart")
    markup = {"inline_keyboard": [[{"text": "Go", "callback_data": "go"}]]}
    for request in (
        {"params": {"chat_id": 42, "text": "query"}},
        {"json": {"chat_id": 42, "text": "json", "reply_markup": markup}},
        {"data": {"chat_id": "42", "text": "form", "reply_markup": json.dumps(markup)}},
        {"data": multipart},
    ):
        async with http.post(url, **request) as response:
            assert response.status == 200
            assert (await response.json())["ok"]
    assert server.texts(42) == ["query", "json", "form", "multipart"]
    assert [message.get("reply_markup") for message in server.messages(42)] == [None, markup, markup, None]


@pytest.mark.parametrize(
    ("request_", "code", "told"),
    [
        ({"json": {"chat_id": 42}}, 400, "message text is empty"),
        ({"json": {"text": "x"}}, 400, "chat_id is empty"),
        ({"json": {"chat_id": "@nobody", "text": "x"}}, 400, "chat not found"),
        ({"json": {"chat_id": 42, "text": "x" * 4097}}, 400, "message is too long"),
        ({"json": [1]}, 400, "object expected"),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, "can't parse"),
        ({"data": {"chat_id": "42", "text": "x", "reply_markup": "{"}}, 400, "can't parse reply_markup"),
        ({"data": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=a"}}, 400, "multipart"),
        ({"data": {"text": "x" * 2_000_000}}, 413, "Too Large"),
        ({"json": {"chat_id": 42, "text": "<b>x", "parse_mode": "HTML"}}, 400, "can't parse entities"),
    ],
)  # fmt: skip
async def test_a_bad_request_is_told_as_telegram_does(server, http, request_, code, told):
    async with http.post(f"{server.url}/bot{server.token}/sendMessage", **request_) as response:
        answer = await response.json()
    assert (response.status, answer["ok"], answer["error_code"]) == (code, False, code)
    assert told in answer["description"]


async def test_unknown_tokens_and_methods(server, http):
    async with http.get(f"{server.url}/bot1:wrong/getMe") as response:
        assert response.status == 401
    async with http.get(f"{server.url}/bot{server.token}/frobnicate") as response:
        assert (response.status, (await response.json())["description"]) == (
            404,
            "Not Found: method not found",
        )
    server.results["frobnicate"] = {"x": 1}
    async with http.get(f"{server.url}/bot{server.token}/FROBNICATE") as response:
        assert (await response.json()) == {"ok": True, "result": {"x": 1}}


# aiogram.


async def test_aiogram_sends_edits_copies_and_deletes(server, bot):
    sent = await bot.send_message(USER, "<b>Hi</b> ü&amp;😀 <i>x</i>", parse_mode="HTML", reply_markup=BUTTON)
    assert (sent.text, sent.html_text) == ("Hi ü&😀 x", "<b>Hi</b> ü&amp;😀 <i>x</i>")
    assert (sent.chat.type, sent.from_user.id) == ("private", bot.id)
    edited = await bot.edit_message_text("Ho", chat_id=USER, message_id=sent.message_id)
    assert edited.edit_date
    assert (edited.text, edited.reply_markup) == ("Ho", None)
    with pytest.raises(aiogram_errors.TelegramBadRequest, match="message is not modified"):
        await edited.edit_text("Ho")
    copied = await bot.copy_message(GROUP, USER, sent.message_id)
    forwarded = await bot.forward_message(GROUP, USER, sent.message_id)
    assert forwarded.forward_origin is not None
    assert [one.message_id for one in await bot.copy_messages(SUPERGROUP, GROUP, [1, 2, 77])] == [1, 2]
    assert server.texts(GROUP) == ["Ho", "Ho"]
    assert await bot.delete_messages(GROUP, [copied.message_id, forwarded.message_id])
    assert server.texts(GROUP) == []
    with pytest.raises(aiogram_errors.TelegramBadRequest, match="message to delete not found"):
        await bot.delete_message(GROUP, 1)
    with pytest.raises(aiogram_errors.TelegramBadRequest, match="message to edit not found"):
        await bot.edit_message_text("x", chat_id=GROUP, message_id=1)
    with pytest.raises(aiogram_errors.TelegramBadRequest, match="can't be edited"):
        await bot.edit_message_text("x", chat_id=USER, message_id=server.send_message(USER)["message_id"])
    replied = await bot.send_message(USER, "re", reply_to_message_id=sent.message_id)
    assert replied.reply_to_message.text == "Ho"


async def test_aiogram_uploads_and_downloads(server, bot):
    content = bytes(range(256)) * 1000
    sent = await bot.send_document(USER, BufferedInputFile(content, "döc.bin"), caption="c")
    assert (sent.document.file_name, sent.document.file_size, sent.caption) == ("döc.bin", len(content), "c")
    downloaded = await bot.download(sent.document.file_id)
    assert downloaded.read() == content
    again = await bot.send_photo(GROUP, sent.document.file_id)
    assert again.photo[0].file_unique_id == sent.document.file_unique_id
    album = await bot.send_media_group(
        GROUP,
        [InputMediaPhoto(media=BufferedInputFile(b"1", "1.jpg"), caption="one"), InputMediaPhoto(media="https://x.org/2.jpg")],
    )  # fmt: skip
    assert album[0].media_group_id == album[1].media_group_id
    edited = await bot.edit_message_media(
        InputMediaPhoto(media=BufferedInputFile(b"2", "2.jpg")), chat_id=GROUP, message_id=again.message_id
    )
    assert edited.photo[0].file_size == 1
    for method in ("audio", "video", "voice", "animation", "video_note", "sticker"):
        message = await getattr(bot, f"send_{method}")(USER, BufferedInputFile(b"x", "x.bin"))
        assert getattr(message, method).file_size == 1
    with pytest.raises(aiogram_errors.TelegramBadRequest, match="wrong file identifier"):
        await bot.send_photo(USER, "no-such-file")
    upload = server.log.of("sendDocument")[0].parameters
    assert {"name": "döc.bin", "bytes": len(content)} in upload.values()


async def test_aiogram_asks_for_everything_else(server, bot):
    server.add_chat({"id": SUPERGROUP, "username": "Talk", "title": "Talk"}, administrators=(7,))
    assert (await bot.me()).username
    assert (await bot.get_chat("@talk")).id == SUPERGROUP
    assert [one.user.id for one in await bot.get_chat_administrators(SUPERGROUP)] == [7]
    assert (await bot.get_chat_member(SUPERGROUP, 7)).status == "creator"
    assert (await bot.get_chat_member(SUPERGROUP, bot.id)).status == "member"
    assert await bot.get_chat_member_count(SUPERGROUP) == 2
    assert await bot.set_my_commands([BotCommand(command="start", description="Begin")])
    assert [command.command for command in await bot.get_my_commands()] == ["start"]
    assert await bot.delete_my_commands()
    assert await bot.get_my_commands() == []
    assert await bot.set_my_name("N")
    assert (await bot.get_my_name()).name == "N"
    assert (await bot.get_chat_menu_button()).type == "commands"
    assert await bot.send_chat_action(USER, "typing")
    assert await bot.set_message_reaction(USER, 1)
    assert (await bot.get_user_profile_photos(USER)).total_count == 0
    poll = await bot.send_poll(USER, "?", ["a", "b"])
    assert (await bot.stop_poll(USER, poll.message_id)).is_closed
    assert (await bot.send_location(USER, 1.5, 2.5)).location.latitude == 1.5
    assert (await bot.send_venue(USER, 1.5, 2.5, "t", "a")).venue.title == "t"
    assert (await bot.send_contact(USER, "1", "n")).contact.first_name == "n"
    assert (await bot.send_dice(USER)).dice.value == 1
    assert await bot.edit_message_text("x", inline_message_id="abc") is True
    with pytest.raises(aiogram_errors.TelegramBadRequest, match="not modified"):
        await bot.edit_message_text("x", inline_message_id="abc")


async def test_errors_that_tell_about_a_chat(server, bot):
    server.block(1)
    server.deactivate(2)
    server.remove_chat(3)
    server.migrate(-5, -1005)
    for chat, error, told in (
        (1, aiogram_errors.TelegramForbiddenError, "bot was blocked by the user"),
        (2, aiogram_errors.TelegramForbiddenError, "user is deactivated"),
        (3, aiogram_errors.TelegramBadRequest, "chat not found"),
    ):
        with pytest.raises(error, match=told):
            await bot.send_message(chat, "x")
    with pytest.raises(aiogram_errors.TelegramMigrateToChat) as raised:
        await bot.send_message(-5, "x")
    assert raised.value.migrate_to_chat_id == -1005
    server.unblock(1)
    await bot.send_message(1, "x")


async def test_chats_that_were_not_added_can_be_unknown():
    async with TelegramServer(create_chats=False) as server, aiogram_bot(server).context() as bot:
        server.add_chat(USER)
        await bot.send_message(USER, "x")
        with pytest.raises(aiogram_errors.TelegramBadRequest, match="chat not found"):
            await bot.send_message(43, "x")


async def test_answers_can_be_slow_fail_or_get_lost(server, bot):
    server.fail("sendMessage", code=502, times=2)
    server.fail("sendMessage", retry_after=7, code=429)
    server.fail("sendMessage", code=0)
    server.fail("sendMessage", code=500, performed=True)
    for error in (
        aiogram_errors.TelegramServerError,
        aiogram_errors.TelegramServerError,
        aiogram_errors.TelegramRetryAfter,
        aiogram_errors.TelegramNetworkError,
        aiogram_errors.TelegramServerError,
    ):
        with pytest.raises(error):
            await bot.send_message(USER, "x")
    assert [call.code for call in server.log] == [502, 502, 429, 0, 500]
    assert [call.retry_after for call in server.log.refused()] == [7]
    assert server.texts(USER) == ["x"]
    server.delay = lambda method: 0.05 if method == "getChat" else 0.0
    with pytest.raises(aiogram_errors.TelegramNetworkError, match="timeout"):
        await bot.get_chat(USER, request_timeout=0.01)
    with pytest.raises(InvalidArgumentError, match="code"):
        server.fail(code=200)


async def test_updates_reach_an_aiogram_dispatcher(server, bot):
    dispatcher, seen = Dispatcher(), []

    @dispatcher.message()
    async def on_message(message):
        seen.append(message.text)
        await message.answer(f"echo {message.text}", reply_markup=BUTTON)

    @dispatcher.callback_query()
    async def on_press(query):
        await query.answer("pressed", show_alert=True)
        await query.message.edit_text("done")

    @dispatcher.inline_query()
    async def on_inline(query):
        await query.answer([])

    @dispatcher.chat_member()
    async def on_member(change):
        seen.append(change.new_chat_member.status)

    polling = asyncio.create_task(dispatcher.start_polling(bot, handle_signals=False))
    server.send_message({"id": USER, "first_name": "Ü"}, text="hello")
    await server.until(lambda: server.texts(USER))
    query = server.press(USER, server.messages(USER)[-1], "go")
    inline = server.inline_query(USER, "find")
    server.join(7, SUPERGROUP)
    await server.until(lambda: server.texts(USER) == ["done"] and server.bot().queries[inline])
    await server.until(lambda: "member" in seen)
    assert server.bot().queries[query]["text"] == "pressed"
    assert seen == ["hello", None, "member"]
    await dispatcher.stop_polling()
    await polling
    with pytest.raises(aiogram_errors.TelegramBadRequest, match="query is too old"):
        await bot.answer_callback_query("unknown")


async def test_a_second_poll_ends_the_first_and_a_webhook_ends_both(server, bot):
    first = asyncio.create_task(bot.get_updates(timeout=50))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(bot.get_updates(timeout=50))
    with pytest.raises(aiogram_errors.TelegramConflictError, match="terminated by other getUpdates"):
        await first
    server.send_message(USER, text="a")
    server.send_message(USER, text="b")
    got = await second
    assert got[0].message.text == "a"
    assert [u.message.text for u in await bot.get_updates(offset=got[0].update_id + 1)] == ["b"]
    assert [u.message.text for u in await bot.get_updates(offset=-1, limit=5)] == ["b"]
    await bot.set_webhook("http://127.0.0.1:9/none")
    with pytest.raises(aiogram_errors.TelegramConflictError, match="webhook is active"):
        await bot.get_updates()
    await bot.delete_webhook(drop_pending_updates=True)
    assert await bot.get_updates() == []
    with pytest.raises(aiogram_errors.TelegramBadRequest, match="bad webhook"):
        await bot.set_webhook("ftp://x")


async def test_updates_are_posted_to_a_webhook_until_it_takes_them(server, bot):
    got, secrets = [], []

    async def hook(request):
        secrets.append(request.headers.get("X-Telegram-Bot-Api-Secret-Token"))
        got.append((await request.json())["message"]["text"])
        if len(got) == 1:
            return aiohttp.web.Response(status=500)
        return aiohttp.web.json_response({"method": "sendMessage", "chat_id": USER, "text": "by webhook"})

    app = aiohttp.web.Application()
    app.router.add_post("/hook", hook)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    await bot.set_webhook(url, secret_token="s3cret")
    assert (await bot.get_webhook_info()).url == url
    server.send_message(USER, text="x")
    await server.until(lambda: server.texts(USER) == ["by webhook"])
    assert (got, secrets) == (["x", "x"], ["s3cret", "s3cret"])
    await runner.cleanup()


# python-telegram-bot.


async def test_ptb_does_the_same(server, ptb):
    sent = await ptb.send_message(USER, "<b>Hi</b>", parse_mode="HTML")
    assert sent.text_html == "<b>Hi</b>"
    assert (await ptb.edit_message_text("Ho", USER, sent.message_id)).text == "Ho"
    with pytest.raises(telegram.error.BadRequest, match="not modified"):
        await ptb.edit_message_text("Ho", USER, sent.message_id)
    document = (await ptb.send_document(USER, io.BytesIO(b"content"), filename="a.txt")).document
    file = await document.get_file()
    assert bytes(await file.download_as_bytearray()) == b"content"
    album = await ptb.send_media_group(
        GROUP, [telegram.InputMediaPhoto(b"1"), telegram.InputMediaVideo(b"2", caption="c")]
    )
    assert [message.caption for message in album] == [None, "c"]
    assert (await ptb.get_chat(GROUP)).title == f"Chat {GROUP}"
    assert len(await ptb.copy_messages(USER, GROUP, [1, 2])) == 2
    assert (await ptb.send_poll(USER, "?", ["a", "b"])).poll.options[1].text == "b"
    assert await ptb.set_my_commands([("start", "Begin")])
    assert (await ptb.get_my_commands())[0].command == "start"
    server.block(9)
    with pytest.raises(telegram.error.Forbidden, match="blocked"):
        await ptb.send_message(9, "x")
    server.migrate(-5, -1005)
    with pytest.raises(telegram.error.ChatMigrated):
        await ptb.send_message(-5, "x")
    with pytest.raises(telegram.error.InvalidToken):
        await telegram.Bot("5:x", base_url=server.base_url).initialize()


async def test_updates_reach_a_ptb_application(server):
    from telegram.ext import ApplicationBuilder, CallbackQueryHandler, CommandHandler

    async def start(update, context):
        markup = telegram.InlineKeyboardMarkup([[telegram.InlineKeyboardButton("Go", callback_data="go")]])
        await update.message.reply_text(" ".join(context.args), reply_markup=markup)

    async def press(update, context):
        await update.callback_query.answer()
        await update.callback_query.edit_message_text("done")

    builder = ApplicationBuilder().token(server.token).base_url(server.base_url)
    application = builder.base_file_url(server.base_file_url).build()
    application.add_handler(CommandHandler("start", start))
    application.add_handler(CallbackQueryHandler(press))
    async with application:
        await application.start()
        await application.updater.start_polling()
        server.send_message(USER, text="/start with args")
        await server.until(lambda: server.texts(USER) == ["with args"])
        server.press(USER, server.messages(USER)[-1], "go")
        await server.until(lambda: server.texts(USER) == ["done"])
        await application.updater.stop()
        await application.stop()


# Limits, in virtual time over real HTTP.


def test_the_21st_message_of_a_minute_is_refused_for_the_rest_of_it():
    async def main():
        loop = asyncio.get_running_loop()
        async with TelegramServer() as server, aiogram_bot(server).context() as bot:
            for number in range(20):
                await bot.send_message(GROUP, str(number))
                await asyncio.sleep(0.5)
            told = []
            for _ in range(3):
                with pytest.raises(aiogram_errors.TelegramRetryAfter) as raised:
                    await bot.send_message(GROUP, "x")
                told.append(raised.value.retry_after)
                await asyncio.sleep(10)
            assert told == [50, 40, 30]
            await bot.send_message(USER, "others are not held")
            await asyncio.sleep(20)
            began = loop.time()
            await bot.send_message(GROUP, "20")
            assert loop.time() == began
            assert server.log.most_in_window(GROUP, 60) == 20
            assert len(server.log.refused(GROUP)) == len(server.log.refused(groups=True)) == 3
            assert len(server.log.in_penalties()) == 2

    fast_loop.run(main())


def test_an_album_that_does_not_fit_is_sent_in_part():
    async def main():
        async with TelegramServer() as server, aiogram_bot(server).context() as bot:
            for number in range(17):
                await bot.send_message(GROUP, str(number))
            media = [InputMediaPhoto(media=BufferedInputFile(b"%d" % n, "x.jpg")) for n in range(5)]
            with pytest.raises(aiogram_errors.TelegramBadRequest, match=r"message #4 .*retry after 60"):
                await bot.send_media_group(GROUP, media)
            assert len(server.messages(GROUP)) == 20

    fast_loop.run(main())


def test_more_than_a_thousand_active_requests_are_refused_for_a_minute():
    async def main():
        limits = ServerLimits(active=50, bulk=(1_000, 1.0))
        async with TelegramServer(limits=limits) as server, aiogram_bot(server).context() as bot:
            server.delay = 5.0
            results = await asyncio.gather(
                *(bot.send_message(user, "x") for user in range(1, 81)), return_exceptions=True
            )
            refused = [error for error in results if isinstance(error, aiogram_errors.TelegramRetryAfter)]
            assert len(refused) == 30
            assert {error.retry_after for error in refused} == {60}
            assert server.bot().limits.active == 0

    fast_loop.run(main())


def test_both_clients_keep_their_time_limits_in_virtual_time():
    """Three minutes of requests that each take 4 s: no client's time limit fires; then one that must."""

    async def main():
        loop = asyncio.get_running_loop()
        async with TelegramServer() as server, aiogram_bot(server).context() as bot:
            second = server.add_bot()
            ptb = telegram.Bot(second.token, base_url=server.base_url)
            server.delay = lambda method: 4.0 if method.startswith("send") else 0.0
            async with ptb:
                began = loop.time()
                while loop.time() < began + 180:
                    content = b"x" * 3_000_000
                    await asyncio.gather(
                        bot.send_message(USER, "a"),
                        bot.send_document(USER + 1, BufferedInputFile(content, "x.bin")),
                        ptb.send_message(USER, "p"),
                        ptb.send_document(USER + 1, content),
                    )
                assert {call.code for call in server.log} == {200}
                assert len(server.log) == 2 + 4 * 45 - 1
                server.delay = 6.0
                with pytest.raises(telegram.error.TimedOut):
                    await ptb.send_message(USER, "too slow")
                with pytest.raises(aiogram_errors.TelegramNetworkError):
                    await bot.send_message(USER, "too slow", request_timeout=5)
                await asyncio.sleep(1.5)

    fast_loop.run(main())


# The server itself.


async def test_it_starts_again_with_its_port_and_world(server, bot):
    await bot.send_message(USER, "x")
    url = server.url
    await server.stop()
    with pytest.raises(aiogram_errors.TelegramNetworkError):
        await bot.send_message(USER, "y")
    await server.start()
    assert server.url == url
    await bot.send_message(USER, "z")
    assert server.texts(USER) == ["x", "z"]


async def test_a_client_that_hangs_up_is_no_active_request_any_more(server, http):
    server.delay = 100.0
    url = f"{server.url}/bot{server.token}/getMe"
    asked = [asyncio.ensure_future(http.get(url)) for _ in range(20)]
    await server.until(lambda: len(server.log) == 20)
    assert server.bot().limits.active == 20
    for request in asked:
        request.cancel()
    await server.until(lambda: server.bot().limits.active == 0)


def test_it_can_be_filled_before_it_starts_and_move_to_another_loop():
    server = TelegramServer(create_chats=False)
    server.add_chat(USER)
    server.send_message(USER, text="early")

    async def main():
        async with server, aiogram_bot(server).context() as bot:
            await bot.send_message(USER, "x")
            updates = await bot.get_updates()
            polled = asyncio.create_task(bot.get_updates(offset=updates[-1].update_id + 1, timeout=50))
            await asyncio.sleep(0.05)
            server.send_message(USER, text="more")
            assert len(await polled) == 1

    asyncio.run(main())
    asyncio.run(main())
    assert server.texts(USER) == ["x", "x"]


async def test_until_looks_without_requests_too(server):
    done = []
    asyncio.get_running_loop().call_later(0.1, done.append, 1)
    await server.until(lambda: done)
    with pytest.raises(TimeoutError):
        await server.until(lambda: False, timeout=0.1)


async def test_bots_have_limits_of_their_own(server):
    other = server.add_bot(limits=ServerLimits(chat_burst=1))
    async with aiogram_bot(server).context() as one, aiogram_bot(server, other.token).context() as two:
        for _ in range(2):
            await one.send_message(USER, "x")
        await two.send_message(USER, "x")
        with pytest.raises(aiogram_errors.TelegramRetryAfter):
            await two.send_message(USER, "x")
    assert len(server.log.of(bot=other.id)) == 2


@pytest.mark.parametrize("token", ["", "x", "12", "x:y", "0:y", "1:", "1:a b", "1:a/b", None])
def test_a_token_that_is_none_is_told_without_its_secret(token):
    with pytest.raises(InvalidArgumentError, match="token") as raised:
        TelegramServer(token=token)
    assert "a b" not in str(raised.value)


async def test_the_log_is_bounded():
    async with TelegramServer(log_size=3) as server, aiogram_bot(server).context() as bot:
        for _ in range(5):
            await bot.get_chat(USER)
        assert (len(server.log), server.log.forgotten, server.log[0].method) == (3, 2, "getChat")


async def test_default_properties_of_aiogram_work(server):
    async with aiogram_bot(server, default=DefaultBotProperties(parse_mode="HTML")).context() as bot:
        assert (await bot.send_message(USER, "<b>x</b>")).text == "x"
