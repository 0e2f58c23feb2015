"""Every decoder of bytes from outside, with what may come out of it: the result it promises, or a declared error.

One table for two uses: properties in the test suite, and long runs with coverage guidance (`make fuzz`). A target takes
any bytes, makes of them what an enemy or an accident would send, and asserts what must hold of the answer. Where a
checksum would turn everything away at the door, it writes correct ones, too.

Promises: no input leads to I/O beyond a socket pair, to an import chosen by the input, or to unpickling.
"""

from __future__ import annotations

from proxyfab.errors import ConfigurationError, ConnectorError, IntegrityError, SealError, SerializationError
from proxyfab.testing import formats, framing, shards, texts
from proxyfab.testing.decoding import Decoder


def _foreign() -> tuple[type[Exception], ...]:
    from proxyfab.resp.errors import FOREIGN

    return FOREIGN


DECODERS = {
    decoder.name: decoder
    for decoder in (
        Decoder("payload", formats.read_payload, formats.payload_seeds, (IntegrityError,)),
        Decoder("payload-forged", formats.read_forged, formats.forged_seeds, (IntegrityError, SerializationError)),
        Decoder("object", formats.read_object, formats.forged_seeds, (IntegrityError, SerializationError)),
        Decoder("stream", formats.read_stream, formats.stream_seeds, ()),
        Decoder("slot", formats.read_slot, formats.slot_seeds, (IntegrityError,)),
        Decoder("seal", formats.read_seal, formats.seal_seeds, (SealError,)),
        Decoder("owned", formats.read_owned, formats.owned_seeds, (IntegrityError,)),
        Decoder("packed", formats.read_packed, formats.packed_seeds, (IntegrityError,)),
        Decoder("side", formats.read_side, formats.side_seeds, (IntegrityError,)),
        Decoder("message", formats.read_message, formats.message_seeds, (IntegrityError,)),
        Decoder("flow", formats.read_flow, formats.flow_seeds, (IntegrityError,)),
        Decoder("events", framing.read_events, framing.event_seeds, (IntegrityError,)),
        Decoder("redis-header", formats.read_redis_header, formats.redis_header_seeds, (IntegrityError,)),
        Decoder("redis-reply", formats.read_reply, formats.reply_seeds, _foreign()),
        Decoder("shard", shards.read_shard, shards.shard_seeds, (IntegrityError,)),
        Decoder("locator", shards.read_locator, shards.locator_seeds, (ConfigurationError,)),
        Decoder("url", texts.read_url, texts.url_seeds, (ConfigurationError,)),
        Decoder("key", texts.read_key, texts.key_seeds, (ConfigurationError, ConnectorError)),
        Decoder("token", texts.read_token, texts.token_seeds, (IntegrityError, ConfigurationError)),
    )
}
