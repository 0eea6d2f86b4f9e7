//! The command line. Options may stand anywhere, as with the `getopt` of the C library, whose
//! complaints the original shows.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use ctdb_proto::RecordHeader;

/// Bytes of a header as CTDB writes it on a 32 bit system: without padding.
const HEADER_32: usize = 20;
/// And on a 64 bit system.
pub(crate) const HEADER_64: usize = RecordHeader::LEN;

/// What the command line asks for.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Arguments {
    /// Bytes of the header of each record in the input database, at most [`HEADER_64`].
    pub(crate) input_header: usize,
    /// The same for the output database.
    pub(crate) output_header: usize,
    /// Records without data count too.
    pub(crate) empty: bool,
    pub(crate) print_header: bool,
    pub(crate) command: Command,
}

#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Command {
    Help,
    Dump { db: PathBuf },
    Convert { input: PathBuf, output: PathBuf },
}

/// Why a command line is refused.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Mistake {
    Usage,
    UnknownOption(char),
    NoValue(char),
}

impl Arguments {
    /// `words` are those behind the program's name.
    pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, Mistake> {
        let mut arguments = Self {
            input_header: HEADER_64,
            output_header: HEADER_64,
            empty: false,
            print_header: false,
            command: Command::Help,
        };
        let (mut words, mut operands) = (words.into_iter(), Vec::new());
        while let Some(word) = words.next() {
            match word.as_bytes() {
                b"--" => operands.extend(words.by_ref()),
                [b'-', _, ..] => {
                    if arguments.options(&word.as_bytes()[1..], &mut words)? == Next::Help {
                        return Ok(arguments);
                    }
                }
                _ => operands.push(word),
            }
        }
        arguments.command = command(operands)?;
        Ok(arguments)
    }

    /// The options of one word, without its dash.
    fn options(
        &mut self,
        mut letters: &[u8],
        words: &mut impl Iterator<Item = OsString>,
    ) -> Result<Next, Mistake> {
        while let Some((&letter, rest)) = letters.split_first() {
            letters = rest;
            match letter {
                b'e' => self.empty = true,
                b'p' => self.print_header = true,
                b'h' => return Ok(Next::Help),
                b's' | b'S' | b'o' | b'O' => {
                    let value = if rest.is_empty() {
                        words.next().map(OsString::into_vec)
                    } else {
                        Some(rest.to_vec())
                    };
                    let value = value.ok_or(Mistake::NoValue(letter.into()))?;
                    return self.set_header(letter, number(&value));
                }
                _ => return Err(Mistake::UnknownOption(letter.into())),
            }
        }
        Ok(Next::Word)
    }

    fn set_header(&mut self, letter: u8, number: i64) -> Result<Next, Mistake> {
        let bits = letter.is_ascii_lowercase();
        let len = match (bits, usize::try_from(number)) {
            (true, Ok(0)) => 0,
            (true, Ok(32)) => HEADER_32,
            (true, Ok(64)) => HEADER_64,
            (false, Ok(len)) => len.min(HEADER_64),
            // A negative length makes the original read in front of the value.
            _ => return Err(Mistake::Usage),
        };
        if letter.eq_ignore_ascii_case(&b's') {
            self.input_header = len;
        } else {
            self.output_header = len;
        }
        Ok(Next::Word)
    }
}

/// How to go on behind some options.
#[derive(Debug, Eq, PartialEq)]
enum Next {
    Word,
    /// Whatever follows does not matter.
    Help,
}

fn command(operands: Vec<OsString>) -> Result<Command, Mistake> {
    let mut operands = operands.into_iter();
    let name = operands.next().ok_or(Mistake::Usage)?;
    let mut files = operands.map(PathBuf::from);
    let command = match (name.as_bytes(), files.next(), files.next()) {
        (b"help", ..) => return Ok(Command::Help),
        (b"dump", Some(db), None) => Command::Dump { db },
        (b"convert", Some(input), Some(output)) => Command::Convert { input, output },
        _ => return Err(Mistake::Usage),
    };
    files.next().map_or(Ok(command), |_| Err(Mistake::Usage))
}

/// The number that a text begins with, as C's `atoi` reads it; 0 if there is none.
fn number(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let (sign, digits) = match text {
        [b'-', rest @ ..] => (-1, rest),
        [b'+', rest @ ..] => (1, rest),
        _ => (1, text),
    };
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let number = digits.fold(0_i64, |number, digit| {
        number
            .saturating_mul(10)
            .saturating_add((digit - b'0').into())
    });
    sign * number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, Mistake> {
        Arguments::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn options_may_stand_anywhere() {
        let arguments = parse(&["-e", "convert", "-s", "32", "in", "-pO5", "--", "-o"]).unwrap();
        let expected = Arguments {
            input_header: 20,
            output_header: 5,
            empty: true,
            print_header: true,
            command: Command::Convert {
                input: "in".into(),
                output: "-o".into(),
            },
        };
        assert_eq!(arguments, expected);
    }

    #[test]
    fn header_lengths_are_limited() {
        let header = |words: &[&str]| {
            let words = [words, &["dump", "db"]].concat();
            parse(&words).map(|arguments| arguments.input_header)
        };
        assert_eq!(header(&[]), Ok(24));
        assert_eq!(header(&["-s0"]), Ok(0));
        assert_eq!(header(&["-s", "text"]), Ok(0));
        assert_eq!(header(&["-s", "7"]), Err(Mistake::Usage));
        assert_eq!(header(&["-S", "7"]), Ok(7));
        assert_eq!(header(&["-S", "99999999999999999999"]), Ok(24));
        assert_eq!(header(&["-S", "-1"]), Err(Mistake::Usage));
    }

    #[test]
    fn mistakes_are_told() {
        assert_eq!(parse(&[]), Err(Mistake::Usage));
        assert_eq!(parse(&["dump"]), Err(Mistake::Usage));
        assert_eq!(parse(&["dump", "a", "b"]), Err(Mistake::Usage));
        assert_eq!(parse(&["convert", "a"]), Err(Mistake::Usage));
        assert_eq!(parse(&["convert", "a", "b", "c"]), Err(Mistake::Usage));
        assert_eq!(
            parse(&["dump", "db", "-z"]),
            Err(Mistake::UnknownOption('z'))
        );
        assert_eq!(parse(&["dump", "db", "-s"]), Err(Mistake::NoValue('s')));
        assert_eq!(parse(&["-h", "-z"]).unwrap().command, Command::Help);
    }
}
