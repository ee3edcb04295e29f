"""A gRPC engine of our own: HTTP/2 (RFC 9113) and gRPC over HTTP/2 on asyncio, without a line of C of ours.

Read it in this order:

    wire.py         frames as bytes: numbers, builders, constant header blocks
    errors.py       what may be wrong, and whether the stream or the connection ends for it
    limits.py       every bound, and the budgets against floods
    headers.py      header blocks to requests, behind a cache
    call.py         one call: messages out of bytes, its handler, its replies
    connection.py   one connection: the frame loop and flow control
    engine.py       listening, draining, stopping

Why it is fast: all frames of one read are handled in one loop and answered with one write; there is no Task and
no Future for a handler that does not wait; a header block that was seen before is not decoded again.
"""
