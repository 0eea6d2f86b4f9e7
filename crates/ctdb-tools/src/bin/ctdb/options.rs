//! Options of the tool, parsed as popt does it (`cli.md` 1.1).
//!
//! Options may stand anywhere before `--`, short flags bundle, an argument may be attached or be
//! the next word, long names are not abbreviated. clap cannot word its errors like that.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use ctdb_conf::LogLevel;
use ctdb_conf::number::c_number;

/// What the command line asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Options {
    /// Verbosity of the client library. An unknown level silently means ERROR.
    pub(crate) debug: LogLevel,
    /// Seconds to wait for one answer (`-t`); 0 gives up at once.
    pub(crate) time_limit: i32,
    /// The node to operate on (`-n`); `None` is the local one, and so is -1.
    pub(crate) node: Option<u32>,
    /// Machine-readable output (`-X` or `-Y`).
    pub(crate) machine: bool,
    /// Separator of machine-readable output.
    pub(crate) separator: String,
    pub(crate) verbose: bool,
    /// Seconds the whole run may take (`-T`); 0: not given.
    pub(crate) max_runtime: i32,
    /// The subcommand and its arguments.
    pub(crate) words: Vec<OsString>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            debug: LogLevel::ERROR,
            time_limit: 10,
            node: None,
            machine: false,
            separator: "|".to_owned(),
            verbose: false,
            max_runtime: 0,
            words: Vec::new(),
        }
    }
}

/// A command line that was understood.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum CommandLine {
    Run(Options),
    /// `--help` came before any error.
    Help,
    /// `--usage` came before any error.
    Usage,
}

/// Why an option was not understood; the text is popt's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum OptionError {
    #[error("Invalid option {0}: unknown option")]
    Unknown(String),
    #[error("Invalid option {0}: missing argument")]
    MissingArgument(String),
    #[error("Invalid option {0}: option does not take an argument")]
    UnwantedArgument(String),
    #[error("Invalid option {0}: invalid numeric value")]
    NotANumber(String),
    #[error("Invalid option {0}: number too large or too small")]
    OutOfRange(String),
}

/// Reads the words after the program name.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<CommandLine, OptionError> {
    let mut options = Options::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == "--" {
            options.words.extend(words);
            break;
        }
        let request = if word.as_bytes().starts_with(b"--") {
            options.long_option(&word, &mut words)?
        } else if word.as_bytes().starts_with(b"-") && word.len() > 1 {
            options.short_options(&word, &mut words)?
        } else {
            options.words.push(word);
            None
        };
        if let Some(request) = request {
            return Ok(request);
        }
    }
    Ok(CommandLine::Run(options))
}

/// An option that exists, whichever way it was written.
#[derive(Clone, Copy)]
enum Known {
    Flag(Flag),
    Value(Value),
}

#[derive(Clone, Copy)]
enum Flag {
    Machine,
    Verbose,
    Help,
    Usage,
}

#[derive(Clone, Copy)]
enum Value {
    Debug,
    TimeLimit,
    Node,
    Separator,
    MaxRuntime,
}

fn known_short(letter: char) -> Option<Known> {
    Some(match letter {
        'd' => Known::Value(Value::Debug),
        't' => Known::Value(Value::TimeLimit),
        'n' => Known::Value(Value::Node),
        'x' => Known::Value(Value::Separator),
        'T' => Known::Value(Value::MaxRuntime),
        'X' | 'Y' => Known::Flag(Flag::Machine),
        'v' => Known::Flag(Flag::Verbose),
        '?' => Known::Flag(Flag::Help),
        _ => return None,
    })
}

fn known_long(name: &str) -> Option<Known> {
    Some(match name {
        "debug" => Known::Value(Value::Debug),
        "timelimit" => Known::Value(Value::TimeLimit),
        "node" => Known::Value(Value::Node),
        "separator" => Known::Value(Value::Separator),
        "maxruntime" => Known::Value(Value::MaxRuntime),
        "verbose" => Known::Flag(Flag::Verbose),
        "help" => Known::Flag(Flag::Help),
        "usage" => Known::Flag(Flag::Usage),
        _ => return None,
    })
}

