"""redis-py's asyncio client with its defaults, many commands at once."""

import asyncio
import sys

import redis.asyncio


async def main(host, port):
    client = redis.asyncio.Redis(host=host, port=port)
    await client.flushdb()
    await asyncio.gather(*(client.set(f"k:{n}", n) for n in range(100)))
    values = await asyncio.gather(*(client.get(f"k:{n}") for n in range(100)))
    assert values == [str(n).encode() for n in range(100)], values
    found = [key async for key in client.scan_iter(match="k:*")]
    assert len(set(found)) == 100
    assert await client.delete(*found) == 100
    await client.aclose()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
print("ok")
