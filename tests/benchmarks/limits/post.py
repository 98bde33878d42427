"""The limit of callbacks: one aiohttp session that posts the same bodies, 50 at a time.

``python -m tests.benchmarks.limits.post --url http://… --seconds 5`` prints one JSON line.
"""

import argparse
import asyncio
import json
import time

import aiohttp
import uvloop

BODY = (
    b'{"type":"consent.authorised","timestamp":"2022-06-25T20:08:17.848Z","data":{"aggregate":'
    b'"consent","id":"at932-61fc6c-0ec02-9fa7d29-2b3188b78","partnerAppId":"12345678","version":1,'
    b'"status":"AUTHORISED","previousStatus":""}}'
)
HEADERS = {
    "Content-Type": "application/json",
    "webhook-id": "0199aa11-2b3c-7d4e-8f50-112233445566",
    "webhook-timestamp": "1700000000",
    "webhook-signature": "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
}


async def run(options: argparse.Namespace) -> dict[str, float]:
    done = 0

    async def post() -> None:
        nonlocal done
        while True:
            async with session.post(options.url, data=BODY, headers=HEADERS) as answer:
                await answer.read()
                done += answer.status == 200

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        tasks = [asyncio.create_task(post()) for _ in range(options.in_flight)]
        await asyncio.sleep(options.warm)
        print("go", flush=True)
        first, began, used = done, time.perf_counter(), time.process_time()
        await asyncio.sleep(options.seconds)
        count, seconds = done - first, time.perf_counter() - began
        cpu = time.process_time() - used
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return {"rate": count / seconds, "seconds": seconds, "cpu": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--in-flight", type=int, default=50)
    parser.add_argument("--warm", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    print(json.dumps(uvloop.run(run(parser.parse_args()))), flush=True)


if __name__ == "__main__":
    main()
