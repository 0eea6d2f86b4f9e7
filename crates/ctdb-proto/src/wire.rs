//! The [`Wire`] trait and the checked primitives below every codec.
//!
//! CTDB speaks the byte order of the host, except for ports and addresses inside of a
//! [`SockAddr`](crate::SockAddr). The host-order calls live in this file only. Readers move
//! forward and return an error at the end of the bytes; padding is skipped unread and written as
//! zeros.

use bytes::{Buf, BufMut, Bytes};

use crate::DecodeError;

/// A value with one layout on the wire.
pub trait Wire: Sized {
    /// Fewest bytes a value can take. Never 0: it bounds a list before it is allocated.
    const MIN_LEN: usize;

    /// Appends the value to `out`.
    fn encode(&self, out: &mut impl BufMut);

    /// Takes one value from the front of `src`.
    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError>;
}

/// Decodes a value that must fill `src` to its last byte.
pub fn decode_exact<T: Wire>(mut src: impl Buf) -> Result<T, DecodeError> {
    let value = T::decode(&mut src)?;
    expect_end(&src)?;
    Ok(value)
}

/// Decodes `count` values, having first checked that the bytes for them can be there.
pub fn decode_list<T: Wire>(count: u32, src: &mut impl Buf) -> Result<Vec<T>, DecodeError> {
    let count = to_usize(count);
    require(src, count.saturating_mul(T::MIN_LEN))?;
    let mut list = Vec::with_capacity(count);
    for _ in 0..count {
        list.push(T::decode(src)?);
    }
    Ok(list)
}

/// Appends all values of `list`, without a count.
pub fn encode_list<T: Wire>(list: &[T], out: &mut impl BufMut) {
    for value in list {
        value.encode(out);
    }
}

/// Fails unless `need` bytes are left.
pub(crate) fn require(src: &impl Buf, need: usize) -> Result<(), DecodeError> {
    let have = src.remaining();
    if need > have {
        Err(DecodeError::TooShort { need, have })
    } else {
        Ok(())
    }
}

/// Fails if bytes are left.
pub(crate) fn expect_end(src: &impl Buf) -> Result<(), DecodeError> {
    match src.remaining() {
        0 => Ok(()),
        extra => Err(DecodeError::TooLong { extra }),
    }
}

/// Takes `len` bytes: a slice of the frame, not a copy, when `src` is `Bytes`.
pub(crate) fn take_bytes(src: &mut impl Buf, len: u32) -> Result<Bytes, DecodeError> {
    require(src, to_usize(len))?;
    Ok(src.copy_to_bytes(to_usize(len)))
}

/// Takes exactly `N` bytes.
pub(crate) fn take_array<const N: usize>(src: &mut impl Buf) -> Result<[u8; N], DecodeError> {
    let mut array = [0; N];
    src.try_copy_to_slice(&mut array)?;
    Ok(array)
}

/// Skips `len` bytes of padding, whatever they hold: senders leak garbage there.
pub(crate) fn skip_padding(src: &mut impl Buf, len: usize) -> Result<(), DecodeError> {
    require(src, len)?;
    src.advance(len);
    Ok(())
}

/// Writes `len` zeros.
pub(crate) fn put_padding(out: &mut impl BufMut, len: usize) {
    out.put_bytes(0, len);
}

/// A length as the wire counts it.
pub(crate) fn to_u32(len: usize) -> u32 {
    u32::try_from(len).expect("what we send is far below 4 GiB")
}

/// A length from the wire as memory counts it.
pub(crate) const fn to_usize(len: u32) -> usize {
    const { assert!(usize::BITS >= 32) };
    len as usize
}

macro_rules! wire_number {
    ($($number:ty: $get:ident, $put:ident;)*) => {$(
        impl Wire for $number {
            const MIN_LEN: usize = size_of::<$number>();

            fn encode(&self, out: &mut impl BufMut) {
                out.$put(*self);
            }

            fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
                Ok(src.$get()?)
            }
        }
    )*};
}

wire_number! {
    u8: try_get_u8, put_u8;
    u16: try_get_u16_ne, put_u16_ne;
    u32: try_get_u32_ne, put_u32_ne;
    i32: try_get_i32_ne, put_i32_ne;
    u64: try_get_u64_ne, put_u64_ne;
    i64: try_get_i64_ne, put_i64_ne;
}

