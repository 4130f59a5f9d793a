"""What a kurigram client sends: in its turn, within Telegram's limits, each message once."""

import asyncio
import subprocess
import sys

import pyrogram
import pytest
from pyrogram.errors import FloodWait
from pyrogram.session import Session

from bot.core.outbound import (
    Limits,
    MessageDeletedError,
    Outbound,
    OutboundClosedError,
    OutboundHeldError,
    Priority,
    sending,
)
from bot.core.phase4_service import Phase4Service
from bot.integrations.pyrogram import install, uninstall
from bot.testing.mtproto import MTProtoServer
from bot.testing.telegram_limits import ServerLimits
from tests.integrations.pyrogram_bots import (
    GROUP,
    USER,
    in_fast_time,
    most_in_window,
    process_outbound,
    running,
)
from tests.support.searching import cases


def test_a_group_never_gets_more_than_20_messages_in_any_minute():
    async def main():
        server = MTProtoServer()
        await process_outbound()
        async with running(server) as app:
            await asyncio.gather(*(app.send_message(GROUP, f"message {n}") for n in range(100)))
        sent = server.requests("SendMessage")
        assert [one.text for one in sent] == [f"message {n}" for n in range(100)]
        assert all(one.outcome == "ok" for one in sent), "no refusal that could have been avoided"
        assert most_in_window([one.at for one in sent], 60.0) == 20

    in_fast_time(main)


def test_a_flood_wait_is_waited_for_by_outbound_and_the_same_message_is_sent_again():
    """The session would sleep through a wait of up to 10 s unseen, and others would go on sending."""

    async def main():
        server = MTProtoServer()
        outbound = await process_outbound()
        async with running(server) as app:
            await app.send_message(GROUP, "first")
            server.refuse("SendMessage", 7, chat=GROUP)
            await asyncio.gather(app.send_message(GROUP, "refused"), app.send_message(GROUP, "behind it"))
        requests = server.requests("SendMessage")
        assert [one.text for one in requests] == ["first", "refused", "refused", "behind it"]
        assert [one.outcome for one in requests] == ["ok", "FLOOD_WAIT_7", "ok", "ok"]
        assert requests[2].at - requests[1].at >= 7.0
        assert requests[1].query.random_id == requests[2].query.random_id
        assert not any(one.in_penalty for one in requests)
        assert outbound.statistics()["refusals"] == 1

    in_fast_time(main)


def test_a_slow_mode_wait_holds_its_chat_alone():
    async def main():
        server = MTProtoServer()
        await process_outbound()
        async with running(server) as app:
            server.refuse("SendMessage", 41, chat=GROUP, error="SLOWMODE_WAIT")
            held = asyncio.create_task(app.send_message(GROUP, "held"))
            await asyncio.sleep(0.5)
            began = asyncio.get_running_loop().time()
            await app.send_message(GROUP - 1, "not held")
            assert asyncio.get_running_loop().time() - began < 1.0  # virtual seconds
            await held
        assert [one.outcome for one in server.requests(chat=GROUP)] == ["SLOWMODE_WAIT_41", "ok"]

    in_fast_time(main)


def test_a_wait_of_a_read_holds_no_message():
    """Names are resolved against a wait of their own, often of hours."""

    async def main():
        server = MTProtoServer()
        await process_outbound()
        async with running(server) as app:
            server.refuse("ResolveUsername", 300)
            raw = pyrogram.raw
            server.on(
                "contacts.ResolveUsername",
                lambda client, query: raw.types.contacts.ResolvedPeer(
                    peer=raw.types.PeerUser(user_id=77), chats=[], users=[]
                ),
            )

            def resolve(name):
                return asyncio.create_task(app.invoke(raw.functions.contacts.ResolveUsername(username=name)))

            resolving = [resolve("refused")]
            await asyncio.sleep(1)
            resolving += [resolve(f"u{n}") for n in range(3)]
            await asyncio.sleep(1)
            await app.send_message(GROUP, "not held")
            assert not any(task.done() for task in resolving)
            await asyncio.gather(*resolving)
        resolved = server.requests("ResolveUsername")
        assert [one.outcome for one in resolved] == ["FLOOD_WAIT_300", *["ok"] * 4]
        assert all(one.at >= resolved[0].at + 300 for one in resolved[1:])

    in_fast_time(main)


