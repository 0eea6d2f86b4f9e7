//! Texts on the wire: C strings, strings with a length, and strings in fields of fixed size.

use std::fmt;
use std::ops::Deref;

use bytes::{Buf, BufMut};

use crate::wire::{put_padding, take_array, take_bytes, to_u32};
use crate::{DecodeError, Wire};

/// A C string: everything up to the first NUL, which must be there.
pub(crate) fn decode_cstr(bytes: &[u8], field: &'static str) -> Result<String, DecodeError> {
    let (text, _) = split_at_nul(bytes).ok_or(DecodeError::NoNul { field })?;
    utf8(text, field)
}

/// A C string with its NUL. A NUL inside of `text` would end it: what follows is cut off.
pub(crate) fn encode_cstr(text: &str, out: &mut impl BufMut) {
    out.put_slice(until_nul(text.as_bytes()));
    out.put_u8(0);
}

/// A length, then that many bytes; the text ends at a NUL, or with the bytes.
pub(crate) fn decode_strn(src: &mut impl Buf, field: &'static str) -> Result<String, DecodeError> {
    let len = u32::decode(src)?;
    utf8(until_nul(&take_bytes(src, len)?), field)
}

/// A length that counts the NUL, then the text and the NUL. No text has length 0 and no NUL.
pub(crate) fn encode_strn(text: &str, out: &mut impl BufMut) {
    if text.is_empty() {
        0u32.encode(out);
    } else {
        to_u32(until_nul(text.as_bytes()).len() + 1).encode(out);
        encode_cstr(text, out);
    }
}

fn utf8(text: &[u8], field: &'static str) -> Result<String, DecodeError> {
    match std::str::from_utf8(text) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(DecodeError::NotUtf8 { field }),
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    split_at_nul(bytes).map_or(bytes, |(text, _)| text)
}

fn split_at_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    bytes.split_at_checked(end)
}

/// A text in a field of `N` bytes, NUL included; the rest of the field is filled with NULs.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FixedStr<const N: usize>(String);

impl<const N: usize> FixedStr<N> {
    /// `None` if the text does not fit, or has a NUL inside.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        (text.len() < N && !text.contains('\0')).then_some(Self(text))
    }

    /// The text without NULs.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const N: usize> Deref for FixedStr<N> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const N: usize> fmt::Display for FixedStr<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<const N: usize> Wire for FixedStr<N> {
    const MIN_LEN: usize = N;

    fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(self.0.as_bytes());
        put_padding(out, N - self.0.len());
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        decode_cstr(&take_array::<N>(src)?, "text of fixed size").map(Self)
    }
}

/// Keys and data as logs show them: hex, cut after 64 bytes.
pub fn hex_for_log(data: &[u8]) -> String {
    use fmt::Write;
    const LIMIT: usize = 64;
    let mut text = String::with_capacity(2 * data.len().min(LIMIT) + 3);
    for byte in data.iter().take(LIMIT) {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    if data.len() > LIMIT {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_c_string_needs_its_nul() {
        assert_eq!(decode_cstr(b"name\0rest", "name"), Ok("name".to_owned()));
        assert_eq!(
            decode_cstr(b"name", "name"),
            Err(DecodeError::NoNul { field: "name" })
        );
        assert_eq!(
            decode_cstr(b"\xff\0", "name"),
            Err(DecodeError::NotUtf8 { field: "name" })
        );
    }

    #[test]
    fn a_counted_string_takes_exactly_its_length() {
        let mut with_nul: &[u8] = b"\x03\0\0\0ab\0c";
        assert_eq!(decode_strn(&mut with_nul, "name"), Ok("ab".to_owned()));
        assert_eq!(with_nul, b"c");
        let mut without: &[u8] = b"\x02\0\0\0abc";
        assert_eq!(decode_strn(&mut without, "name"), Ok("ab".to_owned()));
        assert_eq!(without, b"c");
        let mut too_long: &[u8] = b"\x04\0\0\0abc";
        assert!(decode_strn(&mut too_long, "name").is_err());
    }

    #[test]
    fn long_data_is_cut_in_logs() {
        assert_eq!(hex_for_log(b"k1"), "6b31");
        assert_eq!(hex_for_log(&[0; 64]).len(), 128);
        assert!(hex_for_log(&[0; 65]).ends_with("00..."));
    }

    #[test]
    fn a_fixed_text_leaves_room_for_its_nul() {
        assert!(FixedStr::<4>::new("abc").is_some());
        assert!(FixedStr::<4>::new("abcd").is_none());
        assert!(FixedStr::<4>::new("a\0b").is_none());
        assert!(FixedStr::<4>::decode(&mut &b"abcd"[..]).is_err());
        assert_eq!(
            FixedStr::<4>::decode(&mut &b"a\0\0\0"[..])
                .unwrap()
                .as_str(),
            "a"
        );
    }
}
