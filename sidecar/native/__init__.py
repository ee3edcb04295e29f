"""A gRPC engine of our own: HTTP/2 (RFC 9113) and gRPC over HTTP/2 on asyncio, without a line of C of ours.

Read it in this order:

    wire.py         frames as bytes: numbers, builders, constant header blocks
    errors.py       what may be wrong, and whether the stream or the connection ends for it
    limits.py       every bound
    floods.py       what a peer may make us do for nothing
    headers.py      header blocks to requests, behind a cache
    messages.py     messages out of bytes that are cut anywhere
    call.py         one call: how it is answered and how it ends
    unary.py        ... with one message each way
    streaming.py    ... with streams of them
    connection.py   one connection: the frame loop
    opening.py      ... HEADERS and DATA that need a closer look
    control.py      ... frames that carry no call
    flow.py         ... windows
    lifetime.py     ... handshake, silence, age, draining
    engine.py       listening, draining, stopping

Why it is fast: all frames of one read are handled in one loop and answered with one write; there is no Task and
no Future for a handler that does not wait; a header block that was seen before is not decoded again; a unary call that
comes in one piece is answered without an object of its own.
"""