def test_a_wait_longer_than_max_wait_is_raised_at_once():
    async def main():
        server = MTProtoServer()
        await process_outbound(max_wait=60.0)
        async with running(server) as app:
            server.refuse("SendMessage", 3600, chat=GROUP)
            with pytest.raises(FloodWait) as refused:
                await app.send_message(GROUP, "refused")
            assert refused.value.value == 3600
            with pytest.raises(OutboundHeldError):
                await app.send_message(GROUP, "not sent")
            server.refuse("GetUsers", 3600)
            with pytest.raises(FloodWait):
                await app.get_users(5)
            with pytest.raises(OutboundHeldError, match=r"users\.GetUsers"):
                await app.get_users(6)
        assert len(server.requests("SendMessage")) == len(server.requests("GetUsers")) == 1

    in_fast_time(main)


SECONDS = cases(100) // 4
"""In which each of 200 messages is edited once a second."""


def test_200_status_messages_edited_each_second_show_the_last_text():
    """Mirror bots edit into penalties, and hold a lock over all chats meanwhile."""

    async def main():
        server = MTProtoServer(limits=ServerLimits(chat_burst=3))
        outbound = await process_outbound()
        chats = [GROUP - n if n % 2 else USER + n for n in range(200)]
        async with running(server) as app:
            status = [await app.send_message(chat, "0 %") for chat in chats]
            edits: list[asyncio.Task] = []
            for second in range(1, SECONDS + 1):
                edits += [asyncio.create_task(message.edit(f"{second} s")) for message in status]
                await asyncio.sleep(1.0)
            await asyncio.gather(*edits)
            shown = [server.shown(message.chat.id, message.id) for message in status]
        assert shown == [f"{SECONDS} s"] * 200
        assert not any(one.in_penalty for one in server.log)
        refused = [one for one in server.log if one.outcome != "ok"]
        assert not refused
        figures = outbound.statistics()
        asked, sent = 200 * SECONDS, len(server.requests("EditMessage"))
        assert figures["superseded"] + sent == asked
        print(f"{asked:,} edits asked for, {sent:,} sent, {figures['superseded'] / asked:.0%} superseded")

    in_fast_time(main)


def test_an_edit_that_hangs_holds_no_other_chat():
    async def main():
        server = MTProtoServer()
        await process_outbound()
        async with running(server) as app:
            status = await app.send_message(GROUP, "0 %")
            hang = server.hang("EditMessage", chat=GROUP)
            hanging = asyncio.create_task(status.edit("1 %"))
            await asyncio.sleep(0.1)
            others = [await app.send_message(GROUP - n, "0 %") for n in range(1, 20)]
            await asyncio.gather(*(message.edit("1 %") for message in others))
            await app.send_message(GROUP, "a message to the same chat")
            assert not hanging.done()
            hang.release()
            await hanging
        assert server.shown(GROUP, status.id) == "1 %"

    in_fast_time(main)


def test_buttons_and_texts_do_not_supersede_each_other():
    async def main():
        server = MTProtoServer()
        await process_outbound()
        async with running(server) as app:
            message = await app.send_message(USER, "menu")
            keyboard = pyrogram.types.InlineKeyboardMarkup(
                [[pyrogram.types.InlineKeyboardButton("stop", callback_data="stop")]]
            )
            server.refuse("EditMessage", 3, chat=USER)
            edits = [asyncio.create_task(message.edit("first"))]
            await asyncio.sleep(0.1)
            edits += [
                asyncio.create_task(message.edit("second")),
                asyncio.create_task(message.edit_reply_markup(keyboard)),
            ]
            await asyncio.gather(*edits)
        sent = server.requests("EditMessage")
        assert [one.text for one in sent] == ["first", "second", None]
        assert sent[-1].query.reply_markup is not None
        assert server.shown(USER, message.id) == "second"

    in_fast_time(main)


