//! Numbers as C reads them: the base comes from the prefix, and reading stops at the first
//! character that is no digit. Configuration files and the arguments of the tools use them.

/// A number read from the start of a text, with what was left over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CNumber<'a> {
    /// A minus sign stood in front.
    pub negative: bool,
    /// The digits, without the sign; `None` when they do not fit into 64 bits.
    pub magnitude: Option<u64>,
    /// Whether there was at least one digit. Without one the magnitude is 0.
    pub has_digits: bool,
    /// The text behind the number.
    pub rest: &'a str,
}

/// Reads a number as C's `strtoul` does with base 0: blanks, a sign, then `0x` for hexadecimal, `0`
/// for octal, anything else decimal. Never fails: `abc` has no digits and everything left over.
pub fn c_number(text: &str) -> CNumber<'_> {
    let trimmed = text.trim_start_matches(is_c_space);
    let (negative, unsigned) = match trimmed.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let (radix, digits) = split_prefix(unsigned);
    let end = digits
        .find(|c: char| !c.is_digit(radix))
        .unwrap_or(digits.len());
    let (number, rest) = digits.split_at(end);
    if number.is_empty() {
        return CNumber {
            negative: false,
            magnitude: Some(0),
            has_digits: false,
            rest: text,
        };
    }
    CNumber {
        negative,
        magnitude: u64::from_str_radix(number, radix).ok(),
        has_digits: true,
        rest,
    }
}

/// Reads a decimal number as C's `strtoul` does with base 10.
pub fn c_decimal(text: &str) -> CNumber<'_> {
    let trimmed = text.trim_start_matches(is_c_space);
    let (negative, unsigned) = match trimmed.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(unsigned.len());
    let (number, rest) = unsigned.split_at(end);
    if number.is_empty() {
        return CNumber {
            negative: false,
            magnitude: Some(0),
            has_digits: false,
            rest: text,
        };
    }
    CNumber {
        negative,
        magnitude: number.parse().ok(),
        has_digits: true,
        rest,
    }
}

/// White space as C's `isspace` knows it.
pub fn is_c_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn split_prefix(text: &str) -> (u32, &str) {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match hexadecimal {
        // A lone `0x` is the number 0 followed by an `x`.
        Some(digits) if digits.starts_with(|c: char| c.is_ascii_hexdigit()) => (16, digits),
        _ if text.starts_with('0') => (8, text),
        _ => (10, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_comes_from_the_prefix() {
        for (text, value) in [("10", 10), ("0x1F", 31), ("010", 8), ("0", 0), (" \t+7", 7)] {
            let number = c_number(text);
            assert_eq!((number.magnitude, number.rest), (Some(value), ""), "{text}");
        }
    }

    #[test]
    fn reading_stops_at_the_first_other_character() {
        assert_eq!(c_number("7abc").rest, "abc");
        assert_eq!(c_number("08").rest, "8");
        assert_eq!(c_number("0xzz").rest, "xzz");
        assert_eq!(c_decimal("0x10").rest, "x10");
    }

    #[test]
    fn no_digits_is_zero_and_everything_is_left() {
        let number = c_number("abc");
        assert_eq!(
            (number.magnitude, number.has_digits, number.rest),
            (Some(0), false, "abc")
        );
        assert!(!c_number("-").has_digits);
    }

    #[test]
    fn overflow_and_sign_are_told_apart() {
        assert_eq!(c_number("99999999999999999999").magnitude, None);
        assert!(c_number("-1").negative);
        assert_eq!(c_decimal("18446744073709551615").magnitude, Some(u64::MAX));
    }
}
