//! What CTDB asks of Linux: scheduling, addresses, raw packets.