def test_a_deleted_message_is_not_edited():
    """messages.DeleteMessages names no chat."""

    async def main():
        server = MTProtoServer()
        outbound = await process_outbound()
        async with running(server) as app:
            message = await app.send_message(USER, "0 %")
            server.refuse("SendMessage", 20, chat=USER)
            held = asyncio.create_task(app.send_message(USER, "held"))
            await asyncio.sleep(0.1)
            edit = asyncio.create_task(message.edit("1 %"))
            await asyncio.sleep(0.1)
            delete = asyncio.create_task(message.delete())
            await asyncio.gather(held, delete)
            with pytest.raises(Exception, match="was deleted"):
                await edit
        assert not server.requests("EditMessage")
        assert outbound.statistics()["dropped"] == 1

    in_fast_time(main)


def test_albums_and_forwards_cost_their_messages():
    async def main():
        server = MTProtoServer()
        await process_outbound()
        async with running(server) as app:
            forwards = [app.forward_messages(GROUP, USER, list(range(1, 11))) for _ in range(6)]
            await asyncio.gather(*forwards)
        sent = server.requests("ForwardMessages")
        assert all(one.outcome == "ok" for one in sent)
        assert most_in_window([one.at for one in sent], 60.0) == 2

    in_fast_time(main)


def test_answers_to_callback_queries_are_never_queued():
    async def main():
        server = MTProtoServer()
        outbound = await process_outbound()
        async with running(server) as app:
            outbound.hold(None, 500.0)
            began = asyncio.get_running_loop().time()
            await app.answer_callback_query("5", "done")
            assert asyncio.get_running_loop().time() == began

    in_fast_time(main)


def test_typing_is_superseded_while_it_waits():
    async def main():
        server = MTProtoServer()
        await process_outbound()
        action = pyrogram.enums.ChatAction.TYPING
        async with running(server) as app:
            await asyncio.gather(*(app.send_chat_action(GROUP, action) for _ in range(100)))
        assert len(server.requests("SetTyping")) <= 21

    in_fast_time(main)


def test_priorities_of_the_caller_hold():
    async def main():
        server = MTProtoServer()
        await process_outbound(Limits(bulk=(5, 1.0)))
        async with running(server) as app:

            async def broadcast():
                with sending(Priority.BROADCAST):
                    await asyncio.gather(*(app.send_message(USER + n, "news") for n in range(300)))

            for n in range(300):
                await app.resolve_peer(USER + n)
            task = asyncio.create_task(broadcast())
            await asyncio.sleep(2)
            with sending(Priority.ANSWER):
                began = asyncio.get_running_loop().time()
                await app.send_message(USER + 999, "an answer")
                assert asyncio.get_running_loop().time() - began < 0.1  # virtual seconds
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    in_fast_time(main)


def test_two_accounts_have_two_budgets():
    async def main():
        server = MTProtoServer()
        await process_outbound()
        async with running(server, "one") as one, running(server, "two") as two:
            began = asyncio.get_running_loop().time()
            await asyncio.gather(
                *(app.send_message(GROUP, f"message {n}") for app in (one, two) for n in range(20))
            )
            assert asyncio.get_running_loop().time() - began < 5.0  # virtual; the window is 60 s
            server.refuse("SendMessage", 30, chat=GROUP - 1)
            refused = asyncio.create_task(one.send_message(GROUP - 1, "held"))
            await asyncio.sleep(0.1)
            await two.send_message(GROUP - 1, "not held")
            assert not refused.done()
            await refused
        assert all(request.outcome in ("ok", "FLOOD_WAIT_30") for request in server.log)

    in_fast_time(main)


