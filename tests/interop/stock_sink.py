#!/usr/bin/python3
"""stock_sink.py ADDRESS PORT FOLDER: aiosmtpd, storing each message exactly as it came.

Scope      A receiver that nobody here wrote. N.eml is written before N.json, so whoever sees the envelope can
           read the content. SIGTERM ends it.
"""
import asyncio
import itertools
import json
import logging
import pathlib
import signal
import sys

from aiosmtpd.smtp import SMTP


class Store:
    def __init__(self, folder):
        self.folder = folder
        self.numbers = itertools.count()

    async def handle_DATA(self, server, session, envelope):
        number = next(self.numbers)
        content = envelope.original_content
        (self.folder / f"{number}.eml").write_bytes(content)
        text = json.dumps({"from": envelope.mail_from, "to": envelope.rcpt_tos, "helo": session.host_name,
                           "options": envelope.mail_options})
        unfinished = self.folder / f"{number}.part"
        unfinished.write_text(text)
        unfinished.rename(self.folder / f"{number}.json")
        return f"250 2.0.0 taken as {number}"


async def main():
    logging.getLogger("mail.log").setLevel(logging.ERROR)
    store = Store(pathlib.Path(sys.argv[3]))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(store, enable_SMTPUTF8=True, data_size_limit=64 << 20, hostname="stock.test.example", loop=loop),
        sys.argv[1], int(sys.argv[2]))
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await ended.wait()
    server.close()


asyncio.run(main())