/// Kept as its 64 bits, so that every value, NaN too, comes back as it was.
impl Wire for f64 {
    const MIN_LEN: usize = 8;

    fn encode(&self, out: &mut impl BufMut) {
        self.to_bits().encode(out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        Ok(Self::from_bits(u64::decode(src)?))
    }
}

/// A flag in one byte: any value but 0 is true.
impl Wire for bool {
    const MIN_LEN: usize = 1;

    fn encode(&self, out: &mut impl BufMut) {
        u8::from(*self).encode(out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        Ok(u8::decode(src)? != 0)
    }
}

impl<T: Wire> Wire for Box<T> {
    const MIN_LEN: usize = T::MIN_LEN;

    fn encode(&self, out: &mut impl BufMut) {
        T::encode(self, out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        T::decode(src).map(Self::new)
    }
}

/// A fixed number of values, one after the other.
impl<T: Wire + Copy + Default, const N: usize> Wire for [T; N] {
    const MIN_LEN: usize = N * T::MIN_LEN;

    fn encode(&self, out: &mut impl BufMut) {
        encode_list(self, out);
    }

    fn decode(src: &mut impl Buf) -> Result<Self, DecodeError> {
        let mut array = [T::default(); N];
        for value in &mut array {
            *value = T::decode(src)?;
        }
        Ok(array)
    }
}

/// Codec of a structure of fixed size: its fields in the order of the wire, each with the number
/// of padding bytes that follow it, if any.
macro_rules! wire_fields {
    ($name:ident, $len:literal bytes { $($field:ident $(+ $padding:literal)?),* $(,)? }) => {
        impl $name {
            /// Size on the wire.
            pub const LEN: usize = $len;
        }

        impl $crate::Wire for $name {
            const MIN_LEN: usize = $len;

            fn encode(&self, out: &mut impl bytes::BufMut) {
                $(
                    self.$field.encode(out);
                    $($crate::wire::put_padding(out, $padding);)?
                )*
            }

            fn decode(src: &mut impl bytes::Buf) -> Result<Self, $crate::DecodeError> {
                $crate::wire::require(src, $len)?;
                $(
                    let $field = $crate::Wire::decode(src)?;
                    $($crate::wire::skip_padding(src, $padding)?;)?
                )*
                Ok(Self { $($field),* })
            }
        }
    };
}
pub(crate) use wire_fields;

/// Codec of a list: a count, padding if any, then that many values. Bytes behind the last value
/// are left alone; some senders have them.
macro_rules! wire_list {
    ($name:ident { $count:ident: u32 $(+ $padding:literal)?, $field:ident }) => {
        impl $crate::Wire for $name {
            const MIN_LEN: usize = 4 $(+ $padding)?;

            fn encode(&self, out: &mut impl bytes::BufMut) {
                $crate::wire::to_u32(self.$field.len()).encode(out);
                $($crate::wire::put_padding(out, $padding);)?
                $crate::wire::encode_list(&self.$field, out);
            }

            fn decode(src: &mut impl bytes::Buf) -> Result<Self, $crate::DecodeError> {
                let $count = u32::decode(src)?;
                $($crate::wire::skip_padding(src, $padding)?;)?
                Ok(Self { $field: $crate::wire::decode_list($count, src)? })
            }
        }
    };
}
pub(crate) use wire_list;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_refused_before_memory_is_taken_for_it() {
        let mut src: &[u8] = &[0; 12];
        let error = decode_list::<u64>(u32::MAX, &mut src).unwrap_err();
        assert_eq!(
            error,
            DecodeError::TooShort {
                need: 0xFFFF_FFFF * 8,
                have: 12
            }
        );
    }

    #[test]
    fn a_list_takes_only_its_own_bytes() {
        let mut src: &[u8] = &[1, 2, 3];
        assert_eq!(decode_list::<u8>(2, &mut src).unwrap(), [1, 2]);
        assert_eq!(src, [3]);
    }

    #[test]
    fn a_value_must_fill_its_space() {
        assert_eq!(
            decode_exact::<u8>(&[1u8, 2][..]),
            Err(DecodeError::TooLong { extra: 1 })
        );
        assert_eq!(
            decode_exact::<u32>(&[1u8, 2][..]),
            Err(DecodeError::TooShort { need: 4, have: 2 })
        );
    }
}