def test_cancelled_callers_lose_no_slot():
    async def main():
        server = MTProtoServer(latency=0.05)
        outbound = await process_outbound()
        async with running(server) as app:
            await app.resolve_peer(GROUP)
            for step in range(40):
                tasks = [asyncio.create_task(app.send_message(GROUP, f"{step} {n}")) for n in range(3)]
                await asyncio.sleep(0.013 * (step % 9))
                for task in tasks[:2]:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                outbound.check_invariants()
        figures = outbound.statistics()
        assert figures["in_flight"] == figures["queued"] == 0
        assert all(one.outcome in ("ok", None) for one in server.requests("SendMessage"))
        assert len({one.query.random_id for one in server.requests("SendMessage")}) == len(
            server.requests("SendMessage")
        )

    in_fast_time(main)


async def test_a_stopped_client_tells_those_who_wait():
    server = MTProtoServer(limits=None)
    outbound = Outbound()
    await outbound.enable(drain_timeout=0.0)
    client = server.client()
    install(client, services=False, outbound=outbound)
    await client.start()
    outbound.hold(GROUP, 0.3)
    waiting = asyncio.create_task(client.send_message(GROUP, "too late"))
    await asyncio.sleep(0)
    while not outbound.statistics()["queued"]:
        await asyncio.sleep(0.001)
    await client.stop()
    with pytest.raises(ConnectionError, match="stopped"):
        await waiting
    await uninstall(client)
    await outbound.disable()
    assert not server.requests("SendMessage")


def test_while_off_all_is_as_without_it():
    async def main():
        server = MTProtoServer()
        async with running(server) as app:
            assert await app._phase4_installed.outbound() is None
            server.refuse("SendMessage", 3)
            await app.send_message(GROUP, "the session sleeps")
            server.refuse("SendMessage", 300, chat=GROUP - 1)
            with pytest.raises(FloodWait):
                await app.send_message(GROUP - 1, "over the client's own sleep_threshold")
        assert "bot.core.outbound" not in {type(one).__module__ for one in Phase4Service._instances.values()}

    in_fast_time(main)


def test_uninstall_leaves_the_client_as_it_was():
    async def main():
        before = Session.invoke
        server = MTProtoServer()
        await process_outbound()
        client = server.client()
        attributes = set(client.__dict__)
        install(client, services=False)
        assert Session.invoke is not before
        async with client:
            await client.send_message(GROUP, "first")
            assert "send" in client.session.__dict__
            assert await uninstall(client)
            assert not await uninstall(client)
            assert "send" not in client.session.__dict__
            assert Session.invoke is before
            await asyncio.gather(*(client.send_message(GROUP, "past the limits") for _ in range(5)))
        assert set(client.__dict__) == attributes
        assert -1_000_000 not in client.dispatcher.groups

    in_fast_time(main)


def test_bad_arguments_are_named():
    client = MTProtoServer().client()
    with pytest.raises(TypeError, match=r"pyrogram\.Client"):
        install("bot")
    for name, value in {
        "outbound": 5, "limiter": 5, "services": "yes", "per": "group", "answer": "{nobody}",
        "admins": ["me"], "exempt": 5, "tier": 5,
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=name):
            install(client, **{name: value})
    assert "_phase4_installed" not in client.__dict__


