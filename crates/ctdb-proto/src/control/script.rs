//! Results of event scripts, as a control that is obsolete today once gave them.

use crate::text::FixedStr;
use crate::time::TimeVal;
use crate::wire::{wire_fields, wire_list};

/// What one event script did. 584 bytes.
///
/// | offset | size | field                                  |
/// |-------:|-----:|----------------------------------------|
/// |      0 |   32 | `name`                                 |
/// |     32 |   16 | `start`                                |
/// |     48 |   16 | `finished`                             |
/// |     64 |    4 | `status`                               |
/// |     68 |  512 | `output`, then 4 bytes of padding      |
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Script {
    pub name: FixedStr<32>,
    pub start: TimeVal,
    pub finished: TimeVal,
    pub status: i32,
    pub output: FixedStr<512>,
}

wire_fields!(Script, 584 bytes { name, start, finished, status, output + 4 });

/// What the scripts of one event did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ScriptList {
    pub scripts: Vec<Script>,
}

wire_list!(ScriptList {
    num: u32 + 4,
    scripts
});
