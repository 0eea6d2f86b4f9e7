//! The lines that `ptrans` reads: `"key" "value"`, one record each (`cli.md` 2.7).

use crate::arguments::decode_data;

/// Most bytes of a line; what follows is another one, as `fgets` of the original has it.
const MAX_LINE: usize = 1023;

/// What a line says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Line {
    Record {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    /// The key is empty.
    Nothing,
    /// The complaint about it, which ends with the rest of the line, newline and all.
    Bad(String),
}

/// Walks through a text.
pub(crate) struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { rest: text }
    }
}

impl Iterator for Lines<'_> {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        if self.rest.is_empty() {
            return None;
        }
        let newline = self.rest.iter().position(|byte| *byte == b'\n');
        let end = newline.map_or(self.rest.len(), |at| at + 1).min(MAX_LINE);
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest;
        // The original sees a C string.
        let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(read(line).unwrap_or_else(Line::Bad))
    }
}

fn read(line: &[u8]) -> Result<Line, String> {
    let (key, rest) = quoted(line)?;
    if key.is_empty() {
        return Ok(Line::Nothing);
    }
    let (value, _) = quoted(rest)?;
    Ok(Line::Record { key, value })
}

/// Takes quoted data off the front of a line; gives what follows, too.
fn quoted(line: &[u8]) -> Result<(Vec<u8>, &[u8]), String> {
    let shown = || String::from_utf8_lossy(line);
    let blanks = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t'));
    let Some(text) = line[blanks.count()..].strip_prefix(b"\"") else {
        return Err(format!("Unsupported input format in {}", shown()));
    };
    let Some(end) = text.iter().position(|byte| *byte == b'"') else {
        return Err(format!("Unmatched \" in input {}", shown()));
    };
    let (word, behind) = text.split_at(end);
    let data = decode_data(word, behind)?;
    Ok((data, &behind[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<Line> {
        Lines::new(text).collect()
    }

    fn record(key: &[u8], value: &[u8]) -> Line {
        let (key, value) = (key.to_vec(), value.to_vec());
        Line::Record { key, value }
    }

    fn bad(complaint: &str) -> Line {
        Line::Bad(complaint.to_owned())
    }

    #[test]
    fn a_line_is_a_key_and_a_value() {
        let text = b"\"k1\" \"v1\"\n\t\"k2\"   \"v2\" trailing\n\"0x6162\"\"0x00ff\"\n\"k4\" \"\"";
        let expected = [
            record(b"k1", b"v1"),
            record(b"k2", b"v2"),
            record(b"ab", b"\0\xff"),
            record(b"k4", b""),
        ];
        assert_eq!(lines(text), expected);
        assert_eq!(lines(b"\"\" \"x\"\n"), [Line::Nothing]);
        assert_eq!(lines(b""), []);
    }

    #[test]
    fn complaints_show_the_rest_of_the_line() {
        let text = b"  bad\n\"k3\"\n\n\"k5\" \"open\n\"k\"x \"v\"";
        let expected = [
            bad("Unsupported input format in   bad\n"),
            bad("Unsupported input format in \n"),
            bad("Unsupported input format in \n"),
            bad("Unmatched \" in input  \"open\n"),
            bad("Unsupported input format in x \"v\""),
        ];
        assert_eq!(lines(text), expected);
        let text = b"\"0x1\" \"v\"\n\"k\" \"0x00zz\"\n";
        let expected = [
            bad("Key (1\" \"v\"\n) contains odd number of hex digits"),
            bad("Invalid hex: zz\"\n"),
        ];
        assert_eq!(lines(text), expected);
    }

    #[test]
    fn a_line_ends_after_1023_bytes() {
        // With the quotes, the blank and the value this is exactly one line.
        let key = "k".repeat(MAX_LINE - 6);
        let text = format!("\"{key}\" \"v\" \"w\" \"x\"\n");
        let expected = [record(key.as_bytes(), b"v"), record(b"w", b"x")];
        assert_eq!(lines(text.as_bytes()), expected);
    }
}
