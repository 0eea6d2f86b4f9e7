//! The command line (config.md 6).

/// What the command line asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Arguments {
    Run {
        /// Stay in the foreground and log to standard error.
        interactive: bool,
    },
    Help,
    Usage,
    /// Not a command line of `ctdbd`: the message, or the help if there is none.
    Wrong(Option<String>),
}

/// Printed by `--help`.
pub(crate) const HELP: &str = "\
Usage: ctdbd [OPTION...]
  -i, --interactive     don't fork, log to stderr

Help options:
  -?, --help            Show this help message
      --usage           Display brief usage message
";

/// Printed by `--usage`.
pub(crate) const USAGE: &str = "Usage: ctdbd [-?i] [-?|--help] [--usage] [-i|--interactive]\n";

impl Arguments {
    /// Reads the arguments behind the name of the program.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Self {
        let mut interactive = false;
        for word in words {
            match word.as_str() {
                "-i" | "--interactive" => interactive = true,
                "-?" | "--help" => return Self::Help,
                "--usage" => return Self::Usage,
                option if option.starts_with('-') && option.len() > 1 => {
                    return Self::Wrong(Some(format!("Invalid option {option}: unknown option")));
                }
                _ => return Self::Wrong(None),
            }
        }
        Self::Run { interactive }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Arguments {
        Arguments::parse(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn there_is_one_option_and_no_argument() {
        assert_eq!(parse(&[]), Arguments::Run { interactive: false });
        assert_eq!(parse(&["-i"]), Arguments::Run { interactive: true });
        assert_eq!(
            parse(&["--interactive"]),
            Arguments::Run { interactive: true }
        );
        assert_eq!(parse(&["-?"]), Arguments::Help);
        assert_eq!(parse(&["--usage"]), Arguments::Usage);
        assert_eq!(parse(&["start"]), Arguments::Wrong(None));
        let message = "Invalid option -x: unknown option".to_owned();
        assert_eq!(parse(&["-x"]), Arguments::Wrong(Some(message)));
    }
}