@pytest.mark.server
def test_nothing_is_imported_before_it_is_used():
    code = (
        "import sys, bot.core.enhanced_startup_phase4\n"
        "assert 'pyrogram' not in sys.modules\n"
        "import bot.integrations.pyrogram\n"
        "loaded = [name for name in sys.modules if name.startswith(('bot.core.outbound', 'bot.core.rate',"
        " 'bot.core.query'))]\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_it_runs_under_uvloop():
    uvloop = pytest.importorskip("uvloop")

    async def main():
        server = MTProtoServer()
        outbound = Outbound()
        await outbound.enable()
        async with running(server, outbound=outbound) as app:
            server.refuse("SendMessage", 1, chat=GROUP)
            await asyncio.gather(*(app.send_message(GROUP, f"{n}") for n in range(10)))
        await outbound.disable()
        assert [one.outcome for one in server.requests("SendMessage")] == ["FLOOD_WAIT_1", *["ok"] * 10]
        assert not any(one.in_penalty for one in server.log)

    def run():
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    await asyncio.to_thread(run)


def test_a_second_edit_is_dropped_by_a_delete_after_the_first_was_sent():
    async def main():
        server = MTProtoServer()
        await process_outbound(Limits(chat=(1, 5.0), chat_burst=2))
        async with running(server) as app:
            message = await app.send_message(USER, "0 %")
            first = asyncio.create_task(message.edit("1 %"))
            await asyncio.sleep(0.1)
            second = asyncio.create_task(message.edit("2 %"))
            await first
            await asyncio.sleep(0.1)
            assert not second.done()
            await message.delete()
            with pytest.raises(MessageDeletedError):
                await second
        assert server.shown(USER, message.id) is None

    in_fast_time(main)


def test_a_lost_connection_in_the_middle_keeps_the_order():
    """The session tries again by itself; the chat's next message waits for it."""

    async def main():
        server = MTProtoServer(latency=0.01)
        await process_outbound()
        async with running(server) as app:
            await app.send_message(GROUP, "first")
            lost = asyncio.create_task(app.send_message(GROUP, "second"))
            await asyncio.sleep(0.005)
            await app.session.stop()
            behind = asyncio.create_task(app.send_message(GROUP, "third"))
            await asyncio.sleep(0.5)
            await app.session.start()
            await asyncio.gather(lost, behind)
        texts = [one.text for one in server.requests("SendMessage") if one.outcome == "ok"]
        assert texts.index("third") == len(texts) - 1

    in_fast_time(main)


def test_requests_without_updates_and_in_a_takeout_are_known_too():
    async def main():
        server = MTProtoServer()
        outbound = await process_outbound()
        client = server.client(no_updates=True)
        install(client, services=False)
        async with client:
            client.takeout_id = 5
            server.refuse("SendMessage", 5)
            await client.send_message(GROUP, "hello")
            client.takeout_id = None
        await uninstall(client)
        assert outbound.statistics()["refusals"] == 1
        assert [one.outcome for one in server.requests("SendMessage")] == ["FLOOD_WAIT_5", "ok"]

    in_fast_time(main)


def test_a_stopping_account_of_its_own_budget_is_not_switched_on_again():
    async def main():
        server = MTProtoServer()
        await process_outbound(drain_timeout=1.0)
        async with running(server, "one") as one:
            await one.send_message(USER, "the first has the process's budget")
            async with running(server, "two") as two:
                await two.send_message(USER, "hello")
                own = await two._phase4_installed.outbound()
                own.hold(GROUP, 30.0)
                waiting = asyncio.create_task(two.send_message(GROUP, "held"))
                await asyncio.sleep(0.1)
            with pytest.raises(OutboundClosedError):
                await waiting
            assert not own.enabled
            await one.send_message(USER, "still there")

    in_fast_time(main)


def test_edits_of_inline_messages_are_superseded_by_message():
    async def main():
        server = MTProtoServer()
        outbound = await process_outbound()
        raw = pyrogram.raw

        def edit(app, number, text):
            message = raw.types.InputBotInlineMessageID64(dc_id=2, owner_id=1, id=number, access_hash=7)
            return asyncio.create_task(
                app.invoke(raw.functions.messages.EditInlineBotMessage(id=message, message=text))
            )

        async with running(server) as app:
            server.refuse("EditInlineBotMessage", 3)
            first = edit(app, 1, "0")
            await asyncio.sleep(0.1)
            edits = [edit(app, 1, str(n)) for n in range(1, 10)]
            await edit(app, 2, "another message")
            assert not first.done()
            await asyncio.gather(first, *edits)
        sent = [one.text for one in server.requests("EditInlineBotMessage")]
        assert sent == ["0", "another message", "9"]
        assert outbound.statistics()["superseded"] == 9

    in_fast_time(main)
