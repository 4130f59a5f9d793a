"""The guide's Step 8, batch processing, as written."""

import logging

from bot.core.batch_processor import BatchItem, BatchProcessor
from tests.docs.guide import blocks, run


async def test_downloads_are_handled_together(caplog):
    done = []

    async def process_download(info):
        if info == "broken":
            raise OSError("no route to host")
        done.append(info)
        return f"{info} downloaded"

    [block] = blocks("Step 8")
    with caplog.at_level(logging.INFO):
        guide = await run(block, {"process_download": process_download, "logger": logging.getLogger("guide")})
        processor = BatchProcessor.get_instance()
        assert guide["processor"] is processor
        assert guide["BatchItem"] is BatchItem
        assert processor.enabled
        await guide["submit_download_batch"](["a.iso", "broken", "b.iso"])
        told = [record.message for record in caplog.records if " added to batch " in record.message]
        await processor.flush()
    assert done == ["a.iso", "b.iso"]
    assert len(told) == 3
    ids = [message.split()[1] for message in told]
    [batch_id] = {message.split()[-1] for message in told}
    assert await processor.get_result(ids[0]) == "a.iso downloaded"
    assert (await processor.get_item_status(ids[1])).state == "failed"
    assert "Batch item failed: no route to host" in caplog.text
    status = await processor.get_batch_status(batch_id)
    assert (status.state, status.done, status.failed) == ("completed", 2, 1)
    figures = await processor.get_statistics()
    assert (figures["total_items_processed"], figures["failed_items"]) == (2, 1)
    assert await processor.disable()
