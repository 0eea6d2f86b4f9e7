//! Arguments of subcommands: numbers, data and addresses as the tool reads them (`cli.md` 1.9).

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ctdb_conf::number::{CNumber, c_decimal, c_number};

use crate::exit::{EINVAL, ERANGE, Failure};

/// The words behind the subcommand.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Arguments(Vec<OsString>);

impl Arguments {
    pub(crate) fn new(words: Vec<OsString>) -> Self {
        Self(words)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// A word as text; bytes that are not UTF-8 are replaced.
    pub(crate) fn text(&self, index: usize) -> Option<Cow<'_, str>> {
        self.0.get(index).map(|word| word.to_string_lossy())
    }

    /// All words as text.
    pub(crate) fn texts(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.0.iter().map(|word| word.to_string_lossy())
    }

    /// The bytes of a Data argument: hex after `0x`, else the word itself. `what` is `key` or
    /// `value` and goes into the error text.
    pub(crate) fn data(&self, index: usize, what: &str) -> Result<Vec<u8>, Failure> {
        let word = self.0.get(index).ok_or(Failure::Usage)?.as_bytes();
        decode_data(word, b"").map_err(|line| {
            let line_2 = format!("Failed to parse {what} {}", String::from_utf8_lossy(word));
            Failure::with_code(EINVAL, line).and(line_2)
        })
    }

    /// A word as the name of a file.
    pub(crate) fn path(&self, index: usize) -> Option<&Path> {
        self.0.get(index).map(Path::new)
    }

    /// Fails with the usage of the command unless there are so many words.
    pub(crate) fn expect_count(
        &self,
        counts: std::ops::RangeInclusive<usize>,
    ) -> Result<(), Failure> {
        if counts.contains(&self.count()) {
            Ok(())
        } else {
            Err(Failure::Usage)
        }
    }
}

/// The bytes of a Data argument; the error is the line to print. It shows `behind` as well, what
/// follows the argument: the original prints to the end of its text.
pub(crate) fn decode_data(word: &[u8], behind: &[u8]) -> Result<Vec<u8>, String> {
    match word.strip_prefix(b"0x") {
        Some(digits) => decode_hex(digits, behind),
        None => Ok(word.to_vec()),
    }
}

/// Reads pairs of hex digits.
fn decode_hex(digits: &[u8], behind: &[u8]) -> Result<Vec<u8>, String> {
    let shown = |digits: &[u8]| String::from_utf8_lossy(&[digits, behind].concat()).into_owned();
    if !digits.len().is_multiple_of(2) {
        let shown = shown(digits);
        return Err(format!("Key ({shown}) contains odd number of hex digits"));
    }
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    let mut rest = digits;
    while let [high, low, after @ ..] = rest {
        let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low)) else {
            return Err(format!("Invalid hex: {}", shown(rest)));
        };
        bytes.push(high << 4 | low);
        rest = after;
    }
    Ok(bytes)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// A 32-bit number in C syntax; what follows its digits is ignored. Failures are silent. As in the
/// original only the low 32 bits of a longer one count, and only more than 64 bits are an error.
pub(crate) fn number(text: &str) -> Result<u32, Failure> {
    let low = number_64(text)? & u64::from(u32::MAX);
    Ok(u32::try_from(low).expect("the upper half was masked out"))
}

/// Like [`number`], with 64 bits.
pub(crate) fn number_64(text: &str) -> Result<u64, Failure> {
    let number = c_number(text);
    if !number.has_digits || number.negative {
        return Err(Failure::silent(EINVAL));
    }
    number.magnitude.ok_or(Failure::silent(ERANGE))
}

/// A decimal number as C's `atoi` reads it: 0 when there are no digits.
pub(crate) fn atoi(text: &str) -> i32 {
    let CNumber {
        negative,
        magnitude,
        ..
    } = c_decimal(text);
    let magnitude = i64::try_from(magnitude.unwrap_or(u64::MAX)).unwrap_or(i64::MAX);
    let signed = if negative { -magnitude } else { magnitude };
    i32::try_from(signed).unwrap_or(if negative { i32::MIN } else { i32::MAX })
}

/// The decimal number that a list of node numbers has for an item.
pub(crate) fn pnn_item(text: &str) -> Option<u32> {
    let number = c_number(text);
    (number.has_digits && !number.negative)
        .then(|| number.magnitude.and_then(|wide| u32::try_from(wide).ok()))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(word: &str) -> Result<Vec<u8>, Failure> {
        Arguments::new(vec![word.into()]).data(0, "key")
    }

    #[test]
    fn data_is_hex_after_0x_and_text_otherwise() {
        assert_eq!(
            data("0x00fFa"),
            Err(
                Failure::with_code(EINVAL, "Key (00fFa) contains odd number of hex digits",)
                    .and("Failed to parse key 0x00fFa")
            )
        );
        assert_eq!(data("0x00fF"), Ok(vec![0, 255]));
        assert_eq!(data("0x"), Ok(vec![]));
        assert_eq!(data("x y"), Ok(b"x y".to_vec()));
    }

    #[test]
    fn a_bad_pair_is_shown_with_all_that_follows() {
        let failure = Failure::with_code(EINVAL, "Invalid hex: 1g22");
        assert_eq!(
            data("0x001g22"),
            Err(failure.and("Failed to parse key 0x001g22"))
        );
    }

    #[test]
    fn numbers_fail_silently() {
        assert_eq!(number("15x"), Ok(15));
        assert_eq!(number("0x10"), Ok(16));
        assert_eq!(number("abc"), Err(Failure::silent(EINVAL)));
        assert_eq!(number("-1"), Err(Failure::silent(EINVAL)));
        assert_eq!(number("4294967297"), Ok(1));
        assert_eq!(number("99999999999999999999"), Err(Failure::silent(ERANGE)));
        assert_eq!(number_64("0x1234567812345678"), Ok(0x1234_5678_1234_5678));
    }

    #[test]
    fn atoi_never_fails() {
        assert_eq!(
            ["12x", "x", "-3", "99999999999"].map(atoi),
            [12, 0, -3, i32::MAX]
        );
    }
}
