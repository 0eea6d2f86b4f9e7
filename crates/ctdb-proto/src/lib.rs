//! Every packet, control, message and service id of CTDB as a type with a codec.
#![forbid(unsafe_code)]
