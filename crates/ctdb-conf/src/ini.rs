//! The line grammar shared by `ctdb.conf` and tunables files (`config.md` 1.2).
//!
//! Decides where a logical line begins and ends and which of four kinds it is; knows no option.

use crate::number::is_c_space;

/// A logical line: comments and empty lines are gone, continuations joined, blanks collapsed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// Physical line on which it begins, counted from 1.
    pub number: usize,
    /// What it says.
    pub kind: LineKind,
}

/// What a logical line says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LineKind {
    /// `[name]`; the name is verbatim, blanks included.
    Section(String),
    /// `name = value`; the value may be empty, the name is not.
    Assignment { name: String, value: String },
    /// A line without `=`.
    Bare(String),
    /// A section without `]`, or an assignment without a name. Holds the text of the line.
    SyntaxError(String),
}

/// Splits a file into its logical lines.
pub fn lines(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut current = LogicalLine::default();
    for (index, physical) in text.split('\n').enumerate() {
        if current.open {
            current.append(physical);
        } else {
            let start = physical.trim_start_matches(is_c_space);
            if start.is_empty() || start.starts_with(['#', ';']) {
                continue;
            }
            current = LogicalLine {
                open: true,
                number: index + 1,
                text: String::new(),
            };
            current.append(start);
        }
        // A file that ends inside a continued line gives that line as far as it goes.
        if !current.take_continuation() {
            lines.extend(current.finish());
        }
    }
    if current.open {
        lines.extend(current.finish());
    }
    lines
}

/// A logical line while its physical lines are being collected.
#[derive(Default)]
struct LogicalLine {
    open: bool,
    number: usize,
    text: String,
}

impl LogicalLine {
    /// Adds text, keeping only the first character of each run of white space.
    fn append(&mut self, physical: &str) {
        for c in physical.chars() {
            if !(is_c_space(c) && self.text.ends_with(is_c_space)) {
                self.text.push(c);
            }
        }
    }

    /// Removes a continuation mark (`\`, or `\` and a blank) from the end, if there is one.
    fn take_continuation(&mut self) -> bool {
        let body = self.text.strip_suffix(is_c_space).unwrap_or(&self.text);
        let Some(body) = body.strip_suffix('\\') else {
            return false;
        };
        self.text.truncate(body.len());
        true
    }

    fn finish(&mut self) -> Option<Line> {
        self.open = false;
        let text = std::mem::take(&mut self.text);
        (!text.is_empty()).then(|| Line {
            number: self.number,
            kind: classify(&text),
        })
    }
}

fn classify(text: &str) -> LineKind {
    if let Some(rest) = text.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((name, _)) => LineKind::Section(name.to_owned()),
            None => LineKind::SyntaxError(text.to_owned()),
        };
    }
    match text.split_once('=') {
        None => LineKind::Bare(trim_one(text).to_owned()),
        Some((name, value)) if !trim_one(name).is_empty() => LineKind::Assignment {
            name: trim_one(name).to_owned(),
            value: trim_one(value).to_owned(),
        },
        Some(_) => LineKind::SyntaxError(text.to_owned()),
    }
}

/// Removes one white-space character from each end; runs were collapsed before.
fn trim_one(text: &str) -> &str {
    let text = text.strip_prefix(is_c_space).unwrap_or(text);
    text.strip_suffix(is_c_space).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(name: &str, value: &str) -> LineKind {
        LineKind::Assignment {
            name: name.into(),
            value: value.into(),
        }
    }

    fn kinds(text: &str) -> Vec<LineKind> {
        lines(text).into_iter().map(|line| line.kind).collect()
    }

    #[test]
    fn comments_stand_only_at_the_start_of_a_line() {
        let text = "# a\n ; b\n\n\t x = 1 # foo\n#no newline";
        assert_eq!(kinds(text), [assignment("x", "1 # foo")]);
        assert_eq!(lines(text)[0].number, 4);
    }

    #[test]
    fn runs_of_white_space_collapse_to_their_first_character() {
        let text = "cluster  lock = !/bin/foo  --a   b\r\nx = a\t b";
        assert_eq!(
            kinds(text),
            [
                assignment("cluster lock", "!/bin/foo --a b"),
                assignment("x", "a\tb")
            ]
        );
    }

    #[test]
    fn continued_lines_are_joined_and_keep_a_hash() {
        assert_eq!(kinds("x = a\\\n# b"), [assignment("x", "a# b")]);
        assert_eq!(
            kinds("x = a\\ \nb\ny = 1"),
            [assignment("x", "ab"), assignment("y", "1")]
        );
        assert_eq!(kinds("x = a\\"), [assignment("x", "a")]);
    }

    #[test]
    fn section_names_are_verbatim_up_to_the_first_bracket() {
        assert_eq!(
            kinds("[ cluster ] rest]"),
            [LineKind::Section(" cluster ".into())]
        );
    }

    #[test]
    fn later_equal_signs_belong_to_the_value() {
        assert_eq!(kinds("x=a=b"), [assignment("x", "a=b")]);
        assert_eq!(kinds("x ="), [assignment("x", "")]);
    }

    #[test]
    fn lines_without_a_name_or_bracket_are_syntax_errors() {
        assert_eq!(kinds("= 3"), [LineKind::SyntaxError("= 3".into())]);
        assert_eq!(
            kinds("[cluster"),
            [LineKind::SyntaxError("[cluster".into())]
        );
        assert_eq!(kinds("word more"), [LineKind::Bare("word more".into())]);
    }
}