impl Options {
    /// `--name`, `--name=VALUE` or `--name VALUE`.
    fn long_option(
        &mut self,
        word: &OsString,
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<Option<CommandLine>, OptionError> {
        let shown = word.to_string_lossy().into_owned();
        let body = shown.strip_prefix("--").unwrap_or_default();
        let (name, attached) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        match (known_long(name), attached) {
            (None, _) => Err(OptionError::Unknown(shown)),
            (Some(Known::Flag(_)), Some(_)) => Err(OptionError::UnwantedArgument(shown)),
            (Some(Known::Flag(flag)), None) => Ok(self.flag(flag)),
            (Some(Known::Value(value)), attached) => {
                self.value(value, attached, &shown, rest)?;
                Ok(None)
            }
        }
    }

    /// `-Xv`, `-n1`, `-n=1` or `-n 1`. Errors quote the whole word.
    fn short_options(
        &mut self,
        word: &OsString,
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<Option<CommandLine>, OptionError> {
        let shown = word.to_string_lossy().into_owned();
        let mut letters = shown.chars();
        letters.next();
        while let Some(letter) = letters.next() {
            match known_short(letter) {
                None => return Err(OptionError::Unknown(shown)),
                Some(Known::Flag(_)) if letters.as_str().starts_with('=') => {
                    return Err(OptionError::UnwantedArgument(shown));
                }
                Some(Known::Flag(flag)) => {
                    if let Some(request) = self.flag(flag) {
                        return Ok(Some(request));
                    }
                }
                Some(Known::Value(value)) => {
                    let attached = letters.as_str();
                    let attached = (!attached.is_empty())
                        .then(|| attached.strip_prefix('=').unwrap_or(attached).to_owned());
                    self.value(value, attached, &shown, rest)?;
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    fn flag(&mut self, flag: Flag) -> Option<CommandLine> {
        match flag {
            Flag::Machine => self.machine = true,
            Flag::Verbose => self.verbose = true,
            Flag::Help => return Some(CommandLine::Help),
            Flag::Usage => return Some(CommandLine::Usage),
        }
        None
    }

    /// Sets an option to its attached value or, without one, to the next word.
    fn value(
        &mut self,
        value: Value,
        attached: Option<String>,
        shown: &str,
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), OptionError> {
        // A wrong number is quoted alone when it is a word of its own, else with its option.
        let (text, quoted) = if let Some(text) = attached {
            (text, shown.to_owned())
        } else {
            let next = rest.next();
            let next = next.ok_or_else(|| OptionError::MissingArgument(shown.to_owned()))?;
            let text = next.to_string_lossy().into_owned();
            (text.clone(), text)
        };
        match value {
            Value::Debug => self.debug = LogLevel::parse(&text).unwrap_or(LogLevel::ERROR),
            Value::Separator => self.separator = text,
            Value::TimeLimit => self.time_limit = integer(&text, quoted)?,
            Value::MaxRuntime => self.max_runtime = integer(&text, quoted)?,
            Value::Node => {
                let node = integer(&text, quoted)?;
                // Other negative numbers are shown as the unsigned numbers they are on the wire.
                self.node = (node != -1).then(|| node.cast_unsigned());
            }
        }
        Ok(())
    }
}

/// A whole number in C syntax that fits into 32 bits. The empty text is 0 to popt.
fn integer(text: &str, quoted: String) -> Result<i32, OptionError> {
    let number = c_number(text);
    if !number.rest.is_empty() {
        return Err(OptionError::NotANumber(quoted));
    }
    let magnitude = number.magnitude.and_then(|m| i64::try_from(m).ok());
    let signed = magnitude.map(|m| if number.negative { -m } else { m });
    signed
        .and_then(|n| i32::try_from(n).ok())
        .ok_or(OptionError::OutOfRange(quoted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<CommandLine, OptionError> {
        parse(
            line.split(' ')
                .filter(|word| !word.is_empty())
                .map(OsString::from),
        )
    }

    fn options(line: &str) -> Options {
        match parsed(line) {
            Ok(CommandLine::Run(options)) => options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn arguments_are_attached_or_the_next_word() {
        for line in [
            "-n1 ip",
            "-n=1 ip",
            "ip --node=1",
            "ip -n 0x1",
            "--node 01 ip",
            "ip -vn1",
        ] {
            let found = options(line);
            assert_eq!(
                (found.node, found.words),
                (Some(1), vec![OsString::from("ip")]),
                "{line}"
            );
        }
        assert_eq!(options("-x , -Y").separator, ",");
        assert_eq!(options("-x= -X").separator, "");
    }

    #[test]
    fn the_last_of_two_wins_and_minus_one_is_no_node() {
        assert_eq!(options("-n 2 -n -1").node, None);
        assert_eq!(options("-n -2").node, Some(4_294_967_294));
        assert_eq!(options("-d NOTICE -d nonsense").debug, LogLevel::ERROR);
    }

    #[test]
    fn short_flags_bundle() {
        let found = options("-Xvt5 status");
        assert!(found.machine && found.verbose);
        assert_eq!(found.time_limit, 5);
    }

    #[test]
    fn everything_after_two_dashes_is_an_argument() {
        let found = options("setvar -X -- -n --help -- -1");
        assert_eq!(
            found.words,
            ["setvar", "-n", "--help", "--", "-1"].map(OsString::from)
        );
        assert_eq!(options("- version").words[0], "-");
    }

    #[test]
    fn errors_are_worded_and_quoted_as_by_popt() {
        for (line, text) in [
            ("-Z", "-Z: unknown option"),
            ("-Xq", "-Xq: unknown option"),
            ("--foo=1", "--foo=1: unknown option"),
            ("--nod=1", "--nod=1: unknown option"),
            ("-h", "-h: unknown option"),
            ("-n", "-n: missing argument"),
            ("-Xn", "-Xn: missing argument"),
            ("version --debug", "--debug: missing argument"),
            ("-n abc", "abc: invalid numeric value"),
            ("-nabc", "-nabc: invalid numeric value"),
            ("-n=abc", "-n=abc: invalid numeric value"),
            ("-n 1,2", "1,2: invalid numeric value"),
            ("-t 5x", "5x: invalid numeric value"),
            ("-n 2147483648", "2147483648: number too large or too small"),
            (
                "--verbose=1",
                "--verbose=1: option does not take an argument",
            ),
            ("-vX=3", "-vX=3: option does not take an argument"),
        ] {
            let error = parsed(line).unwrap_err().to_string();
            assert_eq!(error, format!("Invalid option {text}"), "{line}");
        }
    }

    #[test]
    fn help_wins_over_what_follows_it() {
        assert_eq!(parsed("--help -Z"), Ok(CommandLine::Help));
        assert_eq!(parsed("status -v?Z"), Ok(CommandLine::Help));
        assert_eq!(parsed("--usage"), Ok(CommandLine::Usage));
        assert!(parsed("-Z --help").is_err());
    }
}
