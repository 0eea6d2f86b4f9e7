//! Controls on tunables. Their names, defaults and meanings are the configuration's business.

use bytes::{Buf, BufMut};

use crate::text::{decode_strn, encode_strn};
use crate::wire::{put_padding, require, wire_fields};
use crate::{DecodeError, Wire};

/// The values of all tunables, obsolete ones too, in the order of `wire.md 4.4`. 248 bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TunableList {
    pub values: [u32; Self::COUNT],
}

impl TunableList {
    /// Number of tunables.
    pub const COUNT: usize = 62;
}

impl Default for TunableList {
    fn default() -> Self {
        Self {
            values: [0; Self::COUNT],
        }
    }
}

wire_fields!(TunableList, 248 bytes { values });

/// Sets one tunable.
///
/// | offset | size | field                            |
/// |-------:|-----:|----------------------------------|
/// |      0 |    4 | `value`                          |
/// |      4 |    4 | length of the name, with its NUL |
/// |      8 |      | name                             |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SetTunable {
    pub value: u32,
    /// In any case.
    pub name: String,
}

impl Wire for SetTunable {
    const MIN_LEN: usize = 12;

    fn encode(&self, out: &mut impl BufMut) {
        self.value.encode(out);
        encode_name(&self.name, out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        require(src, Self::MIN_LEN)?;
        let value = u32::decode(src)?;
        Ok(Self {
            value,
            name: decode_strn(src, "name of the tunable")?,
        })
    }
}

/// Asks for one tunable.
///
/// | offset | size | field                            |
/// |-------:|-----:|----------------------------------|
/// |      0 |    4 | length of the name, with its NUL |
/// |      4 |      | name                             |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GetTunable {
    /// In any case.
    pub name: String,
}

impl Wire for GetTunable {
    const MIN_LEN: usize = 8;

    fn encode(&self, out: &mut impl BufMut) {
        encode_name(&self.name, out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        require(src, Self::MIN_LEN)?;
        Ok(Self {
            name: decode_strn(src, "name of the tunable")?,
        })
    }
}

/// A name, and zeros behind a short one: daemons refuse fewer than 8 bytes, whatever they say.
fn encode_name(name: &str, out: &mut impl BufMut) {
    let len_before = out.remaining_mut();
    encode_strn(name, out);
    let written = len_before - out.remaining_mut();
    put_padding(out, GetTunable::MIN_LEN.saturating_sub(written));
}

/// The names of all tunables but the obsolete ones. On the wire each has a `:` in front.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TunableNames {
    pub names: Vec<String>,
}

impl Wire for TunableNames {
    const MIN_LEN: usize = 4;

    fn encode(&self, out: &mut impl BufMut) {
        let text: String = self
            .names
            .iter()
            .flat_map(|name| [":", name.as_str()])
            .collect();
        encode_strn(&text, out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let text = decode_strn(src, "names of the tunables")?;
        let names = text.split(':').filter(|name| !name.is_empty());
        Ok(Self {
            names: names.map(str::to_owned).collect(),
        })
    }
}
